"""Everything between the input and output projections of a cached layer: norms, rotation, cache write and attention.

    step = attention_step(k_cache_BKCE, heads=8, rotation=rotation, slots_BL=slots_BL, …)       # once for each pass
    out_BLNE = cached_attention(qkv_BLJE, q_norm_E, k_norm_E, step, **cache.layer(layer))       # in every layer

`prefix_attention` computes the keys and values of the prefix. Everything that is the same in all layers is prepared
once: the mask, the tables of the CPU path and the choice of the path. There are three paths: `cached_attention_cpu` for
float32 on a CPU, the Triton kernels of `rope_norm_cache` and `decode_attention` on a GPU, and the reference
implementations of these two, which define the result.
"""

# ruff: noqa: PLR0913 (an op with options)

from typing import NamedTuple

import torch

from ..core.protocols import Backend
from .attention import attention
from .backend import pick_backend
from .cached_attention_cpu import CpuTable, cached_attention_cpu, cpu_table, factors, norm_and_rotate
from .decode_attention import decode_attention
from .decode_attention_reference import as_mask, visible_slots
from .large_cache_cpu import LARGE, LargeTable, large_cache_attention, large_table
from .rope_norm_cache import rope_norm_cache
from .rotary import Rotation, rotate


class AttentionStep(NamedTuple):
    """The inputs of attention that all layers of a pass share.

    Attributes:
        slots_BL: The cache slots of the pass's tokens.
        rotation: The rotations of their queries and keys.
        prefix_rotation: The rotations of their queries for the prefix keys; None for no rotation.
        epsilon: The number that the norms add to the mean square.
        positions_B, prefix_lengths_B, prefix, frame_size, window, prefix_from, ancestors_BLA, query_positions_BL: The
            arguments of `decode_attention`.
        mask_BLC: The mask from `slot_mask`; None on the path that does not need it.
        table: The tables of the CPU path; None for the other paths.
        large: The tables of the CPU path for a large cache; None for the other paths.
        backend: The caller's choice of the implementation for the other paths.
    """

    slots_BL: torch.Tensor
    rotation: Rotation
    prefix_rotation: Rotation | None
    epsilon: float
    positions_B: torch.Tensor
    prefix_lengths_B: torch.Tensor
    prefix: int
    frame_size: int
    window: int
    prefix_from: int
    ancestors_BLA: torch.Tensor | None
    query_positions_BL: torch.Tensor | None
    mask_BLC: torch.Tensor | None
    table: CpuTable | None
    large: LargeTable | None
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
    prefix_from: int = 0,
    prefix_rotation: Rotation | None = None,
    epsilon: float = 1e-6,
    ancestors_BLA: torch.Tensor | None = None,
    query_positions_BL: torch.Tensor | None = None,
    backend: Backend | None = None,
) -> AttentionStep:
    """Prepare a pass over L tokens of each of B rows.

    Args:
        k_cache_BKCE: The keys of any layer, for the sizes, the dtype and the device of the cache.
        heads: The number of query heads, N.
        slots_BL: The cache slot of each token, int64, all different within a row.
        rotation: The rotations of the tokens, (B, L, 1, E / 2) each.
        positions_B, prefix_lengths_B, prefix, frame_size, window, prefix_from, ancestors_BLA, query_positions_BL: The
            same as for `decode_attention`.
        prefix_rotation: The rotations of the queries for the prefix keys, (B, L, 1, E / 2) each; None for no rotation.
        epsilon: The number that the norms add to the mean square.
        backend: The implementation, "reference" or "triton"; by default the CPU path if it applies, else the choice of
            `pick_backend`.
    """
    mask_BLC = table = large = None
    if pick_backend("decode_attention", backend, k_cache_BKCE) == "reference":  # the kernel computes its own mask
        count, slots = slots_BL.shape[1], k_cache_BKCE.shape[2]
        visible_BLC = visible_slots(
            count, slots, positions_B, prefix_lengths_B, prefix=prefix, frame_size=frame_size, window=window,
            prefix_from=prefix_from, ancestors_BLA=ancestors_BLA, query_positions_BL=query_positions_BL,
        )  # fmt: skip
        on_cpu = backend is None and _fits_the_cpu_path(k_cache_BKCE)
        if on_cpu and slots >= LARGE:
            large = large_table(
                slots_BL, rotation, visible_BLC, prefix=prefix, prefix_rotation=prefix_rotation, epsilon=epsilon
            )
        else:
            mask_BLC = as_mask(visible_BLC)
        if on_cpu and mask_BLC is not None:
            table = cpu_table(
                slots_BL, rotation, mask_BLC, heads=heads, kv_heads=k_cache_BKCE.shape[1],
                prefix_rotation=prefix_rotation, epsilon=epsilon,
            )  # fmt: skip
    return AttentionStep(
        slots_BL, rotation, prefix_rotation, epsilon, positions_B, prefix_lengths_B, prefix, frame_size, window,
        prefix_from, ancestors_BLA, query_positions_BL, mask_BLC, table, large, backend,
    )  # fmt: skip


def cached_attention(
    qkv_BLJE: torch.Tensor,
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    step: AttentionStep,
    *,
    k_cache_BKCE: torch.Tensor,
    v_cache_BKCE: torch.Tensor,
    k_scales_BKC: torch.Tensor | None = None,
    v_scales_BKC: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise and rotate queries and keys, write keys and values into the cache, and compute attention over it.

    Args:
        qkv_BLJE: The projection of the pass's tokens: J = N + 2 K heads of the queries, then the keys, then the values.
        q_norm_E, k_norm_E: The weights of the norms; None for no norms.
        step: The result of `attention_step` for this pass.
        k_cache_BKCE, v_cache_BKCE, k_scales_BKC, v_scales_BKC: The layer's part of the cache, written in place.

    Returns:
        The output (B, L, N, E), in the dtype of qkv.

    Raises:
        ReelmError: Shapes, dtypes or devices do not match (see `rope_norm_cache` and `decode_attention`).
    """
    if step.large is not None:
        return large_cache_attention(qkv_BLJE, q_norm_E, k_norm_E, step.large, k_cache_BKCE, v_cache_BKCE)
    if step.table is not None:
        return cached_attention_cpu(
            qkv_BLJE, q_norm_E, k_norm_E, step.table, k_cache_BKCE, v_cache_BKCE, prefix=step.prefix
        )
    q_BLNE, q_prefix_BLNE = rope_norm_cache(
        qkv_BLJE, q_norm_E, k_norm_E, step.slots_BL, k_cache_BKCE, v_cache_BKCE, rotation=step.rotation,
        epsilon=step.epsilon, k_scales_BKC=k_scales_BKC, v_scales_BKC=v_scales_BKC, backend=step.backend,
    )  # fmt: skip
    if step.prefix_rotation is not None:
        q_prefix_BLNE = rotate(q_prefix_BLNE, step.prefix_rotation)
    return decode_attention(
        q_BLNE, q_prefix_BLNE, k_cache_BKCE, v_cache_BKCE, step.positions_B, step.prefix_lengths_B,
        prefix=step.prefix, frame_size=step.frame_size, window=step.window, prefix_from=step.prefix_from,
        ancestors_BLA=step.ancestors_BLA, query_positions_BL=step.query_positions_BL,
        k_scales_BKC=k_scales_BKC, v_scales_BKC=v_scales_BKC, mask_BLC=step.mask_BLC, backend=step.backend,
    )  # fmt: skip


@torch.no_grad()
def prefix_attention(
    qkv_BPJE: torch.Tensor,
    q_norm_E: torch.Tensor | None,
    k_norm_E: torch.Tensor | None,
    rotation: Rotation,
    prefix_lengths_B: torch.Tensor,
    *,
    kv_heads: int,
    epsilon: float = 1e-6,
    backend: Backend | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise and rotate the queries and keys of prefixes, and compute causal attention within each prefix.

    Args:
        qkv_BPJE: The projection of the prefixes: J = N + 2 K heads of the queries, then the keys, then the values.
        q_norm_E, k_norm_E: The weights of the norms; None for no norms.
        rotation: The rotations of the P slots, (1, P, 1, E / 2) each.
        prefix_lengths_B: The number of valid slots of each prefix.
        kv_heads: The number of key/value heads, K.
        epsilon: The number that the norms add to the mean square.
        backend: The implementation, as for `attention_step`.

    Returns:
        The output (B, P, N, E), and the keys and values (B, K, P, E) for the cache.
    """
    (B, P, J, E), N = qkv_BPJE.shape, qkv_BPJE.shape[2] - 2 * kv_heads
    if backend is None and _fits_the_cpu_path(qkv_BPJE):
        qk_BPJE, v_BPKE = qkv_BPJE.split((J - kv_heads, kv_heads), 2)
        _, rotated_BPJE = norm_and_rotate(qk_BPJE, q_norm_E, k_norm_E, N, *factors(rotation), epsilon=epsilon)
        q_BPNE, k_BPKE = rotated_BPJE.split((N, kv_heads), 2)
    else:
        k_BKPE, v_BKPE = qkv_BPJE.new_empty((2, B, kv_heads, P, E))
        slots_BP = torch.arange(P, device=qkv_BPJE.device).expand(B, -1)
        q_BPNE, _ = rope_norm_cache(
            qkv_BPJE, q_norm_E, k_norm_E, slots_BP, k_BKPE, v_BKPE, rotation=rotation, epsilon=epsilon, backend=backend
        )
        k_BPKE, v_BPKE = k_BKPE.transpose(1, 2), v_BKPE.transpose(1, 2)
    out_BPNE = attention(q_BPNE, k_BPKE, v_BPKE, prefix=P, prefix_lengths_B=prefix_lengths_B, backend=backend)
    return out_BPNE, k_BPKE.transpose(1, 2), v_BPKE.transpose(1, 2)


def _fits_the_cpu_path(x: torch.Tensor) -> bool:
    """Return whether this is eager inference in float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
