"""The blocks by OpenVINO against torch's: the same numbers up to rounding, and torch's promises kept."""

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm import VideoGenerator
from reelm.core.protocols import Numerics
from reelm.lm import compiled_blocks
from reelm.lm.lm_config import MOST_COMPILED, LMConfig, is_compiled
from reelm.lm.loading import make_ready
from reelm.lm.transformer import VideoTransformer
from reelm.tests.examples import examples

pytest.importorskip("openvino")


@pytest.fixture(scope="module", autouse=True)
def chosen():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REELM_KERNELS", "openvino")
        yield


SIZES = {"vocab_size": 19, "rows": 3, "columns": 4, "window": 3, "text_vocab_size": 11, "prefix": 5, "width": 32,
         "depth": 2, "heads": 4, "kv_heads": 2, "head_dim": 12, "hidden": 16, "neighbour_dim": 8}  # fmt: skip


def make(**changes):
    torch.manual_seed(0)
    model = VideoTransformer(LMConfig(**(SIZES | changes)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else parameter.data.uniform_(0.5, 1.5)
    make_ready(model, None, Numerics())
    return model


@pytest.fixture(scope="module", params=["raster", "coarse", "one key head"])
def model(request):
    model = make(kv_heads=1, heads=3) if request.param == "one key head" else make(order=request.param)
    assert model._compiled is not None
    return model


def filled(model, positions, seed):
    """A cache whose rows stand at these positions, with anything in the slots that are in use."""
    random, rows, prefix = torch.Generator().manual_seed(seed), len(positions), model.config.prefix
    cache = model.make_cache(rows)
    lengths = torch.randint(prefix + 1, (rows,), generator=random)
    model.prefill(cache, torch.randint(11, (rows, prefix), generator=random), lengths)
    cache.tokens_BQ.random_(model.config.vocab_size, generator=random)
    for row, position in enumerate(positions):
        for tensor in (cache.keys, cache.values):
            tensor[:, row, :, prefix : prefix + min(position, cache.ring)].normal_(generator=random)
    cache.positions_B = torch.tensor(positions)
    return cache


@examples(30)
@given(
    positions=st.lists(st.integers(0, 100), min_size=1, max_size=3), count=st.integers(1, 12), seed=st.integers(0, 99),
    wave=st.booleans(),
)  # fmt: skip
def test_a_step_is_that_of_torch(model, positions, count, seed, wave):
    options = ()
    if wave:
        sees_LA = torch.rand(count, count, generator=torch.Generator().manual_seed(seed)) < 0.7
        options = (range(0, count, 2), (sees_LA | torch.eye(count, dtype=torch.bool)).tril()[::2])
    fast, plain = filled(model, positions, seed), filled(model, positions, seed)
    found = model.step(fast, count, *options)
    model.settled = False
    try:
        wanted = model.step(plain, count, *options)
    finally:
        model.settled = True
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1)
    for name in ("keys", "values"):
        a, b = getattr(fast, name), getattr(plain, name)
        assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1)
        untouched = torch.ones(a.shape[1], a.shape[3], dtype=torch.bool)
        untouched.scatter_(1, fast.slots(fast.next_positions(count)), False)
        assert torch.equal(a.transpose(2, 3)[:, untouched], b.transpose(2, 3)[:, untouched])


def test_rows_move_and_caches_take_turns(model):
    """Requests belong to the memory that a cache has now: rows leave, and another cache steps in between."""
    cache, other = filled(model, [30, 17, 5], 1), filled(model, [8], 2)
    kept = filled(model, [30, 5], 1)
    for tensor in ("keys", "values"):
        getattr(kept, tensor).copy_(getattr(cache, tensor)[:, [0, 2]])
    kept.tokens_BQ, kept.prefix_lengths_B = cache.tokens_BQ[[0, 2]], cache.prefix_lengths_B[[0, 2]]
    model.step(other, 3)
    cache.arrange([0, 2])
    assert torch.equal(model.step(cache, 4), model.step(kept, 4))
    before = model.step(other, 3)
    model.step(cache, 4)
    assert torch.equal(model.step(other, 3), before)


def test_what_is_returned_is_never_overwritten(model):
    cache = filled(model, [9], 3)
    first = model.step(cache, 4)
    copied = first.clone()
    cache.advance(4)
    assert not torch.equal(model.step(cache, 4), first)
    assert torch.equal(first, copied)


def test_the_memory_of_a_cache_ends_with_it(model):
    cache = filled(model, [9], 3)
    model.step(cache, 2)
    ended = weakref.ref(cache)
    assert len(model._compiled._requests) >= 1
    del cache
    gc.collect()
    assert ended() is None and len(model._compiled._requests) == 0


def test_it_is_for_small_models_in_float32_on_a_cpu_whose_weights_stay(monkeypatch):
    small, large = LMConfig(vocab_size=80_000), LMConfig(vocab_size=100_000)
    assert small.parameters < MOST_COMPILED < large.parameters
    assert is_compiled(small, Numerics()) and not is_compiled(large, Numerics())
    for other in ({"weights": "int8"}, {"cache": "int8"}, {"dtype": torch.bfloat16}, {"device": "cuda"}):
        assert not is_compiled(small, Numerics(**other))
    monkeypatch.setattr(compiled_blocks.CompiledBlocks, "__call__", lambda *_: pytest.fail("compiled"))
    training = VideoTransformer(LMConfig(**SIZES))
    training.step(training.make_cache(1), 1)
    reference = make()
    reference.backend = "reference"
    reference.step(reference.make_cache(1), 1)
    monkeypatch.setenv("REELM_KERNELS", "torch")
    unasked = make()
    unasked.step(unasked.make_cache(1), 1)


def test_blocks_that_break_the_promise_are_not_used(monkeypatch, caplog):
    run = compiled_blocks.CompiledBlocks.__call__

    def other_bits_alone(self, x_BLD, cache, step):
        return run(self, x_BLD, cache, step) + (1e-6 if x_BLD.shape[1] == 1 else 0)

    monkeypatch.setattr(compiled_blocks.CompiledBlocks, "__call__", other_bits_alone)
    with caplog.at_level("INFO"):
        assert make()._compiled is None
    assert "other bits alone" in caplog.text


def test_the_bundled_model_is_compiled_and_its_matrices_are_counted_three_times():
    lm = VideoGenerator.from_pretrained("world", device="cpu").parts.lm
    assert lm._compiled is not None
    blocks = sum(module.weight.nbytes for module in lm.modules() if type(module).__name__ == "PackedLinear")
    weights = sum(weight.nbytes for weight in lm.parameters())
    assert lm.cost(1, 1).weights == pytest.approx(weights + 2 * blocks, rel=0.02)


# A model that is freed by another thread than the one that has compiled it, and a signal after that.
PROGRAM = """
import gc, os, signal, sys, threading, time
import reelm

def make():
    generator = reelm.VideoGenerator.from_pretrained(sys.argv[1])
    generator.generate("a red ball", num_frames=1)
    assert generator.parts.lm._compiled is not None
    return [generator]

box, handled = make(), []
thread = threading.Thread(target=lambda: (box.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
sys.exit(0 if handled else 1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_signals_are_handled_after_a_model_was_freed_by_another_thread(debug_checkpoint):
    environment = {**os.environ, "REELM_KERNELS": "openvino"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(debug_checkpoint)], env=environment, check=False)
    assert done.returncode == 0
