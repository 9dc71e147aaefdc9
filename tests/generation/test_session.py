"""Sessions: a clip that stops and goes on is the clip that never stopped."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from reelm.core.errors import ReelmError
from reelm.generation.session import SessionState, _digest
from reelm.sampling.engine import Engine
from reelm.tests.examples import examples

RED, BLUE = "a red ball moves left", "a blue ring spins over grass"


@pytest.fixture(scope="module", params=["debug_checkpoint", "coarse_checkpoint"], ids=["raster", "coarse"])
def generator(request):
    from reelm import VideoGenerator

    return VideoGenerator.from_pretrained(request.getfixturevalue(request.param), device="cpu")


@examples(5)
@given(
    seed=st.integers(0, 2**63 - 1), before=st.integers(1, 33), after=st.integers(1, 24),
    scale=st.sampled_from([1.0, 2.5]), decoder=st.sampled_from(["sequential", "jacobi"]),
    temperature=st.sampled_from([0.7, 1.2, [(0, 1.0), (1.0, 0.5)]]), negative=st.sampled_from([None, BLUE]),
    other=st.sampled_from(["sequential", "jacobi"]),
)  # fmt: skip
def test_saved_and_continued_is_never_stopped(
    generator, tmp_path_factory, seed, before, after, scale, decoder, temperature, negative, other
):
    options = {"seed": seed, "guidance_scale": scale, "temperature": temperature}
    options |= {"negative_prompt": negative if scale != 1 else None}
    start = generator.generate(RED, num_frames=before, decoder=decoder, **options)
    path = start.state.save(tmp_path_factory.mktemp("state") / "clip.safetensors")
    longer = generator.continue_clip(path, num_frames=after, decoder=other)
    whole = generator.generate(RED, num_frames=len(longer.frames), **options)
    assert np.array_equal(longer.tokens, whole.tokens)
    again = generator.continue_clip(longer.state, num_frames=4)
    assert np.array_equal(again.tokens[: len(whole.tokens)], whole.tokens)


def test_a_file_gives_back_what_was_saved(generator, tmp_path):
    state = generator.generate(RED, seed=3, num_frames=5, top_k=7).state
    found = SessionState.load(state.save(tmp_path / "a.safetensors"))
    assert torch.equal(found.tokens_thw, state.tokens_thw)
    assert found.cache.keys() == state.cache.keys()
    assert all(torch.equal(found.cache[name], state.cache[name]) for name in state.cache)
    assert (found.prompt, found.seed, found.settings) == (RED, 3, state.settings)


def test_going_on_from_a_ring_reads_nothing_again(generator, monkeypatch):
    video = generator.generate(RED, seed=3, num_frames=29)
    steps = []
    step = type(generator.parts.lm).step
    monkeypatch.setattr(type(generator.parts.lm), "step", lambda *a: steps.append(1) or step(*a))
    with_cache = generator.continue_clip(video, num_frames=4, decoder="sequential")
    size = generator.parts.lm.layout.frame_size
    assert len(steps) == size
    video.state = None
    without = generator.continue_clip(video, num_frames=4, decoder="sequential")
    assert len(steps) == size + 8 + size
    assert np.array_equal(with_cache.tokens, without.tokens)


@pytest.fixture(scope="module")
def never_stopped(generator):
    """Clips of some frames, token by token, each drawn once."""
    return functools.cache(
        lambda frames: generator.generate(RED, num_frames=frames, seed=5, decoder="sequential").tokens
    )


@pytest.mark.parametrize("frames", [1, 41])
@pytest.mark.parametrize(("before", "after"), [(16, 37), (48, 5), (25, None)])
def test_going_on_with_longer_or_shorter_blocks_reads_nothing_again(
    generator, never_stopped, monkeypatch, frames, before, after
):
    whole = never_stopped(frames + 12)
    part = generator.generate(RED, num_frames=frames, seed=5, decoder="jacobi", block_size=before)
    monkeypatch.setattr(Engine, "_read", lambda *_: pytest.fail("read again"))
    decoder = "sequential" if after is None else "jacobi"
    longer = generator.continue_clip(part.state, num_frames=12, decoder=decoder, block_size=after)
    assert np.array_equal(longer.tokens, whole)


@pytest.mark.parametrize("options", [{"negative_prompt": BLUE}, {"guidance_scale": 1.0}, {"seed": 4, "top_k": 2}])
def test_other_settings_go_on_from_a_state_as_from_its_tokens(generator, options):
    video = generator.generate(RED, seed=3, num_frames=9)
    with_state = generator.continue_clip(video, num_frames=8, **options)
    tokens_alone = dataclasses.replace(video.state, cache={})
    assert np.array_equal(with_state.tokens, generator.continue_clip(tokens_alone, num_frames=8, **options).tokens)
    assert not np.array_equal(with_state.tokens, generator.continue_clip(video, num_frames=8).tokens)


def test_a_prompt_for_a_clip_that_had_none_is_followed(generator):
    video = generator.generate(None, seed=3, num_frames=9)
    with_state = generator.continue_clip(video, num_frames=8, prompt=BLUE)
    tokens_alone = dataclasses.replace(video.state, cache={})
    wanted = generator.continue_clip(tokens_alone, num_frames=8, prompt=BLUE)
    assert np.array_equal(with_state.tokens, wanted.tokens)
    assert not np.array_equal(with_state.tokens, generator.continue_clip(video, num_frames=8).tokens)


@pytest.mark.parametrize("keep_state", [True, False])
def test_words_that_the_model_does_not_know_go_on_too(generator, keep_state):
    prompt = "a red zebra moves left"
    start = generator.generate(prompt, seed=3, num_frames=9, keep_state=keep_state)
    longer = generator.continue_clip(start, num_frames=8)
    assert np.array_equal(longer.tokens, generator.generate(prompt, seed=3, num_frames=17).tokens)
    assert longer.prompt == prompt


def test_a_ring_of_other_weights_is_not_used(generator):
    state = generator.generate(RED, seed=3, num_frames=9).state
    wrong = {name: torch.zeros_like(tensor) for name, tensor in state.cache.items()}
    broken = dataclasses.replace(state, cache=wrong, settings=state.settings | {"lm": "another"})
    wanted = generator.continue_clip(dataclasses.replace(state, cache={}), num_frames=4)
    assert np.array_equal(generator.continue_clip(broken, num_frames=4).tokens, wanted.tokens)
    misfit = dataclasses.replace(state, cache=state.cache | {"keys": state.cache["keys"][:, :, :, 1:]})
    assert np.array_equal(generator.continue_clip(misfit, num_frames=4).tokens, wanted.tokens)


def test_a_session_is_decoded(generator, tmp_path):
    video = generator.generate(RED, seed=3, num_frames=13)
    for session in (video.state, video.state.save(tmp_path / "a.safetensors")):
        decoded = generator.decode(session)
        assert np.array_equal(decoded.frames, video.frames)
        assert np.array_equal(decoded.tokens, video.tokens)
        assert (decoded.prompt, decoded.seed, decoded.settings) == (RED, 3, video.settings)


def test_states_are_kept_where_they_are_wanted(generator):
    assert generator.generate(RED, seed=1, num_frames=1).state.cache
    assert not generator.generate(RED, seed=1, num_frames=1, keep_state=False).state.cache
    for video in generator.generate([RED, BLUE], seed=1, num_frames=5):
        assert not video.state.cache and np.array_equal(video.state.tokens_thw, video.tokens)
    kept = generator.generate([RED, BLUE, RED], seed=[1, 2, 3], num_frames=[5, 1, 9], batch_size=2, keep_state=True)
    for prompt, seed, frames, video in zip([RED, BLUE, RED], [1, 2, 3], [5, 1, 9], kept, strict=True):
        alone = generator.generate(prompt, seed=seed, num_frames=frames + 8)
        assert np.array_equal(generator.continue_clip(video, num_frames=8).tokens, alone.tokens)


def test_tokens_are_told_before_pixels(generator, monkeypatch):
    told = []

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr("reelm.generation.detail.decode_clips", broken)
    with pytest.raises(MemoryError):
        generator.generate([RED, BLUE], seed=[1, 2], num_frames=5, callback_on_tokens=told.extend)
    monkeypatch.undo()
    for state, prompt, seed in zip(told, (RED, BLUE), (1, 2), strict=True):
        wanted = generator.generate(prompt, seed=seed, num_frames=5)
        assert np.array_equal(generator.decode(state).frames, wanted.frames)


def test_bad_files_are_refused(generator, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ReelmError, match=r"^session: must be a file that exists"):
        SessionState.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ReelmError, match=r"^session: .* must be a whole safetensors file"):
        SessionState.load(path)
    save_file({"tokens": torch.zeros(2)}, path)
    with pytest.raises(ReelmError, match=r"^session: .* must be a session of format 3 of reelm"):
        SessionState.load(path)
    for values in ("{", "[]", '{"prompt": 1, "seed": 1}', '{"prompt": 1, "seed": 1, "settings": {}, "conditions": []}'):
        tensors = {"tokens": torch.zeros(1, 4, 6)}
        save_file(tensors, path, {"reelm_session": "3", "values": values, "sha256": _digest(tensors, values)})
        with pytest.raises(ReelmError, match=r"^session: .* is damaged|^session: must hold tokens"):
            SessionState.load(path)
    state = generator.generate(RED, seed=1, num_frames=1).state
    with pytest.raises(ReelmError, match=r"^session: must be a .safetensors file"):
        state.save(tmp_path / "a.mp4")
    other = dataclasses.replace(state, settings={"tokenizer": "another"})
    for use, argument in ((generator.decode, "session"), (generator.continue_clip, "clip"), (generator.score, "clip")):
        with pytest.raises(ReelmError, match=rf"^{argument}: must be of this model"):
            use(other)
    out_of_range = dataclasses.replace(state, tokens_thw=state.tokens_thw + 1000)
    with pytest.raises(ReelmError, match=r"^session: must be of this model"):
        generator.decode(out_of_range)


def damaged(path, whole, changes):
    """Return whether every file with one of these bytes changed (position, value) is refused by name."""
    for position, value in changes:
        path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
        try:
            SessionState.load(path)
        except ReelmError as error:
            assert str(error).startswith("session: ") and path.name in str(error), (position, value)
            continue
        return (position, value)
    return None


def test_any_changed_byte_is_refused(generator, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a.safetensors"
    whole = generator.generate(RED, seed=3, num_frames=5).state.save(path).read_bytes()
    places = np.concatenate([rng.integers(0, len(whole), 40), rng.integers(0, 1500, 40)])
    assert damaged(path, whole, [(int(at), whole[at] ^ (1 << int(rng.integers(8)))) for at in places]) is None
    values = ((at, int(rng.integers(256))) for at in map(int, places))
    assert damaged(path, whole, [(at, value) for at, value in values if value != whole[at]]) is None
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ReelmError, match=r"^session: "):
            SessionState.load(path)
    path.write_bytes(whole)
    SessionState.load(path)


@pytest.mark.slow
def test_every_changed_byte_is_refused(generator, tmp_path):
    path = tmp_path / "a.safetensors"
    whole = generator.generate(RED, seed=3, num_frames=5, keep_state=False).state.save(path).read_bytes()
    changes = [(at, value) for at in range(len(whole)) for value in range(256) if value != whole[at]]
    assert damaged(path, whole, changes) is None


def test_a_session_replaces_no_file_of_another_kind(generator, tmp_path):
    path, state = tmp_path / "a.safetensors", generator.generate(RED, seed=3, num_frames=1).state
    save_file({"weights": torch.zeros(2)}, path)
    before = path.read_bytes()
    with pytest.raises(ReelmError, match=r"^session: must be a new file, or one that reelm wrote, unless"):
        state.save(path)
    assert path.read_bytes() == before
    state.save(path, overwrite=True)
    assert state.save(path).read_bytes() == state.save(tmp_path / "b.safetensors").read_bytes()
