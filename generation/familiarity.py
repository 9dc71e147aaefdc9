"""Whether a model knows pictures like those of a clip, judged by how well its tokenizer reconstructs them.

warning = unfamiliar(parts, frames_THW3, tokens_thw)        # None where the model knows them, or has no bound

The bound is in config.json. Training writes the lowest PSNR of its held-out clips, less `MARGIN`. That of the bundled
model lies between the rendered clips, which had at least 21.2 dB (96 held-out ones of 9 frames), and footage of a
cartoon, a bird and streets, which had at most 20.2 dB (8 clips and 2 stills).
"""

import numpy as np
import torch

from ..core.progress import note
from .pixels import decode_clips
from .pretrained import Pretrained

MARGIN = 2.0  # dB below the worst of the clips that a tokenizer was measured on
JUDGED = 3  # latent frames at the end of a clip, after which it is continued


def note_unfamiliar(parts: Pretrained, frames_THW3: torch.Tensor | None, tokens_thw: torch.Tensor) -> None:
    """Note the warning of `unfamiliar`, if there is one, on stderr."""
    warning = None if frames_THW3 is None else unfamiliar(parts, frames_THW3, tokens_thw)
    if warning is not None:
        note(warning)


def unfamiliar(parts: Pretrained, frames_THW3: torch.Tensor, tokens_thw: torch.Tensor) -> str | None:
    """Return a warning if the model was not trained on pictures like the last ones of a clip.

    Args:
        parts: The model.
        frames_THW3: The frames of the clip, uint8, of the model's size.
        tokens_thw: Their tokens.
    """
    least = parts.config.least_psnr
    if least is None:
        return None
    (shown_THW3,) = decode_clips(parts.tokenizer, [tokens_thw], known=max(0, len(tokens_thw) - JUDGED))
    truth_THW3 = frames_THW3[-len(shown_THW3) :].numpy().astype(np.float64)
    psnr = 10 * np.log10(255**2 / max(np.square(shown_THW3 - truth_THW3).mean(), 1e-6))
    if psnr >= least:
        return None
    figures = f"{psnr:.1f} dB through its tokenizer, where its own have at least {least:.1f}"
    return (
        f"warning: clip: {parts.name} does not know pictures like these ({figures}): what follows will not look like "
        "them; reelm train tokenizer and reelm train lm make a model of your own clips"
    )
