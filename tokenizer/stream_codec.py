"""What codecs share whose networks remember the frames before: clips in chunks, and rows at different places of theirs.

class Mine(StreamCodec): ...                            # with `encode_stream`, `decode_stream` and `encoding_parts`
tokens_Bthw, state = codec.encode_chunk(frames_BTHW3, None)          # uint8 or float in [0, 1]
frames_BTHW3, state = codec.decode_chunk(tokens_Bthw, None)          # float in [0, 1]
"""

import abc
import hashlib
import json
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from ..core.config import to_dict
from ..core.layout import Compression, TokenGrid
from ..core.modes import in_plain_modes
from ..core.protocols import CodecConfig
from .cosmos_layers import CosmosState, Stream
from .inputs import check_chunk, check_frames, check_tokens


class StreamConfig(CodecConfig, Protocol):
    """The config of a `StreamCodec`."""

    @property
    def memory(self) -> int:
        """The number of latent frames before its own that a decoded frame depends on."""


Config = TypeVar("Config", bound=StreamConfig)


class StreamCodec(nn.Module, abc.ABC, Generic[Config]):
    """A codec whose networks process the frames that follow, given what they remember.

    Attributes:
        config: The sizes of the codec.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @abc.abstractmethod
    def encoding_parts(self) -> tuple[nn.Module, ...]:
        """Return the modules whose weights determine the tokens of a clip."""

    @abc.abstractmethod
    def encode_stream(self, frames_B3THW: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the tokens (B, t, h, w) of the next frames, with values from -1 to 1."""

    @abc.abstractmethod
    def decode_stream(self, tokens_Bthw: torch.Tensor, stream: Stream) -> torch.Tensor:
        """Return the frames (B, 3, T, H, W) of the next latent frames, with values from -1 to 1."""

    @property
    def compression(self) -> Compression:
        """The frames, rows and columns of pixels that one token stands for."""
        return self.config.compression

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.config.vocab_size

    @property
    def tokens_id(self) -> str:
        """A hash of the sizes and of the encoder's weights, which determine the tokens of a clip."""
        digest = hashlib.sha256(json.dumps({"kind": self.config.kind, **to_dict(self.config)}, sort_keys=True).encode())
        for part in self.encoding_parts():
            for name, tensor in part.state_dict().items():
                digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def memory(self) -> int:
        """The number of latent frames before its own that a decoded frame depends on."""
        return self.config.memory

    def grid(self, num_frames: int, height: int, width: int) -> TokenGrid:
        """Return the token grid of a clip; see `Compression.grid`."""
        return self.compression.grid(num_frames, height, width)

    def encode(self, frames_BTHW3: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, t, h, w) int64 of clips (B, T, H, W, 3); see `encode_chunk`."""
        return self.encode_chunk(frames_BTHW3, None)[0]

    @in_plain_modes
    def encode_chunk(self, frames_BTHW3: torch.Tensor, state: CosmosState | None) -> tuple[torch.Tensor, CosmosState]:
        """Return the tokens (B, t, h, w) of the next frames of a clip, and the state for the frames after them.

        Args:
            frames_BTHW3: The frames: `first` + n * t of them at the start of a clip, n * t later (`Compression`).
            state: The state that the previous call returned; None starts a clip.

        Raises:
            ReelmError: The frames do not fit (see `grid`), or their values are refused.
        """
        check_frames(frames_BTHW3)
        _, frames, height, width, _ = frames_BTHW3.shape
        if state is not None:
            check_chunk(frames, self.compression.t)
        self.grid(frames if state is None else self.compression.first, height, width)
        floats = frames_BTHW3.float() / 127.5 - 1 if frames_BTHW3.dtype == torch.uint8 else frames_BTHW3 * 2 - 1
        stream = Stream(state)
        tokens_Bthw = self.encode_stream(floats.permute(0, 4, 1, 2, 3).to(next(self.parameters()).dtype), stream)
        return tokens_Bthw, stream.next

    def decode(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """Return the clip (B, T, H, W, 3) of tokens (B, t, h, w); see `decode_chunk`."""
        return self.decode_chunk(tokens_Bthw, None)[0]

    def decode_chunk(self, tokens_Bthw: torch.Tensor, state: CosmosState | None) -> tuple[torch.Tensor, CosmosState]:
        """Return the frames (B, T, H, W, 3) of the next latent frames, and the state for the latent frames after them.

        Args:
            tokens_Bthw: The tokens of the next latent frames.
            state: The state that the previous call returned; None starts a clip.

        Returns:
            The frames in float32, about [0, 1], and the state.

        Raises:
            ReelmError: The tokens are no ids of this codec.
        """
        check_tokens(tokens_Bthw, self.vocab_size)
        return self._decode(tokens_Bthw, state)

    @in_plain_modes
    def decode_frame(
        self, tokens_Bhw: torch.Tensor, states: Sequence[CosmosState | None]
    ) -> tuple[list[torch.Tensor], list[CosmosState]]:
        """Decode one more latent frame of each row; those at the same point of their clips are decoded together.

        The ids are not checked, as a GPU would have to finish its work first.

        Args:
            tokens_Bhw: The tokens of the latent frame of each row.
            states: The state of each row; None at the start of its clip.

        Returns:
            The frames (T, H, W, 3) of each row, about [0, 1], and the states for the latent frames after them.
        """
        alike: dict[object, list[int]] = {}
        for row, state in enumerate(states):
            alike.setdefault(None if state is None else tuple(tensor.shape for tensor in state), []).append(row)
        frames, next_states = [torch.empty(0)] * len(states), [CosmosState()] * len(states)
        for rows in alike.values():
            before = [state for state in (states[row] for row in rows) if state is not None]
            state = [torch.cat(parts) for parts in zip(*before, strict=True)] if before else None
            decoded, next_state = self._decode(tokens_Bhw[rows].unsqueeze(1), state)
            for index, row in enumerate(rows):
                frames[row] = decoded[index]
                next_states[row] = [tensor[index : index + 1] for tensor in next_state]
        return frames, next_states

    def _decode(self, tokens_Bthw: torch.Tensor, state: CosmosState | None) -> tuple[torch.Tensor, CosmosState]:
        stream = Stream(state)
        frames_B3THW = self.decode_stream(tokens_Bthw, stream)
        return (frames_B3THW.permute(0, 2, 3, 4, 1).float() + 1) / 2, stream.next
