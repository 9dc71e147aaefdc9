"""Clips to measure with, brought to a model's rate and size."""

import numpy as np
import pytest

from reelm.core.errors import ReelmError
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.data.sample_clips import sample_clips
from reelm.media.fitting import fit_clip
from reelm.media.reader import read_clip
from reelm.media.writer import write_clip


@pytest.fixture
def folder(tmp_path):
    """Two clips at 16 frames a second, the first with a caption, and a file that is none."""
    clips = tmp_path / "clips"
    clips.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        write_clip(clips / f"{name}.mkv", random.integers(0, 256, (20, 32, 48, 3), np.uint8), 16)
    (clips / "a.txt").write_text("a red ball")
    (clips / "c.mp4").write_text("no clip")
    return clips


def test_fitted_clips_are_the_first_frames_of_the_fitted_clip(folder):
    clips = sample_clips(folder, max_frames=6)
    made = list(clips.fitted(fps=8, height=16, width=16))
    assert [(name, frames.shape, caption) for name, frames, caption in made] == [
        ("a.mkv", (6, 16, 16, 3), "a red ball"), ("b.mkv", (6, 16, 16, 3), ""),
    ]  # fmt: skip
    assert [name for name, _ in clips.skipped] == ["c.mp4"]
    whole = read_clip(folder / "a.mkv")
    wanted, _ = fit_clip(whole.frames_THW3, whole.fps, fps=8, height=16, width=16)
    assert len(wanted) == 10
    assert np.array_equal(made[0][1], wanted[:6].numpy())
    stretched = next(clips.fitted(fps=8, height=16, width=16, fit="stretch"))[1]
    assert not np.array_equal(made[0][1], stretched)


def test_prepared_samples_are_fitted_too(folder, tmp_path):
    (folder / "c.mp4").unlink()
    prepare(folder, tmp_path / "shards", PrepareConfig(height=32, width=48, held_out_seconds=0.5), workers=0)
    clips = sample_clips(tmp_path / "shards", max_frames=3)
    made = list(clips.fitted(fps=8, height=16, width=24))
    assert [(name, frames.shape, caption) for name, frames, caption in made] == [
        ("a.mkv from 12", (3, 16, 24, 3), "a red ball"), ("b.mkv from 12", (3, 16, 24, 3), ""),
    ]  # fmt: skip
    train = sample_clips(tmp_path / "shards", split="train", max_frames=30)
    assert [frames.shape[0] for _, frames, _ in train.fitted(fps=8, height=16, width=24)] == [6, 6]


def test_a_folder_that_was_not_prepared_has_no_split_which_is_said_once(folder, tmp_path, capsys):
    clips = sample_clips(folder, split="train", max_frames=3)
    assert clips.split == "all"
    said = f"{folder} was not prepared and has no split: whole clips are measured\n"
    assert [len(frames) for _, frames in clips] == [3, 3]
    assert capsys.readouterr().err == said
    list(clips.fitted(fps=8, height=16, width=16))
    assert capsys.readouterr().err == said
    (folder / "c.mp4").unlink()
    prepare(folder, tmp_path / "shards", PrepareConfig(height=32, width=48, held_out_seconds=0.5), workers=0)
    capsys.readouterr()
    list(sample_clips(tmp_path / "shards"))
    assert capsys.readouterr().err == ""
    for place in (folder, tmp_path / "shards"):
        with pytest.raises(ReelmError, match=r"^split: must be one of \('train', 'held-out'\), got 'test'"):
            sample_clips(place, split="test")


def test_where_no_clip_could_be_read_the_first_reasons_are_told(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert list(sample_clips(empty)) == []
    for name in ("a", "b"):
        (folder / f"{name}.mkv").write_text("no clip")
    (folder / "d.mp4").write_text("no clip")
    for read in (iter, lambda clips: clips.fitted(fps=8, height=16, width=16)):
        clips = sample_clips(folder)
        with pytest.raises(ReelmError, match=r"^clips: must be at least one that can be read, got none: ") as refused:
            list(read(clips))
        told = str(refused.value)
        assert len(clips.skipped) == 4
        for name, reason in clips.skipped[:3]:
            assert f"{name} ({reason})" in told
        assert "d.mp4" not in told and told.endswith("; and 1 more")
