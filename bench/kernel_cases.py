"""What `reelm bench kernels` measures: for every op its cases, with torch's own ways beside ours.

print(measure_kernels(only="attention"))
for make in all_cases(check=False): case = make()
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.errors import require
from ..kernels.attention import attention
from ..kernels.attention_reference import visible
from ..kernels.decode_attention import decode_attention
from ..kernels.int8_linear import int8_linear
from ..kernels.nearest_code import nearest_code
from ..kernels.quantize import quantise
from ..kernels.rope_norm_cache import rope_norm_cache
from ..kernels.sample import sample
from .kernel_report import Case, KernelReport, Run, benchmark_kernels

# Torch's backends by name; on a GPU each is a row of its own, as none is the fastest everywhere.
SDPA = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def measure_kernels(*, check: bool = False, rounds: int = 7, only: str | None = None) -> KernelReport:
    """Measure the kernels against torch's own on this GPU.

    Args:
        check: run every row once at tiny sizes and compare the results; times nothing and needs no GPU.
        rounds: how often the rows of a case take turns.
        only: the one op to measure.

    Raises:
        ReelmError: there is no GPU and `check` is False, or an argument is out of its range.
    """
    return benchmark_kernels(all_cases(check, only), check=check, rounds=rounds)


def all_cases(check: bool, only: str | None = None) -> Iterator[Callable[[], Case]]:
    """Makers of cases, so that one case's tensors live at a time.

    Args:
        check: tiny sizes, on the CPU where there is no GPU.
        only: the one op to take.
    """
    require(only is None or only in ENTRIES, "only", f"must be one of {', '.join(ENTRIES)}", only)
    for op, entry in ENTRIES.items():
        if only in (None, op):
            yield from entry(check)


def _place() -> tuple[torch.device, torch.dtype]:
    """Where cases lie: on the GPU in bfloat16, or for a check without one on the CPU in float32."""
    on_gpu = torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16 if on_gpu else torch.float32


def _draw(*shape: int) -> torch.Tensor:
    """Normal random numbers; zeros would be faster than life."""
    device, dtype = _place()
    return torch.randn(shape, device=device).to(dtype)


# ---- attention


def attention_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """Plain causal attention against SDPA's backends, and prefix + window against FlexAttention."""
    if check:
        yield partial(_causal_case, 1, 96, 2, 1, 16, backward=False)
        yield partial(_causal_case, 1, 96, 2, 1, 16, backward=True)
        # FlexAttention has no gradients on a CPU.
        on_gpu = torch.cuda.is_available()
        yield partial(_window_case, 2, 1, 16, video=64, prefix=16, frame_size=8, window=3, backward=on_gpu)
        return
    for S in (2048, 8192, 32768):
        yield partial(_causal_case, max(1, 16384 // S), S, 16, 16, 128, backward=False)
    yield partial(_causal_case, 2, 8192, 16, 16, 64, backward=False)
    yield partial(_causal_case, 2, 8192, 16, 4, 128, backward=False)
    yield partial(_causal_case, 2, 8192, 16, 16, 128, backward=True)
    layout = {"prefix": 128, "frame_size": 256, "window": 16}
    for video in (4096, 8192, 16384, 32768):
        yield partial(_window_case, 16, 4, 128, video=video, backward=False, **layout)
    for video in (8192, 16384):
        yield partial(_window_case, 16, 4, 128, video=video, backward=True, **layout)


def _with_gradients(run: Callable[..., torch.Tensor], inputs: list[torch.Tensor], d_out: torch.Tensor) -> Run:
    """Forward and backward in one call; the result is all gradients in one row."""

    def step() -> torch.Tensor:
        gradients = torch.autograd.grad(run(*inputs), inputs, d_out)
        return torch.cat([gradient.flatten() for gradient in gradients])

    return step


def _sdpa(backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """SDPA on (B, S, heads, E), on one backend alone."""
    grouped = q.shape[2] != k.shape[2]
    with sdpa_kernel(backend):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **options).transpose(1, 2)


def _float32_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """What rows are compared with, in float32."""
    k, v = (x.float().repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    backend = SDPBackend.EFFICIENT_ATTENTION if q.is_cuda else SDPBackend.MATH
    return _sdpa(backend, q.float(), k, v, **options)


def _causal_case(B: int, S: int, N: int, K: int, E: int, *, backward: bool) -> Case:
    """Plain causal attention."""
    q, k, v = _draw(B, S, N, E), _draw(B, S, K, E), _draw(B, S, K, E)
    rows: dict[str, Callable[..., torch.Tensor]] = {"reelm": attention}
    backends = SDPA if q.is_cuda else {"sdpa": SDPBackend.MATH}
    rows |= {name: partial(_sdpa, backend, is_causal=True) for name, backend in backends.items()}
    return _attention_case(
        f"causal {B}x{S}, {N}/{K} heads of {E}", rows, partial(_float32_sdpa, is_causal=True), [q, k, v],
        pairs=B * N * S * (S + 1) / 2, backward=backward,
    )  # fmt: skip


def _window_case(
    N: int, K: int, E: int, *, video: int, prefix: int, frame_size: int, window: int, backward: bool
) -> Case:
    """Prefix + window; torch's ways take one query, so ours gets the same one for both."""
    S = prefix + video
    q, k, v = _draw(1, S, N, E), _draw(1, S, K, E), _draw(1, S, K, E)
    layout = {"prefix": prefix, "frame_size": frame_size, "window": window}
    lengths = torch.full((1,), prefix, device=q.device)

    def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        slots_S = torch.arange(S, device=lengths.device)
        mask_BSS = visible(slots_S, slots_S, lengths, mask="token", **layout)
        return _float32_sdpa(q, k, v, attn_mask=mask_BSS[:, None])

    rows: dict[str, Callable[..., torch.Tensor]] = {
        "reelm": partial(attention, **layout),
        "FlexAttention": _flex(S, q.device, prefix=prefix, frame_size=frame_size, window=window),
    }
    frames = torch.arange(video) // frame_size
    seen = torch.arange(video) - (frames - window + 1).clamp(min=0) * frame_size + 1
    pairs = N * (prefix * (prefix + 1) / 2 + video * prefix + float(seen.sum()))
    name = f"prefix {prefix} + window {window}x{frame_size} of {video}, {N}/{K} heads of {E}"
    return _attention_case(name, rows, exact, [q, k, v], pairs=pairs, backward=backward)


def _flex(S: int, device: torch.device, *, prefix: int, frame_size: int, window: int) -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask(b: torch.Tensor, h: torch.Tensor, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        near = (row - prefix) // frame_size - (key - prefix) // frame_size < window
        return (key <= row) & ((key < prefix) | near)

    blocks = create_block_mask(mask, None, None, S, S, device=str(device))
    run = torch.compile(flex_attention) if device.type == "cuda" else flex_attention

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        grouped = q.shape[2] != k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return run(q, k, v, block_mask=blocks, enable_gqa=grouped).transpose(1, 2)

    return call


def _attention_case(
    name: str,
    rows: dict[str, Callable[..., torch.Tensor]],
    exact: Callable[..., torch.Tensor],
    inputs: list[torch.Tensor],
    *,
    pairs: float,
    backward: bool,
) -> Case:
    """`pairs` of query and key are seen, each worth 4 E flops forward and 2.5 times that backward."""
    E = inputs[0].shape[-1]
    # bfloat16 keeps 8 bits: errors of a fraction of a percent are rounding.
    tolerance = 2e-2 if inputs[0].dtype == torch.bfloat16 else 1e-4
    if not backward:
        calls: dict[str, Run] = {row: partial(run, *inputs) for row, run in rows.items()}
        return Case(op="attention", name=name, rows=calls, expected=partial(exact, *inputs), tolerance=tolerance,
                    flops=4 * E * pairs)  # fmt: skip
    inputs = [x.requires_grad_() for x in inputs]
    d_out = _draw(*inputs[0].shape)
    calls = {row: _with_gradients(run, inputs, d_out) for row, run in rows.items()}
    expected = _with_gradients(exact, inputs, d_out.float())
    return Case(op="attention", name=f"{name}, with backward", rows=calls, expected=expected, tolerance=tolerance,
                flops=14 * E * pairs, capture=False)  # fmt: skip


# ---- decode_attention


def decode_attention_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """A step against the cache; two rows (guidance), 8 heads on 2 unless said otherwise."""
    if check:
        yield partial(_decode_case, 2, 4, 2, 16, L=1, ring=48, frame_size=8)
        yield partial(_decode_case, 2, 4, 2, 16, L=4, ring=48, frame_size=8)
        return
    for ring in (1024, 4096, 16384):
        yield partial(_decode_case, 2, 16, 4, 128, L=1, ring=ring, frame_size=256)
    yield partial(_decode_case, 2, 16, 4, 128, L=16, ring=16384, frame_size=256)
    # 512 MB of keys and values in one launch.
    yield partial(_decode_case, 8, 32, 8, 128, L=1, ring=16384, frame_size=256)


def _decode_case(B: int, N: int, K: int, E: int, *, L: int, ring: int, frame_size: int) -> Case:
    """L tokens at the end of a ring that has wrapped, against SDPA over what they see, laid out for it beforehand."""
    window = ring // frame_size - 1
    q, k_cache, v_cache = _draw(B, L, N, E), _draw(B, K, ring, E), _draw(B, K, ring, E)
    position = 3 * ring - L  # the last tokens of a latent frame: they see the whole window
    positions, lengths = (torch.full((B,), n, device=q.device) for n in (position, 0))
    first = (position // frame_size - window + 1) * frame_size
    seen = torch.arange(first, position + L, device=q.device)
    slots = seen % ring
    k, v = k_cache[:, :, slots], v_cache[:, :, slots]
    mask_LS = seen <= torch.arange(position, position + L, device=q.device)[:, None]

    def by_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mask = None if L == 1 else mask_LS
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, enable_gqa=N != K)
        return out.transpose(1, 2)

    return Case(
        op="decode_attention", name=f"{L} tokens, {B} rows, {len(seen)} seen, {N}/{K} heads of {E}",
        rows={
            "reelm": partial(decode_attention, q, q, k_cache, v_cache, positions, lengths, prefix=0,
                             frame_size=frame_size, window=window),
            "sdpa": partial(by_sdpa, q, k, v),
        },
        expected=partial(by_sdpa, q.float(), k.float(), v.float()),
        tolerance=2e-2 if q.dtype == torch.bfloat16 else 1e-4,
        flops=4.0 * E * N * B * L * len(seen), nbytes=2.0 * B * K * len(seen) * E * k.element_size(),
    )  # fmt: skip


# ---- int8_linear


def int8_linear_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """A linear layer with int8 weights against torch's with weights of the inputs' dtype."""
    if check:
        yield partial(_linear_case, 2, 24, 40)
        return
    for M in (2, 32, 512):
        yield partial(_linear_case, M, 14_336, 4096)
        yield partial(_linear_case, M, 4096, 14_336)


def _linear_case(M: int, outputs: int, channels: int) -> Case:
    """Both with the rounded weights; the bytes are those of int8, so that torch's row shows what it reads beyond."""
    x_MI, (whole_OI, scales_O) = _draw(M, channels), quantise(_draw(outputs, channels))
    weight_OI = whole_OI.float() * scales_O[:, None]
    return Case(
        op="int8_linear", name=f"{M} rows, {channels} to {outputs}",
        rows={
            "reelm": partial(int8_linear, x_MI, whole_OI, scales_O),
            "torch": partial(F.linear, x_MI, weight_OI.to(x_MI.dtype)),
        },
        expected=partial(F.linear, x_MI.float(), weight_OI),
        tolerance=2e-2 if x_MI.dtype == torch.bfloat16 else 1e-4,
        flops=2.0 * M * outputs * channels,
        nbytes=float(outputs * channels + M * (channels + outputs) * x_MI.element_size()),
    )  # fmt: skip


# ---- nearest_code


def nearest_code_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """A codebook search against torch's matrix of distances, where that fits into memory."""
    if check:
        yield partial(_nearest_case, 50, 40, 8, matrix=True)
        return
    yield partial(_nearest_case, 20_480, 1024, 8, matrix=True)
    yield partial(_nearest_case, 20_480, 16_384, 64, matrix=True)
    yield partial(_nearest_case, 327_680, 65_536, 256, matrix=False)


def _nearest_case(N: int, K: int, D: int, *, matrix: bool) -> Case:
    """Small whole numbers, so that all is exact and the ids must be equal, ties included."""
    device, dtype = _place()
    x, codebook = (torch.randint(-8, 9, (size, D), device=device).to(dtype) for size in (N, K))

    def by_matrix() -> torch.Tensor:
        return torch.cdist(x.float(), codebook.float()).argmin(1)

    rows: dict[str, Run] = {"reelm": partial(nearest_code, x, codebook)}
    if matrix:
        rows["torch.cdist"] = by_matrix
    return Case(
        op="nearest_code", name=f"{N} vectors of {D}, {K} codes", rows=rows,
        expected=partial(nearest_code, x, codebook, backend="reference"), tolerance=0.0,
        flops=2.0 * N * K * D, nbytes=float((N + K) * D * x.element_size()),
    )  # fmt: skip


# ---- rope_norm_cache


def rope_norm_cache_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """Norm, rotation and ring write of a step against the same in torch's operations."""
    if check:
        yield partial(_rope_case, 2, 1, 4, 2, 16, C=48)
        return
    yield partial(_rope_case, 2, 1, 16, 4, 128, C=4096)
    yield partial(_rope_case, 2, 16, 16, 4, 128, C=4096)
    yield partial(_rope_case, 8, 256, 16, 4, 128, C=4096)


def _rope_case(B: int, L: int, N: int, K: int, E: int, *, C: int) -> Case:
    """The rotated queries are compared; keys and values are written by every row of the table."""
    qkv, norm, caches = _draw(B, L, N + 2 * K, E), _draw(E), [_draw(B, K, C, E) for _ in range(2)]
    angles = torch.rand(B, L, 1, E // 2, device=qkv.device) * 100
    slots = torch.arange(L, device=qkv.device).expand(B, L)
    rotation = (angles.cos(), angles.sin())

    def run(backend: str | None, qkv: torch.Tensor, caches: list[torch.Tensor]) -> torch.Tensor:
        return rope_norm_cache(qkv, norm, norm, slots, *caches, rotation=rotation, backend=backend)[0]

    exact = [cache.float() for cache in caches]
    tokens = 2.0 * B * L * E * qkv.element_size()
    return Case(
        op="rope_norm_cache", name=f"{L} tokens, {B} rows, {N}/{K} heads of {E}",
        rows={"reelm": partial(run, None, qkv, caches), "torch, op by op": partial(run, "reference", qkv, caches)},
        expected=partial(run, "reference", qkv.float(), exact),
        tolerance=2e-2 if qkv.dtype == torch.bfloat16 else 1e-4,
        nbytes=tokens * (N + K) + tokens * N / 2,
    )  # fmt: skip


# ---- sample


def sample_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """The next token from logits against torch's operations, which sort."""
    if check:
        yield partial(_sample_case, 2, 40, guidance_scale=2.0, top_k=7, top_p=0.9)
        return
    yield partial(_sample_case, 8, 65_536, top_p=0.9)
    yield partial(_sample_case, 8, 65_536, guidance_scale=3.0, top_k=50)
    yield partial(_sample_case, 2, 4096, guidance_scale=3.0, top_k=50)


def _sample_case(B: int, V: int, *, guidance_scale: float = 1.0, **options: Any) -> Case:
    """float32 logits, so that no border lies within a rounding."""
    rows = B if guidance_scale == 1 else 2 * B
    logits = _draw(rows, V).float() * 3
    seeds, samples, positions = (torch.arange(B, device=logits.device) + n for n in (5, 0, 1000))
    run = partial(sample, logits, seeds, samples, positions, guidance_scale=guidance_scale, **options)
    told = ", ".join(f"{name} {value}" for name, value in options.items())
    return Case(
        op="sample", name=f"{B} rows, vocabulary {V}, guidance {guidance_scale:g}, {told}",
        rows={"reelm": run, "torch, sorted": partial(run, backend="reference")},
        expected=partial(run, backend="reference"), tolerance=0.0, nbytes=4.0 * rows * V,
    )  # fmt: skip


ENTRIES: dict[str, Callable[[bool], Iterator[Callable[[], Case]]]] = {
    "attention": attention_cases,
    "decode_attention": decode_attention_cases,
    "int8_linear": int8_linear_cases,
    "nearest_code": nearest_code_cases,
    "rope_norm_cache": rope_norm_cache_cases,
    "sample": sample_cases,
}
