"""The protocols that rooms meet at: what the engine asks of a language model and its cache, and generation of a codec.

Nothing outside `lm/` names a class of language models, and nothing outside `tokenizer/` and `training/` a class of
codecs: whoever meets these protocols can be generated from, continued, streamed, saved, scored and measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from .condition import Condition
from .layout import FrameLayout
from .shapes import Compression, TokenGrid

Backend = Literal["reference", "triton"]
Precision = Literal["full", "int8"]

# The keys and values (or whatever a model remembers) of the rows of one clip, by name, on the CPU.
CacheState = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """How a language model computes and remembers, and where.

    Attributes:
        dtype: of its weights and activations.
        weights: whether the matrices are in `dtype` ("full") or in int8.
        cache: whether its cache is in `dtype` ("full") or in int8.
        device: the type of the device, "cpu" or "cuda".
    """

    dtype: torch.dtype = torch.float32
    weights: Precision = "full"
    cache: Precision = "full"
    device: str = "cpu"

    @property
    def precisions(self) -> dict[str, Precision]:
        """The precision of the weights and of the cache, by these names."""
        return {"weights": self.weights, "cache": self.cache}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a language model takes for passes of some positions over some rows.

    Attributes:
        parameters: the number of its weights.
        weights: bytes of the weights.
        loading: bytes beside `weights` while they are read.
        cache: bytes of the cache of all rows, token ids included.
        state: bytes of what one row of the cache is exported as.
        step: bytes of the largest activations of a pass, logits included.
        flops: multiplications and additions of a pass, each counted as one operation.
        read: bytes of the weights that a pass has to read.
    """

    parameters: int
    weights: int
    loading: int
    cache: int
    state: int
    step: int
    flops: int
    read: int


class Cache(Protocol):
    """What a model remembers of the clips in its rows. `TokenHistory` has the part that all caches share."""

    frame_size: int
    tokens_BQ: torch.Tensor
    positions_B: torch.Tensor

    def next_positions(self, count: int, offsets: Sequence[int] | None = None) -> torch.Tensor:
        """The next L = `count` positions (B, L) of each row, or those at these distances from the next one."""

    def put_tokens(self, tokens_BL: torch.Tensor, offsets: Sequence[int] | None = None) -> None:
        """Set the tokens at the next L positions, or at these distances from the next one; nothing advances."""

    def tokens(self, positions_BL: torch.Tensor) -> torch.Tensor:
        """The tokens (B, L) at these positions of the first B rows, as far as they are kept."""

    def frame(self, row: int, latent_frame: int) -> torch.Tensor:
        """The tokens (S,) of a latent frame of a row, counted from the beginning of its cache."""

    def advance(self, count: int | torch.Tensor) -> None:
        """Move on by `count` positions: one number, or one for each row."""

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Have as many rows as `sources` has entries, each an old row (ascending numbers) or, for None, a fresh one."""

    def export(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """A copy of all that these rows of one clip remember, on the CPU."""

    def accepts(self, rows: int, state: CacheState) -> bool:
        """Whether `state` was exported from so many rows of a cache that this one can take rows from."""

    def restore(self, rows: Sequence[int], state: CacheState, tokens_S: torch.Tensor) -> None:
        """Have these rows remember an accepted state, and stand at the end of the tokens `tokens_S` of their cache."""


class LanguageModel(Protocol):
    """A model that writes the tokens of latent frames one after the other.

    Attributes:
        layout: of one latent frame.
        horizon: latent frames that a cache can hold from its beginning, at least 2; the engine then begins it anew with
            the newest half of them. A pass may look ahead beyond it, at what is never kept. None rolls for ever.
        numerics: how it computes.
        backend: of the kernels: "reference", "triton", or None for what is best on the device.
        reads: the kinds of conditions that it reads, as `describe_conditions` names them.
    """

    layout: FrameLayout
    horizon: int | None
    backend: Backend | None

    @property
    def numerics(self) -> Numerics:
        """How it computes, and where."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds of conditions that it reads."""

    def unknown_words(self, text: str, argument: str) -> list[str]:
        """The words of a prompt that it does not know; a `ReelmError` where the prompt is too long for it."""

    def make_cache(self, rows: int, *, ahead: int = 1) -> Cache:
        """An empty cache for passes that look up to `ahead` latent frames ahead."""

    def condition(self, cache: Any, rows: Sequence[int], conditions: Sequence[Sequence[Condition]]) -> None:
        """Have these rows go on under these conditions, of which each row has its own list."""

    def step(
        self, cache: Any, count: int = 1, offsets: Sequence[int] | None = None, sees_LA: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B, L, V) of the next L = `count` positions of every row, or of those at `offsets` among them.

        Tokens before each position must be in the cache: known ones, or drafts, of which one that nothing is known of
        has the id V. With `offsets`, `sees_LA` says which of the A = `count` next positions each of them attends to.
        Nothing advances. On a GPU passes are captured as graphs, so that nothing may be read on the host.
        """

    def oracle(self, tokens_BS: torch.Tensor, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor:
        """Logits (B, S, V) of every position of whole clips in one masked pass: what `step` must agree with."""

    def cost(self, rows: int, count: int) -> Cost:
        """What passes over `count` positions of so many rows take."""

    def save(self, folder: Path) -> None:
        """Write its weights, and what else it needs, into a checkpoint folder."""


class LanguageModelConfig(Protocol):
    """The sizes of a language model: the part "lm" of config.json, a frozen dataclass."""

    @property
    def kind(self) -> str:
        """The name under which the registry knows the model."""

    @property
    def layout(self) -> FrameLayout:
        """Of one latent frame."""

    @property
    def window(self) -> int:
        """Latent frames that a token sees, its own included."""

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        """What passes over `count` positions of so many rows take, before the model is loaded."""


class Codec(Protocol):
    """Clips to grids of video tokens and back, causal in time."""

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""

    @property
    def compression(self) -> Compression:
        """Frames, rows and columns of pixels that one token stands for."""

    @property
    def tokens_id(self) -> str:
        """A name of all that decides which tokens a clip has."""

    @property
    def memory(self) -> int:
        """Latent frames before its own that a decoded frame depends on."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def grid(self, num_frames: int, height: int, width: int) -> TokenGrid:
        """The token grid of a clip; a `ReelmError` where it has no whole number of tokens."""

    def encode_chunk(self, frames_BTHW3: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Tokens (B, t, h, w) of the next frames, and the state for those after them; None starts a clip."""

    def decode_frame(self, tokens_Bhw: torch.Tensor, states: Sequence[Any]) -> tuple[list[torch.Tensor], list[Any]]:
        """Frames (T, H, W, 3), about [0, 1], of one more latent frame of each row, and the states for those after them.

        Each row has a state of its own, None at its beginning: rows in different phases are decoded together.
        """
