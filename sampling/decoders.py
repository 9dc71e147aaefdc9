"""Decoders by name: each turns the logits of the next positions into tokens that the clips accept.

    decoder = make_decoder("jacobi", block_size=16)
    decoder.step(engine)                        # one pass of the model: some more tokens for every clip

decoder.py defines what a decoder is; an instance of one's own is accepted wherever a decoder's name is.
"""

from typing import get_args

from ..core.errors import require
from ..core.layout import FrameLayout
from ..core.plain_values import to_python
from .decoder import Decoder, EngineView, Exactness
from .diagonal import Diagonal


class Sequential:
    """One token a pass: sampling by its definition, and the oracle that the other decoders are tested against."""

    name = "sequential"
    exactness: Exactness = "exact"

    def step(self, engine: EngineView) -> None:
        """Accept one more token for every clip."""
        tokens_B1 = engine.draw(engine.logits(1))
        engine.accept(tokens_B1, [min(1, limit) for limit in engine.limits])


class Jacobi:
    """A block of drafts a pass, of which the longest run that agrees with sampling is accepted.

    The noise belongs to the position, so that a token is a function of the tokens before it: where the pass returns a
    draft unchanged, everything that the next token was computed from is right, and so is the next token. The first
    token of a block always is. This is Jacobi iteration (Song et al. 2021, arXiv 2002.03629) with coupled noise (arXiv
    2510.24211).

    Args:
        block_size: L, the number of positions that a pass looks at.
        whole: Whether a pass looks at so many positions where fewer are wanted, such as at the end of a latent frame
            that is played, too: on a GPU, where each number of positions is a graph of its own.
    """

    name = "jacobi"
    exactness: Exactness = "lossless"

    def __init__(self, block_size: int, *, whole: bool = False) -> None:
        self.block_size, self.whole = block_size, whole

    def step(self, engine: EngineView) -> None:
        """Accept at least one and at most a block of tokens for every clip."""
        # The limit of a block of more than a latent frame is mostly that of the cache: drafts behind it are of use.
        whole = self.whole or self.block_size > engine.layout.frame_size
        count = self.block_size if whole else min(self.block_size, max(engine.limits))
        drafts_BL = engine.drafts(count)
        tokens_BL = engine.draw(engine.logits(count))
        agreed_B = (tokens_BL == drafts_BL)[:, :-1].long().cumprod(1).sum(1)
        counts = [min(agreed + 1, limit) for agreed, limit in zip(agreed_B.tolist(), engine.limits, strict=True)]
        engine.accept(tokens_BL, counts)


MAX_FRAMES = 2  # latent frames that a pass may look at: the cache keeps no more of the newest tokens
DECODERS = ("auto", "sequential", "jacobi", "diagonal")
NO_PROCESSORS = "must be 'sequential' with logits_processor, which may look at every token before"


def make_decoder(
    decoder: "str | Decoder" = "auto",
    block_size: int | None = None,
    *,
    layout: FrameLayout,
    rows: int = 1,
    on_gpu: bool = False,
    sequential_only: bool = False,
    measured: int | None = None,
) -> Decoder:
    """Return the decoder of this name; "auto" is `jacobi` where that is faster, with the tokens of `sequential`.

    Args:
        decoder: One of DECODERS, or a decoder object, which is returned after a check.
        block_size: The block size of `jacobi`, at most two latent frames; by default `measured` or the rule of thumb.
        layout: The layout of a latent frame.
        rows: The rows of the cache, two a clip under guidance.
        on_gpu: Whether the model is on a GPU, where larger blocks cost no time.
        sequential_only: Whether there are logits processors, which may look at every token before: only `sequential`
            can be used with them.
        measured: The fastest block size for so many rows by measurement, of which 1 stands for `sequential`; None where
            nothing was measured and a rule of thumb decides.

    Raises:
        ReelmError: The name is unknown, or an argument does not fit the decoder.
    """
    limit = MAX_FRAMES * layout.frame_size
    if not isinstance(decoder, str):
        has_step = callable(getattr(decoder, "step", None)) and not isinstance(decoder, type)
        require(has_step, "decoder", "must be a name or have a method step", decoder)
        require(isinstance(getattr(decoder, "name", None), str), "decoder", "must have a name", decoder)
        exactness = getattr(decoder, "exactness", None)
        known = exactness in get_args(Exactness)
        require(known, "decoder", f"must have an exactness of {get_args(Exactness)}", exactness)
        require(block_size is None, "block_size", "must not be given with a decoder of one's own", block_size)
        require(not sequential_only or decoder.exactness == "exact", "decoder", NO_PROCESSORS, decoder)
        size = to_python(getattr(decoder, "block_size", 1))
        fits = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= limit
        require(fits, "decoder", f"must have a whole block_size from 1 to {limit}", size)
        _check_diagonal(decoder, layout)
        return decoder
    require(decoder in DECODERS, "decoder", f"must be one of {', '.join(DECODERS)}", decoder)
    require(not sequential_only or decoder in ("auto", "sequential"), "decoder", NO_PROCESSORS, decoder)
    if decoder == "diagonal":
        require(block_size is None, "block_size", "must not be given for decoder 'diagonal'", block_size)
        _check_diagonal(Diagonal(), layout)
        return Diagonal()
    size = _usual_block(layout, rows, on_gpu=on_gpu)
    usual = measured or size
    crowded = decoder == "auto" and block_size is None and usual == 1
    if decoder == "sequential" or sequential_only or crowded:
        require(block_size is None, "block_size", "must not be given for decoder 'sequential'", block_size)
        return Sequential()
    if block_size is None:
        return Jacobi(min(usual if usual > 1 else max(4, size), limit), whole=on_gpu)
    size = block_size
    whole = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= limit
    require(whole, "block_size", f"must be a whole number from 1 to {limit}", size)
    return Jacobi(size, whole=on_gpu)


def _usual_block(layout: FrameLayout, rows: int, *, on_gpu: bool) -> int:
    """Return the block size that is fast for so many rows where none was measured; 1 stands for `sequential`."""
    if on_gpu:  # a guess: up to so many tokens a pass, one more costs little
        return max(4, 256 // rows)
    if layout.video.order == "coarse":
        # Measured with the bundled model in torch on one thread: each size was within 3% of the best for 1, 2, 4, 8, 16
        # and 32 rows. A guess for more: a pass costs what its positions cost, and drafts more than they save.
        return next((size for most, size in ((2, 32), (16, 16), (64, 8)) if rows <= most), 1)
    # In raster order fewer drafts are right: with one guided clip `jacobi` made 2.9 times the tokens of `sequential`,
    # with four 1.17 times, with eight 1.03 times (benchmarks/).
    return max(4, 32 // rows) if rows <= 8 else 1


def _check_diagonal(decoder: Decoder, layout: FrameLayout) -> None:
    """Refuse diagonal waves where a latent frame has segments without rows and columns."""
    fits = not isinstance(decoder, Diagonal) or not layout.others
    require(fits, "decoder", "must not be 'diagonal' where a latent frame is more than its video", decoder.name)
