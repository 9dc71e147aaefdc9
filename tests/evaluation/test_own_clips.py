"""A model on clips of one's own: what is scored, and what continuations are held against."""

import math

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.evaluation import own_clips
from reelm.evaluation.own_clips import evaluate_own_clips
from reelm.evaluation.reconstruction import flicker
from reelm.generation.video import Video
from reelm.media.reader import read_clip
from reelm.tokenizer.long import decode_long, encode_long

pytest.importorskip("skimage")

HEIGHT, WIDTH, FRAME_SIZE = 32, 48, 24  # of the debug model


def clip(frames, seed=0, prompt=""):
    """A bright square that moves 2 pixels a frame over a smooth ground."""
    ground = 40 + 10 * seed + np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[None, :, :, None]
    made = np.broadcast_to(ground, (frames, HEIGHT, WIDTH, 3)).astype(np.uint8)
    for at in range(frames):
        made[at, 10:20, 2 * at : 2 * at + 16] = 230
    return Video(made, 8.0, prompt=prompt)


def psnr(shown, truth):
    return 10 * math.log10(255**2 / np.square(shown.astype(float) - truth).mean())


def test_costs_are_those_of_the_scores_frame_0_and_later_apart(debug_generator):
    clips = [("a", clip(7, prompt="a red ball moves left")), ("b", clip(9, 1)), ("c", clip(1, 2))]
    report = evaluate_own_clips(debug_generator, clips)
    scores = [debug_generator.score(Video(video.frames[:count], 8.0, prompt=video.prompt))
              for (_, video), count in zip(clips, (5, 9, 1), strict=True)]  # fmt: skip
    assert (report["n"], report["frames"], report["tokens"]) == (3, 15, 6 * FRAME_SIZE)
    assert [entry["frames"] for entry in report["clips"]] == [5, 9, 1]
    assert report["nats_per_token"] == pytest.approx(sum(score.nats for score in scores) / (6 * FRAME_SIZE))
    first = np.mean([score.nats_thw[0].mean() for score in scores])
    later = np.concatenate([score.nats_thw[1:] for score in scores]).mean()
    assert report["nats_per_token_of_frame_0"] == pytest.approx(first)
    assert report["nats_per_token_of_later_frames"] == pytest.approx(later)
    assert report["bits_per_dimension"] == pytest.approx(
        report["nats_per_token"] * 6 * FRAME_SIZE / math.log(2) / (15 * HEIGHT * WIDTH * 3)
    )
    # The caption was read.
    assert report["clips"][0]["nats_per_token"] != debug_generator.score(Video(clip(5).frames, 8.0)).nats_per_token
    assert (report["continued"], report["psnr"], report["sampling_frames_per_second"]) == (0, None, None)


def continued_by(generator, monkeypatch, frames):
    """The model goes on by these frames."""
    own = generator.continue_clip

    def continue_clip(given, **options):
        video = own(given, **options)
        shown = np.concatenate([given.frames, frames])[: len(video.frames)]
        return Video(shown, 8.0, stats=video.stats, state=video.state)

    monkeypatch.setattr(generator, "continue_clip", continue_clip)


def test_a_continuation_stands_between_the_frame_repeated_and_the_truth(debug_generator, monkeypatch, tmp_path):
    video, tokenizer = clip(17), debug_generator.parts.tokenizer
    truth, still = video.frames[9:], np.repeat(video.frames[8:9], 8, 0)
    rebuilt = torch.cat(list(decode_long(tokenizer, encode_long(tokenizer, iter(video.frames))))).numpy()
    report = evaluate_own_clips(debug_generator, [("a", video)], folder=tmp_path / "out")
    assert (report["continued"], report["given_frames"], report["predicted_frames"]) == (1, 9, 8)
    assert report["psnr_of_the_last_frame_repeated"] == pytest.approx(psnr(still, truth))
    assert report["psnr_of_its_reconstruction_repeated"] == pytest.approx(psnr(rebuilt[8:9], truth))
    assert report["psnr_of_the_reconstructed_truth"] == pytest.approx(psnr(rebuilt[9:], truth))
    assert report["flicker_of_the_reconstructed_truth"] == pytest.approx(
        flicker(torch.from_numpy(video.frames[8:]), torch.from_numpy(rebuilt[8:]))
    )
    assert report["sampling_frames_per_second"] > 0
    assert report["lm_parameters"] == sum(p.numel() for p in debug_generator.parts.lm.parameters())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["continuations.mp4", "continuations.png"]
    short, again = (evaluate_own_clips(debug_generator, [("a", video)], predicted=1, seed=seed) for seed in (0, 1))
    assert short["predicted_frames"] == 1
    assert again["psnr"] != short["psnr"]
    assert again["nats_per_token"] == short["nats_per_token"] == report["nats_per_token"]
    with monkeypatch.context() as patch:
        continued_by(debug_generator, patch, still)
        frozen = evaluate_own_clips(debug_generator, [("a", video)])
    assert frozen["psnr"] == frozen["psnr_of_the_last_frame_repeated"]
    assert frozen["flicker"] > 0 and frozen["warping_error"] > frozen["warping_error_of_the_truth"]
    continued_by(debug_generator, monkeypatch, truth)
    known = evaluate_own_clips(debug_generator, [("a", video)])
    assert known["psnr"] > 100 and known["flicker"] == 0
    assert known["warping_error"] == known["warping_error_of_the_truth"]


class Mean(torch.nn.Module):
    """The signature of i3d_torchscript.pt; features are the mean of each channel."""

    def forward(self, videos: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert videos.shape[2] == 13
        return videos.mean((2, 3, 4)) / 255


def test_fvd_is_of_the_given_and_predicted_frames(debug_generator, monkeypatch, tmp_path):
    torch.jit.script(Mean()).save(tmp_path / "mean.pt")
    clips = [("a", clip(13)), ("b", clip(13, 1)), ("c", clip(9, 1))]
    options = {"predicted": 4, "fvd_weights": tmp_path / "mean.pt"}
    continued_by(debug_generator, monkeypatch, np.full((4, HEIGHT, WIDTH, 3), 255, np.uint8))
    report = evaluate_own_clips(debug_generator, clips, **options)
    assert (report["n"], report["fvd_n"], report["fvd_frames"]) == (3, 2, 13)
    assert (report["fvd_left_out"], report["fvd"] > 1e-3) == (1, True)
    one = evaluate_own_clips(debug_generator, clips[1:], **options)
    assert (one["fvd"], one["fvd_n"], one["fvd_frames"], one["fvd_left_out"]) == (None, 1, 13, 1)
    assert one["psnr"] == report["clips"][1]["psnr"]  # is not lost


def test_what_the_tokens_alone_show_is_told_apart_from_kept_detail(debug_generator):
    video = clip(13)
    report = evaluate_own_clips(debug_generator, [("a", video)], predicted=4)
    given = Video(video.frames[:9], 8.0)
    shown, plain = (
        debug_generator.continue_clip(given, num_frames=4, seed=0, detail=detail).frames for detail in (True, False)
    )
    assert not np.array_equal(shown, plain)
    assert report["psnr"] == pytest.approx(psnr(shown[9:], video.frames[9:]))
    assert report["psnr_of_the_tokens_alone"] == pytest.approx(psnr(plain[9:], video.frames[9:]))
    assert report["psnr_of_the_tokens_alone"] != report["psnr"]


def test_only_so_many_continuations_are_kept_and_drawn(debug_generator, monkeypatch, tmp_path):
    monkeypatch.setattr(own_clips, "MOST_DRAWN", 2)
    clips = [(str(number), clip(10, number)) for number in range(3)]
    report = evaluate_own_clips(debug_generator, clips, predicted=1, folder=tmp_path)
    assert report["continued"] == 3
    assert all(entry["psnr"] > 0 for entry in report["clips"])
    drawn = read_clip(tmp_path / "continuations.mp4").frames_THW3[:, :, :WIDTH]
    assert len(drawn) == 2 * 10
    wanted = np.concatenate([video.frames for _, video in clips[:2]])
    assert np.abs(drawn.numpy().astype(float) - wanted).mean() < 10  # but for the loss of the encoding


def test_what_is_refused(debug_generator):
    for options, message in (
        ({"predicted": 0}, "predicted: must be at least 1, got 0"),
        ({"seed": -1}, "seed: must be a whole number from 0"),
        ({}, "clips: must be at least one, got 0"),
    ):
        with pytest.raises(ReelmError, match=f"^{message}"):
            evaluate_own_clips(debug_generator, [], **options)
