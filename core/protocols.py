"""The interfaces between packages: what a language model, its cache and its config, and a codec must provide.

Any class that implements these protocols can be used to generate, continue, stream, save, score and benchmark clips.
The engine and generation name no class of language models: `lm/registry.py` builds one from config.json. Only the
recipe that trains our own model names its class.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch

from .condition import Condition
from .layout import Compression, FrameLayout, TokenGrid

Backend = Literal["reference", "triton"]
Precision = Literal["full", "int8"]
# The numbers of the matrices in the file of a language model.
Storage = Literal["float16", "int8"]

# The cached tensors (keys and values, or whatever the model caches) of the rows of one clip, by name, on the CPU.
CacheState = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """The dtype, precisions and device of a language model.

    Attributes:
        dtype: The dtype of its weights and activations.
        weights: The precision of its weight matrices: "full" is `dtype`, the other is int8.
        cache: The precision of its cache: "full" is `dtype`, the other is int8.
        device: The type of the device, "cpu" or "cuda".
        processes: The number of processes that hold its layers together.
    """

    dtype: torch.dtype = torch.float32
    weights: Precision = "full"
    cache: Precision = "full"
    device: str = "cpu"
    processes: int = 1

    @property
    def precisions(self) -> dict[str, Precision]:
        """The precisions of the weights and of the cache, under these names."""
        return {"weights": self.weights, "cache": self.cache}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The memory and arithmetic that a language model needs for passes over some positions of some rows.

    Attributes:
        parameters: The number of weights.
        weights: The bytes of the weights.
        loading: The bytes needed in addition to `weights` while they are loaded.
        cache: The bytes of the cache of all rows, token ids included.
        state: The bytes of the exported cache of one row.
        step: The bytes of the largest activations of a pass, logits included.
        flops: The multiplications and additions of a pass, each counted as one operation.
        read: The bytes of weights that a pass reads.
        runtime: The bytes of libraries that are loaded for this model alone.
    """

    parameters: int
    weights: int
    loading: int
    cache: int
    state: int
    step: int
    flops: int
    read: int
    runtime: int = 0


class Cache(Protocol):
    """The cached state of a language model for the clips in its B rows.

    `TokenHistory` (token_history.py) implements the part that does not depend on the model.

    Attributes:
        frame_size: The number of tokens in a latent frame, S.
        tokens_BQ: The newest tokens of each row; that of position p is in column p % Q.
        positions_B: The position of each row's next token, counted from the beginning of its cache.
    """

    frame_size: int
    tokens_BQ: torch.Tensor
    positions_B: torch.Tensor

    def next_positions(self, count: int, offsets: Sequence[int] | None = None) -> torch.Tensor:
        """Return the next L = `count` positions (B, L) of each row, or those at `offsets` from the next one."""

    def put_tokens(self, tokens_BL: torch.Tensor, offsets: Sequence[int] | None = None) -> None:
        """Write the tokens of the next L positions, or of those at `offsets` from the next one, without advancing."""

    def tokens(self, positions_BL: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, L) at these positions of the first B rows; the positions must be among the newest Q."""

    def frame(self, row: int, latent_frame: int) -> torch.Tensor:
        """Return the tokens (S,) of a latent frame of a row, counted from the beginning of the row's cache."""

    def advance(self, count: int | Sequence[int]) -> None:
        """Advance all rows by `count` positions, or each row by its own number."""

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Replace the rows: row i becomes the old row `sources[i]`, or an empty one for None.

        Args:
            sources: The index of an old row, or None, for each new row; the indices must ascend.
        """

    def export(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a copy of the cached state of these rows, which belong to one clip, on the CPU."""

    def accepts(self, rows: int, state: CacheState) -> bool:
        """Return whether `state` was exported from `rows` rows of a cache that is compatible with this one."""

    def restore(self, rows: Sequence[int], state: CacheState, tokens_S: torch.Tensor) -> None:
        """Load an accepted state into these rows, and set them to the end of the tokens `tokens_S` of their cache."""


AnyCache = TypeVar("AnyCache", bound=Cache)


class LanguageModel(Protocol[AnyCache]):
    """A model that predicts the tokens of a clip in writing order, latent frame by latent frame.

    Attributes:
        layout: The layout of one latent frame.
        horizon: The largest number of latent frames from the beginning of a cache, or None for a cache that rolls
            without end. At the horizon the engine starts a new cache from the newest half of the latent frames. A pass
            may reach beyond the horizon with tokens that are never kept. A model of single pictures has 1, and its
            clips do not go on.
        keeps_first: Whether such a new cache begins with the first latent frame of the clip, in place of the oldest of
            the newest half.
        numerics: The dtype, precisions and device.
        backend: The implementation of the kernels: "reference", "triton", or None for the best one on the device.
        reads: The kinds of conditions that the model can use, as `describe_conditions` names them.
        guidance: The guidance scale that the model has learnt to apply itself, in one row (`guided`); None for other
            models, which are guided in two rows.
    """

    layout: FrameLayout
    horizon: int | None
    keeps_first: bool
    backend: Backend | None

    @property
    def numerics(self) -> Numerics:
        """The dtype, precisions and device of the model."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds of conditions that the model can use."""

    @property
    def guidance(self) -> float | None:
        """The guidance scale that the model has learnt to apply itself, or None."""

    @property
    def guided(self) -> "LanguageModel[AnyCache] | None":
        """The model whose logits are the guided ones for the scale `guidance`; None where that is None."""

    @property
    def known_words(self) -> tuple[str, ...]:
        """The words that prompts may have; none where any word may be known."""

    def shorten(self, text: str) -> str:
        """Return a prompt, or as much of its beginning as the model can read, in whole words."""

    def unknown_words(self, text: str, argument: str) -> list[str]:
        """Return the words of a prompt that the model does not know.

        Args:
            text: The prompt.
            argument: The name of the prompt in error messages.

        Raises:
            ReelmError: The prompt is too long for the model.
        """

    def make_cache(self, rows: int, *, ahead: int = 1) -> AnyCache:
        """Return an empty cache of so many rows for passes over up to `ahead` latent frames of new positions."""

    def condition(self, cache: AnyCache, rows: Sequence[int], conditions: Sequence[Sequence[Condition]]) -> None:
        """Set the conditions of these rows from now on, one list of conditions for each row."""

    def step(
        self, cache: AnyCache, count: int = 1, offsets: Sequence[int] | None = None, sees_LA: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits (B, L, V) of the next L = `count` positions of every row, without advancing.

        V is the layout's `sampled_vocab_size`: nothing is predicted of given segments, at whose positions the logits do
        not matter. The tokens before each position must be in the cache, known tokens or drafts; the layout's
        `vocab_size` stands for a draft of unknown value. On a GPU, passes are captured as CUDA graphs, so the host must
        not read any tensor.

        Args:
            cache: A cache that `make_cache` has made.
            count: The number of next positions.
            offsets: Only predict the L positions at these distances from the next one, all below `count`.
            sees_LA: With `offsets`, which of the A = `count` next positions each of the L positions attends to.
        """

    def oracle(self, tokens_BS: torch.Tensor, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor:
        """Return the logits (B, S, V) of all positions of whole clips from one masked pass, which `step` must match."""

    def cost(self, rows: int, count: int) -> Cost:
        """Return the memory and arithmetic of passes over `count` positions of so many rows."""

    def save(self, folder: Path, store: Storage = "float16") -> None:
        """Write the weights, and all other files that the model needs, to a checkpoint folder.

        Args:
            folder: The folder.
            store: The numbers of the matrices: "float16", or "int8" with a scale for each row.
        """


class LanguageModelConfig(Protocol):
    """The config of a language model, a frozen dataclass: the part "lm" of config.json."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def kind(self) -> str:
        """The name of the model's kind in the registry."""

    @property
    def layout(self) -> FrameLayout:
        """The layout of one latent frame."""

    @property
    def window(self) -> int:
        """The number of latent frames that a token sees, its own included."""

    @property
    def guidance(self) -> float | None:
        """The guidance scale that the model has learnt to apply itself, or None."""

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        """Return the memory and arithmetic of passes over `count` positions of so many rows, without the model."""


EncoderState = TypeVar("EncoderState")
DecoderState = TypeVar("DecoderState")


class CodecConfig(Hashable, Protocol):
    """The config of a codec, a frozen dataclass: the part "tokenizer" of config.json."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str]

    @property
    def compression(self) -> Compression:
        """The frames, rows and columns of pixels that one token represents."""

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""

    @property
    def levels(self) -> tuple[int, ...]:
        """The values of each digit of a token id, the lowest first, where codes are scalars; else empty."""

    @property
    def encoder_halo(self) -> int | None:
        """The largest distance, in tokens, of the pixels that a token depends on; None for all of its frame."""

    @property
    def decoder_halo(self) -> int | None:
        """The largest distance, in tokens, of the tokens that a pixel depends on; None for all of its frame."""

    def pixel_bytes(self, clips: int, height: int, width: int) -> int:
        """Return the bytes that decoding one latent frame of so many clips of this size in pixels takes."""


class Codec(Protocol[EncoderState, DecoderState]):
    """A codec between clips and grids of video tokens, causal in time."""

    @property
    def config(self) -> CodecConfig:
        """The sizes of the codec."""

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""

    @property
    def compression(self) -> Compression:
        """The frames, rows and columns of pixels that one token represents."""

    @property
    def tokens_id(self) -> str:
        """An id of everything that determines the tokens of a clip: encoders with the same id give the same tokens."""

    @property
    def memory(self) -> int:
        """The number of latent frames before its own that a decoded frame depends on."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def grid(self, num_frames: int, height: int, width: int) -> TokenGrid:
        """Return the token grid of a clip of this size in pixels.

        Raises:
            ReelmError: The clip does not have a whole number of tokens.
        """

    def encode_chunk(self, frames_BTHW3: torch.Tensor, state: EncoderState | None) -> tuple[torch.Tensor, EncoderState]:
        """Encode the next frames of clips.

        Args:
            frames_BTHW3: The frames.
            state: The state after the frames before them; None at the start of the clips.

        Returns:
            The tokens (B, t, h, w), and the state to encode the frames after them.
        """

    def decode_chunk(self, tokens_Bthw: torch.Tensor, state: DecoderState | None) -> tuple[torch.Tensor, DecoderState]:
        """Decode the next latent frames of clips that are at the same position; see `decode_frame`.

        Args:
            tokens_Bthw: The tokens.
            state: The state after the latent frames before them; None at the start of the clips.

        Returns:
            The frames (B, T, H, W, 3), with values of about [0, 1], and the state to decode the frames after them.
        """

    def decode_frame(
        self, tokens_Bhw: torch.Tensor, states: Sequence[DecoderState | None]
    ) -> tuple[list[torch.Tensor], list[DecoderState]]:
        """Decode the next latent frame of each row; rows at different positions of their clips can be decoded together.

        Args:
            tokens_Bhw: The tokens of the latent frame of each row.
            states: The state of each row after its latent frames before; None at the start of its clip.

        Returns:
            The frames (T, H, W, 3) of each row, with values of about [0, 1], and the states to decode the frames after.
        """


# A codec of which the kind of state does not matter.
AnyCodec = Codec[Any, Any]
