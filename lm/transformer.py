"""The language model: a causal transformer over video tokens under a text prefix, with prefix + window attention.

    model = VideoTransformer(LMConfig(vocab_size=1920))
    logits_BSV = model(tokens_Bthw, text_BP, text_lengths_B)         # whole clips: training, scoring, the oracle

    cache = model.make_cache(batch)                                  # token by token
    model.prefill(cache, text_BP, text_lengths_B)
    logits_BLV = model.step(cache, 1)                                # for the next position
    cache.put_tokens(tokens_BL); cache.advance(1)

The slot of video position p predicts token p. Its input is what lies around p and is already known: the tokens to the
left and above in the same latent frame, and those at and around the same place in the two latent frames before. A
background is then copied, and a shift continued, at once; attention is left with all that is not so local.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..core.errors import require
from ..kernels.attention import attention
from ..kernels.backend import pick_backend
from ..kernels.decode_attention import decode_attention
from ..kernels.decode_attention_reference import slot_mask
from ..kernels.norm import RMSNorm
from ..kernels.rope_norm_cache import rope_norm_cache
from ..kernels.rotary import Rotation, rotate
from .cache import HISTORY, RingCache
from .int8 import Kind
from .lean import can_be_lean, lean_attend
from .neighbours import neighbour_tables, neighbours
from .order import ORDERS, Order, scan_order
from .rotary import prefix_rotation, video_rotation

# (layer, its module, its heads of queries, keys and values) -> attention's output; both (B, S, heads, E).
Attend = Callable[[int, "Attention", torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """Sizes of the language model.

    Attributes:
        vocab_size: video token ids.
        rows, columns: of a latent frame in tokens.
        order: in which these are written, "raster" or "coarse" (order.py).
        window: latent frames that a token sees, its own included; at least 3, as its neighbours reach two back.
        text_vocab_size: text token ids.
        prefix: slots for text tokens.
        width: channels of the residual stream.
        depth: blocks.
        heads: query heads.
        kv_heads: key/value heads (grouped-query attention, Ainslie et al. 2023, arXiv 2305.13245).
        head_dim: channels of a head.
        hidden: channels inside the SwiGLU layer (Shazeer 2020, arXiv 2002.05202).
        neighbour_dim: channels of each neighbouring token's embedding.
    """

    vocab_size: int
    rows: int = 8
    columns: int = 8
    order: Order = "raster"
    window: int = 5
    text_vocab_size: int = 256
    prefix: int = 32
    width: int = 256
    depth: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    hidden: int = 512
    neighbour_dim: int = 64

    def __post_init__(self) -> None:
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}", self.order)
        require(self.window >= 3, "window", "must be at least 3", self.window)
        groups = self.kv_heads >= 1 and self.heads % self.kv_heads == 0
        require(groups, "kv_heads", f"must divide heads ({self.heads})", self.kv_heads)
        require(self.head_dim % 2 == 0, "head_dim", "must be even", self.head_dim)
        for name in ("vocab_size", "rows", "columns", "text_vocab_size", "prefix", "width", "depth", "heads",
                     "head_dim", "hidden", "neighbour_dim"):  # fmt: skip
            require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))

    @property
    def frame_size(self) -> int:
        """Tokens in a latent frame."""
        return self.rows * self.columns


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys (Dehghani et al. 2023, arXiv 2302.05442)."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads = (config.heads, config.kv_heads, config.kv_heads)
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(config.width, sum(self.heads) * config.head_dim, bias=False)
        self.out = nn.Linear(config.heads * config.head_dim, config.width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(config.head_dim))
        self.k_norm = nn.Parameter(torch.ones(config.head_dim))

    def forward(self, x_BSD: torch.Tensor, attend: Attend, layer: int) -> torch.Tensor:
        """(B, S, D) to the same shape; `attend` knows the places of the tokens, the mask and the cache."""
        qkv_BSHE = self.qkv(x_BSD).unflatten(-1, (-1, self.head_dim))
        return self.out(attend(layer, self, qkv_BSHE).flatten(2))

    def rotated(self, qkv_BSHE: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, ...]:
        """Rotated queries, plain queries, rotated keys, values; `rope_norm_cache` is the same where no gradient is."""
        q, k, v = qkv_BSHE.split(self.heads, 2)
        # In float32 whatever the precision of the products.
        q = F.rms_norm(q.float(), (self.head_dim,), self.q_norm.float(), 1e-6).to(v.dtype)
        k = F.rms_norm(k.float(), (self.head_dim,), self.k_norm.float(), 1e-6).to(v.dtype)
        return rotate(q, rotation), q, rotate(k, rotation), v


class Block(nn.Module):
    """x + attention(norm x), then x + swiglu(norm x)."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, eps=1e-6)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x_BSD: torch.Tensor, attend: Attend, layer: int) -> torch.Tensor:
        """(B, S, D) to the same shape."""
        x = x_BSD + self.attention(self.attention_norm(x_BSD), attend, layer)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class VideoTransformer(nn.Module):
    """Logits of the next video token. It knows grids and vocabularies, not tokenizers.

    Attributes:
        weights_kind: whether the weights of its linear layers are in its own dtype ("full") or in int8.
        cache_kind: whether the caches that it makes hold keys and values in its own dtype ("full") or in int8.
    """

    weights_kind: Kind = "full"
    cache_kind: Kind = "full"

    places_S: torch.Tensor
    neighbour_offsets_SO: torch.Tensor
    neighbour_inside_SO: torch.Tensor

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.text_embedding = nn.Embedding(config.text_vocab_size, config.width)
        # The last id stands for a neighbour outside the clip.
        self.token_embedding = nn.Embedding(config.vocab_size + 1, config.neighbour_dim)
        self.neighbour_mix = nn.Linear(len(neighbours(config.order)) * config.neighbour_dim, config.width, bias=False)
        self.place_embedding = nn.Embedding(config.frame_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        for name, table in order_tables(config).items():
            self.register_buffer(name, table, persistent=False)
        self.apply(self._init)
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):  # branches start small, so that depth adds up gently
                nn.init.normal_(weight, std=0.02 / (2 * config.depth) ** 0.5)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5 if module.embedding_dim < 128 else 0.1)

    def _video_input(self, history_BR: torch.Tensor, positions_BL: torch.Tensor) -> torch.Tensor:
        """The inputs (B, L, D) of these slots; position p's token is history[p % R]."""
        size = self.config.frame_size
        turn_BL = positions_BL % size
        index_BLO = positions_BL[..., None] + self.neighbour_offsets_SO[turn_BL]
        # Those before the clip have negative positions: latent frame -1 or -2.
        inside_BLO = self.neighbour_inside_SO[turn_BL] & (index_BLO >= 0)
        index_BLO %= history_BR.shape[1]
        tokens_BLO = history_BR.gather(1, index_BLO.flatten(1)).view_as(index_BLO)
        tokens_BLO = torch.where(inside_BLO, tokens_BLO, self.config.vocab_size)
        return self.neighbour_mix(self.token_embedding(tokens_BLO).flatten(2)) + self.place_embedding(
            self.places_S[turn_BL]
        )

    def _rotation(self, positions_BL: torch.Tensor) -> Rotation:
        """The rotations of video positions, by where and when their tokens are seen."""
        config, turn_BL = self.config, positions_BL % self.config.frame_size
        seen_BL = positions_BL - turn_BL + self.places_S[turn_BL]
        return video_rotation(seen_BL, config.rows, config.columns, config.head_dim)

    def in_order(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """The tokens (B, S) of grids in the order in which this model writes them."""
        grid = (self.config.rows, self.config.columns)
        require(tokens_Bthw.shape[2:] == grid, "tokens_Bthw", f"must have latent frames of {grid}", tokens_Bthw.shape)
        return tokens_Bthw.flatten(2)[..., self.places_S].flatten(1)

    def as_grid(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        """What `in_order` was given (B, t, h, w): of whole latent frames, or of what belongs to their tokens."""
        frames_BtS = tokens_BS.unflatten(1, (-1, self.config.frame_size))
        return frames_BtS[..., self.places_S.argsort()].unflatten(2, (self.config.rows, self.config.columns))

    def _blocks(self, x_BSD: torch.Tensor, attend: Attend) -> torch.Tensor:
        for layer, block in enumerate(self.blocks):
            x_BSD = block(x_BSD, attend, layer)
        return x_BSD

    def forward(self, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, text_lengths_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, S, V) for every position of whole clips, in one masked pass; positions are `in_order`.

        Args:
            tokens_Bthw: token ids; position p's own token does not reach its logits.
            text_BP: text ids, right-padded to `prefix` slots.
            text_lengths_B: how many of them are valid.
        """
        return self.logits(self.in_order(tokens_Bthw), text_BP, text_lengths_B)

    def logits(self, tokens_BS: torch.Tensor, text_BP: torch.Tensor, text_lengths_B: torch.Tensor) -> torch.Tensor:
        """As `forward`, of tokens that are in order already, with which a latent frame need not end."""
        config = self.config
        batch, count = tokens_BS.shape
        require(text_BP.shape[1] == config.prefix, "text_BP", f"must have {config.prefix} slots", text_BP.shape[1])
        positions_1S = torch.arange(count, device=tokens_BS.device)[None]
        video = self._video_input(tokens_BS, positions_1S.expand(batch, -1))
        x = torch.cat((self.text_embedding(text_BP), video), 1)
        rotations = (prefix_rotation(config.prefix, config.head_dim, x.device), self._rotation(positions_1S))
        rotation = (torch.cat([r[0] for r in rotations], 1), torch.cat([r[1] for r in rotations], 1))

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            q_rotated, q, k, v = module.rotated(qkv, rotation)
            # Text tokens turn among themselves; a video token reads the prefix from no place in particular.
            q_prefix = torch.cat((q_rotated[:, : config.prefix], q[:, config.prefix :]), 1)
            return attention(
                q_rotated, k, v, prefix=config.prefix, q_prefix_BSNE=q_prefix, prefix_lengths_B=text_lengths_B,
                frame_size=config.frame_size, window=config.window,
            )  # fmt: skip

        return self.head(self.norm(self._blocks(x, attend)[:, config.prefix :]))

    def make_cache(self, batch: int, device: str | None = None, *, ahead: int = 1) -> RingCache:
        """An empty cache of so many rows, on the model's device unless told otherwise; `ahead` as of `RingCache`."""
        weight = self.text_embedding.weight
        dtype = torch.int8 if self.cache_kind == "int8" else weight.dtype
        return RingCache(self.config, batch, torch.device(device or weight.device), dtype, ahead=ahead)

    @torch.no_grad()
    def prefill(
        self,
        cache: RingCache,
        text_BP: torch.Tensor,
        text_lengths_B: torch.Tensor,
        rows_B: torch.Tensor | None = None,
    ) -> None:
        """Write prefixes into their slots of rows of `cache` (by default the first B); equal ones are computed once."""
        config = self.config
        numbered_BX = torch.cat((text_BP, text_lengths_B[:, None]), 1)
        numbered_UX, which_B = torch.unique(numbered_BX, dim=0, return_inverse=True)
        text_UP, lengths_U = numbered_UX[:, :-1], numbered_UX[:, -1].contiguous()
        rows_B = torch.arange(len(text_BP), device=text_BP.device) if rows_B is None else rows_B
        cache.prefix_lengths_B[rows_B] = text_lengths_B
        slots_UP = torch.arange(config.prefix, device=text_BP.device).expand(len(text_UP), -1)
        rotation = prefix_rotation(config.prefix, config.head_dim, text_BP.device)
        shape = (len(text_UP), config.kv_heads, config.prefix, config.head_dim)

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            k_UKPE, v_UKPE = (torch.empty(shape, device=qkv.device, dtype=qkv.dtype) for _ in range(2))
            q, _ = rope_norm_cache(qkv, module.q_norm, module.k_norm, slots_UP, k_UKPE, v_UKPE, rotation=rotation)
            cache.put_prefix(layer, rows_B, k_UKPE[which_B], v_UKPE[which_B])
            k, v = k_UKPE.transpose(1, 2), v_UKPE.transpose(1, 2)
            return attention(q, k, v, prefix=config.prefix, prefix_lengths_B=lengths_U)

        self._blocks(self.text_embedding(text_UP), attend)

    @torch.no_grad()
    def step(
        self,
        cache: RingCache,
        count: int = 1,
        offsets: Sequence[int] | None = None,
        sees_LA: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (B, L, V) for the next L = `count` positions of every row; their keys and values go into the ring.

        The tokens before each of these positions must be in the cache (`put_tokens`): for L > 1 drafts, or a clip that
        is being read. Nothing advances.

        Args:
            cache: the rows.
            count: positions that come next, at most as many latent frames as the cache is `ahead`.
            offsets: only the L of them that lie so far ahead; `count` may be two latent frames, if they begin one.
            sees_LA: which of the A = `count` positions each of these sees.
        """
        config = self.config
        assert count <= config.frame_size * (HISTORY - 2)
        assert offsets is not None or count <= cache.ring - config.window * config.frame_size
        positions_BL = cache.next_positions(count, offsets)
        # The same in every layer.
        slots_BL = cache.slots(positions_BL)
        rotation = self._rotation(positions_BL)
        seen: dict[str, Any] = {
            "positions_B": cache.positions_B, "prefix_lengths_B": cache.prefix_lengths_B,
            "prefix": config.prefix, "frame_size": config.frame_size, "window": config.window,
        }  # fmt: skip
        if sees_LA is not None:
            seen |= {"ancestors_BLA": sees_LA.to(positions_BL.device)[None], "query_positions_BL": positions_BL}
        mask_BLC = None
        if pick_backend("decode_attention", None, cache.keys) == "reference":  # the kernel makes none
            mask_BLC = slot_mask(positions_BL.shape[1], config.prefix + cache.ring, **seen)

        def by_ops(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            held = cache.layer(layer)
            q, q_prefix = rope_norm_cache(qkv, module.q_norm, module.k_norm, slots_BL, **held, rotation=rotation)
            return decode_attention(q, q_prefix, **held, **seen, mask_BLC=mask_BLC)

        attend: Attend = by_ops
        if mask_BLC is not None and can_be_lean(cache):
            attend = lean_attend(cache, slots_BL, rotation, mask_BLC)
        return self.head(self.norm(self._blocks(self._video_input(cache.tokens_BR, positions_BL), attend)))


def order_tables(config: LMConfig) -> dict[str, torch.Tensor]:
    """The buffers of a model that follow from its order, by name."""
    offsets_SO, inside_SO = neighbour_tables(config.rows, config.columns, config.order)
    places_S = scan_order(config.rows, config.columns, config.order)
    return {"places_S": places_S, "neighbour_offsets_SO": offsets_SO, "neighbour_inside_SO": inside_SO}
