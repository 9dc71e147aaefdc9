import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.core.token_order import ORDERS
from reelm.kernels.rope_norm_cache import rope_norm_cache
from reelm.lm.cache import RingCache
from reelm.lm.lm_config import LMConfig
from reelm.lm.positions import video_rotation
from reelm.lm.transformer import VideoTransformer
from reelm.tests.engines import as_grids, written
from reelm.tests.examples import examples

SMALL = {
    "vocab_size": 19,
    "rows": 3,
    "columns": 4,
    "window": 3,
    "text_vocab_size": 11,
    "prefix": 5,
    "width": 32,
    "depth": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 12,
    "hidden": 32,
    "neighbour_dim": 8,
}


def make(**changes):
    torch.manual_seed(0)
    model = VideoTransformer(LMConfig(**(SMALL | changes))).eval()
    for parameter in model.parameters():  # away from the small start, so that attention is not nearly uniform
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(params=["raster", "coarse"])
def order(request):
    return request.param


def inputs(frames, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SMALL["vocab_size"], (batch, frames, 3, 4), generator=generator)
    text = torch.randint(SMALL["text_vocab_size"], (batch, 5), generator=generator)
    return tokens, text, torch.tensor([2, 5, 1, 4])[:batch]


def roll(model, tokens, text, lengths, sizes):
    """Logits of the whole clip through the ring cache, in steps of these sizes."""
    cache = RingCache(model.config, len(tokens), torch.device("cpu"), torch.float32)
    model.prefill(cache, text, lengths)
    flat, outs, start = written(model, tokens), [], 0
    while start < flat.shape[1]:
        count = min(sizes[len(outs) % len(sizes)], flat.shape[1] - start)
        cache.put_tokens(flat[:, start : start + count])
        outs.append(model.step(cache, count))
        cache.advance(count)
        start += count
    return torch.cat(outs, 1), cache


@pytest.mark.parametrize("sizes", [[1], [12], [5, 1, 3]])
def test_rolling_far_past_the_window_equals_one_masked_pass(sizes, order):
    """30 latent frames with a window of 3 and a ring of 4: what `step` remembers is what training saw."""
    model = make(order=order)
    tokens, text, lengths = inputs(30)
    with torch.no_grad():
        whole = model(tokens, text, lengths)
    rolled, _ = roll(model, tokens, text, lengths, sizes)
    assert (rolled - whole).abs().max() < 1e-4
    assert whole.std() > 0.1


@pytest.mark.parametrize(("dtype", "roundings"), [(torch.float32, 4), (torch.bfloat16, 4)])
def test_a_step_normalises_and_rotates_as_training_does(dtype, roundings):
    """To the dtype's roundings: in training the norm, cosines and sines, products and sums are rounded, each to it."""
    attention = make().to(dtype).blocks[0].attention
    torch.manual_seed(0)
    attention.q_norm.data, attention.k_norm.data = torch.randn(2, 12).to(dtype)
    qkv, positions = torch.randn(2, 7, 8, 12).to(dtype), torch.arange(500, 507).expand(2, -1)
    rotation = video_rotation(positions, 3, 4, 12)
    keys, values = torch.zeros(2, 2, 2, 7, 12, dtype=dtype)
    with torch.no_grad():
        expected = attention.rotated(qkv, rotation)
    norms = attention.q_norm, attention.k_norm
    q, q_prefix = rope_norm_cache(qkv, *norms, torch.arange(7).expand(2, -1), keys, values, rotation=rotation)
    assert torch.equal(q_prefix, expected[1]) and torch.equal(values.transpose(1, 2), expected[3])
    for out, other in ((q, expected[0]), (keys.transpose(1, 2), expected[2])):
        length = torch.hypot(*other.float().chunk(2, -1)).repeat(1, 1, 1, 2)
        assert ((out.float() - other.float()).abs() <= roundings * torch.finfo(dtype).eps / 2 * length).all()


def test_memory_does_not_grow_with_the_clip():
    model = make()
    short, long = (roll(model, *inputs(frames), [12])[1] for frames in (2, 40))
    assert short.nbytes == long.nbytes
    assert short.tokens_BQ.shape == long.tokens_BQ.shape


def test_a_cache_that_starts_at_frame_10000_equals_the_window_at_the_start(order):
    """The same 6 latent frames after the same 2, rolled at latent frame 2 and at latent frame 10,000."""
    model = make(order=order)
    tokens, text, lengths = inputs(12)
    outs = []
    for offset in (0, 10_000):
        cache = RingCache(model.config, 2, torch.device("cpu"), torch.float32)
        model.prefill(cache, text, lengths)
        cache.positions_B += (offset + 4) * model.config.frame_size  # frames 0 .. 3 lie in the ring as zeros
        logits = []
        for frame in written(model, tokens).split(12, 1):
            cache.put_tokens(frame)
            logits.append(model.step(cache, 12))
            cache.advance(12)
        outs.append(torch.cat(logits, 1))
    assert (outs[0] - outs[1]).abs().max() < 1e-4
    # Three layers of a window of 3 and a token's neighbours reach back over 8 latent frames.
    with torch.no_grad():
        whole = model(tokens, text, lengths)
    assert (outs[1] - whole)[:, 8 * 12 :].abs().max() < 1e-4
    assert (outs[1] - whole)[:, :12].abs().max() > 0.1


def test_no_gradient_from_a_token_to_earlier_logits_or_to_its_own(order):
    """Causality: token p's embedding reaches the logits of later positions alone, and within the window's reach."""
    model = make(depth=1, order=order)
    tokens, text, lengths = inputs(6, batch=1)
    embedded = {}

    def catch(module, args, output):
        output.retain_grad()
        embedded["x"] = output

    hook = model.neighbour_mix.register_forward_hook(catch)
    logits = model(tokens, text, lengths)
    position = 40
    logits[0, position].sum().backward()
    hook.remove()
    reach = embedded["x"].grad[0].abs().sum(-1) > 0
    first = position // 12 * 12 - 2 * 12  # window 3: this latent frame and two before it
    assert reach[first : position + 1].all()
    assert not reach[position + 1 :].any()
    assert not reach[:first].any()


@given(st.integers(0, 71), st.integers(0, 10), st.sampled_from(ORDERS))
@examples(60)
def test_changing_a_token_changes_no_logits_up_to_it(position, seed, order):
    model = make(order=order)
    tokens, text, lengths = inputs(6, seed=seed)
    other = written(model, tokens)
    other[:, position] = (other[:, position] + 1) % SMALL["vocab_size"]
    with torch.no_grad():
        before, after = model(tokens, text, lengths), model(as_grids(model, other), text, lengths)
    assert torch.equal(before[:, : position + 1], after[:, : position + 1])
    if position < 71:
        assert not torch.equal(before[:, position + 1], after[:, position + 1])


def test_a_row_is_the_same_alone_and_in_a_batch():
    model = make()
    tokens, text, lengths = inputs(5, batch=4)
    together, _ = roll(model, tokens, text, lengths, [12])
    for row in range(4):
        alone, _ = roll(model, tokens[row : row + 1], text[row : row + 1], lengths[row : row + 1], [12])
        assert (alone[0] - together[row]).abs().max() < 1e-5


def test_padding_of_the_text_is_not_read():
    model = make()
    tokens, text, lengths = inputs(3)
    other = text.clone()
    other[0, 2:] = 7
    with torch.no_grad():
        assert torch.equal(model(tokens, text, lengths), model(tokens, other, lengths))
        other[0, 1] = (other[0, 1] + 1) % 11
        assert not torch.equal(model(tokens, text, lengths), model(tokens, other, lengths))


def test_tokens_of_a_grid_and_back(order):
    model, tokens = make(order=order), inputs(5)[0]
    assert torch.equal(as_grids(model, written(model, tokens)), tokens)
    in_order = torch.equal(written(model, tokens), tokens.flatten(1))
    assert in_order == (order == "raster")


def test_training_under_autocast_survives_norms_in_float32(monkeypatch):
    """What CUDA's autocast does: linear layers in bfloat16, norms in float32."""
    rms_norm = F.rms_norm
    monkeypatch.setattr(F, "rms_norm", lambda x, *rest: rms_norm(x.float(), *rest))
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*inputs(3))
    logits.float().logsumexp(-1).sum().backward()
    assert logits.dtype == torch.bfloat16
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    "change",
    [{"order": "spiral"}, {"window": 2}, {"kv_heads": 3}, {"head_dim": 7}, {"heads": 0}, {"depth": 0}, {"prefix": 0}],
)
def test_sizes_that_cannot_be_are_refused(change):
    with pytest.raises(ReelmError, match=next(iter(change))):
        LMConfig(**(SMALL | change))


@pytest.mark.parametrize("change", [
    {"window": 4}, {"width": 16}, {"depth": 2}, {"heads": 2}, {"kv_heads": 4}, {"head_dim": 8}, {"hidden": 16},
    {"neighbour_dim": 4}, {"order": "coarse"},
])  # fmt: skip
def test_every_size_changes_the_logits(change):
    tokens, text, lengths = inputs(5)
    with torch.no_grad():
        assert not torch.equal(make()(tokens, text, lengths), make(**change)(tokens, text, lengths))
