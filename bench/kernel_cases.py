"""The cases of `reelm bench kernels`: for every op, problems to solve with reelm's kernel and with torch.

print(measure_kernels(only="attention"))
for make_case in all_cases(check=False): case = make_case()
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
from ..kernels.quantize import quantize
from ..kernels.rope_norm_cache import rope_norm_cache
from ..kernels.sample import sample
from .kernel_report import Case, KernelReport, Run, benchmark_kernels

# Torch's backends by row name; on a GPU each has its own row, because none is the fastest for all sizes.
SDPA = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def measure_kernels(*, check: bool = False, rounds: int = 7, only: str | None = None) -> KernelReport:
    """Measure the kernels on this GPU and compare them with torch's implementations.

    Args:
        check: Whether to run every row once at tiny sizes and compare the results, without times; needs no GPU.
        rounds: The number of rounds; each measures every row of a case once.
        only: The one op to measure; all ops by default.

    Raises:
        ReelmError: There is no GPU and `check` is False, or an argument is out of its range.
    """
    return benchmark_kernels(all_cases(check, only), check=check, rounds=rounds)


def all_cases(check: bool, only: str | None = None) -> Iterator[Callable[[], Case]]:
    """Yield functions that each make one case, so that only one case's tensors are in memory at a time.

    Args:
        check: Whether to use tiny sizes, on the CPU where there is no GPU.
        only: The one op whose cases are wanted; all ops by default.
    """
    require(only is None or only in ENTRIES, "only", f"must be one of {', '.join(ENTRIES)}", only)
    for op, entry in ENTRIES.items():
        if only in (None, op):
            yield from entry(check)


def _device_and_dtype() -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of the cases: the GPU and bfloat16, or without a GPU the CPU and float32."""
    on_gpu = torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16 if on_gpu else torch.float32


def _draw(*shape: int) -> torch.Tensor:
    """Draw normal random numbers; zeros would be multiplied faster than real data."""
    device, dtype = _device_and_dtype()
    return torch.randn(shape, device=device).to(dtype)


# ---- attention


def attention_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """Yield plain causal attention, compared with SDPA's backends, and prefix + window, with FlexAttention."""
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
    """Return a function that runs forward and backward and returns all gradients as one vector."""

    def step() -> torch.Tensor:
        gradients = torch.autograd.grad(run(*inputs), inputs, d_out)
        return torch.cat([gradient.flatten() for gradient in gradients])

    return step


def _sdpa(backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """Run SDPA on (B, S, heads, E) with this backend only."""
    grouped = q.shape[2] != k.shape[2]
    with sdpa_kernel(backend):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **options).transpose(1, 2)


def _float32_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """Run SDPA in float32, as the reference that the rows are compared with."""
    k, v = (x.float().repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    backend = SDPBackend.EFFICIENT_ATTENTION if q.is_cuda else SDPBackend.MATH
    return _sdpa(backend, q.float(), k, v, **options)


def _causal_case(B: int, S: int, N: int, K: int, E: int, *, backward: bool) -> Case:
    """Make a case of plain causal attention."""
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
    """Make a case of prefix + window; torch takes one query per token, so ours uses it for the prefix too."""
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
    visible_counts = torch.arange(video) - (frames - window + 1).clamp(min=0) * frame_size + 1
    pairs = N * (prefix * (prefix + 1) / 2 + video * prefix + float(visible_counts.sum()))
    name = f"prefix {prefix} + window {window}x{frame_size} of {video}, {N}/{K} heads of {E}"
    return _attention_case(name, rows, exact, [q, k, v], pairs=pairs, backward=backward)


def _flex(S: int, device: torch.device, *, prefix: int, frame_size: int, window: int) -> Callable[..., torch.Tensor]:
    """Return FlexAttention with the mask of prefix + window, compiled on a GPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask(b: torch.Tensor, h: torch.Tensor, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        in_window = (row - prefix) // frame_size - (key - prefix) // frame_size < window
        return (key <= row) & ((key < prefix) | in_window)

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
    """Make a case of attention; each visible pair of query and key costs 4 E FLOPs forward and 10 E backward."""
    E = inputs[0].shape[-1]
    # bfloat16 has 8 significant bits, so errors of a fraction of a percent are rounding.
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
    """Yield decoding steps that attend to the cache, for several ring sizes, step lengths and head counts."""
    if check:
        yield partial(_decode_case, 2, 4, 2, 16, L=1, ring=48, frame_size=8)
        yield partial(_decode_case, 2, 4, 2, 16, L=4, ring=48, frame_size=8)
        return
    for ring in (1024, 4096, 16384):
        yield partial(_decode_case, 2, 16, 4, 128, L=1, ring=ring, frame_size=256)
    yield partial(_decode_case, 2, 16, 4, 128, L=16, ring=16384, frame_size=256)
    # One launch reads 512 MB of keys and values.
    yield partial(_decode_case, 8, 32, 8, 128, L=1, ring=16384, frame_size=256)


def _decode_case(B: int, N: int, K: int, E: int, *, L: int, ring: int, frame_size: int) -> Case:
    """Make a case of L tokens at the end of a wrapped ring; SDPA gets the visible keys and values, gathered before."""
    window = ring // frame_size - 1
    q, k_cache, v_cache = _draw(B, L, N, E), _draw(B, K, ring, E), _draw(B, K, ring, E)
    position = 3 * ring - L  # the last tokens of a latent frame, which see the whole window
    positions, lengths = (torch.full((B,), n, device=q.device) for n in (position, 0))
    first = (position // frame_size - window + 1) * frame_size
    visible_positions = torch.arange(first, position + L, device=q.device)
    count, slots = len(visible_positions), visible_positions % ring
    k, v = k_cache[:, :, slots], v_cache[:, :, slots]
    mask_LS = visible_positions <= torch.arange(position, position + L, device=q.device)[:, None]

    def by_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mask = None if L == 1 else mask_LS
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, enable_gqa=N != K)
        return out.transpose(1, 2)

    return Case(
        op="decode_attention", name=f"{L} tokens, {B} rows, {count} seen, {N}/{K} heads of {E}",
        rows={
            "reelm": partial(decode_attention, q, q, k_cache, v_cache, positions, lengths, prefix=0,
                             frame_size=frame_size, window=window),
            "sdpa": partial(by_sdpa, q, k, v),
        },
        expected=partial(by_sdpa, q.float(), k.float(), v.float()),
        tolerance=2e-2 if q.dtype == torch.bfloat16 else 1e-4,
        flops=4.0 * E * N * B * L * count, nbytes=2.0 * B * K * count * E * k.element_size(),
    )  # fmt: skip


# ---- int8_linear


def int8_linear_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """Yield linear layers with int8 weights, compared with torch's with weights in the dtype of the inputs."""
    if check:
        yield partial(_linear_case, 2, 24, 40)
        return
    for M in (2, 32, 512):
        yield partial(_linear_case, M, 14_336, 4096)
        yield partial(_linear_case, M, 4096, 14_336)


def _linear_case(M: int, outputs: int, channels: int) -> Case:
    """Make a case of a linear layer; both rows use the rounded weights.

    The bytes are those of int8 weights, so that the bandwidth of torch's row shows the cost of reading wider weights.
    """
    x_MI, (int8_OI, scales_O) = _draw(M, channels), quantize(_draw(outputs, channels))
    weight_OI = int8_OI.float() * scales_O[:, None]
    return Case(
        op="int8_linear", name=f"{M} rows, {channels} to {outputs}",
        rows={
            "reelm": partial(int8_linear, x_MI, int8_OI, scales_O),
            "torch": partial(F.linear, x_MI, weight_OI.to(x_MI.dtype)),
        },
        expected=partial(F.linear, x_MI.float(), weight_OI),
        tolerance=2e-2 if x_MI.dtype == torch.bfloat16 else 1e-4,
        flops=2.0 * M * outputs * channels,
        nbytes=float(outputs * channels + M * (channels + outputs) * x_MI.element_size()),
    )  # fmt: skip


# ---- nearest_code


def nearest_code_cases(check: bool) -> Iterator[Callable[[], Case]]:
    """Yield codebook searches, compared with torch's matrix of distances where that fits into memory."""
    if check:
        yield partial(_nearest_case, 50, 40, 8, matrix=True)
        return
    yield partial(_nearest_case, 20_480, 1024, 8, matrix=True)
    yield partial(_nearest_case, 20_480, 16_384, 64, matrix=True)
    yield partial(_nearest_case, 327_680, 65_536, 256, matrix=False)


def _nearest_case(N: int, K: int, D: int, *, matrix: bool) -> Case:
    """Make a case of small whole numbers, whose distances are exact, so that all ids must be equal, even for ties."""
    device, dtype = _device_and_dtype()
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
    """Yield steps of norm, rotation and writing to the ring cache, compared with the same in torch's operations."""
    if check:
        yield partial(_rope_case, 2, 1, 4, 2, 16, C=48)
        return
    yield partial(_rope_case, 2, 1, 16, 4, 128, C=4096)
    yield partial(_rope_case, 2, 16, 16, 4, 128, C=4096)
    yield partial(_rope_case, 8, 256, 16, 4, 128, C=4096)


def _rope_case(B: int, L: int, N: int, K: int, E: int, *, C: int) -> Case:
    """Make a case that compares the rotated queries; every row of the table also writes keys and values."""
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
    """Yield draws of the next token from logits, compared with torch's operations, which sort."""
    if check:
        yield partial(_sample_case, 2, 40, guidance_scale=2.0, top_k=7, top_p=0.9)
        return
    yield partial(_sample_case, 8, 65_536, top_p=0.9)
    yield partial(_sample_case, 8, 65_536, guidance_scale=3.0, top_k=50)
    yield partial(_sample_case, 2, 4096, guidance_scale=3.0, top_k=50)


def _sample_case(B: int, V: int, *, guidance_scale: float = 1.0, **options: Any) -> Case:
    """Make a case of sampling; logits are float32, so that rounding does not move a token across a threshold."""
    rows = B if guidance_scale == 1 else 2 * B
    logits = _draw(rows, V).float() * 3
    seeds, samples, positions = (torch.arange(B, device=logits.device) + n for n in (5, 0, 1000))
    run = partial(sample, logits, seeds, samples, positions, guidance_scale=guidance_scale, **options)
    settings = ", ".join(f"{name} {value}" for name, value in options.items())
    return Case(
        op="sample", name=f"{B} rows, vocabulary {V}, guidance {guidance_scale:g}, {settings}",
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
