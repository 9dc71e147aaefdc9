"""The options of every call, as users write them: names, numbers of any library, forms of frames; and streams."""

import functools
import gc
import itertools
import os
import re
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from PIL.Image import Image

from reelm import VideoGenerator
from reelm.core.errors import ReelmError
from reelm.core.plain_values import to_python
from reelm.generation.arguments import CALLS
from reelm.generation.session import SessionState
from reelm.generation.stream import ClipStream
from reelm.generation.video import Video
from reelm.sampling.engine import LatentFrame

PROMPT, OTHER = "a red ball moves left", "a blue ring spins over grass"
STILL = np.zeros((1, 8, 8, 3), np.uint8)
HEIGHT, WIDTH, ROWS, COLUMNS = 32, 48, 4, 6  # of the debug model


@pytest.fixture
def nothing_is_computed(debug_generator, monkeypatch):
    """The generator, of which no part may compute."""
    parts = debug_generator.parts
    for owner, name in ((parts.lm, "step"), (parts.tokenizer, "encode_chunk"), (parts.tokenizer, "decode_frame")):
        monkeypatch.setattr(type(owner), name, lambda *_, **__: pytest.fail("computed"))
    return debug_generator


@pytest.fixture(scope="module")
def drawn(debug_checkpoint):
    """Clips that several tests hold others against, each drawn once; a schedule is given as a tuple."""
    generator = VideoGenerator.from_pretrained(debug_checkpoint, device="cpu")

    @functools.cache
    def draw(prompt, **options):
        return generator.generate(list(prompt) if isinstance(prompt, tuple) else prompt, **options)

    return draw


def call(made_with, name, /, **options):
    return getattr(made_with, name)(STILL if name == "continue_clip" else PROMPT, **options)


# Names.


@pytest.mark.parametrize(("name", "option", "message"), [
    ("generate", "sead", "^sead: is no option of generate; did you mean 'seed'?"),
    ("generate", "guidence_scale", "did you mean 'guidance_scale'?"),
    ("generate", "numframes", "did you mean 'num_frames'?"),
    ("continue_clip", "promt", "^promt: is no option of continue_clip; did you mean 'prompt'?"),
    ("continue_clip", "detial", "did you mean 'detail'?"),
    ("stream", "topk", "^topk: is no option of stream; did you mean 'top_k'?"),
    ("generate", "xyzzy", "^xyzzy: is no option of generate; there are negative_prompt, seed"),
    ("stream", "callback_on_tokens", "is no option of stream; generate and continue_clip have it"),
    ("stream", "output_type", "is no option of stream; generate, continue_clip and decode have it"),
    ("stream", "batch_size", "is no option of stream; generate has it"),
    ("continue_clip", "batch_size", "^batch_size: is no option of continue_clip; generate has it"),
    ("stream", "num_videos_per_prompt", "is no option of stream; generate and continue_clip have it"),
    ("continue_clip", "keep_state", "is no option of continue_clip; generate has it"),
    ("generate", "detail", "^detail: is no option of generate; continue_clip has it"),
    ("generate", "fit", "is no option of generate; continue_clip, play and score have it"),
])  # fmt: skip
def test_an_option_that_a_call_does_not_have(nothing_is_computed, name, option, message):
    with pytest.raises(ReelmError, match=message):
        call(nothing_is_computed, name, **{option: 2})


def test_every_option_that_is_told_of_is_taken(nothing_is_computed):
    """Whatever CALLS says a call has is an argument of it: a bad value is refused, and not the name."""
    for name in ("generate", "continue_clip", "stream"):
        for option in set(CALLS[name]) - {"prompt", "clip"}:
            try:
                call(nothing_is_computed, name, **{option: None})
            except ReelmError as error:
                assert "is no option" not in str(error)
            except pytest.fail.Exception:
                pass


# The clip and the picture.


def test_a_clip_or_an_image_and_not_both(nothing_is_computed):
    for arguments in ({}, {"clip": STILL, "image": STILL}):
        with pytest.raises(ReelmError, match=r"^clip, image: must be exactly one of the two, got"):
            nothing_is_computed.continue_clip(**arguments)


@pytest.mark.parametrize("value", [np.full((2, 8, 8, 3), np.nan), "nowhere.png", 7, [], {"a": 1}])
def test_a_refusal_names_the_argument_that_was_written(nothing_is_computed, value):
    g = nothing_is_computed
    with pytest.raises(ReelmError, match=r"^clip: "):
        g.continue_clip(value, num_frames=4)
    with pytest.raises(ReelmError, match=r"^clip: "):
        g.continue_clip(clip=value, num_frames=4)
    with pytest.raises(ReelmError, match=r"^image: "):
        g.continue_clip(image=value, num_frames=4)
    with pytest.raises(ReelmError, match=r"^clip: "):
        g.score(value, PROMPT)


def test_a_session_of_another_model_is_refused_by_its_argument(nothing_is_computed, tmp_path):
    foreign = SessionState(torch.zeros(2, ROWS, COLUMNS, dtype=torch.int64))
    path = foreign.save(tmp_path / "foreign.safetensors")
    for session in (foreign, path):
        with pytest.raises(ReelmError, match=r"^session: must be of this model"):
            nothing_is_computed.decode(session)
        with pytest.raises(ReelmError, match=r"^clip: must be of this model"):
            nothing_is_computed.continue_clip(session)
    nowhere = tmp_path / "nowhere.safetensors"
    with pytest.raises(ReelmError, match=r"^session: must be a file that exists"):
        nothing_is_computed.decode(nowhere)
    with pytest.raises(ReelmError, match=r"^image: must be a file that exists"):
        nothing_is_computed.continue_clip(image=nowhere)


def test_an_image_is_continued_like_a_clip_of_one_frame(debug_generator, tmp_path):
    g = debug_generator
    picture = g.generate(PROMPT, seed=1, num_frames=1)
    image = picture.to("pil")[0]
    image.save(tmp_path / "picture.png")
    longer = g.continue_clip(picture.frames, num_frames=4, seed=2)
    for given in (image, picture.frames[0], tmp_path / "picture.png", str(tmp_path / "picture.png")):
        assert np.array_equal(g.continue_clip(image=given, num_frames=4, seed=2).tokens, longer.tokens)


# Numbers.

FORMS = {
    "numpy": lambda value: np.float64(value) if isinstance(value, float) else np.int64(value),
    "small numpy": lambda value: np.float32(value) if isinstance(value, float) else np.uint8(value),
    "array": np.array,
    "tensor": torch.tensor,
}


PLAIN = {"seed": 7, "guidance_scale": 2.0, "temperature": 0.75, "top_k": 9, "top_p": 0.5, "min_p": 0.25,
         "height": HEIGHT, "width": WIDTH, "block_size": 8}  # fmt: skip


@pytest.fixture(scope="module")
def drawn_longer(debug_checkpoint, drawn):
    """The tokens of those clips continued, each drawn once."""
    generator = VideoGenerator.from_pretrained(debug_checkpoint, device="cpu")

    @functools.cache
    def draw(**length):
        return generator.continue_clip(drawn(PROMPT, batch_size=1, **PLAIN, **length), **PLAIN, **length).tokens

    return draw


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_numpy_and_torch_are_numbers(debug_generator, drawn, drawn_longer, form):
    g, as_form = debug_generator, FORMS[form]
    given = {name: as_form(value) for name, value in PLAIN.items()}
    for call_options in ({"seconds": 0.5}, {"num_frames": 5}):
        length = {name: as_form(value) for name, value in call_options.items()}
        video = drawn(PROMPT, batch_size=1, **PLAIN, **call_options)
        other = g.generate(PROMPT, batch_size=as_form(1), **given, **length)
        assert np.array_equal(other.tokens, video.tokens)
        assert other.settings == video.settings
        assert type(other.seed) is int and type(other.settings["top_k"]) is int
        streamed = np.concatenate(list(g.stream(PROMPT, **given, **length)))
        assert np.array_equal(streamed, video.frames)
        longer = g.continue_clip(video, **given, **length)
        assert np.array_equal(longer.tokens, drawn_longer(**call_options))
    both = g.generate(PROMPT, seed=7, num_frames=1, num_videos_per_prompt=as_form(2))
    assert len(both) == 2


@pytest.mark.parametrize("as_form", [list, tuple, np.array, torch.tensor, lambda v: [np.int64(n) for n in v]])
def test_seeds_and_lengths_of_a_batch(debug_generator, as_form):
    videos = debug_generator.generate([PROMPT, OTHER], seed=as_form([3, 4]), num_frames=as_form([1, 5]))
    assert [(video.seed, len(video.frames)) for video in videos] == [(3, 1), (4, 5)]
    assert all(type(video.seed) is int for video in videos)
    videos = debug_generator.generate([PROMPT, OTHER], seed=1, seconds=as_form([1, 2]))
    assert [len(video.frames) for video in videos] == [9, 17]


def test_schedules_with_numbers_of_numpy(debug_generator):
    g, options = debug_generator, {"seed": 5, "num_frames": 13}
    turned = g.generate([(0, PROMPT), (1.0, OTHER)], temperature=[(0, 1.0), (0.5, 0.5)], **options)
    prompt = [(np.int64(0), np.str_(PROMPT)), (np.float32(1.0), OTHER)]
    same = g.generate(prompt, temperature=[(np.int64(0), np.float32(1.0)), (0.5, torch.tensor(0.5))], **options)
    assert isinstance(same, Video) and np.array_equal(same.tokens, turned.tokens)
    assert same.settings == turned.settings


NUMBERS = ("seconds", "num_frames", "seed", "guidance_scale", "temperature", "top_k", "top_p", "min_p", "height",
           "width", "block_size", "batch_size", "num_videos_per_prompt")  # fmt: skip
NO_NUMBERS = {"bool": True, "numpy bool": np.True_, "bool array": np.array(True), "bool tensor": torch.tensor(True),
              "text": "2", "matrix": np.zeros((2, 2)), "lists": [[1]]}  # fmt: skip


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.parametrize("option", NUMBERS)
def test_what_is_no_number_is_refused(nothing_is_computed, option, kind):
    with pytest.raises(ReelmError, match=f"{option}.*: must"):
        nothing_is_computed.generate(PROMPT, **{option: NO_NUMBERS[kind]})


def test_what_is_no_number_stays_as_it_is():
    condition = object()
    assert to_python([condition, (np.int64(3), np.arange(2))]) == [condition, (3, [0, 1])]
    pair = LatentFrame(0, 1, torch.zeros(2))
    assert to_python([pair])[0] is pair


@pytest.mark.parametrize("option", ["callback_on_step_end", "callback_on_tokens"])
def test_a_callback_that_cannot_be_called_is_refused_before_compute(nothing_is_computed, option):
    with pytest.raises(ReelmError, match=f"^{option}: must be callable"):
        nothing_is_computed.generate(PROMPT, **{option: 5})


# What is returned.


def test_one_prompt_gives_a_clip_and_a_list_gives_a_list(debug_generator):
    def kinds(prompt, **options):
        made = debug_generator.generate(prompt, seed=1, num_frames=1, **options)
        return len(made) if isinstance(made, list) else type(made)

    assert kinds(PROMPT) is Video
    assert kinds([(0, PROMPT)]) is Video
    assert kinds(None) is Video
    assert kinds([PROMPT]) == kinds((PROMPT,)) == kinds([[(0, PROMPT)]]) == 1
    assert kinds([PROMPT, [(0, OTHER)]]) == 2
    assert kinds(PROMPT, num_videos_per_prompt=1) == 1
    assert kinds([PROMPT, OTHER], num_videos_per_prompt=2) == 4


def same_frames(made, video, form):
    wanted = video.to(form)
    if form == "pil":
        assert all(isinstance(image, Image) for image in made)
        made, wanted = (np.stack([np.asarray(image) for image in images]) for images in (made, wanted))
    assert type(made) is type(wanted)
    assert bool((made == wanted).all())


@pytest.mark.parametrize("form", ["np", "pt", "pil"])
def test_frames_in_the_form_that_is_asked_for(debug_generator, form):
    g, options = debug_generator, {"seed": 3, "num_frames": 5}
    video = g.generate(PROMPT, **options)
    same_frames(g.generate(PROMPT, output_type=form, **options), video, form)
    listed = g.generate([PROMPT, PROMPT], output_type=form, **options)
    assert isinstance(listed, list) and len(listed) == 2
    same_frames(listed[1], g.generate([PROMPT, PROMPT], **options)[1], form)
    same_frames(g.generate(PROMPT, num_videos_per_prompt=1, output_type=form, **options)[0], video, form)
    longer = g.continue_clip(video, num_frames=4)
    same_frames(g.continue_clip(video, num_frames=4, output_type=form), longer, form)
    same_frames(g.decode(video.state, output_type=form), g.decode(video.state), form)


@pytest.mark.parametrize("form", ["numpy", "latent", 3, True, "", np.array(["np", "pt"])])
def test_an_unknown_form_of_frames_is_refused_before_compute(nothing_is_computed, tmp_path, form):
    g, message = nothing_is_computed, "^output_type: must be 'np', 'pt' or 'pil'"
    for made in (
        lambda: g.generate(PROMPT, output_type=form),
        lambda: g.generate([PROMPT], output_type=form),
        lambda: g.continue_clip(STILL, output_type=form),
        lambda: g.decode(tmp_path / "nowhere.safetensors", output_type=form),
    ):
        with pytest.raises(ReelmError, match=message):
            made()


# Streams.


def second_of(latent_frame):
    """The second at which a latent frame of the debug model begins."""
    return 0 if latent_frame == 0 else (1 + 4 * (latent_frame - 1)) / 8


@pytest.fixture(params=["here", "ahead"])
def threads(request, monkeypatch):
    """Streams that sample as they are asked, or in a thread a latent frame ahead."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(1 if request.param == "here" else 2))
    return request.param


def test_a_stream_says_what_it_is(debug_generator, threads):
    g, options = debug_generator, {"seed": 7, "num_frames": 13, "top_k": 9}
    video = g.generate([(0, PROMPT), (1.0, OTHER)], **options)
    stream = g.stream([(0, PROMPT), (1.0, OTHER)], **options)
    assert isinstance(stream, ClipStream)
    assert stream.tokens.shape == (0, ROWS, COLUMNS) and stream.tokens.dtype == np.int64
    assert (stream.fps, stream.seed, stream.prompt, stream.segments) == (8.0, 7, OTHER, {})
    for count, frames in enumerate(stream, 1):
        assert frames.shape == (1 if count == 1 else 4, HEIGHT, WIDTH, 3) and frames.dtype == np.uint8
        assert np.array_equal(stream.tokens, video.tokens[:count])
    assert count == 4
    assert stream.settings == video.settings


def test_a_stream_without_a_seed_has_one_that_makes_it_again(debug_generator):
    stream = debug_generator.stream(PROMPT, num_frames=5)
    frames = np.concatenate(list(stream))
    assert np.array_equal(debug_generator.generate(PROMPT, seed=stream.seed, num_frames=5).frames, frames)


def test_a_closed_stream_gives_nothing_more(debug_generator, threads):
    stream = debug_generator.stream(PROMPT, seed=1)
    next(stream)
    tokens = stream.tokens
    stream.close()
    stream.close()
    assert list(stream) == [] and np.array_equal(stream.tokens, tokens)
    with debug_generator.stream(PROMPT, seed=1) as stream:
        next(stream)
    assert list(stream) == []
    with pytest.raises(KeyError), debug_generator.stream(PROMPT, seed=1) as stream:
        raise KeyError
    assert list(stream) == []
    debug_generator.stream(PROMPT, seed=1).close()  # nothing was asked of it


def test_a_dropped_stream_stops_its_thread(debug_generator, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(2))
    before, passes = set(threading.enumerate()), []
    gc.disable()  # dropping it is enough: nothing waits for the collector
    try:
        stream = debug_generator.stream(PROMPT, seed=1, callback_on_step_end=lambda *_: passes.append(1))
        next(stream)
        assert set(threading.enumerate()) - before
        gone = weakref.ref(stream)
        del stream
        assert gone() is None
        assert not set(threading.enumerate()) - before
        count = len(passes)
        time.sleep(0.1)
        assert len(passes) == count
    finally:
        gc.enable()


@pytest.mark.parametrize("decoder", ["sequential", "jacobi"])
@pytest.mark.parametrize("handed_out", [0, 1, 3])
def test_control_is_a_schedule_that_is_written_later(debug_generator, drawn, threads, decoder, handed_out):
    g, options = debug_generator, {"seed": 11, "num_frames": 21}
    stream = g.stream(PROMPT, decoder=decoder, **options)
    list(itertools.islice(stream, handed_out))
    if threads == "ahead" and handed_out:
        time.sleep(0.2)  # the thread is through with the next latent frame, unless the cores are busy
    stream.control(prompt=OTHER)
    list(stream)
    starts = [start for start, _ in stream.settings["prompts"]]
    assert stream.prompt == OTHER
    if handed_out == 0:
        assert stream.settings["prompts"] == [[0, OTHER]]
        same = drawn(OTHER, **options)
    else:
        # The first that is not begun: the next, or one more where a thread or a block of drafts is ahead.
        assert handed_out <= starts[1] <= handed_out + (threads == "ahead") + (decoder == "jacobi")
        same = drawn(((0, PROMPT), (second_of(starts[1]), OTHER)), **options)
    assert np.array_equal(stream.tokens, same.tokens)
    assert stream.settings == same.settings
    assert not np.array_equal(stream.tokens, drawn(PROMPT, **options).tokens)


def test_control_of_temperature_and_by_schedules(debug_generator, threads):
    g, options = debug_generator, {"seed": 11, "num_frames": 37}
    stream = g.stream(PROMPT, temperature=1.5, **options)
    list(itertools.islice(stream, 2))
    stream.control(temperature=np.float32(0.5))
    list(itertools.islice(stream, 2))
    stream.control(prompt=[(0, OTHER), (1.0, PROMPT)], temperature=[(0, 0.25), (1.0, 2.0)])
    list(stream)
    settings = stream.settings
    assert [text for _, text in settings["prompts"]] == [PROMPT, OTHER, PROMPT]
    assert [value for _, value in settings["temperatures"]] == [1.5, 0.5, 0.25, 2.0]
    prompts = [(second_of(start), text) for start, text in settings["prompts"]]
    temperatures = [(second_of(start), value) for start, value in settings["temperatures"]]
    assert settings["prompts"][2][0] == settings["prompts"][1][0] + 2
    same = g.generate(prompts, temperature=temperatures, **options)
    assert np.array_equal(stream.tokens, same.tokens)


@pytest.mark.parametrize(("wish", "message"), [
    ({"prompt": ""}, "prompt: must not be empty"),
    ({"prompt": 3}, "prompt: must be a string"),
    ({"prompt": [OTHER, PROMPT]}, "prompt: must be a single one"),
    ({"prompt": [(1, OTHER)]}, "prompt: must begin at second 0"),
    ({"temperature": "hot"}, "temperature: must"),
    ({"temperature": 0}, "temperature: must be above 0"),
    ({"temperature": -1.0}, "temperature: must"),
    ({"temperature": True}, "temperature: must"),
    ({"temperature": [(0, 0.0)]}, "temperature: must be between"),
    ({"prompt": OTHER, "temperature": float("nan")}, "temperature: must"),
    ({"controls": {"action": [1]}}, "controls: must"),
    ({"controls": [1]}, "controls: must"),
])  # fmt: skip
def test_a_bad_control_raises_and_changes_nothing(debug_generator, drawn, threads, wish, message):
    video = drawn(PROMPT, seed=3, num_frames=9)
    stream = debug_generator.stream(PROMPT, seed=3, num_frames=9)
    next(stream)
    with pytest.raises(ReelmError, match=message):
        stream.control(**wish)
    list(stream)
    assert np.array_equal(stream.tokens, video.tokens)
    assert stream.settings == video.settings


def test_control_after_the_last_latent_frame_was_begun_changes_nothing(debug_generator):
    video = debug_generator.generate(PROMPT, seed=3, num_frames=5)
    stream = debug_generator.stream(PROMPT, seed=3, num_frames=5)
    frames = list(itertools.islice(stream, 2))
    stream.control(prompt=OTHER)
    assert list(stream) == [] and len(frames) == 2
    assert stream.settings == video.settings and stream.prompt == PROMPT


@pytest.mark.parametrize("options", [
    {"seconds": 10**400}, {"guidance_scale": 10**400}, {"temperature": 10**400}, {"min_p": 10**30},
    {"temperature": [(0, 1), (1e308, 0.5), (1.7e308, 0.4)]}, pytest.param({"seed": 10**5000}, id="longest"),
])  # fmt: skip
def test_numbers_beyond_64_bits_are_refused(debug_generator, options):
    (name,) = options
    with pytest.raises(ReelmError, match=f"^{name}: must be"):
        debug_generator.generate("a red ball", **options)


@pytest.mark.parametrize("top_k", [25, 10**6, 2**63, 10**30, pytest.param(10**5000, id="longest")])
def test_any_large_top_k_means_all(debug_generator, top_k, tmp_path):
    options = {"seed": 1, "num_frames": 5}
    video = debug_generator.generate(PROMPT, top_k=top_k, **options)
    assert np.array_equal(video.tokens, debug_generator.generate(PROMPT, **options).tokens)
    kept = top_k if top_k < 2**63 else None
    assert Video.load(video.save(tmp_path / "a.mkv")).settings["top_k"] == kept


def no_numbers(value):
    """A processor that sets all scores, or one, to a value."""
    return lambda ids, scores: scores.fill_(value[0]) if len(value) == 1 else scores.index_fill(-1, value[1], value[0])


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda ids, scores: None, "must return scores, a floating-point tensor of shape (1, 25) on cpu, also where it"),
    (lambda ids, scores: (scores.fill_(0), None)[1], "also where it changes them in place, got None"),
    (lambda ids, scores: scores.numpy(), "tensor of shape (1, 25) on cpu, got 'ndarray'"),
    (lambda ids, scores: scores[:, :3], "got ((1, 3), 'torch.float32', 'cpu')"),
    (lambda ids, scores: scores.expand(2, -1), "got ((2, 25), 'torch.float32', 'cpu')"),
    (lambda ids, scores: scores.long(), "got ((1, 25), 'torch.int64', 'cpu')"),
    (lambda ids, scores: scores.to("meta"), "got ((1, 25), 'torch.float32', 'meta')"),
    (no_numbers((float("nan"),)), "must return no NaN and allow a token in each row, got 'best scores [nan]'"),
    (no_numbers((float("nan"), torch.tensor([4]))), "must return no NaN and allow a token"),
    (no_numbers((-torch.inf,)), "must return no NaN and allow a token in each row, got 'best scores [-inf]'"),
    (lambda ids, scores: next(iter([])), "must return scores, got StopIteration"),
])  # fmt: skip
def test_a_processor_that_returns_no_scores_is_refused_by_name(debug_generator, wrong, message):
    class Mine:
        def __call__(self, ids, scores):
            return wrong(ids, scores)

    with pytest.raises(ReelmError, match=r"^logits_processor .*Mine: .*" + re.escape(message)):
        debug_generator.generate("a red ball", num_frames=1, logits_processor=[lambda ids, scores: scores, Mine()])


def test_scores_of_other_floating_point_numbers_are_taken(debug_generator):
    def forced(ids, scores):
        return torch.full_like(scores, -torch.inf, dtype=torch.float64).index_fill(-1, torch.tensor([7]), 0.0)

    assert (debug_generator.generate("a red ball", num_frames=1, logits_processor=forced).tokens == 7).all()


@pytest.mark.parametrize("decoder", ["sequential", "jacobi", "diagonal"])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_a_model_without_logits_is_named(debug_generator, monkeypatch, decoder, broken):
    """Its clip must not end as one of token 0."""
    lm = debug_generator.parts.lm
    step = lm.step
    monkeypatch.setattr(lm, "step", lambda cache, *a: step(cache, *a).fill_(broken), raising=False)
    rule = r"^model VideoTransformer: must give a finite largest logit"
    with pytest.raises(ReelmError, match=rule):
        debug_generator.generate("a red ball", num_frames=1, decoder=decoder)
    with pytest.raises(ReelmError, match=rule):
        debug_generator.score(np.zeros((1, 32, 48, 3), np.uint8))


def test_a_negative_prompt_needs_the_guidance_of_the_clip_that_is_continued(debug_generator):
    clip = debug_generator.generate("a red ball", num_frames=1, seed=1, guidance_scale=1)
    with pytest.raises(ReelmError, match=r"^negative_prompt: needs guidance_scale other than 1"):
        debug_generator.continue_clip(clip, num_frames=4, negative_prompt="a blue ring")
    debug_generator.continue_clip(clip, num_frames=4, negative_prompt="a blue ring", guidance_scale=2)


def test_what_is_no_session_is_refused(debug_generator):
    clip = debug_generator.generate("a red ball", num_frames=1, seed=1)
    for wrong in (clip, None, 3):
        with pytest.raises(ReelmError, match=r"^session: must be a session or the path of one"):
            debug_generator.decode(wrong)


def test_what_is_no_path_is_refused(debug_generator):
    clip = debug_generator.generate("a red ball", num_frames=1, seed=1)
    for call, argument in (
        (Video.load, "clip"), (clip.save, "output"), (clip.state.save, "session"),
        (type(debug_generator).from_pretrained, "model"),
    ):  # fmt: skip
        for wrong in (3, None, b"a.mp4"):
            with pytest.raises(ReelmError, match=rf"^{argument}: must be a path, got "):
                call(wrong)


def test_switches_are_true_or_false(debug_generator):
    clip = debug_generator.generate("a red ball", num_frames=1, seed=1)
    for wrong in (0, 1, "no", None):
        with pytest.raises(ReelmError, match=r"^detail: must be True or False, got "):
            debug_generator.continue_clip(clip, num_frames=4, detail=wrong)
    with pytest.raises(ReelmError, match=r"^keep_state: must be True or False, got "):
        debug_generator.generate("a red ball", num_frames=1, keep_state="no")
    assert debug_generator.generate("a red ball", num_frames=1, keep_state=np.True_).state.cache


def test_a_frame_rate_of_numpy_is_saved_and_none_is_refused(debug_generator, tmp_path):
    frames = debug_generator.generate("a red ball", num_frames=5, seed=1).frames
    for fps in (np.float32(8), np.int64(8)):
        assert Video.load(Video(frames, fps).save(tmp_path / "a.mkv")).fps == 8.0
    for wrong in ("8", None, True, float("nan"), 10**400):
        with pytest.raises(ReelmError, match=r"^fps: must be finite and above 0"):
            Video(frames, wrong)


def test_a_steered_stream_is_continued_under_another_prompt(debug_generator):
    stream = debug_generator.stream(None, num_frames=13, seed=4)
    next(stream)
    stream.control(prompt="a red ball")
    frames = np.concatenate([*stream])
    settings = stream.settings
    assert settings["prompts"][0] == [0, ""] and len(settings["prompts"]) == 2
    clip = Video(
        np.concatenate([np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), frames]), 8.0, tokens=stream.tokens, seed=4,
        settings=settings,
    )  # fmt: skip
    longer = debug_generator.continue_clip(clip, num_frames=4, prompt="a blue ring")
    assert longer.settings["prompts"][-1] == [4, "a blue ring"]


def test_the_temperature_of_a_greedy_stream_stays(debug_generator):
    stream = debug_generator.stream("a red ball", num_frames=9, seed=1, temperature=0)
    next(stream)
    with pytest.raises(ReelmError, match=r"^temperature: must be above 0 where it changes, and before"):
        stream.control(temperature=0.7)
    assert len([*stream]) == 2


@pytest.mark.parametrize("options", [
    {"decoder": "none"}, {"batch_size": 0}, {"conditions": 5}, {"seconds": 80000.0, "keep_state": True},
    {"logits_processor": lambda ids, scores: None}, {"callback_on_tokens": 3},
])  # fmt: skip
def test_a_refused_call_leaves_generators_where_they_were(debug_generator, options, monkeypatch):
    monkeypatch.setattr("reelm.generation.admission.available_memory", lambda _: 10**9)
    generators = [torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)]
    with pytest.raises(ReelmError):
        debug_generator.generate([PROMPT, OTHER], generator=generators, **options)
    fresh = [torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)]
    for mine, other in zip(generators, fresh, strict=True):
        assert torch.equal(mine.get_state(), other.get_state())
    one, again = generators[0], fresh[0]
    with pytest.raises(ReelmError, match=r"^clip: "):
        debug_generator.continue_clip("nowhere.mp4", generator=one)
    assert torch.equal(one.get_state(), again.get_state())
    debug_generator.generate(PROMPT, generator=one, num_frames=1)
    assert not torch.equal(one.get_state(), again.get_state())
