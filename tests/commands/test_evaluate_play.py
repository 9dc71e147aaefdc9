"""`reelm evaluate play`: on recordings, and on what was kept of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reelm.core.controls import read_written
from reelm.core.errors import CheckpointError
from reelm.evaluation.playing import evaluate_play
from reelm.evaluation.recorded_plays import plays_for
from reelm.evaluation.world_clips import EvaluationReport
from reelm.generation.generator import VideoGenerator
from reelm.generation.video import Video
from reelm.media.reader import read_clip
from reelm.media.writer import write_clip

HELD = "none-8,d-8,none-8," + "a-8,d-8," * 6 + "jump-8,a-2"


@pytest.fixture
def model(played_checkpoint, empty_folder):
    """A copy of the tiny model that is played, in a folder that may be changed."""
    return shutil.copytree(played_checkpoint, "model")


@pytest.fixture
def recordings(tmp_path):
    """A clip of a striped wall that moves left while d is held and right while a is, and one without keys."""
    return record(tmp_path / "recordings")


@pytest.fixture(scope="module")
def kept_generator(played_checkpoint, tmp_path_factory):
    """A generator over a copy of the tiny model, beside which the plays of recordings are kept."""
    folder = tmp_path_factory.mktemp("kept")
    generator = VideoGenerator.from_pretrained(shutil.copytree(played_checkpoint, folder / "model"), device="cpu")
    plays_for(generator, record(folder / "recordings"), save=True)
    return generator


def record(folder):
    track, place = read_written(HELD), 60
    folder.mkdir()
    wall = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 30, 3), np.uint8), 5, 1).repeat(32, 0)
    frames = []
    for keys in track.keys:
        frames.append(wall[:, place : place + 48])
        place += 2 * (("d" in keys) - ("a" in keys))
    write_clip(folder / "one.mp4", np.stack(frames), fps=8)
    (folder / "one.jsonl").write_text("".join(json.dumps({"keys": sorted(keys)}) + "\n" for keys in track.keys))
    (folder / "one.txt").write_text("a red ball")
    write_clip(folder / "two.mp4", np.stack(frames), fps=8)
    return folder


def test_a_model_is_played_as_the_recordings_were_and_later_without_them(run, model, recordings):
    words = ["evaluate", "play", "--model", model, "--device", "cpu", "--samples", 2, "--json"]
    code, out, err = run(*words, "--recordings", recordings, "--save-recordings",
                         "--contact-sheet", "sheet.png")  # fmt: skip
    report = json.loads(out)
    assert code == 0 and "Traceback" not in err
    assert {key: effect["direction"] for key, effect in report["effects"][""].items()} == {"d": "left", "a": "right"}
    assert report["plays"] == 1 and report["without_effect"] == ["jump"]
    row = report["figures"]["1s"]["d"]
    assert row["holds"] == 2 and row["game"] == {"shows": 1, "others_show": 0}
    assert set(report["obeys"]["1s"]) == {"a", "d", "all"} and 0 <= report["obeys"]["1s"]["all"] <= 1
    assert report["obeys"]["60s"]["all"] is None is report["still_without_keys"]["10s"]
    shutil.rmtree(recordings)
    again = json.loads(run(*words)[1])
    assert again == {name: report[name] for name in again}


def test_pictures_and_keys_of_a_model_are_laid_beside_those_of_the_game(model, recordings, monkeypatch):
    """A generator whose clips are the game's own obeys in all; one that is late by four pictures does not."""
    frames = read_clip(recordings / "one.mp4").frames_THW3.numpy()
    generator = VideoGenerator.from_pretrained(model, device="cpu")

    def obeys(late):
        def continue_clip(*, image, prompt, keys, seed, num_videos_per_prompt):
            assert np.array_equal(image, frames[0]) and prompt == "a red ball" and len(keys) == len(frames) - 1
            return [Video(np.concatenate([frames[:1]] * late + [frames[: len(frames) - late]]), 8.0)]

        monkeypatch.setattr(generator, "continue_clip", continue_clip)
        report = evaluate_play(generator, recordings, samples=1)
        return report["obeys"]["1s"]["all"], report["delay_pictures"]

    assert obeys(0) == (1.0, {"game": 1, "model": 1})
    score, delay = obeys(4)
    assert score < 0.6 and delay["model"] > 3


def test_the_last_minute_of_a_long_play_is_compared_with_the_first(kept_generator, monkeypatch):
    names = ("token_entropy_nats", "distinct_tokens", "sharpness")
    windows = [dict.fromkeys(names, 2.0), dict.fromkeys(names, 9.0), {**dict.fromkeys(names, 1.0), "sharpness": 0.0}]
    played = []
    monkeypatch.setattr(kept_generator, "generate", lambda prompt, keys, seed: played.append((prompt, len(keys))))
    monkeypatch.setattr(kept_generator, "drift", lambda clip, window_seconds: {"windows": [*windows, windows[1]]})
    drift = evaluate_play(kept_generator, samples=1, minutes=3)["drift"]
    assert played == [("a red ball", 3 * 60 * 8)]
    assert drift["sharpness"] == {"first_minute": 2.0, "last_minute": 0.0, "ratio": 0.0}
    assert drift["distinct_tokens"]["ratio"] == 0.5
    windows[0]["sharpness"] = 0.0
    assert evaluate_play(kept_generator, samples=1, minutes=3)["drift"]["sharpness"]["ratio"] is None


def test_the_table_has_figures_within_figures_in_words():
    figures = {"1s": {"left": {"holds": 2, "model": {"shows": 0.123456, "others_show": None}}}}
    table = " ".join(str(EvaluationReport(figures=figures)).split())
    assert table == "figures: 1s left (holds 2, model (shows 0.1235, others show None))"


def test_recordings_need_no_captions(run, model, recordings):
    (recordings / "one.txt").unlink()
    code, out, _ = run("evaluate", "play", "--model", model, "--device", "cpu", "--samples", 1, "--json",
                       "--recordings", recordings)  # fmt: skip
    assert code == 0 and json.loads(out)["plays"] == 1


def test_what_it_refuses(run, model, recordings):
    words = ["evaluate", "play", "--model", model, "--device", "cpu"]

    def refused(*more):
        code, _, err = run(*words, *more)
        assert code == 2 and err.startswith("reelm: error: ") and err.count("\n") == 1
        return err

    assert "recordings: must be given: this model has none of its own" in refused()
    assert "recordings: must be an existing folder" in refused("--recordings", "none")
    assert "samples: must be at least 1" in refused("--recordings", recordings, "--samples", 0)
    assert "minutes: must be 0, or at least 2" in refused("--recordings", recordings, "--minutes", 1)
    assert "save_recordings: must be given with recordings" in refused("--save-recordings")
    for name in ("one.jsonl", "one.mp4"):
        (recordings / name).unlink()
    assert "must have clips with keys beside them" in refused("--recordings", recordings)


def test_keys_that_the_model_does_not_have_are_refused_by_the_clip_and_nothing_is_kept(run, model, recordings):
    path = recordings / "one.jsonl"
    path.write_text(path.read_text().replace('"jump"', '"jumps"'))
    code, _, err = run("evaluate", "play", "--model", model, "--recordings", recordings, "--save-recordings")
    assert code == 2 and "one.mp4" in err and "did you mean 'jump'" in err
    assert not (Path(model) / "plays.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.update(fps=9.0),
        lambda kept: kept.update(format=2),
        lambda kept: kept["plays"][0].update(keys=5),
        lambda kept: kept["plays"][0].update(keys="jumps-9"),
        lambda kept: kept["plays"][0]["measured"][0]["hold"].update(stop=10**6),
        lambda kept: kept["plays"][0]["measured"][0].update(path=[[0.0]] * 9),
        lambda kept: kept["plays"].clear(),
        lambda kept: kept.pop("plays"),
    ],
)
def test_what_is_kept_and_does_not_fit_is_refused(kept_generator, change):
    path = Path(kept_generator.parts.origin[0]) / "plays.json"
    whole = path.read_text()
    kept = json.loads(whole)
    change(kept)
    path.write_text(json.dumps(kept))
    try:
        with pytest.raises(CheckpointError, match=r"plays\.json"):
            plays_for(kept_generator, None)
    finally:
        path.write_text(whole)
    assert len(plays_for(kept_generator, None)) == 1


def test_a_model_without_keys_is_refused(run, debug, recordings):
    code, _, err = run("evaluate", "play", *debug, "--recordings", recordings)
    assert code == 2 and "model: must be one that is played by keys" in err
