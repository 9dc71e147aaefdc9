"""NVIDIA's Cosmos discrete video tokenizers as a codec; `reelm convert` makes one of the published files.

    tokenizer = CosmosTokenizer(CosmosConfig(temporal=8, spatial=16))
    tokens_Bthw, state = tokenizer.encode_chunk(frames_BTHW3, None)      # uint8 or float in [0, 1]; T = 1 + 8 n
    frames_BTHW3, state = tokenizer.decode_chunk(tokens_Bthw, None)      # float in [0, 1]

Attention and norms see a whole frame, so that it cannot be cut into tiles; a frame of any height and width that are
multiples of the stride is computed at once.
"""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import nn

from ..core.config import to_dict
from ..core.layout import Compression, TokenGrid
from ..core.modes import in_plain_modes
from .cosmos_config import CosmosConfig
from .cosmos_layers import CausalConv, CosmosState, Stream
from .cosmos_network import CosmosDecoder, CosmosEncoder
from .inputs import check_chunk, check_frames, check_latents, check_tokens
from .quantizer import Quantizer, QuantizerConfig


class CosmosTokenizer(nn.Module):
    """A codec with the networks of Cosmos and finite scalar quantization."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = CosmosEncoder(config), CosmosDecoder(config)
        self.quantizer = Quantizer(QuantizerConfig(levels=config.levels))
        self.quant_conv = CausalConv(config.latent_channels, len(config.levels), (1, 1, 1))
        self.post_quant_conv = CausalConv(len(config.levels), config.latent_channels, (1, 1, 1))

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
        for part in (self.encoder, self.quant_conv):
            for name, tensor in part.state_dict().items():
                digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.quant_conv.conv3d.weight.device

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
            frames_BTHW3: The frames: 1 + n * temporal of them at the start of a clip, n * temporal later.
            state: The state that the previous call returned; None starts a clip.

        Raises:
            ReelmError: The frames do not fit (see `grid`), or their values are refused.
        """
        check_frames(frames_BTHW3)
        _, frames, height, width, _ = frames_BTHW3.shape
        if state is not None:
            check_chunk(frames, self.config.temporal)
        self.grid(frames if state is None else 1, height, width)
        floats = frames_BTHW3.float() / 127.5 - 1 if frames_BTHW3.dtype == torch.uint8 else frames_BTHW3 * 2 - 1
        stream = Stream(state)
        x = self.encoder(floats.permute(0, 4, 1, 2, 3).to(self.quant_conv.conv3d.weight.dtype), stream)
        latents_BDthw = self.quant_conv(x, stream)
        check_latents(latents_BDthw)
        _, tokens, _ = self.quantizer(latents_BDthw.flatten(2).transpose(1, 2))
        return tokens.unflatten(1, latents_BDthw.shape[2:]), stream.next

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
            ReelmError: The tokens are no ids of this tokenizer.
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
        stream, size = Stream(state), tokens_Bthw.shape[1:]
        codes = self.quantizer.codes(tokens_Bthw.flatten(1)).transpose(1, 2).unflatten(2, size)
        x = self.post_quant_conv(codes.to(self.quant_conv.conv3d.weight.dtype), stream)
        frames_BCTHW = self.decoder(x, stream)
        return (frames_BCTHW.permute(0, 2, 3, 4, 1).float() + 1) / 2, stream.next
