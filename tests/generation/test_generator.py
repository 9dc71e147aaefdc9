import dataclasses
import itertools
import os
import shutil
import threading

import numpy as np
import pytest
import torch

from reelm import VideoGenerator
from reelm.core.checkpoint import load_tensors, save_tensors
from reelm.core.errors import ReelmError
from reelm.generation.pretrained import load_pretrained
from reelm.generation.video import Video

PROMPT, OTHER = "a red ball moves left", "a blue ring spins over grass"
HEIGHT, WIDTH, FRAME_SIZE = 32, 48, 24  # of the debug model


def nearly(frames, others):
    """The same pixels, but for the rounding of one level where the last bits of a float differ."""
    return frames.shape == others.shape and np.abs(frames.astype(int) - others.astype(int)).max() <= 1


def test_the_same_prompt_and_seed_give_the_same_tokens_everywhere(ordered_generator, tmp_path):
    """Alone, in a batch, as one of several samples, streamed, and continued from a saved file."""
    g = ordered_generator
    alone = g.generate(PROMPT, seed=7, num_frames=25)
    batch = g.generate([OTHER, PROMPT, OTHER, PROMPT], seed=[1, 7, 2, 3], num_frames=25)
    assert np.array_equal(batch[1].tokens, alone.tokens)
    assert nearly(batch[1].frames, alone.frames)
    assert not np.array_equal(batch[3].tokens, alone.tokens)
    samples = g.generate(PROMPT, seed=7, num_frames=25, num_videos_per_prompt=2)
    assert np.array_equal(samples[0].tokens, alone.tokens)
    assert not np.array_equal(samples[1].tokens, alone.tokens)
    streamed = np.concatenate(list(g.stream(PROMPT, seed=7, num_frames=25)))
    assert np.array_equal(streamed, alone.frames)
    start = g.generate(PROMPT, seed=7, num_frames=9)
    assert np.array_equal(g.continue_clip(start, num_frames=16).tokens, alone.tokens)
    second = g.generate(PROMPT, seed=7, num_frames=9, num_videos_per_prompt=2)[1].save(tmp_path / "second.mp4")
    assert np.array_equal(g.continue_clip(second, num_frames=16).tokens, samples[1].tokens)
    for name in ("start.mp4", "start.mkv", "start.webp"):
        path = start.save(tmp_path / name)
        for clip in (path, str(path), Video.load(path)):
            longer = g.continue_clip(clip, num_frames=16)
            assert np.array_equal(longer.tokens, alone.tokens)
            assert nearly(longer.frames[9:], alone.frames[9:])


def test_a_continuation_starts_with_the_given_frames(debug_generator):
    given = np.random.default_rng(0).integers(0, 256, (11, HEIGHT, WIDTH, 3), dtype=np.uint8)
    longer = debug_generator.continue_clip(given, seconds=1, seed=0)
    assert np.array_equal(longer.frames[:11], given)
    assert len(longer.frames) == 11 + 8
    # The first two frames do not fill a latent frame: they are shown, but have no tokens.
    assert len(longer.tokens) == 1 + 2 + 2
    again = debug_generator.continue_clip(longer, seconds=1, seed=0)
    assert np.array_equal(again.tokens[:5], longer.tokens)
    assert np.array_equal(again.frames[: len(longer.frames)], longer.frames)


@pytest.mark.parametrize("shape", [(1, 30, 50, 3), (40, 50, 3), (5, 3, 100, 20), (6, 33, 17, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_arrays_of_any_shape_are_continued(debug_generator, shape, kind):
    values = np.random.default_rng(0).random(shape)
    clip = (values * 255).astype(np.uint8) if kind is np.uint8 else values.astype(np.float32)
    longer = debug_generator.continue_clip(clip, num_frames=4, seed=1)
    assert longer.frames.shape[1:] == (HEIGHT, WIDTH, 3)


def test_fit_changes_how_a_wide_picture_is_shown(debug_generator):
    clip = np.zeros((1, 40, 120, 3), np.uint8)
    clip[:, :, 60:] = 255
    shown = [
        debug_generator.continue_clip(clip, num_frames=4, seed=1, fit=fit).frames[0]
        for fit in ("crop", "pad", "stretch")
    ]
    for first, second in itertools.combinations(shown, 2):
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_stream_samples_ahead_where_there_are_cores_for_it(debug_generator, monkeypatch, cores):
    g, threads = debug_generator, set()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    seen = lambda *_: threads.add(threading.current_thread())  # noqa: E731
    streamed = list(g.stream(PROMPT, seed=7, num_frames=25, callback_on_step_end=seen))
    assert np.array_equal(np.concatenate(streamed), g.generate(PROMPT, seed=7, num_frames=25).frames)
    assert (threads == {threading.main_thread()}) == (cores == 1)

    with torch.inference_mode():  # which a thread does not have by itself
        assert np.array_equal(np.concatenate(list(g.stream(PROMPT, seed=7, num_frames=25))), np.concatenate(streamed))

    def fails(*_):
        raise KeyError("of the callback")

    with pytest.raises(KeyError, match="of the callback"):
        list(g.stream(PROMPT, num_frames=9, callback_on_step_end=fails))


def test_a_stream_without_an_end_goes_on_and_stops_when_dropped(debug_generator):
    stream = debug_generator.stream(PROMPT, seed=1)
    parts = list(itertools.islice(stream, 12))
    stream.close()
    assert [len(part) for part in parts] == [1] + [4] * 11
    assert parts[0].dtype == np.uint8


@pytest.mark.parametrize(("options", "frames"), [
    ({}, 17), ({"seconds": 2}, 17), ({"seconds": 0.1}, 1), ({"num_frames": 1}, 1), ({"num_frames": 2}, 5),
    ({"seconds": 3.0}, 25),
])  # fmt: skip
def test_lengths_are_filled_up_to_whole_latent_frames(debug_generator, options, frames):
    video = debug_generator.generate(PROMPT, seed=1, **options)
    assert video.frames.shape == (frames, HEIGHT, WIDTH, 3)
    assert len(video.tokens) == 1 + (frames - 1) // 4


@pytest.fixture(scope="module")
def plain_tokens(debug_checkpoint):
    """The tokens of a clip with all options as they are, drawn once."""
    generator = VideoGenerator.from_pretrained(debug_checkpoint, device="cpu")
    return generator.generate(PROMPT, seed=7, num_frames=5).tokens


@pytest.mark.parametrize("options", [
    {"guidance_scale": 1.0}, {"guidance_scale": 6.0}, {"temperature": 0.3}, {"temperature": 0}, {"top_k": 2},
    {"top_p": 0.2}, {"min_p": 0.7}, {"negative_prompt": OTHER}, {"seed": 8},
    {"logits_processor": lambda ids, scores: scores.flip(-1)},
])  # fmt: skip
def test_every_option_changes_the_tokens(debug_generator, plain_tokens, options):
    other = debug_generator.generate(PROMPT, **({"seed": 7, "num_frames": 5} | options))
    assert not np.array_equal(plain_tokens, other.tokens)


def test_a_torch_generator_is_a_seed(debug_generator):
    def tokens(seed):
        return debug_generator.generate(PROMPT, generator=torch.Generator().manual_seed(seed), num_frames=1).tokens

    assert np.array_equal(tokens(3), tokens(3))
    assert not np.array_equal(tokens(3), tokens(4))


def test_a_logits_processor_sees_what_came_before(debug_generator):
    lengths = []

    def watch(ids, scores):
        lengths.append(ids.shape[1])
        return scores

    video = debug_generator.generate([PROMPT, OTHER], seed=1, num_frames=5, logits_processor=[watch])[0]
    assert lengths == list(range(video.tokens.size))
    lengths.clear()
    debug_generator.continue_clip(video, num_frames=4, logits_processor=watch)
    assert lengths == list(range(video.tokens.size, video.tokens.size + FRAME_SIZE))


@pytest.mark.parametrize("decoder", ["sequential", "jacobi"])
def test_the_callback_hears_of_every_token_in_order(ordered_generator, decoder):
    heard, lm = [], ordered_generator.parts.lm
    videos = ordered_generator.generate(
        [PROMPT, OTHER], seed=1, num_frames=5, decoder=decoder,
        callback_on_step_end=lambda passes, new: heard.append((passes, [tokens.tolist() for tokens in new])),
    )  # fmt: skip
    assert [passes for passes, _ in heard] == list(range(1, videos[0].stats["passes"] + 1))
    for clip, video in enumerate(videos):
        wanted = lm.layout.pack({"video": torch.from_numpy(video.tokens)}).flatten().tolist()
        assert [token for _, new in heard for token in new[clip]] == wanted


def test_a_result_says_how_it_came_about(debug_generator):
    video = debug_generator.generate(PROMPT, seed=7, num_frames=5, top_k=9)
    assert (video.prompt, video.seed, video.fps) == (PROMPT, 7, 8.0)
    assert video.settings["top_k"] == 9
    assert video.stats["tokens"] == 2 * FRAME_SIZE
    assert (video.stats["decoder"], video.stats["exactness"]) == ("jacobi", "lossless")
    assert sum(size * times for size, times in video.stats["accepted"].items()) == 2 * FRAME_SIZE
    assert video.stats["tokens_per_pass"] == 2 * FRAME_SIZE / video.stats["passes"] > 1
    assert video.stats["tokens_per_second"] > 0


def test_a_prompt_that_is_too_long_is_cut_and_what_is_kept_is_shown(debug_generator, capsys):
    words = "a red ball moves left over grass " * 6
    kept = " ".join(words.split()[:31])
    video = debug_generator.generate(words, seed=1, num_frames=5)
    said = f"warning: prompt: is too long for the model, which reads the first 31 of 42 words: {kept!r}\n"
    assert capsys.readouterr().err == said
    assert video.prompt == kept
    assert np.array_equal(video.tokens, debug_generator.generate(kept, seed=1, num_frames=5).tokens)
    assert np.array_equal(debug_generator.continue_clip(video, num_frames=4).tokens[:2], video.tokens)
    assert capsys.readouterr().err == ""


def test_a_change_after_the_end_is_said(debug_generator, capsys):
    late = "a blue ring"
    debug_generator.generate([(0, "a red ball"), (0.5, "a ring"), (2, late)], seconds=1, temperature=[(0, 1), (9, 0.5)])
    said = "begins after the end of the clip; only a continuation comes to it\n"
    assert capsys.readouterr().err == f"warning: prompt: {late!r} {said}warning: temperature: 0.5 {said}"
    both = [[(0, "a red ball"), (0.5, late)], "a ball"]
    debug_generator.generate(both, seconds=[1, 0.1], temperature=[(0, 1), (0.6, 2)])
    assert capsys.readouterr().err == ""


def test_takes_are_samples_of_one_continuation(debug_generator):
    video = debug_generator.generate("a red ball", num_frames=9, seed=3)
    long = debug_generator.generate("a red ball", num_frames=17, seed=3, num_videos_per_prompt=3)
    alone = debug_generator.continue_clip(video, num_frames=8)
    takes = debug_generator.continue_clip(video, num_frames=8, num_videos_per_prompt=3)
    for source in (video, dataclasses.replace(video, state=None)):  # with its cache, and from its tokens alone
        again = debug_generator.continue_clip(source, num_frames=8, num_videos_per_prompt=3)
        assert all(np.array_equal(one.tokens, other.tokens) for one, other in zip(takes, again, strict=True))
    assert np.array_equal(takes[0].tokens, alone.tokens) and np.array_equal(takes[0].frames, alone.frames)
    assert np.array_equal(takes[0].tokens, long[0].tokens)
    assert [take.settings["sample"] for take in takes] == [0, 1, 2]
    assert len({take.tokens.tobytes() for take in takes}) == 3
    assert all(np.array_equal(take.tokens[:3], video.tokens) for take in takes)
    clip = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    (first, second) = debug_generator.continue_clip(clip, num_frames=4, seed=7, num_videos_per_prompt=2)
    assert np.array_equal(first.tokens, debug_generator.continue_clip(clip, num_frames=4, seed=7).tokens)
    assert (second.seed, second.settings["sample"]) == (7, 1)
    assert np.array_equal(second.frames[:5], clip)
    (frames,) = debug_generator.continue_clip(clip, num_frames=4, seed=7, num_videos_per_prompt=1, output_type="np")
    assert frames.shape == (9, 32, 48, 3)


def test_unknown_words_are_said(debug_generator, capsys):
    debug_generator.generate("a red zebra ballz ed", seed=1, num_frames=1)
    known = len(debug_generator.parts.lm.known_words)
    assert capsys.readouterr().err == (
        "warning: prompt: the model does not know the words 'zebra', 'ballz' (did you mean 'ball'?), 'ed'; "
        f"reelm info --words lists the {known} that it knows\n"
    )


BAD = [
    ({"prompt": ""}, "prompt: must not be empty"),
    ({"prompt": "  "}, "prompt: must not be empty"),
    ({"prompt": [PROMPT, "?!"]}, "prompt: must have words in it"),
    ({"prompt": []}, "prompt: must hold at least one"),
    ({"prompt": 3}, "prompt: must be a string"),
    ({"seconds": 0}, "seconds: must be a number above 0, got 0"),
    ({"seconds": -1.0}, "seconds: must"),
    ({"seconds": float("nan")}, "seconds: must"),
    ({"seconds": 1e9}, "must be at most a day"),
    ({"num_frames": 0}, "num_frames: must"),
    ({"num_frames": 2.5}, "num_frames: must"),
    ({"seconds": 1, "num_frames": 9}, "must not both be given"),
    ({"height": 31}, "height: must be 32"),
    ({"width": 100_000}, "width: must be 48"),
    ({"top_k": 0}, "top_k: must"),
    ({"top_p": 1.5}, "top_p: must"),
    ({"temperature": -1}, "temperature: must"),
    ({"temperature": "hot"}, "temperature: must be a finite number"),
    ({"guidance_scale": float("nan")}, "guidance_scale: must"),
    ({"guidence_scale": 3}, "guidence_scale: is no option"),
    ({"seed": [1, 2, 3]}, "seed: must be one, or one for each of the 1 prompts"),
    ({"prompt": [PROMPT] * 2, "seed": [1, 2, 3]}, "seed: must be one, or one for each of the 2 prompts"),
    ({"seed": -1}, "seed: must be a whole number"),
    ({"seed": 1.5}, "seed: must be a whole number"),
    ({"seed": 1, "generator": torch.Generator()}, "must not both be given"),
    ({"generator": 7}, "generator: must be a torch.Generator"),
    ({"num_videos_per_prompt": 0}, "num_videos_per_prompt: must"),
    ({"negative_prompt": [OTHER] * 2}, "negative_prompt: must be one, or one for each of the 1 prompts"),
    ({"negative_prompt": OTHER, "guidance_scale": 1}, "negative_prompt: needs guidance_scale"),
    ({"logits_processor": 5}, "must be callable"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: value[:40] if isinstance(value, str) else None)
def test_a_bad_argument_is_refused_before_any_compute(debug_generator, monkeypatch, options, message):
    monkeypatch.setattr(type(debug_generator.parts.lm), "step", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(type(debug_generator.parts.lm), "prefill", lambda *_: pytest.fail("computed"))
    options = {"prompt": PROMPT, "num_frames": 5} | options
    if "seconds" in options and "num_frames" not in {k for k in options if options[k] == 9}:
        options.pop("num_frames")
    with pytest.raises(ReelmError, match=message):
        debug_generator.generate(**options)


@pytest.mark.parametrize(("clip", "message"), [
    ("nowhere.mp4", "nowhere.mp4"),
    (np.full((2, 8, 8, 3), np.nan), "finite|NaN|nan"),
    (np.zeros((2, 8, 8, 5), np.uint8), "must"),
    (np.zeros((2, 4, 8, 3), np.uint8), "ambiguous"),
    (np.zeros((0, 8, 8, 3), np.uint8), "must"),
])  # fmt: skip
def test_a_bad_clip_is_refused(debug_generator, clip, message):
    with pytest.raises(ValueError, match=message):
        debug_generator.continue_clip(clip, num_frames=4)


def test_a_clip_is_continued_once(debug_generator):
    with pytest.raises(ReelmError, match="must be a single one to continue"):
        debug_generator.continue_clip(np.zeros((1, 8, 8, 3), np.uint8), num_frames=4, prompt=[PROMPT, OTHER])
    with pytest.raises(ReelmError, match="batch_size: is no option of continue_clip; generate has it"):
        debug_generator.continue_clip(np.zeros((1, 8, 8, 3), np.uint8), num_frames=4, batch_size=2)


@pytest.mark.parametrize("options", [{"seconds": 0}, {"top_k": 0}, {"seed": [1, 2]}, {"prompt": ""}, {"fit": "squash"}])
def test_a_bad_continuation_is_refused_before_the_clip_is_encoded(debug_generator, monkeypatch, options):
    monkeypatch.setattr(type(debug_generator.parts.tokenizer), "encode_chunk", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(ReelmError, match=next(iter(options))):
        debug_generator.continue_clip(np.zeros((1, 8, 8, 3), np.uint8), **options)


@pytest.mark.parametrize("seed", [-1, 2**70, None])
def test_a_clip_whose_file_tells_no_usable_seed_is_continued(debug_generator, seed):
    video = debug_generator.generate(PROMPT, seed=1, num_frames=1)
    video.seed = seed
    assert len(debug_generator.continue_clip(video, num_frames=4).frames) == 5


def test_an_unknown_fit_is_refused(debug_generator):
    with pytest.raises(ReelmError, match="fit: must be one of"):
        debug_generator.continue_clip(np.zeros((1, 8, 8, 3), np.uint8), fit="squash")


def test_real_footage_is_continued(debug_generator, footage, capsys):
    longer = debug_generator.continue_clip(footage / "bigbuckbunny.mp4", seconds=1, seed=1)
    assert longer.frames.shape == (43 + 8, HEIGHT, WIDTH, 3) or len(longer.frames) == 42 + 8
    assert "1280x720" in capsys.readouterr().err


def test_tokens_of_another_tokenizer_are_not_taken_over(debug_generator):
    video = debug_generator.generate(PROMPT, seed=1, num_frames=5)
    video.settings["tokenizer"] = "another"
    longer = debug_generator.continue_clip(video, num_frames=4, seed=2)
    assert not np.array_equal(longer.tokens[:2], video.tokens)


def test_tokens_are_taken_over_by_a_model_with_another_decoder(debug_checkpoint, tmp_path):
    shutil.copytree(debug_checkpoint, tmp_path / "other")
    path, ids = tmp_path / "other" / "tokenizer.safetensors", []
    for part in ("decoder.head.bias", "encoder.head.1.bias"):
        tensors = load_tensors(path)
        save_tensors(path, tensors | {part: tensors[part] + 1})
        ids.append(load_pretrained(tmp_path / "other", device="cpu").tokenizer_id)
    own = load_pretrained(debug_checkpoint, device="cpu").tokenizer_id
    assert ids[0] == own != ids[1]


def test_a_clip_goes_on_with_the_settings_that_it_was_made_with(debug_generator, tmp_path):
    g = debug_generator
    options = {"seed": 7, "temperature": 0.8, "top_k": 9, "guidance_scale": 2.0, "negative_prompt": OTHER}
    whole = g.generate(PROMPT, num_frames=17, **options)
    start = g.generate(PROMPT, num_frames=9, **options).save(tmp_path / "start.mp4")
    assert np.array_equal(g.continue_clip(start, num_frames=8).tokens, whole.tokens)
    for change in ({"top_k": 3}, {"seed": 8}, {"negative_prompt": PROMPT}, {"prompt": OTHER}, {"temperature": 0.3}):
        assert not np.array_equal(g.continue_clip(start, num_frames=8, **change).tokens, whole.tokens), change


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"temperature": "hot"}, {"negative_prompt": 7}, {"sample": -1}])
def test_settings_that_make_no_sense_in_a_file_are_passed_over(debug_generator, settings):
    video = debug_generator.generate(PROMPT, seed=7, num_frames=5)
    video.settings |= settings
    assert np.array_equal(debug_generator.continue_clip(video, num_frames=4, seed=1).tokens[:2], video.tokens)
