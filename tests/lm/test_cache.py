"""Where the ring cache puts things."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.lm.cache import RingCache
from reelm.lm.lm_config import LMConfig

CONFIG = LMConfig(
    vocab_size=5, rows=2, columns=3, window=3, prefix=4, width=8, depth=1, heads=1, kv_heads=1, head_dim=4
)


def make(positions):
    cache = RingCache(CONFIG, len(positions), torch.device("cpu"), torch.float32)
    cache.positions_B += torch.tensor(positions)
    return cache


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=3))
def test_a_ring_of_positions_has_a_slot_for_each_and_leaves_the_prefix_alone(positions):
    cache = make(positions)
    slots_BL = cache.slots(cache.next_positions(cache.ring))
    assert torch.equal(slots_BL.sort(1).values, (4 + torch.arange(cache.ring)).expand(len(positions), -1))
    assert slots_BL.max() == cache.keys.shape[3] - 1
    cache.advance(cache.ring)
    assert torch.equal(cache.slots(cache.next_positions(cache.ring)), slots_BL)


def test_the_newest_tokens_are_kept():
    cache = make([0, 7])
    tokens_BL = torch.tensor([[1, 2, 3], [4, 5, 6]])
    cache.put_tokens(tokens_BL)
    assert cache.tokens_BQ[0, :3].tolist() == [1, 2, 3] and cache.tokens_BQ[1, 7:10].tolist() == [4, 5, 6]
    cache.advance([1, 2])
    assert cache.positions_B.tolist() == [1, 9]


def test_a_cache_of_int8_holds_scales_beside_it():
    full, small = (RingCache(CONFIG, 3, torch.device("cpu"), dtype) for dtype in (torch.float32, torch.int8))
    heads = small.keys.numel() // CONFIG.head_dim
    assert small.nbytes == 2 * (small.keys.numel() + 4 * heads)
    assert full.nbytes == 2 * 4 * full.keys.numel()
    assert (full.layer(0)["k_scales_BKC"], full.layer(0)["v_scales_BKC"]) == (None, None)
    assert small.layer(0)["v_scales_BKC"].shape == small.values.shape[1:-1]


def test_prefixes_are_put_into_their_rows_and_rows_are_selected_with_their_scales():
    cache, rows = RingCache(CONFIG, 3, torch.device("cpu"), torch.int8), torch.tensor([2, 0])
    keys, values = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    cache.put_prefix(0, rows, keys, values)
    first = (cache.key_scales[:, 1] == 0).all()
    chosen, memory = cache, cache.keys.data_ptr()
    cache.arrange([0, 2])
    assert first and chosen.keys.data_ptr() == memory and len(chosen.positions_B) == 2
    for x, name in ((keys.flip(0), "k"), (values.flip(0), "v")):
        held = chosen.layer(0)
        back = held[f"{name}_cache_BKCE"] * held[f"{name}_scales_BKC"][..., None]
        torch.testing.assert_close(back[:, :, :4], x, rtol=0, atol=float(x.abs().max()) / 250)
        assert (back[:, :, 4:] == 0).all()
    with pytest.raises(ReelmError, match=r"^sources: must ascend"):
        chosen.arrange([1, 0])
    moved = cache.keys[:, 1].clone()
    cache.arrange([0, None, 1])
    assert torch.equal(cache.keys[:, 2], moved)
