"""The lean way of a CPU step against the two ops that define it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelm.lm import transformer
from reelm.lm.cache import RingCache
from reelm.lm.lean import can_be_lean
from reelm.lm.lm_config import LMConfig
from reelm.lm.transformer import VideoTransformer

CPU = torch.device("cpu")


def make(**changes):
    sizes = {"vocab_size": 19, "rows": 3, "columns": 4, "window": 3, "text_vocab_size": 11, "prefix": 5, "width": 32,
             "depth": 2, "heads": 4, "kv_heads": 2, "head_dim": 12, "hidden": 16, "neighbour_dim": 8}  # fmt: skip
    torch.manual_seed(0)
    model = VideoTransformer(LMConfig(**(sizes | changes))).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def filled(model, positions, seed=0):
    """A cache whose rows stand at these positions, having been there token by token in their own way."""
    cache = RingCache(model.config, len(positions), CPU, torch.float32)
    random = torch.Generator().manual_seed(seed)
    rows = len(positions)
    lengths = torch.randint(model.config.prefix + 1, (rows,), generator=random)
    model.prefill(cache, torch.randint(11, (rows, model.config.prefix), generator=random), lengths)
    cache.tokens_BR.random_(model.config.vocab_size, generator=random)
    # What is not written yet is left as it is; all else is anything.
    for row, position in enumerate(positions):
        used = model.config.prefix + min(position, cache.ring)
        for tensor in (cache.keys, cache.values):
            tensor[:, row, :, model.config.prefix : used].normal_(generator=random)
    cache.positions_B = torch.tensor(positions)
    return cache


@settings(max_examples=40, deadline=None)
@given(
    positions=st.lists(st.integers(0, 100), min_size=1, max_size=3),
    count=st.integers(1, 12),
    heads=st.sampled_from([(4, 2), (3, 1), (2, 2)]),
    seed=st.integers(0, 99),
)
def test_a_lean_step_is_a_step(positions, count, heads, seed):
    model = make(heads=heads[0], kv_heads=heads[1])
    lean, plain = filled(model, positions, seed), filled(model, positions, seed)
    assert can_be_lean(lean)
    logits = model.step(lean, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "can_be_lean", lambda cache: False)
        wanted = model.step(plain, count)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    for name in ("keys", "values"):
        torch.testing.assert_close(getattr(lean, name), getattr(plain, name), rtol=1e-5, atol=1e-5)


def test_another_dtype_or_backend_goes_by_the_ops(monkeypatch):
    model = make()
    assert not can_be_lean(RingCache(model.config, 1, CPU, torch.float64))
    monkeypatch.setattr(transformer, "lean_attend", lambda *arguments: pytest.fail("was lean"))
    with pytest.raises(pytest.fail.Exception):
        model.step(filled(model, [3]), 2)
    monkeypatch.setattr(transformer, "pick_backend", lambda *arguments: "triton")
    model.step(filled(model, [3]), 2)
