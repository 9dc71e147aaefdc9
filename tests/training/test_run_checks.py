"""What is refused before clips are prepared, what is said before the hours of training, and what is kept."""

import json

import numpy as np
import pytest
from PIL import Image

from reelm import cli
from reelm.core.checkpoint import save_json
from reelm.core.config import to_dict
from reelm.core.errors import ReelmError
from reelm.core.folders import kind_of, mark_folder
from reelm.data.clip_shards import ClipShards
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.data.token_shards import is_token_folder, write_shard
from reelm.media.writer import write_clip
from reelm.training.clip_tokens import window_notes
from reelm.training.model_card import write_card
from reelm.training.recipes import train_language_model, train_video_tokenizer
from reelm.training.run_checks import warn_of_a_short_run
from reelm.training.state_folders import StateValues
from reelm.training.text_training import train_text_model
from reelm.training.tokenizer_training import TokenizerTraining


def clips_of(folder, lengths):
    """A folder of clips of so many grey frames at 8 frames a second; one frame is a still image."""
    folder.mkdir()
    for number, count in enumerate(lengths):
        frames = np.full((count, 16, 16, 3), 90, np.uint8)
        if count == 1:
            Image.fromarray(frames[0]).save(folder / f"{number}.png")
        else:
            write_clip(folder / f"{number}.mkv", frames, 8)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-frames", "8"], "num_frames: must be 1 + a multiple of 4, got 8"),
        (["--height", "60"], "height: must be a multiple of 8, got 60"),
        (["--width", "256"], "width: must be at most 128, which the clips have, got 256"),
        (["--train.steps", "0"], "steps: must be at least 1, got 0"),
        (["--decoder-of", "nothing"], "model: tokenizer.json must exist"),
        (["--data", "empty"], "data: must hold at least one video, gif or image, got 'empty'"),
        (["--data", "none"], "data: must be an existing folder, got 'none'"),
        (["--fps", "0"], "fps: must be from 0.01 to 1000, got 0.0"),
        (["--out", "mine"], "out: must be a new or empty folder, or one that reelm made for the training of a"),
    ],
)
def test_a_tokenizer_s_training_is_refused_before_clips_are_prepared(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reelm.data.prepare.run_all", lambda *_: pytest.fail("clips were read"))
    clips_of(tmp_path / "clips", [20])
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.json").write_text("my report")
    assert cli.main(["train", "tokenizer", "--data", "clips", "--out", "runs/t", *words]) == 2
    assert capsys.readouterr().err.startswith(f"reelm: error: {message}")
    assert not (tmp_path / "runs" / "t" / "shards").exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        (
            [40, 1, 12],
            ["1 of 3 clips are stills", "1 of 3 clips have fewer than 17", "warning: no held-out"],
        ),
        ([12, 1], ["warning: the longest clip has 6 frames to train on", "1 of 2 clips are stills"]),
        ([1, 1], ["warning: train lm needs clips that move"]),
    ],
)
def test_what_a_language_model_needs_is_said_before_the_tokenizer_is_trained(tmp_path, lengths, said):
    folder = clips_of(tmp_path / "clips", lengths)
    prepare(folder, tmp_path / "out", PrepareConfig(height=16, width=16), workers=0)
    lines = list(window_notes(ClipShards(tmp_path / "out"), ClipShards(tmp_path / "out", "held-out"), 17))
    assert len(lines) == len(said) and all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_a_tokenizer_that_was_stopped_early_is_named(tmp_path, monkeypatch, capsys):
    recipe = TokenizerTraining()
    with pytest.raises(ReelmError, match="resume: must be left out"):
        train_video_tokenizer(tmp_path / "tok", recipe=recipe, resume=True)
    for step, said in ((5, True), (60, False)):
        folder = tmp_path / "tok" / f"state-{step:08d}"
        folder.mkdir(parents=True)
        save_json(folder / "state.json", to_dict(StateValues(step, 60, "float32", 1.0, step, 0)))
        warn_of_a_short_run(tmp_path / "tok")
        err = capsys.readouterr().err
        assert err.startswith("warning: tokenizer: its training stopped at step 5 of 60; reelm train") == said


def test_a_card_that_was_edited_is_kept(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "README.md"
    write_card(tmp_path, "first")
    write_card(tmp_path, "second")
    assert path.read_text() == "second" and capsys.readouterr().err == ""
    path.write_text("second, and what I saw")
    write_card(tmp_path, "third")
    assert (path.read_text(), (tmp_path / "card.md").read_text()) == ("second, and what I saw", "third")
    assert "was edited and is kept" in capsys.readouterr().err


def test_sessions_among_clips_are_no_token_shards(tmp_path):
    import torch

    clips_of(tmp_path / "clips", [4])
    from safetensors.torch import save_file

    save_file({"tokens": torch.zeros(1)}, tmp_path / "clips" / "turn.session.safetensors", {"settings": "{}"})
    assert not is_token_folder(tmp_path / "clips")
    write_shard(tmp_path / "x.safetensors", torch.zeros(1, 1, 1, 1), [["a"]], fps=8)
    assert is_token_folder(tmp_path)


def test_what_reading_did_to_a_clip_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips_of(tmp_path / "clips", [9, 9])
    from reelm.data import recode as module

    stream = module.stream_clip

    def noting(path, **options):
        clip = stream(path, **options)
        object.__setattr__(clip, "notes", ("deinterlaced", f"{path.stem} of 9 frames are missing"))
        return clip

    monkeypatch.setattr(module, "stream_clip", noting)
    assert cli.main(["prepare", "clips", "--out", "shards", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "note: 0.mkv: deinterlaced (and 1 more like it)\n" in out
    assert "note: 0.mkv: 0 of 9 frames are missing (and 1 more like it)\n" in out
    notes = json.loads((tmp_path / "shards" / "report.json").read_text())["notes"]
    assert {"file": "1.mkv", "note": "1 of 9 frames are missing"} in notes and len(notes) == 4


def test_a_run_among_the_clips_is_not_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips_of(tmp_path / "clips", [9])
    mark_folder(tmp_path / "clips" / "runs" / "lm", "training of a language model")
    Image.new("RGB", (8, 8)).save(tmp_path / "clips" / "runs" / "lm" / "samples.png")
    assert cli.main(["prepare", "clips", "--out", "shards", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 clip in" in out and "ignored 1 that reelm made: runs/lm/" in out


def test_files_of_a_user_are_not_replaced(tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a red ball\n")
    with pytest.raises(ReelmError, match=r"^out: must be a new file, or one that reelm wrote"):
        train_text_model(tmp_path / "captions.txt", captions=tmp_path / "captions.txt")
    for _ in range(2):
        train_text_model(tmp_path / "text.model", captions=tmp_path / "captions.txt")
    with pytest.raises(ReelmError, match=r"^data: must be given for a new run"):
        train_language_model(tmp_path / "lm")
    assert kind_of(tmp_path / "lm") is None
    Image.new("RGB", (8, 8)).save(tmp_path / "holiday.png")
    words = ["evaluate", "tokenizer", str(tmp_path), "--contact-sheet", str(tmp_path / "holiday.png")]
    assert cli.main(words) == 2
    assert "contact_sheet: must be a new file, or one that reelm wrote" in capsys.readouterr().err
