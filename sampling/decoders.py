"""Decoders: from the logits of the next positions to tokens that stay.

    decoder = make_decoder("jacobi", block_size=16)
    decoder.step(engine)                        # one pass of the model: some tokens more for every clip

decoder.py says what a decoder is; an instance of one's own goes wherever a decoder's name does.
"""

from typing import get_args

from ..core.errors import require
from ..core.layout import FrameLayout
from .decoder import Decoder, EngineView, Exactness
from .diagonal import Diagonal


class Sequential:
    """One token a pass: sampling by its definition, and the oracle for the others."""

    name = "sequential"
    exactness: Exactness = "exact"

    def step(self, engine: EngineView) -> None:
        """One more token for every clip."""
        tokens_B1 = engine.draw(engine.logits(1))
        engine.accept(tokens_B1, [min(1, limit) for limit in engine.limits])


class Jacobi:
    """A block of draft tokens a pass, of which the longest run that sampling agrees with stays.

    Noise belongs to the position, so that a token is a function of the tokens before it: where a draft is what comes
    out of the pass, all that it was computed from was right, and so is the next token. The first token of a block
    always is. Jacobi iteration (Song et al. 2021, arXiv 2002.03629) with coupled noise (arXiv 2510.24211).

    Args:
        block_size: L, positions looked at in a pass.
    """

    name = "jacobi"
    exactness: Exactness = "lossless"

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size

    def step(self, engine: EngineView) -> None:
        """At least one more token for every clip, at most a block."""
        drafts_BL = engine.drafts(self.block_size)
        tokens_BL = engine.draw(engine.logits(self.block_size))
        agreed_B = (tokens_BL == drafts_BL)[:, :-1].long().cumprod(1).sum(1)
        counts = [min(agreed + 1, limit) for agreed, limit in zip(agreed_B.tolist(), engine.limits, strict=True)]
        engine.accept(tokens_BL, counts)


MOST_FRAMES = 2  # latent frames that a pass may look at: more newest tokens are not kept
DECODERS = ("auto", "sequential", "jacobi", "diagonal")
NO_PROCESSORS = "must be 'sequential' with logits_processor, which may look at every token before"


def make_decoder(
    decoder: "str | Decoder" = "auto",
    block_size: int | None = None,
    *,
    layout: FrameLayout,
    rows: int = 1,
    on_gpu: bool = False,
    one_by_one: bool = False,
) -> Decoder:
    """The decoder of this name; "auto" is `jacobi` where that is faster and gives the tokens of `sequential`.

    Args:
        decoder: one of DECODERS, or a decoder, which is taken as it is.
        block_size: of `jacobi`, at most two latent frames; by default what is fastest for so many rows.
        layout: of a latent frame.
        rows: of the cache, two a clip under guidance.
        on_gpu: where more positions cost nothing for longer.
        one_by_one: logits processors are there, which may look at every token before: only `sequential` will do.

    Raises:
        ReelmError: the name is unknown, or an argument does not fit it.
    """
    most = MOST_FRAMES * layout.frame_size
    if not isinstance(decoder, str):
        stepping = callable(getattr(decoder, "step", None)) and not isinstance(decoder, type)
        require(stepping, "decoder", "must be a name or have a method step", decoder)
        require(isinstance(getattr(decoder, "name", None), str), "decoder", "must have a name", decoder)
        told = getattr(decoder, "exactness", None)
        require(told in get_args(Exactness), "decoder", f"must have an exactness of {get_args(Exactness)}", told)
        require(block_size is None, "block_size", "must not be given with a decoder of one's own", block_size)
        require(not one_by_one or decoder.exactness == "exact", "decoder", NO_PROCESSORS, decoder)
        size = getattr(decoder, "block_size", 1)
        fits = type(size) is int and 1 <= size <= most
        require(fits, "decoder", f"must have a whole block_size from 1 to {most}", size)
        _check_diagonal(decoder, layout)
        return decoder
    require(decoder in DECODERS, "decoder", f"must be one of {', '.join(DECODERS)}", decoder)
    require(not one_by_one or decoder in ("auto", "sequential"), "decoder", NO_PROCESSORS, decoder)
    if decoder == "diagonal":
        require(block_size is None, "block_size", "must not be given for decoder 'diagonal'", block_size)
        _check_diagonal(Diagonal(), layout)
        return Diagonal()
    # Where many rows fill a CPU, looking at drafts costs what it saves: of one guided clip `jacobi` made 2.9 times the
    # tokens of `sequential`, of four 1.17 times, of eight 1.03 times (benchmarks/; in raster order).
    crowded = decoder == "auto" and block_size is None and not on_gpu and rows > 8
    if decoder == "sequential" or one_by_one or crowded:
        require(block_size is None, "block_size", "must not be given for decoder 'sequential'", block_size)
        return Sequential()
    if block_size is None:
        # Up to so many tokens a pass one more costs little: measured on a CPU, a guess for a GPU until one measures it.
        size = max(4, min(256 if on_gpu else 32, (256 if on_gpu else 32) // rows))
        return Jacobi(min(size, most))
    size = block_size
    whole = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= most
    require(whole, "block_size", f"must be a whole number from 1 to {most}", size)
    return Jacobi(size)


def _check_diagonal(decoder: Decoder, layout: FrameLayout) -> None:
    """Refuse waves over what has no rows and columns."""
    fits = not isinstance(decoder, Diagonal) or not layout.others
    require(fits, "decoder", "must not be 'diagonal' where a latent frame is more than its video", decoder.name)
