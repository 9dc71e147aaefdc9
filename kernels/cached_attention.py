"""The one door between a layer's projections where there is a cache: norm, rotation, ring write and attention.

    step = attention_step(cache.layer(0), heads=8, rotation=rotation, slots_BL=slots_BL, …)     # once a step
    out_BLNE = cached_attention(qkv_BLJE, q_norm_E, k_norm_E, step, **cache.layer(layer))       # in every layer

`prefix_attention` fills the prefix of a cache. What is the same in every layer is prepared once: the mask, the tables
of the CPU path and the choice of the path. There are three paths: for float32 on a CPU `cached_attention_cpu`, on a GPU
the Triton kernels of `rope_norm_cache` and `decode_attention`, and anywhere their references, which define the result.
"""

from typing import NamedTuple

import torch

from ..core.protocols import Backend
from .attention import attention
from .backend import pick_backend
from .cached_attention_cpu import CpuTable, cached_attention_cpu, cpu_table, factors, norm_and_rotate
from .decode_attention import decode_attention
from .decode_attention_reference import slot_mask
from .rope_norm_cache import rope_norm_cache
from .rotary import Rotation


class AttentionStep(NamedTuple):
    """What is the same in every layer of a step; attributes without a description are those of `decode_attention`.

    Attributes:
        slots_BL: the cache slots of the step's tokens.
        rotation: the rotations of their queries and keys.
        mask_BLC: what `slot_mask` makes, where the path needs it.
        table: of the CPU path; None where another path is taken.
        backend: of the other paths, as the caller asked for it.
    """

    slots_BL: torch.Tensor
    rotation: Rotation
    positions_B: torch.Tensor
    prefix_lengths_B: torch.Tensor
    prefix: int
    frame_size: int
    window: int
    ancestors_BLA: torch.Tensor | None
    query_positions_BL: torch.Tensor | None
    mask_BLC: torch.Tensor | None
    table: CpuTable | None
    backend: Backend | None


def attention_step(
    k_cache_BKCE: torch.Tensor,
    *,
    heads: int,
    slots_BL: torch.Tensor,
    rotation: Rotation,
    positions_B: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    prefix: int,
    frame_size: int,
    window: int,
    ancestors_BLA: torch.Tensor | None = None,
    query_positions_BL: torch.Tensor | None = None,
    backend: Backend | None = None,
) -> AttentionStep:
    """Prepare a step over L tokens of each of B rows.

    Args:
        k_cache_BKCE: the keys of any layer, which show the sizes, the dtype and the device of the cache.
        heads: N, heads of queries.
        slots_BL: the cache slot of each token, int64, no two of a row the same.
        rotation: the rotations of the tokens, (B, L, 1, E / 2) each.
        positions_B, prefix_lengths_B, prefix, frame_size, window, ancestors_BLA, query_positions_BL: as for
            `decode_attention`.
        backend: "reference" or "triton"; by default the CPU path where it fits, else as `pick_backend` says.
    """
    mask_BLC = table = None
    if pick_backend("decode_attention", backend, k_cache_BKCE) == "reference":  # the kernel makes its mask by itself
        count, slots = slots_BL.shape[1], k_cache_BKCE.shape[2]
        mask_BLC = slot_mask(
            count, slots, positions_B, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window,
            ancestors_BLA=ancestors_BLA, query_positions_BL=query_positions_BL,
        )  # fmt: skip
        if backend is None and _fits_the_cpu_path(k_cache_BKCE):
            table = cpu_table(slots_BL, rotation, mask_BLC, heads=heads, kv_heads=k_cache_BKCE.shape[1])
    return AttentionStep(
        slots_BL, rotation, positions_B, prefix_lengths_B, prefix, frame_size, window, ancestors_BLA,
        query_positions_BL, mask_BLC, table, backend,
    )  # fmt: skip


def cached_attention(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor,
    k_norm_E: torch.Tensor,
    step: AttentionStep,
    *,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    k_scales_BKC: torch.Tensor | None = None,
    v_scales_BKC: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise and rotate queries and keys, write keys and values into the ring, and attend to it.

    Args:
        qkv_BLJE: the projection of the step's tokens: H = N + 2 K heads, first those of the queries, then keys, values.
        q_norm_E, k_norm_E: the weights of the norms.
        step: what `attention_step` prepared for this step.
        k_cache_BKCE, v_cache_BKCE, k_scales_BKC, v_scales_BKC: the layer's part of the cache, written in place.

    Returns:
        The output (B, L, N, E), in the dtype of qkv.

    Raises:
        ReelmError: shapes, dtypes or devices do not fit together (see `rope_norm_cache` and `decode_attention`).
    """
    if step.table is not None:
        return cached_attention_cpu(
            qkv_BLJE, q_norm_E, k_norm_E, step.table, k_cache_BKCE, v_cache_BKCE, prefix=step.prefix
        )
    q_BLNE, q_prefix_BLNE = rope_norm_cache(
        qkv_BLJE, q_norm_E, k_norm_E, step.slots_BL, k_cache_BKCE, v_cache_BKCE, rotation=step.rotation,
        k_scales_BKC=k_scales_BKC, v_scales_BKC=v_scales_BKC, backend=step.backend,
    )  # fmt: skip
    return decode_attention(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, step.positions_B, step.prefix_lengths_B,
        prefix=step.prefix, frame_size=step.frame_size, window=step.window, ancestors_BLA=step.ancestors_BLA,
        query_positions_BL=step.query_positions_BL, k_scales_BKC=k_scales_BKC, v_scales_BKC=v_scales_BKC,
        mask_BLC=step.mask_BLC, backend=step.backend,
    )  # fmt: skip


@torch.no_grad()
def prefix_attention(
    qkv_BPJE: torch.Tensor,
    q_norm_E: torch.Tensor,
    k_norm_E: torch.Tensor,
    rotation: Rotation,
    prefix_lengths_B: torch.Tensor,
    *,
    kv_heads: int,
    backend: Backend | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise and rotate the queries and keys of prefixes, and attend among them: what fills a cache at its start.

    Args:
        qkv_BPJE: the projection of the prefixes: H = N + 2 K heads, first those of the queries, then keys, values.
        q_norm_E, k_norm_E: the weights of the norms.
        rotation: of the P slots, (1, P, 1, E / 2) each.
        prefix_lengths_B: how many slots of each prefix are valid.
        kv_heads: K, heads of keys and values.
        backend: as for `attention_step`.

    Returns:
        The output (B, P, N, E), and the keys and values (B, K, P, E) that go into the cache.
    """
    (B, P, H, E), N = qkv_BPJE.shape, qkv_BPJE.shape[2] - 2 * kv_heads
    if backend is None and _fits_the_cpu_path(qkv_BPJE):
        qk_BPJE, v_BPKE = qkv_BPJE.split((H - kv_heads, kv_heads), 2)
        _, rotated_BPJE = norm_and_rotate(qk_BPJE, q_norm_E, k_norm_E, N, *factors(rotation))
        q_BPNE, k_BPKE = rotated_BPJE.split((N, kv_heads), 2)
    else:
        k_BKPE, v_BKPE = qkv_BPJE.new_empty((2, B, kv_heads, P, E))
        slots_BP = torch.arange(P, device=qkv_BPJE.device).expand(B, -1)
        q_BPNE, _ = rope_norm_cache(
            qkv_BPJE, q_norm_E, k_norm_E, slots_BP, k_BKPE, v_BKPE, rotation=rotation, backend=backend
        )
        k_BPKE, v_BPKE = k_BKPE.transpose(1, 2), v_BKPE.transpose(1, 2)
    out_BPNE = attention(q_BPNE, k_BPKE, v_BPKE, prefix=P, prefix_lengths_B=prefix_lengths_B, backend=backend)
    return out_BPNE, k_BPKE.transpose(1, 2), v_BPKE.transpose(1, 2)


def _fits_the_cpu_path(x: torch.Tensor) -> bool:
    """Whether this is inference in float32 on a CPU, outside of a compiler."""
    here = x.device.type == "cpu" and x.dtype == torch.float32
    return here and not torch.compiler.is_compiling()
