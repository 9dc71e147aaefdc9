"""The CPU path of a step against the two ops that define it, and which path is taken where."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.kernels import cached_attention
from reelm.kernels.decode_attention_reference import product
from reelm.lm.cache import RingCache
from reelm.lm.lm_config import LMConfig
from reelm.lm.transformer import VideoTransformer
from reelm.tests.examples import examples

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


def filled(model, positions, seed=0, dtype=torch.float32):
    """A cache whose rows stand at these positions, having been there token by token in their own way."""
    cache = RingCache(model.config, len(positions), CPU, dtype)
    random = torch.Generator().manual_seed(seed)
    rows = len(positions)
    lengths = torch.randint(model.config.prefix + 1, (rows,), generator=random)
    model.prefill(cache, torch.randint(11, (rows, model.config.prefix), generator=random), lengths)
    cache.tokens_BQ.random_(model.config.vocab_size, generator=random)
    # What is not written yet is left as it is; all else is anything.
    for row, position in enumerate(positions):
        used = model.config.prefix + min(position, cache.ring)
        for tensor in (cache.keys, cache.values):
            tensor[:, row, :, model.config.prefix : used].normal_(generator=random)
    cache.positions_B = torch.tensor(positions)
    return cache


@examples(40)
@given(
    positions=st.lists(st.integers(0, 100), min_size=1, max_size=3),
    count=st.integers(1, 12),
    heads=st.sampled_from([(4, 2), (3, 1), (2, 2)]),
    seed=st.integers(0, 99),
)
def test_the_cpu_path_is_the_reference(positions, count, heads, seed):
    model = make(heads=heads[0], kv_heads=heads[1])
    fast, plain = filled(model, positions, seed), filled(model, positions, seed)
    with watched() as taken:
        logits = model.step(fast, count)
    assert taken == ["cpu"] * model.config.depth
    model.backend = "reference"
    with watched() as taken:
        wanted = model.step(plain, count)
    assert taken == []
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    for name in ("keys", "values"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("options", [{}, {"prefix_from": 2, "epsilon": 0.1}, {"prefix_rotation": True}])
def test_every_option_is_the_same_on_the_cpu_path_and_in_the_ops(norms, options):
    random, positions = torch.Generator().manual_seed(0), torch.tensor([-1, 5, 17])
    qkv, caches = torch.randn(3, 2, 8, 12, generator=random), torch.randn(2, 3, 2, 5 + 20, 12, generator=random)
    weights = torch.rand(2, 12, generator=random) + 0.5 if norms else (None, None)
    angles, lengths = torch.randn(2, 3, 2, 1, 6, generator=random), torch.tensor([5, 2, 4])
    slots = 5 + (positions[:, None] + torch.arange(2)) % 20
    if "prefix_rotation" in options:
        options = options | {"prefix_rotation": (angles[1].cos(), angles[1].sin())}

    def run(backend, **options):
        keys, values = caches.clone()
        step = cached_attention.attention_step(
            keys, heads=4, slots_BL=slots, rotation=(angles[0].cos(), angles[0].sin()), positions_B=positions,
            prefix_lengths_B=lengths, prefix=5, frame_size=4, window=3, backend=backend, **options,
        )  # fmt: skip
        out = cached_attention.cached_attention(qkv, *weights, step, k_cache_BKCE=keys, v_cache_BKCE=values)
        return out, keys, values

    fast, plain = run(None, **options), run("reference", **options)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    assert not options or not torch.allclose(plain[0], run("reference")[0])


@contextmanager
def watched():
    """A list that has an entry for every layer that takes the CPU path inside."""
    taken, run = [], cached_attention.cached_attention_cpu

    def watching(*arguments, **options):
        taken.append("cpu")
        return run(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_attention, "cached_attention_cpu", watching)
        yield taken


def test_another_dtype_or_backend_goes_by_the_ops(monkeypatch):
    model = make().double()
    with watched() as taken:
        model.step(filled(model, [3], dtype=torch.float64), 2)
    assert taken == []
    model = make()
    monkeypatch.setattr(cached_attention, "pick_backend", lambda *arguments: "triton")
    with watched() as taken:
        model.step(filled(model, [3]), 2)
    assert taken == []


def test_what_is_the_same_in_every_layer_is_made_once(monkeypatch):
    made, model = [], make(depth=5)
    slots, table = cached_attention.visible_slots, cached_attention.cpu_table
    monkeypatch.setattr(cached_attention, "visible_slots", lambda *a, **k: made.append("mask") or slots(*a, **k))
    monkeypatch.setattr(cached_attention, "cpu_table", lambda *a, **k: made.append("table") or table(*a, **k))
    model.step(filled(model, [3]), 2)
    assert made == ["mask", "table"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [16, 32, 64, 80, 128])
def test_the_products_of_a_row_have_the_same_bits_alone_and_among_others(channels, threads):
    random, before = torch.Generator().manual_seed(0), torch.get_num_threads()
    q, weights = (torch.randn(2, 2, 300, size, generator=random) for size in (channels, 448))
    k, v = torch.randn(2, 2, 2, 448, channels, generator=random)
    torch.set_num_threads(threads)
    try:
        for rows, second in ((q, k.transpose(2, 3)[..., 32:]), (q, k.transpose(2, 3)[..., :32]), (weights, v)):
            whole = product(rows, second)
            for count in (1, 2, 3, 4, 5, 8, 11, 16, 33, 128):
                assert torch.equal(product(rows[:, :, :count], second), whole[:, :, :count])
            assert torch.equal(product(rows[:1], second[:1]), whole[:1])
    finally:
        torch.set_num_threads(before)
