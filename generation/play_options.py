"""The options of `play`, typed for editors and type checkers (see options.py)."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch

from ..core.condition import Condition, GuidanceMethod
from ..media.fitting import Fit
from ..sampling.decoder import Decoder
from .options import ClipLike, ImageLike, Number, WholeNumber


class PlayOptions(TypedDict, total=False):
    """The options of `play`, which are those of `DrawOptions` that a player's keys leave.

    Attributes:
        clip, image: A clip or a picture to play on from, as for `continue_clip`; without them the clip begins anew.
        fit: How a picture of another shape is fitted: "crop", "pad" or "stretch".
        ahead: Whether the next pictures are drawn while these are shown.
    """

    clip: ClipLike | None
    image: ImageLike | None
    fit: Fit
    ahead: bool
    negative_prompt: str | None
    seed: WholeNumber | None
    generator: torch.Generator | None
    guidance_scale: Number
    guidance: GuidanceMethod
    temperature: Number
    top_k: WholeNumber | None
    top_p: Number
    min_p: Number
    decoder: Literal["auto", "sequential", "jacobi"] | Decoder
    block_size: WholeNumber | None
    conditions: Sequence[Condition]
