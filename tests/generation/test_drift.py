"""Drift reports of clips that were made by hand, so that the figures are known."""

import json
import math

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.generation.drift import drift
from reelm.generation.video import Video

HEIGHT, WIDTH, ROWS, COLUMNS = 32, 48, 4, 6  # of the debug model


@pytest.fixture(scope="module")
def generator(debug_checkpoint):
    from reelm import VideoGenerator

    return VideoGenerator.from_pretrained(debug_checkpoint, device="cpu")


@pytest.fixture
def parts(generator):
    return generator.parts


def make_video(parts, frames, tokens):
    return Video(frames.astype(np.uint8), 8.0, tokens, settings={"tokenizer": parts.tokenizer_id})


def column(report, name):
    return [window[name] for window in report["windows"]]


def test_a_constant_clip_drifts_nowhere(parts):
    frames = np.broadcast_to(np.array([255, 51, 0]), (41, HEIGHT, WIDTH, 3))
    report = drift(parts, make_video(parts, frames, np.full((11, ROWS, COLUMNS), 3)))
    assert column(report, "latent_frames") == [5, 5, 1]  # the model's window, and what is left
    assert column(report, "start_seconds") == [0, 17 / 8, 37 / 8]
    assert column(report, "end_seconds") == [17 / 8, 37 / 8, 41 / 8]
    assert column(report, "token_entropy_nats") == [0, 0, 0]
    assert column(report, "repeated_tokens") == [1, 1, 1]
    assert [column(report, name) for name in ("red", "green", "blue")] == [[1] * 3, [0.2] * 3, [0] * 3]
    assert column(report, "colour_distance") == column(report, "sharpness") == [0, 0, 0]
    assert column(report, "sharpness_ratio") == [None] * 3
    json.dumps(report, allow_nan=False)


def test_noise_is_as_varied_and_sharp_as_noise_is(parts):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 25, (108, ROWS, COLUMNS))
    frames = np.broadcast_to(rng.integers(0, 256, (429, HEIGHT, WIDTH, 1)), (429, HEIGHT, WIDTH, 3))
    report = drift(parts, make_video(parts, frames, tokens), window_seconds=27.0)
    assert column(report, "latent_frames") == [54, 54]
    assert column(report, "token_entropy_nats") == pytest.approx([math.log(25)] * 2, abs=0.03)
    assert column(report, "repeated_tokens") == pytest.approx([1 / 25] * 2, abs=0.02)
    assert column(report, "sharpness_ratio") == pytest.approx([1, 1], abs=0.01)
    grey = frames[..., 0] / 255
    gaps = sum(np.roll(grey, shift, axis) for shift in (1, -1) for axis in (1, 2)) - 4 * grey
    wanted = np.abs(gaps[:213, 1:-1, 1:-1]).mean()
    assert report["windows"][0]["sharpness"] == pytest.approx(wanted)
    assert report["windows"][0]["red"] == pytest.approx(grey[:213].mean())


def test_tokens_are_compared_with_those_before_the_window(parts):
    tokens = np.zeros((6, ROWS, COLUMNS), np.int64)
    tokens[2:] = 1  # all change as the second window of two latent frames begins
    tokens[5, :1] = 7  # a quarter
    report = drift(parts, tokens, window_seconds=1.0)
    assert column(report, "repeated_tokens") == [1, 0.5, (1 + 0.75) / 2]
    entropy = -(7 / 8 * math.log(7 / 8) + 1 / 8 * math.log(1 / 8))
    assert column(report, "token_entropy_nats") == pytest.approx([0, 0, entropy])


def test_a_clip_that_blurs_loses_sharpness_and_keeps_its_colour(parts):
    rng = np.random.default_rng(1)
    picture = np.repeat(rng.integers(0, 2, (HEIGHT, WIDTH, 1)) * 255.0, 3, 2)
    frames = []
    for _ in range(4):
        frames += [picture] * (1 if not frames else 4)
        around = [np.roll(picture, (down, across), (0, 1)) for down in (-1, 0, 1) for across in (-1, 0, 1)]
        picture = sum(around) / 9
    video = make_video(parts, np.stack(frames), np.zeros((4, ROWS, COLUMNS), np.int64))
    report = drift(parts, video, window_seconds=0.5)
    ratios = column(report, "sharpness_ratio")
    assert ratios[0] == 1
    assert 0.3 > ratios[1] > 1.5 * ratios[2] > 2 * ratios[3] > 0
    assert max(column(report, "colour_distance")) < 0.01


def test_a_clip_that_fades_goes_away_from_its_first_colour(parts):
    light = np.array([1.0, 0.8, 0.6, 0.0]).repeat(4)[3:, None, None, None]
    frames = light * np.broadcast_to(np.array([200, 100, 50]), (13, HEIGHT, WIDTH, 3))
    frames[:, ::2] *= 0.5
    report = drift(parts, make_video(parts, frames, np.zeros((4, ROWS, COLUMNS), np.int64)), window_seconds=0.5)
    full = np.linalg.norm([200, 100, 50]) * 0.75 / 255
    assert column(report, "colour_distance") == pytest.approx([0, 0.2 * full, 0.4 * full, full])
    assert column(report, "sharpness_ratio") == pytest.approx([1, 0.8, 0.6, 0])
    assert column(report, "green")[0] == pytest.approx(75 / 255)


@pytest.mark.parametrize(("channel", "weight"), [(0, 0.299), (1, 0.587), (2, 0.114)])
def test_an_edge_is_as_sharp_as_it_is_bright(parts, channel, weight):
    frames = np.zeros((1, HEIGHT, WIDTH, 3))
    frames[:, :, WIDTH // 2 :, channel] = 255
    (window,) = drift(parts, make_video(parts, frames, np.zeros((1, ROWS, COLUMNS), np.int64)))["windows"]
    assert window["sharpness"] == pytest.approx(weight * 2 / (WIDTH - 2))  # the columns on both sides of it


def test_a_clip_shorter_than_a_window_is_one_window(parts, capsys):
    report = drift(parts, np.zeros((HEIGHT, WIDTH, 3), np.uint8), window_seconds=3600)
    assert column(report, "latent_frames") == [1]
    assert column(report, "repeated_tokens") == [None]
    assert (report["window_latent_frames"], report["window_seconds"]) == (7200, 3600.0)
    heading, row = str(report).splitlines()
    assert heading.split()[:3] == ["seconds", "to", "entropy"]
    assert row.split() == ["0.00", "0.12", f"{report['windows'][0]['token_entropy_nats']:.3f}", "-"] + ["0.000"] * 4 + [
        "0.0000", "-",
    ]  # fmt: skip
    assert len(drift(parts, np.zeros((9, HEIGHT, WIDTH, 3), np.uint8), window_seconds=1e-9)["windows"]) == 3
    assert capsys.readouterr().err == ""


def test_frames_without_tokens_of_their_own_are_left_out(parts):
    frames = np.zeros((7, HEIGHT, WIDTH, 3))
    frames[:2] = 255
    report = drift(parts, make_video(parts, frames, np.zeros((2, ROWS, COLUMNS), np.int64)))
    assert column(report, "red") == [0]
    assert column(report, "end_seconds") == [5 / 8]


def test_tokens_and_sessions_are_decoded(generator, tmp_path):
    video = generator.generate("a red ball moves left", seed=2, num_frames=29)
    wanted = drift(generator.parts, video)
    assert len(wanted["windows"]) == 2
    assert drift(generator.parts, video.save(tmp_path / "a.gif"))["windows"][0].keys() == wanted["windows"][0].keys()
    for clip in (video.tokens, torch.from_numpy(video.tokens), video.tokens.astype(np.int32)):
        assert drift(generator.parts, clip) == wanted
    assert drift(generator.parts, video.state) == wanted


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, True, "10"])
def test_bad_windows_are_refused(parts, seconds):
    with pytest.raises(ReelmError, match=r"^window_seconds: must be a number above 0"):
        drift(parts, "there is no such file", window_seconds=seconds)


@pytest.mark.parametrize("shape", [(0, ROWS, COLUMNS), (2, ROWS, COLUMNS - 1), (ROWS, COLUMNS)])
def test_tokens_of_another_shape_are_refused(parts, shape):
    with pytest.raises(ReelmError, match=r"^clip: must have shape \(t, 4, 6\)"):
        drift(parts, np.zeros(shape, int))


@pytest.mark.parametrize("token", [-1, 25])
def test_tokens_that_there_are_not_are_refused(parts, token):
    with pytest.raises(ReelmError, match=r"^clip: must hold tokens from 0 to 24"):
        drift(parts, np.full((1, ROWS, COLUMNS), token))
