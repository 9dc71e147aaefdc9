"""Cosmos-Predict1's models against a plain statement of them, token by token, in blocks and in waves, and rolled."""

import pytest
import torch

from reelm.core.condition import Embedding, Frames, Text
from reelm.core.errors import ReelmError
from reelm.core.protocols import Numerics
from reelm.lm.cosmos_cache import CosmosCache
from reelm.lm.cosmos_lm_config import CosmosLMConfig
from reelm.lm.cosmos_transformer import CosmosTransformer
from reelm.lm.cosmos_weights import published
from reelm.sampling.decoders import Jacobi
from reelm.sampling.diagonal import Diagonal
from reelm.sampling.engine import Engine
from reelm.sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from reelm.sampling.teacher import TeacherForcing
from reelm.tests.lm import plain_cosmos_lm as plain

# A model like 4B, one like 12B with YaRN (and heads wider than its states), and one like 5B, which reads text.
KINDS = {"4B": {}, "12B": {"dim": 30, "yarn": 2.0}, "5B": {"context": 10}}


def make(kind, **changes):
    """A tiny model, its published weights and sizes, and the conditions that it reads."""
    s = plain.sizes(**(KINDS[kind] | changes))
    weights = plain.published_weights(s, seed=len(kind))
    config = CosmosLMConfig(
        vocab_size=s["vocab"], rows=s["rows"], columns=s["columns"], frames=s["frames"], width=s["dim"],
        depth=s["layers"], heads=s["heads"], kv_heads=s["kv_heads"], head_dim=s["head_dim"], hidden=s["hidden"],
        yarn_scale=s["yarn"], context_dim=s["context"], context_length=s["states"],
    )  # fmt: skip
    model = CosmosTransformer(config).eval().requires_grad_(False)
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.cat([weights[rows.name] for rows in published(name)])[: len(tensor)])
    text = (
        (Embedding(torch.randn(5, s["context"], generator=torch.Generator().manual_seed(9))),) if s["context"] else ()
    )
    return model, weights, s, text


def draw(count, s, seed=0):
    return torch.randint(s["vocab"], (count,), generator=torch.Generator().manual_seed(seed))


def engine(model, text, decoder, *, frames=None, settings=None, tokens=None, clips=1):
    made = Engine(model, settings or SamplingConfig(guidance_scale=1.0), decoder=decoder, capacity=clips)
    for clip in range(clips):
        made.add(ClipPlan(prompts=((0, ""),), key=NoiseKey(clip), conditions=text, latent_frames=frames), tokens)
    return made


def forced_logits(model, text, tokens_S, block):
    """The logits of all positions by passes over so many, over a cache."""
    forced, found = TeacherForcing(tokens_S[None], block), []
    made = engine(model, text, forced)
    for _ in range(-(-len(tokens_S) // block)):
        made.step()
        found.append(forced.logits_RLV[0])
    return torch.cat(found)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_plain_statement(kind):
    model, weights, s, text = make(kind)
    tokens_S = draw(s["frames"] * s["rows"] * s["columns"], s)
    wanted = plain.logits(weights, s, tokens_S.tolist(), text[0].states_SD if text else None)[:-1]
    oracle = model.oracle(tokens_S[None], [(Text(""), *text)])[0]
    if not text:  # nothing is known of the first token
        assert oracle[0].eq(0).all()
        oracle = oracle[1:]
    torch.testing.assert_close(oracle.double(), wanted, rtol=0, atol=1e-4)
    stepped = forced_logits(model, text, tokens_S, 4)[-len(wanted) :]
    torch.testing.assert_close(stepped.double(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_tokens_of_a_clip_are_those_of_the_plain_statement(kind):
    model, weights, s, text = make(kind, rows=1, columns=2)
    given = draw(2, s, seed=1)
    made = engine(model, text, Jacobi(3), frames=5, tokens=given[None],
                  settings=SamplingConfig(guidance_scale=1.0, temperature=0))  # fmt: skip
    drawn = [frame.tokens_S for _ in range(8) for frame in made.step()]
    tokens = given.tolist()
    while len(tokens) < 10:
        tokens.append(int(plain.logits(weights, s, tokens, text[0].states_SD if text else None)[-1].argmax()))
    assert torch.cat(drawn).tolist() == tokens[2:]


@pytest.mark.parametrize("block", [1, 5, 6, 12])
def test_a_clip_that_rolls_for_forty_latent_frames_is_one_masked_pass(block):
    model, _, s, _ = make("4B")
    tokens_S = draw(40 * 6, s)
    wanted = model.oracle(tokens_S[None], [(Text(""),)])[0]
    torch.testing.assert_close(forced_logits(model, (), tokens_S, block), wanted, rtol=0, atol=1e-4)


def test_a_clip_that_rolls_is_the_plain_statement_of_it():
    model, weights, s, _ = make("12B", rows=1, columns=2, layers=1)
    tokens_S = draw(2 * 9, s)
    wanted = plain.logits(weights, s, tokens_S.tolist())[:-1]
    oracle = model.oracle(tokens_S[None], [(Text(""),)])[0, 1:]
    torch.testing.assert_close(oracle.double(), wanted, rtol=0, atol=1e-4)
    without = plain.logits(weights, s | {"frames": 4}, tokens_S.tolist())[:-1]
    assert not torch.allclose(oracle.double(), without, atol=1e-2), "the window matters"


def test_the_first_latent_frame_is_seen_from_everywhere_and_a_latent_frame_that_has_left_the_window_is_not():
    model, _, s, _ = make("4B", layers=1)
    tokens_S = draw(9 * 6, s)
    before = model.oracle(tokens_S[None], [(Text(""),)])[0]
    for changed, seen in ((2, True), (20, False)):
        other_S = tokens_S.clone()
        other_S[changed] = (other_S[changed] + 1) % s["vocab"]
        after = model.oracle(other_S[None], [(Text(""),)])[0]
        assert torch.equal(before[-5:], after[-5:]) != seen


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_batches_and_saved_states_make_the_same_tokens(kind):
    model, _, s, text = make(kind)
    frames, given = 12, draw(6, s, seed=1)[None]

    def run(decoder, clips=1, tokens=given, state=None, frames=frames):
        made, found = engine(model, text, decoder, frames=frames, tokens=tokens, clips=clips), {}
        while not all(map(made.ended, made.clips)):
            for frame in made.step():
                found.setdefault(frame.clip, []).append(frame.tokens_S)
        return made, {clip: torch.stack(rows) for clip, rows in found.items()}

    _, alone = run(None)
    assert len(alone[0]) == frames - 1
    # A delay of a row makes a diagonal exact.
    for decoder in (Jacobi(4), Jacobi(12), Diagonal(delay=s["columns"])):
        assert torch.equal(run(decoder)[1][0], alone[0])
    assert torch.equal(run(Jacobi(5), clips=3)[1][0], alone[0])
    for count in (1, 4, 7, 10):
        made = engine(model, text, None, frames=frames, tokens=torch.cat([given, alone[0][: count - 1]]))
        state = made.export(made.clips[0])
        assert made.cache.accepts(1, state)
        resumed = Engine(model, SamplingConfig(guidance_scale=1.0), decoder=Jacobi(12))
        plan = made.plan(made.clips[0])
        resumed.add(plan, torch.cat([given, alone[0][: count - 1]]), state)
        rest = []
        while len(rest) < frames - count:
            rest += [frame.tokens_S for frame in resumed.step()]
        assert torch.equal(torch.stack(rest), alone[0][count - 1 :])


def test_a_model_with_text_goes_on_from_its_first_and_its_newest_latent_frames():
    model, _, s, text = make("5B")
    assert model.horizon == 5 and model.keeps_first
    tokens_tS = draw(6 * 6, s).view(6, 6)
    forced = TeacherForcing(torch.cat([tokens_tS[5], draw(6, s)])[None], 6)
    made = engine(model, text, forced, tokens=tokens_tS[:5])
    made.step()
    wanted = model.oracle(torch.cat([tokens_tS[0], tokens_tS[4], tokens_tS[5]])[None], [(Text(""), *text)])[0, -6:]
    torch.testing.assert_close(forced.logits_RLV[0], wanted, rtol=0, atol=1e-4)


def test_text_is_read_and_what_is_no_text_for_it_is_refused():
    model, _, s, text = make("5B")
    tokens_S = draw(12, s)
    before = model.oracle(tokens_S[None], [(Text(""), *text)])
    other = Embedding(text[0].states_SD.flip(0))
    assert torch.allclose(before, model.oracle(tokens_S[None], [(Text(""), other)]), atol=1e-5), "it has no order"
    assert not torch.allclose(before, model.oracle(tokens_S[None], [(Text(""), Embedding(other.states_SD[:3]))]))
    picture = Frames(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    cache = model.make_cache(1)
    for found, rule in (
        ((), "must be one embedding of a text for this model"),
        ((*text, *text), "must be one embedding of a text"),
        ((*text, picture), "must be one embedding of a text"),
        ((Embedding(torch.zeros(8, 10)),), r"must be an embedding of at most \(7, 10\), got \(8, 10\)"),
        ((Embedding(torch.zeros(3, 9)),), r"must be an embedding of at most \(7, 10\), got \(3, 9\)"),
    ):
        with pytest.raises(ReelmError, match=f"^conditions: {rule}"):
            model.condition(cache, [0], [(Text(""), *found)])
    with pytest.raises(ReelmError, match=r"^prompt: must be none: this model reads embeddings of text"):
        model.unknown_words("a car", "prompt")
    with pytest.raises(ReelmError, match=r"^conditions: must be none for this model, got \['text', 'embedding'\]"):
        make("4B")[0].condition(cache, [0], [(Text(""), *text)])
    with pytest.raises(ReelmError, match=r"^prompt: must be none: this model reads clips alone, got 'a car'"):
        make("4B")[0].unknown_words("a car", "prompt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_cost_is_what_it_allocates(kind, dtype):
    model, _, _, text = make(kind)
    cost = model.to(dtype).cost(2, 6)
    cache = model.make_cache(2)
    assert cost.parameters == sum(weight.numel() for weight in model.parameters())
    assert cost.weights == cost.parameters * dtype.itemsize
    held = cache.nbytes + cache.tokens_BQ.nbytes + sum(part.nbytes for part in cache._context.values())
    assert cost.cache == held and isinstance(cache, CosmosCache)
    made = engine(model, text, None, tokens=draw(6, plain.sizes())[None])
    exported = made.export(made.clips[0])
    assert cost.state == sum(part.nbytes for name, part in exported.items() if name != "prefix_lengths")
    assert model.config.cost(2, 6, Numerics(dtype=dtype)) == cost
