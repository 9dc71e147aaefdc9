"""The tokenizer: clips to grids of tokens and back, causal in time, at once or chunk by chunk with the same result.

    tokenizer = VideoTokenizer(TokenizerConfig())
    tokens_Bthw = tokenizer.encode(frames_BTHW3)              # uint8 or float in [0, 1]; T = 1 + 4 n
    frames_BTHW3 = tokenizer.decode(tokens_Bthw)              # float in [0, 1]

    state = None                                              # streaming: one latent frame at a time
    for latent_frame in tokens_Bthw.split(1, dim=1):
        frames, state = tokenizer.decode_chunk(latent_frame, state)

Frame 0 is a latent frame of its own, and every further `temporal` frames are one. The encoder's receptive field is
small: a token depends on its own pixels and on those within half a token around it (a config may add neighbouring
tokens and earlier latent frames), so that what stands still keeps its tokens and a language model can predict them. The
decoder's is large: it sees neighbouring tokens and earlier latent frames. `long.py` encodes and decodes clips of any
size and length in bounded memory.
"""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import nn

from ..core.config import to_dict
from ..core.layout import Compression, TokenGrid
from ..core.modes import in_plain_modes
from .inputs import check_chunk, check_frames, check_latents, check_tokens
from .network import ConvState, Decoder, Encoder
from .quantizer import Quantizer
from .tokenizer_config import TokenizerConfig


class VideoTokenizer(nn.Module):
    """A codec between clips and tokens. A language model needs only its `compression`, `vocab_size` and `grid`."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(config.quantizer)
        self.decoder = Decoder(config)

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
        """A hash of the sizes and weights of the encoder and the quantizer, which determine the tokens of a clip."""
        sizes = {name: value for name, value in to_dict(self.config).items() if not name.startswith("decoder")}
        digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
        for part in (self.encoder, self.quantizer):
            for name, tensor in part.state_dict().items():
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.decoder.embed.weight.device

    @property
    def memory(self) -> int:
        """The number of latent frames before its own that a decoded frame depends on."""
        return 2 * self.config.decoder_memory

    def grid(self, num_frames: int, height: int, width: int) -> TokenGrid:
        """Return the token grid of a clip; see `Compression.grid`."""
        return self.compression.grid(num_frames, height, width)

    def _group(self, frames_BTHW3: torch.Tensor, first: bool) -> torch.Tensor:
        """Return the frames as groups (B * t, temporal * 3, H, W) in [-1, 1]; frame 0 becomes a group of its copies."""
        x = frames_BTHW3
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x * 2 - 1
        if first:
            x = torch.cat([x[:, :1].expand(-1, self.config.temporal - 1, -1, -1, -1), x], 1)
        groups = x.unflatten(1, (-1, self.config.temporal)).permute(0, 1, 2, 5, 3, 4)
        return groups.flatten(2, 3).flatten(0, 1).to(self.encoder.patch.weight.dtype)

    def _ungroup(self, groups: torch.Tensor, latent_frames: int, first: bool) -> torch.Tensor:
        """Return the frames (B, T, H, W, 3), about [0, 1], of groups: the inverse of `_group`."""
        frames = groups.unflatten(1, (self.config.temporal, 3)).unflatten(0, (-1, latent_frames)).flatten(1, 2)
        frames = frames[:, self.config.temporal - 1 :] if first else frames
        return (frames.permute(0, 1, 3, 4, 2).float() + 1) / 2

    def _quantize(
        self, frames_BTHW3: torch.Tensor, state: ConvState | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, ConvState]:
        """Return the codes (B * t, D, h, w), the tokens (B, t, h, w), the quantizer's loss and the next state."""
        groups, batch = self._group(frames_BTHW3, first=state is None), frames_BTHW3.shape[0]
        latents, next_state = self.encoder(groups, len(groups) // batch, state)
        if not self.training:  # in training, the loss is checked
            check_latents(latents)
        codes, tokens, loss = self.quantizer(latents.flatten(2).transpose(1, 2))
        codes = codes.transpose(1, 2).unflatten(2, latents.shape[2:]).to(latents.dtype)
        return codes, tokens.unflatten(1, latents.shape[2:]).unflatten(0, (batch, -1)), loss, next_state

    def encode(self, frames_BTHW3: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, t, h, w) int64 of clips (B, T, H, W, 3), which are uint8 or float, about [0, 1].

        Raises:
            ReelmError: The clips have no whole number of tokens (see `grid`), or their values are refused.
        """
        return self.encode_chunk(frames_BTHW3, None)[0]

    @in_plain_modes
    def encode_chunk(self, frames_BTHW3: torch.Tensor, state: ConvState | None) -> tuple[torch.Tensor, ConvState]:
        """Return the tokens (B, t, h, w) of the next frames of a clip, and the state for the frames after them.

        Args:
            frames_BTHW3: The frames: 1 + n * temporal of them at the start of a clip, n * temporal later.
            state: The state that the previous call returned; None starts a clip.

        Raises:
            ReelmError: The size or the number of the frames does not fit (see `grid`); they are neither uint8 nor
                float; or floats are not finite or not between -1 and 2, as those of another scale are.
        """
        check_frames(frames_BTHW3)
        _, frames, height, width, _ = frames_BTHW3.shape
        if state is not None:
            check_chunk(frames, self.config.temporal)
        self.grid(frames if state is None else 1, height, width)
        _, tokens, _, next_state = self._quantize(frames_BTHW3, state)
        return tokens, next_state

    def decode(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """Return the clip (B, T, H, W, 3) of tokens (B, t, h, w): float32, about [0, 1] (clamp before storing).

        Raises:
            ReelmError: The tokens are no ids of this tokenizer.
        """
        return self.decode_chunk(tokens_Bthw, None)[0]

    def decode_chunk(self, tokens_Bthw: torch.Tensor, state: ConvState | None) -> tuple[torch.Tensor, ConvState]:
        """Return the frames (B, T, H, W, 3) of the next latent frames, and the state for the latent frames after them.

        Args:
            tokens_Bthw: The tokens of the next latent frames.
            state: The state that the previous call returned; None starts a clip.

        Raises:
            ReelmError: The tokens are no ids of this tokenizer.
        """
        check_tokens(tokens_Bthw, self.vocab_size)
        batch, frames, h, w = tokens_Bthw.shape
        codes = self.quantizer.codes(tokens_Bthw.reshape(batch * frames, h * w))
        codes = codes.transpose(1, 2).unflatten(2, (h, w)).to(self.decoder.embed.weight.dtype)
        groups, next_state = self.decoder(codes, frames, state)
        return self._ungroup(groups, frames, first=state is None), next_state

    @in_plain_modes
    def decode_frame(
        self, tokens_Bhw: torch.Tensor, states: Sequence[ConvState | None]
    ) -> tuple[list[torch.Tensor], list[ConvState]]:
        """Decode one more latent frame of each row, together for rows at different points of their clips.

        It is called for every latent frame that is sampled. The ids are not checked here, since a GPU would have to
        finish its work first.

        Args:
            tokens_Bhw: The tokens of the latent frame of each row, from 0 to `vocab_size` - 1.
            states: The state of each row; None at the start of its clip.

        Returns:
            The frames (T, H, W, 3) of each row, about [0, 1], and the states for the latent frames after them.
        """
        h, w = tokens_Bhw.shape[1:]
        shape = (1, 2, self.config.decoder_widths[0], h, w)
        # The state at the start of a clip is zero.
        weight = self.decoder.embed.weight
        zero = [torch.zeros(shape, device=weight.device, dtype=weight.dtype) for _ in self.decoder.temporal]
        state = [torch.cat(parts) for parts in zip(*(row_state or zero for row_state in states), strict=True)]
        codes = self.quantizer.codes(tokens_Bhw.flatten(1))
        codes = codes.transpose(1, 2).unflatten(2, (h, w)).to(weight.dtype)
        groups, next_state = self.decoder(codes, 1, state)
        frames_BTHW3 = self._ungroup(groups, 1, first=False)
        skipped = [0 if row_state is not None else self.config.temporal - 1 for row_state in states]
        frames = [frames_THW3[skip:] for frames_THW3, skip in zip(frames_BTHW3, skipped, strict=True)]
        return frames, [[past[row : row + 1] for past in next_state] for row in range(len(states))]

    def forward(self, frames_BTHW3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the reconstruction (B, T, H, W, 3), the tokens (B, t, h, w) and the quantizer's loss, for training."""
        grid = self.grid(*frames_BTHW3.shape[1:4])
        codes, tokens, loss, _ = self._quantize(frames_BTHW3, None)
        groups, _ = self.decoder(codes, grid.t, None)
        return self._ungroup(groups, grid.t, first=True), tokens, loss
