"""Evaluation on folders of clips, from Python: stamped figures, a table of them, and nothing on stdout."""

import json

import numpy as np
import pytest

from reelm.core.errors import ReelmError
from reelm.evaluation.clip_folders import evaluate_on_clips, evaluate_tokenizer_on_clips
from reelm.media.writer import write_clip

pytest.importorskip("skimage")


@pytest.fixture
def folder(tmp_path):
    """One clip of the model's size that moves, of a latent frame more than a continuation needs."""
    (tmp_path / "clips").mkdir()
    clip = np.full((17, 32, 48, 3), 60, np.uint8)
    for at in range(17):
        clip[at, 8:24, at : at + 16] = 220
    write_clip(tmp_path / "clips" / "a.mkv", clip, 8)
    return tmp_path / "clips"


def test_a_report_says_of_which_clips_it_is_and_prints_as_a_table(folder, debug_generator, capsys):
    report = evaluate_on_clips(debug_generator, folder, clips=1, out=folder.parent / "out")
    assert (report["n"], report["split"], report["source"], report["size"]) == (1, "all", "clips", "48x32")
    assert capsys.readouterr().out == ""
    assert "clips" in report and len(str(report).splitlines()) == len(report) - 1
    assert (
        json.loads((folder.parent / "out" / "evaluation.json").read_text())["nats_per_token"]
        == (report["nats_per_token"])
    )


def test_the_bundled_tokenizer_is_measured_unless_another_is_given(folder, capsys):
    report = evaluate_tokenizer_on_clips(folder, max_frames=5, device="cpu")
    assert (report["model"], report["n"], report["frames"]) == ("world", 1, 5)
    assert report["psnr"] > 15
    assert capsys.readouterr().out == ""


def test_what_is_refused_before_a_clip_is_read(folder, debug_generator):
    with pytest.raises(ReelmError, match=r"contact_sheet: must end in .png"):
        evaluate_tokenizer_on_clips(folder, contact_sheet=folder / "sheet.pdf")
    with pytest.raises(ReelmError, match="max_frames: must be at least 17, got 16"):
        evaluate_on_clips(debug_generator, folder, max_frames=16)
