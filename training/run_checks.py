"""Checks of a training run before its clips are read or anything is written: what can be refused is refused first.

check_tokenizer_run(recipe, options)
check_model_run(load_tokenizer(Path("runs/tokenizer")), options, windows, begun=False)
"""

from collections.abc import Sequence
from pathlib import Path

from ..core.checkpoint import find_checkpoint, uninitialised
from ..core.errors import require
from ..core.progress import note
from ..core.protocols import AnyCodec
from ..data.clip_shards import ClipShards, is_prepared
from ..data.encode import Windows
from ..data.recode import PrepareConfig
from ..data.sources import find_sources
from ..data.token_shards import is_token_folder
from ..lm.text import TextEncoder
from ..sampling.plan import SamplingConfig
from ..tokenizer.codec_files import load_tokenizer
from ..tokenizer.video_tokenizer import VideoTokenizer
from .clip_tokens import refuse_windows
from .lm_training import check_guidance, check_same_text
from .run_options import ModelRun, TokenizerRun
from .run_reports import RunProgress
from .state_folders import newest_state
from .tokenizer_training import TokenizerTraining


def check_tokenizer_run(recipe: TokenizerTraining, options: TokenizerRun) -> None:
    """Check all that can be known of a tokenizer's training before its clips are read.

    Args:
        recipe: The recipe, with the sizes of the preset or of the tokenizer that is trained further.
        options: The options of the run.

    Raises:
        ReelmError: The sizes do not fit each other or the clips, or files are missing.
    """
    data, fps = options.data, options.fps
    require(data is not None or fps is None, "fps", "must be given with data: rendered clips have one rate", fps)
    with uninitialised():
        VideoTokenizer(recipe.model).grid(recipe.num_frames, recipe.height, recipe.width)
    if options.decoder_of is not None:
        load_tokenizer(options.decoder_of, device="cpu")
    if data is None:
        return
    require(data.is_dir(), "data", "must be an existing folder", str(data))
    largest = _window_size(data, Windows())
    for name, limit in zip(("height", "width"), largest, strict=True):
        size = getattr(recipe, name)
        require(size <= limit, name, f"must be at most {limit}, which the clips have", size)


def check_model_run(codec: AnyCodec, options: ModelRun, windows: Windows, *, begun: bool) -> None:
    """Check all that can be known of a language model's training before its clips are read.

    Args:
        codec: The tokenizer.
        options: The options of the run, which name its data.
        windows: The windows that are cut out of clips.
        begun: Whether the run has a checkpoint, from which it goes on.

    Raises:
        ReelmError: Windows do not fit the tokenizer or the data, or files are missing.
    """
    assert options.data is not None
    require(options.data.is_dir(), "data", "must be an existing folder", str(options.data))
    if is_token_folder(options.data):
        refuse_windows(windows, options.fps)
    else:
        codec.grid(windows.num_frames, *_window_size(options.data, windows))
    if options.text is not None:
        TextEncoder(options.text.read_bytes())
    init = None if options.init is None or begun else find_checkpoint(options.init)
    if options.recipe is not None:
        check_guidance(options.recipe, init, resume=begun)
        scale, sampling = options.recipe.model.guidance, options.sampling or SamplingConfig()
        rule = f"must be {scale}, the scale of model.guidance, so that clips are drawn in one row"
        require(scale in (None, sampling.guidance_scale), "guidance_scale", rule, sampling.guidance_scale)


def check_text(text: TextEncoder, captions: Sequence[str], init: str | None, slots: int) -> None:
    """Check that a text model fits the captions, and the model whose weights are the start, before clips are encoded.

    Args:
        text: The text model.
        captions: The captions of the clips.
        init: The model whose weights are the start, if any.
        slots: The slots of the prefix that holds a prompt.

    Raises:
        ReelmError: A caption is too long for the prefix, or `init` has another text model.
    """
    longest = max(captions, key=lambda caption: len(text.encode(caption)), default="")
    text.prefix([longest], slots, "captions")
    if init is not None:
        check_same_text(find_checkpoint(init), text)


def _window_size(data: Path, windows: Windows) -> tuple[int, int]:
    """Return the height and width of windows of these clips, which must be there."""
    if is_prepared(data):
        shards = ClipShards(data)
        return windows.height or shards.height, windows.width or shards.width
    require(bool(find_sources(data).sources), "data", "must hold at least one video, gif or image", str(data))
    clips = PrepareConfig()  # any clips are prepared with the default options
    return windows.height or clips.height, windows.width or clips.width


def warn_of_a_short_run(tokenizer: Path) -> None:
    """Warn of a tokenizer whose training was stopped before its end."""
    if newest_state(tokenizer) is not None and not (progress := RunProgress.read(tokenizer)).finished:
        note(
            f"warning: tokenizer: its training stopped at step {progress.step} of {progress.steps}; "
            f"reelm train tokenizer --out {tokenizer} --resume goes on with it"
        )
