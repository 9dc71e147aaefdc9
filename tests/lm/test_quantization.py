"""Linear layers of int8, those of a CPU and of a GPU: how far off, the same bits, and where they are refused."""

import pytest
import torch
from torch import nn

from reelm.core.errors import ReelmError
from reelm.core.protocols import Numerics
from reelm.lm import quantization as int8
from reelm.lm.blocks import can_pack, pack_linears
from reelm.lm.lm_config import LMConfig
from reelm.lm.quantization import Int8Linear, Int8Weights, check_machine, check_precision, quantize_linears
from reelm.lm.transformer import VideoTransformer

try:
    check_machine("int8", "cpu")
    here = True
except ReelmError:
    here = False
needs_vnni = pytest.mark.skipif(not here, reason="this CPU or torch has no int8 products")
CONFIG = LMConfig(vocab_size=64, rows=4, columns=4, width=64, depth=2, head_dim=16, hidden=96)


def make(inner, outer, spread=1.0):
    torch.manual_seed(inner + outer)
    linear = nn.Linear(inner, outer, bias=False)
    nn.init.normal_(linear.weight, std=spread)
    return linear


@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize(("inner", "outer"), [(1, 1), (7, 3), (64, 200), (256, 1024), (2048, 2048)])
def test_it_is_the_plain_layer_within_two_roundings(inner, outer):
    linear = make(inner, outer, 0.3)
    small = Int8Linear(linear)
    for shape in ((1,), (2, 3), (4, 1, 5)):
        x = torch.randn(*shape, inner) * torch.rand(*shape, 1) * 30
        wanted = x.double() @ linear.weight.double().T
        # Half a step of each input times the weights, half a step of each weight times the inputs, and both.
        step_x = x.double().abs().amax(-1, keepdim=True) / 254
        step_w = linear.weight.double().abs().amax(1) / 254
        bound = step_x * linear.weight.double().abs().sum(1) + (x.double().abs().sum(-1, keepdim=True)) * step_w
        bound += inner * step_x * step_w
        off = small(x).double() - wanted
        assert (off.abs() <= bound * 1.001 + 1e-6 * wanted.abs().max()).all()
        if inner >= 64:
            assert 1e-3 < off.norm() / wanted.norm() < 0.015
    assert sum(p.numel() * p.element_size() for p in small.parameters()) == linear.weight.numel()


@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize(("inner", "outer"), [(256, 384), (512, 256), (576, 256), (2048, 2048)])
def test_a_row_has_the_same_bits_alone_and_among_others(inner, outer):
    small, x = Int8Linear(make(inner, outer)), torch.randn(130, inner) * torch.rand(130, 1)
    whole = small(x)
    for rows in (1, 2, 3, 4, 7, 32, 129):
        assert torch.equal(small(x[:rows]), whole[:rows])
    assert all(torch.equal(small(x[row : row + 1]), whole[row : row + 1]) for row in range(0, 130, 13))
    assert torch.equal(small(x.view(2, 65, inner)).flatten(0, 1), whole)


@needs_vnni
@torch.no_grad()
def test_the_largest_numbers_do_not_overflow():
    linear = nn.Linear(512, 16, bias=False)
    linear.weight.fill_(2.0)
    for value in (5.0, -5.0):  # all products of one sign, as large as they come: without VNNI they would be cut off
        torch.testing.assert_close(Int8Linear(linear)(torch.full((3, 512), value)), torch.full((3, 16), 1024 * value))


@needs_vnni
@torch.no_grad()
def test_rows_and_weights_of_zeros_give_zeros():
    linear = make(64, 32)
    x = torch.randn(4, 64)
    x[2] = 0
    out = Int8Linear(linear)(x)
    assert (out[2] == 0).all() and (out[[0, 1, 3]] != 0).all()
    linear.weight[5] = 0
    out = Int8Linear(linear)(x)
    assert (out[:, 5] == 0).all() and out.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_that_of_a_gpu_rounds_the_weights_alone(dtype):
    linear = make(200, 64, 0.3).to(dtype)
    small = Int8Weights(linear)
    assert small.weight.dtype == torch.int8 and small.weight.shape == linear.weight.shape
    for shape in ((1,), (2, 3), (4, 1, 5)):
        x = torch.randn(*shape, 200).to(dtype)
        out, wanted = small(x), x.double() @ linear.weight.double().T
        assert out.dtype == dtype and out.shape == wanted.shape
        # Half a step of each weight times the inputs, and the rounding of the result.
        bound = x.double().abs().sum(-1, keepdim=True) * linear.weight.double().abs().amax(1) / 254
        bound = bound * 1.001 + torch.finfo(dtype).eps * wanted.abs().clamp_min(1e-2)
        assert ((out.double() - wanted).abs() <= bound).all()
    # Their inputs are not rounded: a row of small numbers beside a large one keeps them.
    x = torch.full((1, 200), 1e-3, dtype=dtype)
    x[0, 0] = 100
    x[0, 1:] *= torch.arange(1, 200).to(dtype)
    change = small(x) - small(x * (torch.arange(200) == 0).to(dtype))
    assert change.float().norm() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("layer", [pytest.param(Int8Linear, marks=needs_vnni), Int8Weights])
def test_a_model_is_quantized_whole_and_says_nearly_the_same(layer):
    torch.manual_seed(0)
    model = VideoTransformer(CONFIG).eval()
    tokens, text, lengths = torch.randint(0, 64, (2, 3, 4, 4)), torch.randint(0, 256, (2, 32)), torch.tensor([3, 5])
    plain, count = model(tokens, text, lengths), sum(p.numel() for p in model.parameters())
    quantize_linears(model, layer)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert sum(p.numel() for p in model.parameters()) == count
    off = (model(tokens, text, lengths) - plain).norm() / plain.norm()
    assert 1e-4 < off < 0.05


@torch.no_grad()
@pytest.mark.parametrize(
    ("weights", "cache"),
    [
        ("full", "full"),
        ("full", "int8"),
        *(pytest.param("int8", cache, marks=needs_vnni) for cache in ("full", "int8")),
    ],
)
def test_a_step_of_many_tokens_has_the_bits_of_many_steps(weights, cache):
    """Blocks that reach over the border of a latent frame, before and after the ring has wrapped.

    It is what makes `jacobi` lossless to the last bit on a CPU.
    """
    if not can_pack(nn.Linear(2, 2, bias=False)):
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(0)
    model = VideoTransformer(CONFIG).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    if weights == "int8":
        quantize_linears(model)
        model.weights_precision = "int8"
    else:
        pack_linears(model)
    model.cache_precision = cache
    tokens, text, lengths = torch.randint(0, 64, (3, 160)), torch.randint(0, 256, (3, 32)), torch.tensor([4, 9, 32])

    def roll(rows, sizes):
        ring = model.make_cache(len(rows))
        model.prefill(ring, text[rows], lengths[rows])
        logits, start = [], 0
        while start < 160:
            size = min(sizes[len(logits) % len(sizes)], 160 - start)
            ring.put_tokens(tokens[rows, start : start + size])
            logits.append(model.step(ring, size))
            ring.advance(size)
            start += size
        return torch.cat(logits, 1)

    one_by_one = roll([0, 1, 2], [1])
    for sizes in ([16], [3, 1, 7], [2]):
        assert torch.equal(roll([0, 1, 2], sizes), one_by_one)
    assert torch.equal(roll([1], [5]), one_by_one[1:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("half", "full", "cpu", torch.float32), "weights: must be one of full, int8, got 'half'"),
        (("full", 8, "cpu", torch.float32), "cache: must be one of full, int8, got 8"),
        (("int8", "full", "cpu", torch.bfloat16), "weights: must be 'full' on a CPU unless dtype is float32"),
    ],
)
def test_what_there_is_no_product_for_is_refused(arguments, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        check_precision(Numerics(**dict(zip(("weights", "cache", "device", "dtype"), arguments, strict=True))))


def test_a_cpu_whose_products_overflow_is_refused(monkeypatch):
    monkeypatch.setattr(int8.torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ReelmError, match=r"^weights: must be 'full' on a CPU without VNNI"):
        check_machine("int8", "cpu")
    check_machine("full", "cpu")
    monkeypatch.setattr(int8.torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ReelmError, match=r"^weights: must be 'full': this torch has no int8 products"):
        check_machine("int8", "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_multiplies_them_in_any_dtype_where_triton_is(monkeypatch, dtype):
    monkeypatch.setattr(int8, "HAS_TRITON", True)
    check_precision(Numerics(weights="int8", cache="int8", device="cuda", dtype=dtype))
    check_machine("int8", "cuda")
    monkeypatch.setattr(int8, "HAS_TRITON", False)
    check_machine("full", "cuda")
    with pytest.raises(ReelmError, match=r"^weights: must be 'full' on a GPU where triton is not installed"):
        check_machine("int8", "cuda")
