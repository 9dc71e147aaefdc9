"""The tokenizer: clips <-> grids of tokens, causal in time, at once or chunk by chunk with the same result.

    tokenizer = VideoTokenizer(TokenizerConfig())
    tokens_Bthw = tokenizer.encode(frames_BTHW3)              # uint8 or float in [0, 1]; T = 1 + 4 n
    frames_BTHW3 = tokenizer.decode(tokens_Bthw)              # float in [0, 1]

    cache = None                                              # streaming: latent frames as they come
    for latent_frame in tokens_Bthw.split(1, dim=1):
        frames, cache = tokenizer.decode_chunk(latent_frame, cache)

Frame 0 is a latent frame of its own, every further `temporal` frames are one. The encoder is local: a token depends on
the pixels of its own cell and half a cell around it (a config may add some neighbours and some past), so that what
stands still keeps its tokens and a language model can predict them. The decoder is wide: it sees neighbouring tokens
and the past. Clips of any size and length, in bounded memory: `long.py`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..core.checkpoint import load_weights, read_json, uninitialised
from ..core.config import from_dict, to_dict
from ..core.device import pick_device
from ..core.errors import require
from ..core.shapes import Compression, TokenGrid
from .layers import ConvCache
from .network import Decoder, Encoder
from .quantizer import Quantizer
from .tokenizer_config import TokenizerConfig


class VideoTokenizer(nn.Module):
    """A codec between clips and tokens. `compression`, `vocab_size` and `grid` are all that a language model needs."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(config.quantizer)
        self.decoder = Decoder(config)

    @property
    def compression(self) -> Compression:
        """Pixels of one token along time, rows and columns."""
        return self.config.compression

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.config.quantizer.vocab_size

    @property
    def tokens_id(self) -> str:
        """Names what decides which tokens a clip has: sizes and weights of encoder and quantizer."""
        sizes = {name: value for name, value in to_dict(self.config).items() if not name.startswith("decoder")}
        digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
        for part in (self.encoder, self.quantizer):
            for name, tensor in part.state_dict().items():
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.decoder.embed.weight.device

    @property
    def memory(self) -> int:
        """Latent frames before its own that a decoded frame depends on."""
        return 2 * self.config.decoder_memory

    def grid(self, num_frames: int, height: int, width: int) -> TokenGrid:
        """The token grid of a clip; its sides must be multiples of the stride, its frames 1 + n * temporal."""
        c = self.compression
        fits = num_frames >= 1 and (num_frames - 1) % c.t == 0
        require(fits, "num_frames", f"must be 1 + a multiple of {c.t}", num_frames)
        for name, value, stride in (("height", height, c.h), ("width", width, c.w)):
            require(value >= stride and value % stride == 0, name, f"must be a multiple of {stride}", value)
        return TokenGrid(c.latent_frames(num_frames), height // c.h, width // c.w)

    def _group(self, frames_BTHW3: torch.Tensor, first: bool) -> torch.Tensor:
        """Frames to (B * t, temporal * 3, H, W) in [-1, 1]; frame 0 becomes a group of its copies."""
        x = frames_BTHW3
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x * 2 - 1
        if first:
            x = torch.cat([x[:, :1].expand(-1, self.config.temporal - 1, -1, -1, -1), x], 1)
        groups = x.unflatten(1, (-1, self.config.temporal)).permute(0, 1, 2, 5, 3, 4)
        return groups.flatten(2, 3).flatten(0, 1).to(self.encoder.patch.weight.dtype)

    def _ungroup(self, groups: torch.Tensor, latent_frames: int, first: bool) -> torch.Tensor:
        frames = groups.unflatten(1, (self.config.temporal, 3)).unflatten(0, (-1, latent_frames)).flatten(1, 2)
        frames = frames[:, self.config.temporal - 1 :] if first else frames
        return (frames.permute(0, 1, 3, 4, 2).float() + 1) / 2

    def _quantize(
        self, frames_BTHW3: torch.Tensor, cache: ConvCache | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, ConvCache]:
        groups, batch = self._group(frames_BTHW3, first=cache is None), frames_BTHW3.shape[0]
        latents, pasts = self.encoder(groups, len(groups) // batch, cache)
        codes, tokens, loss = self.quantizer(latents.flatten(2).transpose(1, 2))
        codes = codes.transpose(1, 2).unflatten(2, latents.shape[2:]).to(latents.dtype)
        return codes, tokens.unflatten(1, latents.shape[2:]).unflatten(0, (batch, -1)), loss, pasts

    def encode(self, frames_BTHW3: torch.Tensor) -> torch.Tensor:
        """Tokens (B, t, h, w) int64 of a clip (B, T, H, W, 3), uint8 or float in [0, 1]; see `grid` for its shape."""
        return self.encode_chunk(frames_BTHW3, None)[0]

    def encode_chunk(self, frames_BTHW3: torch.Tensor, cache: ConvCache | None) -> tuple[torch.Tensor, ConvCache]:
        """Tokens of the next frames, and the cache for those after them; None starts a clip.

        A chunk is 1 + n * temporal frames at the start, and n * temporal later on.
        """
        _, frames, height, width, _ = frames_BTHW3.shape
        if cache is None:
            self.grid(frames, height, width)
        else:
            temporal = self.config.temporal
            whole = frames >= temporal and frames % temporal == 0
            require(whole, "num_frames", f"must be a multiple of {temporal} after the first chunk", frames)
            self.grid(1, height, width)
        _, tokens, _, pasts = self._quantize(frames_BTHW3, cache)
        return tokens, pasts

    def decode(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """The clip (B, T, H, W, 3) of tokens (B, t, h, w): float32, about [0, 1] (clamp before storing)."""
        return self.decode_chunk(tokens_Bthw, None)[0]

    def decode_chunk(self, tokens_Bthw: torch.Tensor, cache: ConvCache | None) -> tuple[torch.Tensor, ConvCache]:
        """Frames of the next latent frames, and the cache for those after them; None starts a clip."""
        batch, frames, h, w = tokens_Bthw.shape
        codes = self.quantizer.codes(tokens_Bthw.reshape(batch * frames, h * w))
        codes = codes.transpose(1, 2).unflatten(2, (h, w)).to(self.decoder.embed.weight.dtype)
        groups, pasts = self.decoder(codes, frames, cache)
        return self._ungroup(groups, frames, first=cache is None), pasts

    def decode_frame(
        self, tokens_Bhw: torch.Tensor, states: Sequence[ConvCache | None]
    ) -> tuple[list[torch.Tensor], list[ConvCache]]:
        """Frames (T, H, W, 3), about [0, 1], of one more latent frame of each row, and the states for those after them.

        Each row has a state of its own, None at its beginning: rows in different phases are decoded together.
        """
        h, w = tokens_Bhw.shape[1:]
        shape = (1, 2, self.config.decoder_widths[0], h, w)
        # Before frame 0 the decoder's past is zero.
        weight = self.decoder.embed.weight
        zero = [torch.zeros(shape, device=weight.device, dtype=weight.dtype) for _ in self.decoder.temporal]
        together = [torch.cat(parts) for parts in zip(*(state or zero for state in states), strict=True)]
        codes = self.quantizer.codes(tokens_Bhw.flatten(1))
        codes = codes.transpose(1, 2).unflatten(2, (h, w)).to(weight.dtype)
        groups, pasts = self.decoder(codes, 1, together)
        frames_BTHW3 = self._ungroup(groups, 1, first=False)
        skipped = [0 if state is not None else self.config.temporal - 1 for state in states]
        frames = [frames_THW3[skip:] for frames_THW3, skip in zip(frames_BTHW3, skipped, strict=True)]
        return frames, [[past[row : row + 1] for past in pasts] for row in range(len(states))]

    def forward(self, frames_BTHW3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction (B, T, H, W, 3), tokens (B, t, h, w) and the quantizer's loss: one training step's view."""
        grid = self.grid(*frames_BTHW3.shape[1:4])
        codes, tokens, loss, _ = self._quantize(frames_BTHW3, None)
        groups, _ = self.decoder(codes, grid.t, None)
        return self._ungroup(groups, grid.t, first=True), tokens, loss


def load_tokenizer(folder: Path, *, device: str = "auto") -> VideoTokenizer:
    """The tokenizer in the folder of its training: tokenizer.json and tokenizer.safetensors.

    Raises:
        ReelmError: a file is missing, damaged, or of another shape.
    """
    config = from_dict(TokenizerConfig, read_json(folder / "tokenizer.json"), "tokenizer.json")
    with uninitialised():
        tokenizer = VideoTokenizer(config)
    load_weights(tokenizer, folder / "tokenizer.safetensors")
    return tokenizer.to(pick_device(device)).eval().requires_grad_(False)
