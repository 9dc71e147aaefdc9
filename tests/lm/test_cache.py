"""Where the ring cache puts things."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.lm.cache import RingCache
from reelm.lm.transformer import LMConfig

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
    assert cache.tokens_BR[0, :3].tolist() == [1, 2, 3] and cache.tokens_BR[1, 7:10].tolist() == [4, 5, 6]
    cache.advance(torch.tensor([1, 2]))
    assert cache.positions_B.tolist() == [1, 9]
