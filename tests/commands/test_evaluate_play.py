"""`reelm evaluate play`: on recordings, and on what was kept of them."""

import json
import shutil

import numpy as np
import pytest

from reelm.core.controls import read_written
from reelm.media.writer import write_clip

HELD = "jump-8,none-8,a-8,d-8,a+d-4,d-13"


@pytest.fixture
def model(played_checkpoint, empty_folder):
    """A copy of the tiny model that is played, in a folder that may be changed."""
    return shutil.copytree(played_checkpoint, "model")


@pytest.fixture
def recordings(tmp_path):
    """A clip of a striped wall that moves left while d is held and right while a is, and one without keys."""
    folder, track, place = tmp_path / "recordings", read_written(HELD), 60
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
    code, out, err = run(*words, "--recordings", recordings, "--save-recordings", "--minutes", 2,
                         "--contact-sheet", "sheet.png")  # fmt: skip
    report = json.loads(out)
    assert code == 0 and "Traceback" not in err
    assert {key: effect["direction"] for key, effect in report["effects"][""].items()} == {"d": "left", "a": "right"}
    assert report["holds"]["1s"] == {"a": 1, "d": 2, "": 1} and report["plays"] == 1
    assert report["shares_of_the_game"]["1s"] == {"a": 1, "d": 1, "": 1}
    assert set(report["obeys"]["1s"]) == {"a", "d", "all"} and 0 <= report["obeys"]["1s"]["all"] <= 1
    assert report["obeys"]["60s"]["all"] is None is report["still_without_keys"]["10s"]
    assert set(report["drift"]) == {"token_entropy_nats", "distinct_tokens", "sharpness"}
    sharp = report["drift"]["sharpness"]
    assert sharp["ratio"] == pytest.approx(sharp["last_minute"] / sharp["first_minute"])
    shutil.rmtree(recordings)
    again = json.loads(run(*words)[1])
    assert {name: again[name] for name in again} == {name: report[name] for name in again}


def test_what_it_refuses(run, model, recordings):
    words = ["evaluate", "play", "--model", model, "--device", "cpu"]

    def refused(*more):
        code, _, err = run(*words, *more)
        assert code == 2 and err.startswith("reelm: error: ") and err.count("\n") == 1
        return err

    assert "plays.json must exist in the folder" in refused()
    assert "recordings: must be an existing folder" in refused("--recordings", "none")
    assert "samples: must be at least 1" in refused("--recordings", recordings, "--samples", 0)
    assert "minutes: must be 0, or at least 2" in refused("--recordings", recordings, "--minutes", 1)
    assert "save_recordings: must be given with recordings" in refused("--save-recordings")
    for name in ("one.jsonl", "one.mp4"):
        (recordings / name).unlink()
    assert "must have clips with keys beside them" in refused("--recordings", recordings)


def test_keys_that_the_model_does_not_have_are_refused(run, model, recordings):
    path = recordings / "one.jsonl"
    path.write_text(path.read_text().replace('"jump"', '"jumps"'))
    code, _, err = run("evaluate", "play", "--model", model, "--recordings", recordings)
    assert code == 2 and "did you mean 'jump'" in err


def test_a_model_without_keys_is_refused(run, debug, recordings):
    code, _, err = run("evaluate", "play", *debug, "--recordings", recordings)
    assert code == 2 and "model: must be one that is played by keys" in err
