"""Packed linear layers against plain ones, and the promise that a row's bits do not depend on the rows beside it."""

import pytest
import torch
from torch import nn

from reelm.lm.blocks import PackedLinear, can_pack, pack_linears
from reelm.lm.lm_config import LMConfig
from reelm.lm.transformer import VideoTransformer

pytestmark = pytest.mark.skipif(not can_pack(nn.Linear(2, 2, bias=False)), reason="this torch has no oneDNN")


@torch.no_grad()
@pytest.mark.parametrize(("inner", "outer"), [(1, 1), (7, 3), (64, 200), (256, 1024)])
def test_it_equals_the_plain_layer(inner, outer):
    linear = nn.Linear(inner, outer, bias=False)
    packed = PackedLinear(linear)
    for shape in ((1,), (2, 3), (4, 1, 5)):
        x = torch.randn(*shape, inner)
        torch.testing.assert_close(packed(x), linear(x))
    assert sum(p.numel() for p in packed.parameters()) == linear.weight.numel()


@torch.no_grad()
@pytest.mark.parametrize("inner", [256, 1280, 2048])
def test_a_row_has_the_same_bits_alone_and_among_others(inner):
    packed, x = PackedLinear(nn.Linear(inner, 384, bias=False)), torch.randn(130, inner)
    whole = packed(x)
    for rows in (1, 2, 3, 4, 7, 32, 129):
        assert torch.equal(packed(x[:rows]), whole[:rows])


@torch.no_grad()
def test_a_model_is_packed_whole_and_says_the_same():
    config = LMConfig(vocab_size=40, width=32, depth=2, heads=2, kv_heads=1, head_dim=16, hidden=48, neighbour_dim=8)
    model = VideoTransformer(config)
    tokens, text, lengths = torch.randint(0, 40, (2, 2, 8, 8)), torch.zeros(2, 32).long(), torch.tensor([3, 5])
    plain = model(tokens, text, lengths)
    pack_linears(model)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    torch.testing.assert_close(model(tokens, text, lengths), plain)


def test_what_has_no_packed_form_stays_as_it_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False).double(), nn.Linear(4, 4, False, "meta"))
    pack_linears(model)
    assert all(type(module) is nn.Linear for module in model)
