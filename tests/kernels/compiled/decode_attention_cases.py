"""`decode_attention`, compiled ahead of time (conftest.py tells how)."""

import pytest
import torch

from reelm.kernels.decode_attention_triton import decode_attention_triton

EVERY_OPTION = {"ancestors_BLA", "query_positions_BL", "k_scales_BKC", "v_scales_BKC"}
DRAFT = EVERY_OPTION - {"k_scales_BKC", "v_scales_BKC"}
INT8 = EVERY_OPTION - DRAFT
SHAPES = [
    # dtype, E, N, K, L, prefix, frame_size, window, options
    pytest.param(torch.bfloat16, 128, 8, 2, 1, 32, 64, 64, set(), id="bf16-128"),
    pytest.param(torch.bfloat16, 128, 8, 2, 16, 32, 64, 64, DRAFT, id="bf16-128-L16-draft"),
    pytest.param(torch.bfloat16, 128, 8, 2, 16, 32, 64, 64, EVERY_OPTION, id="int8-bf16-128-L16-every-option"),
    # Every integer argument that may be 1 at 1, which Triton makes a constant of; one split.
    pytest.param(torch.float32, 48, 2, 2, 1, 1, 1, 1, set(), id="fp32-48-ones"),
    pytest.param(torch.bfloat16, 128, 8, 2, 16, 32, 64, 64, set(), id="bf16-128-L16", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 128, 8, 2, 8, 32, 64, 64, DRAFT, id="bf16-128-L8-draft", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 128, 8, 2, 1, 32, 64, 64, INT8, id="int8-bf16-128", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 128, 8, 2, 8, 32, 64, 64, EVERY_OPTION, id="int8-bf16-128-L8", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 64, 8, 2, 16, 32, 64, 4, EVERY_OPTION, id="int8-bf16-64-L16", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 96, 4, 4, 64, 7, 9, 90, DRAFT, id="bf16-96-L64", marks=pytest.mark.slow),
    pytest.param(torch.float32, 128, 4, 2, 16, 0, 16, 64, DRAFT, id="fp32-128", marks=pytest.mark.slow),
    pytest.param(torch.float32, 128, 4, 2, 16, 0, 16, 64, EVERY_OPTION, id="int8-fp32-128", marks=pytest.mark.slow),
    pytest.param(torch.float16, 64, 6, 2, 5, 7, 9, 3, set(), id="fp16-64", marks=pytest.mark.slow),
    pytest.param(torch.float16, 128, 8, 2, 16, 7, 9, 90, EVERY_OPTION, id="int8-fp16-128", marks=pytest.mark.slow),
    pytest.param(torch.bfloat16, 16, 1, 1, 1, 1, 1, 1, EVERY_OPTION, id="bf16-16-ones-every", marks=pytest.mark.slow),
]


@pytest.fixture
def kernels(compiled, monkeypatch):
    """`compiled`, with torch built for the chip's vendor."""
    from triton.runtime.driver import driver

    hip = driver.active.get_current_target().backend == "hip"
    monkeypatch.setattr(torch.version, "hip", "6.4" if hip else None)
    return compiled


def arguments(dtype, E, N, K, L, prefix, frame_size, window, options, B=2):
    A = L + 3 * frame_size - 3 if "ancestors_BLA" in options else L
    slots = prefix + (window - -(A - 1) // frame_size) * frame_size
    numbers, scales = torch.zeros(B, dtype=torch.int64), torch.zeros(B, K, slots)
    cache = torch.zeros(B, K, slots, E, dtype=torch.int8 if "k_scales_BKC" in options else dtype)
    optional = {
        "ancestors_BLA": torch.zeros(B, L, A, dtype=torch.bool), "k_scales_BKC": scales, "v_scales_BKC": scales,
        "query_positions_BL": torch.zeros(B, L, dtype=torch.int64),
    }  # fmt: skip
    q = torch.zeros(B, L, N, E, dtype=dtype)
    return {
        "q_BLNE": q, "q_prefix_BLNE": q, "k_cache_BKCE": cache, "v_cache_BKCE": cache,
        "positions_B": numbers, "prefix_lengths_B": numbers,
        "prefix": prefix, "frame_size": frame_size, "window": window,
    } | {name: x for name, x in optional.items() if name in options}  # fmt: skip


@pytest.mark.parametrize(("dtype", "E", "N", "K", "L", "prefix", "frame_size", "window", "options"), SHAPES)
def test_decode_attention_compiles(kernels, dtype, E, N, K, L, prefix, frame_size, window, options):
    decode_attention_triton(**arguments(dtype, E, N, K, L, prefix, frame_size, window, options))
    names = [kernel.metadata.name for kernel in kernels]
    assert names == ["_split_kernel", "_combine_kernel"][: 1 + (prefix + window * frame_size - 1 + L > 512)]


@pytest.mark.slow
def test_decode_attention_strides_of_64_bits_compile(kernels):
    case = arguments(torch.bfloat16, 64, 1, 1, 1, 0, 1, 1, set(), B=1)
    for name in ("q_BLNE", "q_prefix_BLNE", "k_cache_BKCE", "v_cache_BKCE"):
        case[name] = case[name].as_strided(case[name].shape, [2**31 + 16] * 3 + [1])
    decode_attention_triton(**case)
    signature = kernels[0].src.signature
    assert {signature[f"{x}_stride_{y}"] for x in "kv" for y in "bhc"} == {"i64"}
