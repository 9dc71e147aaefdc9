"""The language model: a causal transformer over video tokens under a text prefix, with prefix + window attention.

    model = VideoTransformer(LMConfig(vocab_size=1920))
    logits_BSV = model(tokens_Bthw, text_BP, text_lengths_B)         # whole clips: training, scoring, the oracle

    cache = model.make_cache(rows)                                   # token by token
    model.condition(cache, [0], [(Text("a red ball"),)])
    logits_BLV = model.step(cache, 1)                                # of the next position
    cache.put_tokens(tokens_BL); cache.advance(1)

The slot of video position p predicts token p. Its input is the neighbouring tokens that are already known: those to the
left and above in the same latent frame, and those at and around the same raster index in the two latent frames before.
So copying a background and continuing a shift need no attention, which is left for all that is less local.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from ..core.checkpoint import save_tensors
from ..core.condition import Condition
from ..core.errors import require
from ..core.files import atomic_write
from ..core.protocols import Backend, Cost, Numerics, Precision, Storage
from ..core.token_history import HISTORY, tokens_at
from ..kernels.attention import attention
from ..kernels.cached_attention import attention_step, cached_attention, prefix_attention
from ..kernels.norm import RMSNorm
from ..kernels.rotary import Rotation
from .blocks import Attend, Attention, Block, init_weights
from .cache import RingCache
from .compiled_blocks import CompiledBlocks, compile_blocks
from .control_embedding import ControlEmbedding
from .lm_config import LMConfig, cache_dtype
from .neighbours import neighbours, order_tables
from .positions import prefix_rotation, video_rotation
from .quantization import stored
from .text import PromptReader


class VideoTransformer(PromptReader, nn.Module):
    """A transformer that predicts the next video token; it depends on the layout of a latent frame, not on the codec.

    Attributes:
        config: The sizes of the model.
        layout: The layout of one latent frame.
        guidance: The guidance scale for which the model has a second set of weights, or None.
        guided: The model with these weights, whose logits are the guided ones; None where there are none.
        horizon: None, as the cache rolls without end.
        keeps_first: False, as no new cache begins.
        backend: The implementation of the kernels: "reference", "triton", or None for the best one on the device.
        weights_precision: The precision of the linear layers: "full" is the dtype of the model, the other is int8.
        cache_precision: The precision of the keys and values in new caches: "full" is the dtype of the model, the other
            is int8.
        processes: The number of processes that hold the layers together.
        settled: Whether the weights will not change any more, so that `step` may compile them (`CompiledBlocks`).
    """

    horizon: int | None = None
    keeps_first: bool = False
    backend: Backend | None = None
    weights_precision: Precision = "full"
    cache_precision: Precision = "full"
    processes: int = 1
    settled: bool = False

    raster_S: torch.Tensor
    neighbour_offsets_SX: torch.Tensor
    neighbour_inside_SX: torch.Tensor

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config, self.layout, self.guidance = config, config.layout, config.guidance
        self.text_embedding = nn.Embedding(config.text_vocab_size, config.width)
        # The last id stands for a neighbour outside the clip, not yet written, or given.
        self.token_embedding = nn.Embedding(config.vocab_size + 1, config.neighbour_dim)
        self.neighbour_mix = nn.Linear(len(neighbours(config.order)) * config.neighbour_dim, config.width, bias=False)
        self.place_embedding = nn.Embedding(config.frame_size, config.width)
        self.controls = ControlEmbedding(config.controller, self.layout, config.width) if config.controller else None
        self.given = self.layout.frame_size - self.layout.video.size
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        for name, table in order_tables(self.layout).items():
            self.register_buffer(name, table, persistent=False)
        init_weights(self, config.depth)
        plain = dataclasses.replace(config, guidance=None)
        self.guided = None if config.guidance is None else VideoTransformer(plain)

    def _video_input(self, history_BQ: torch.Tensor, positions_BL: torch.Tensor) -> torch.Tensor:
        """Return the inputs (B, L, D) of the slots of these positions; the token of position p is history[p % Q]."""
        size, none = self.config.frame_size, self.config.vocab_size
        index_BL = positions_BL % size
        neighbours_BLX = positions_BL[..., None] + self.neighbour_offsets_SX[index_BL]
        # Neighbours before the clip, in latent frames -1 and -2, have negative positions.
        inside_BLX = self.neighbour_inside_SX[index_BL] & (neighbours_BLX >= 0)
        tokens_BLX = tokens_at(history_BQ, neighbours_BLX)
        if self.given:
            tokens_BLX = tokens_BLX.clamp(max=none)
        tokens_BLX = torch.where(inside_BLX, tokens_BLX, none)
        x_BLD = self.neighbour_mix(self.token_embedding(tokens_BLX).flatten(2)) + self.place_embedding(
            self.raster_S[index_BL]
        )
        return x_BLD if self.controls is None else self.controls(x_BLD, history_BQ, positions_BL)

    def _rotation(self, positions_BL: torch.Tensor) -> Rotation:
        """Return the rotations of video positions, by the latent frame, row and column of their tokens."""
        config, index_BL = self.config, positions_BL % self.config.frame_size
        raster_BL = self.raster_S[index_BL]
        if self.given:  # given tokens stand at the first row and column
            raster_BL = (raster_BL - self.given).clamp(min=0)
        frame_BL = positions_BL // config.frame_size
        return video_rotation(
            frame_BL * self.layout.video.size + raster_BL, config.rows, config.columns, config.head_dim
        )

    def _blocks(self, x_BSD: torch.Tensor, attend: Attend) -> torch.Tensor:
        for layer, block in enumerate(self.blocks):
            x_BSD = block(x_BSD, attend, layer)
        return x_BSD

    def forward(
        self, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, text_lengths_B: torch.Tensor,
        controls: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the logits (B, S, V) of all positions of whole clips, in writing order, from one masked pass.

        Args:
            tokens_Bthw: The token ids of the clips; the logits of a position do not depend on its own token.
            text_BP: The text ids, right-padded to `prefix` slots.
            text_lengths_B: The number of valid text ids of each clip.
            controls: The tokens (B, t, pictures) of the controller's segments by name, where the model has one.
        """
        tokens_BtS = self.layout.pack({"video": tokens_Bthw, **(controls or {})})
        return self.logits(tokens_BtS.flatten(1), text_BP, text_lengths_B)

    def logits(self, tokens_BS: torch.Tensor, text_BP: torch.Tensor, text_lengths_B: torch.Tensor) -> torch.Tensor:
        """Return the same logits as `forward` for tokens in writing order; the last latent frame may be partial."""
        config = self.config
        batch, count = tokens_BS.shape
        require(text_BP.shape[1] == config.prefix, "text_BP", f"must have {config.prefix} slots", text_BP.shape[1])
        positions_1S = torch.arange(count, device=tokens_BS.device)[None]
        video = self._video_input(tokens_BS, positions_1S.expand(batch, -1))
        x = torch.cat((self.text_embedding(text_BP), video), 1)
        rotations = prefix_rotation(config.prefix, config.head_dim, x.device), self._rotation(positions_1S)
        rotation = (torch.cat([r[0] for r in rotations], 1), torch.cat([r[1] for r in rotations], 1))
        # Read here, where torch.compile, which may compile a block with `attend`, does not trace the config.
        prefix, frame_size, window = config.prefix, config.frame_size, config.window

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            q_rotated, q, k, v = module.rotated(qkv, rotation)
            # Text tokens attend to each other with rotations, video tokens to the prefix with unrotated queries.
            q_prefix = torch.cat((q_rotated[:, :prefix], q[:, prefix:]), 1)
            return attention(
                q_rotated, k, v, prefix=prefix, q_prefix_BSNE=q_prefix, prefix_lengths_B=text_lengths_B,
                frame_size=frame_size, window=window, backend=self.backend,
            )  # fmt: skip

        return self.head(self.norm(self._blocks(x, attend)[:, config.prefix :]))

    @torch.no_grad()
    def oracle(self, tokens_BS: torch.Tensor, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor:
        """Return the logits (B, S, V) of all positions of whole clips from one masked pass, which `step` must match."""
        return self.logits(tokens_BS, *(part.to(self.device) for part in self.encode(conditions)))

    @functools.cached_property
    def _compiled(self) -> CompiledBlocks | None:
        return compile_blocks(self.config, self.numerics, self.blocks, self.norm, self.head)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.text_embedding.weight.device

    @property
    def numerics(self) -> Numerics:
        """The dtype, precisions and device of the model."""
        weight = self.text_embedding.weight
        return Numerics(
            dtype=weight.dtype, weights=self.weights_precision, cache=self.cache_precision, device=weight.device.type,
            processes=self.processes,
        )  # fmt: skip

    def cost(self, rows: int, count: int) -> Cost:
        """Return the cost of passes over `count` positions of each of `rows` rows."""
        return self.config.cost(rows, count, self.numerics)

    def save(self, folder: Path, store: Storage = "float16") -> None:
        """Write lm.safetensors and text.model into a checkpoint folder; `LanguageModel` has the arguments."""
        assert self.text is not None
        save_tensors(folder / "lm.safetensors", stored(self.state_dict(), store))
        atomic_write(folder / "text.model", self.text.model)

    def make_cache(self, rows: int, *, ahead: int = 1) -> RingCache:
        """Return an empty cache of so many rows, for passes over up to `ahead` latent frames of new positions."""
        return RingCache(self.config, rows, self.device, cache_dtype(self.numerics), ahead=ahead)

    def condition(self, cache: RingCache, rows: Sequence[int], conditions: Sequence[Sequence[Condition]]) -> None:
        """Set the text of these rows of the cache from now on."""
        text_BP, lengths_B = (part.to(self.device) for part in self.encode(conditions))
        self.prefill(cache, text_BP, lengths_B, torch.tensor(rows, device=self.device))

    @torch.no_grad()
    def prefill(
        self, cache: RingCache, text_BP: torch.Tensor, text_lengths_B: torch.Tensor,
        rows_B: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """Write the keys and values of text prefixes into a cache; equal prefixes are computed once.

        Args:
            cache: The cache.
            text_BP: The text ids, right-padded to `prefix` slots.
            text_lengths_B: The number of valid text ids of each row.
            rows_B: The rows of the cache to write; by default the first B.
        """
        config = self.config
        prefixes_BX = torch.cat((text_BP, text_lengths_B[:, None]), 1)
        distinct_UX, inverse_B = torch.unique(prefixes_BX, dim=0, return_inverse=True)
        text_UP, lengths_U = distinct_UX[:, :-1], distinct_UX[:, -1].contiguous()
        rows_B = torch.arange(len(text_BP), device=text_BP.device) if rows_B is None else rows_B
        cache.prefix_lengths_B[rows_B] = text_lengths_B
        rotation = prefix_rotation(config.prefix, config.head_dim, text_BP.device)

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            out_UPNE, k_UKPE, v_UKPE = prefix_attention(
                qkv, module.q_norm, module.k_norm, rotation, lengths_U, kv_heads=config.kv_heads, backend=self.backend
            )
            cache.put_prefix(layer, rows_B, k_UKPE[inverse_B], v_UKPE[inverse_B])
            return out_UPNE

        self._blocks(self.text_embedding(text_UP), attend)

    @torch.no_grad()
    def step(
        self, cache: RingCache, count: int = 1, offsets: Sequence[int] | None = None,
        sees_LA: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the logits (B, L, V) of the next L = `count` positions of every row, without advancing.

        The keys and values of these positions are written into the ring. The tokens before each position must be in the
        cache (`put_tokens`): for L > 1 they are drafts, or the known tokens of a given clip.

        Args:
            cache: A cache that `make_cache` has made.
            count: The number of next positions, at most as many latent frames as the cache is made for (`ahead`).
            offsets: Only predict the L positions at these distances from the next one, all below `count`; then `count`
                may be two latent frames, if the next position begins one.
            sees_LA: With `offsets`, which of the A = `count` next positions each of the L positions attends to.
        """
        config = self.config
        assert count <= config.frame_size * (HISTORY - 3)
        assert offsets is not None or count <= cache.ring - config.window * config.frame_size
        positions_BL = cache.next_positions(count, offsets)
        step = attention_step(
            cache.keys[0], heads=config.heads, slots_BL=cache.slots(positions_BL),
            rotation=self._rotation(positions_BL), positions_B=cache.positions_B,
            prefix_lengths_B=cache.prefix_lengths_B, prefix=config.prefix, frame_size=config.frame_size,
            window=config.window, ancestors_BLA=None if sees_LA is None else sees_LA.to(positions_BL.device)[None],
            query_positions_BL=None if sees_LA is None else positions_BL, backend=self.backend,
        )  # fmt: skip
        x_BLD = self._video_input(cache.tokens_BQ, positions_BL)
        if step.table is not None and self.settled and self._compiled is not None:
            return self._compiled(x_BLD, cache, step)

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            return cached_attention(qkv, module.q_norm, module.k_norm, step, **cache.layer(layer))

        return self.head(self.norm(self._blocks(x_BLD, attend)))
