"""One rate for clips of several, and stills among them."""

import json

import numpy as np
import pytest
from PIL import Image

from reelm.core.errors import ReelmError
from reelm.data.clip_shards import ClipShards
from reelm.data.crops import CropLoader
from reelm.data.prepare import is_up_to_date, prepare, prepare_once
from reelm.data.rates import choose_fps
from reelm.data.recode import PrepareConfig
from reelm.media.writer import write_clip


@pytest.fixture
def mixed(tmp_path, pictures):
    """A folder of clips of one second at 20, 25 and 30 frames a second, a still, and a file that is no clip."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for fps in (20, 25, 30):
        write_clip(folder / f"{fps}.mp4", pictures(fps, fps), fps)
    Image.fromarray(pictures(1, 1)[0]).save(folder / "still.png")
    (folder / "broken.mp4").write_text("nothing")
    return folder


def test_all_clips_get_the_median_rate_which_is_said_once(mixed, tmp_path, small, capsys):
    report = prepare(mixed, tmp_path / "out", small, workers=0)
    said = "the clips have 20 to 30 frames a second; all are used at 25, the median (--fps chooses another rate)\n"
    assert capsys.readouterr().err == said
    train, ends = ClipShards(tmp_path / "out"), ClipShards(tmp_path / "out", "held-out")
    assert {sample.fps for sample in (*train.samples, *ends.samples)} == {25.0} == {report.fps} == {train.fps}
    lengths = {name: sum(s.frames for s in (*train.samples, *ends.samples) if s.source == name)
               for name in ("20.mp4", "25.mp4", "30.mp4", "still.png")}  # fmt: skip
    assert lengths == {"20.mp4": 25, "25.mp4": 25, "30.mp4": 25, "still.png": 1}
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report.stills, values["stills"], values["config"]["fps"]) == (1, 1, 25.0)
    # A clip of another rate changes nothing of what is there, and another rate needs another folder.
    assert is_up_to_date(tmp_path / "out", mixed, small)
    write_clip(mixed / "z.mp4", np.zeros((60, 24, 32, 3), np.uint8), 60)
    assert prepare(mixed, tmp_path / "out", small, workers=0).fps == 25 and capsys.readouterr().err == ""
    with pytest.raises(ReelmError, match=r"^out: must be a new folder, .* got {'fps': 25.0}"):
        prepare(mixed, tmp_path / "out", PrepareConfig(**vars(small) | {"fps": 30}), workers=0)
    with pytest.raises(ReelmError, match=r"^fps: must be 25.0, which the prepared clips have, got 30"):
        prepare_once(tmp_path / "out", tmp_path / "run", fps=30)


def test_stills_alone_have_no_rate_until_a_clip_moves(tmp_path, pictures, small):
    (tmp_path / "clips").mkdir()
    Image.fromarray(pictures(1, 1)[0]).save(tmp_path / "clips" / "a.png")
    assert choose_fps([tmp_path / "clips" / "a.png"], 0) is None
    assert prepare(tmp_path / "clips", tmp_path / "out", small, workers=0).fps is None
    write_clip(tmp_path / "clips" / "b.gif", pictures(9, 2), 10)
    assert prepare(tmp_path / "clips", tmp_path / "out", small, workers=0).fps == 10
    assert {sample.fps for sample in ClipShards(tmp_path / "out").samples} == {10}


def test_a_still_is_a_crop_that_repeats_it(mixed, tmp_path, small):
    prepare(mixed, tmp_path / "out", small, workers=0)
    shards = ClipShards(tmp_path / "out")
    crops = CropLoader(shards, 4, 5, height=24, width=32, seed=0)
    still = next(number for number, sample in enumerate(shards.samples) if sample.source == "still.png")
    wanted, found = shards.read(still, 0, 1)[0], 0
    for step in range(8):
        for clip in crops.batch(step).numpy():
            if any(np.array_equal(clip[0], picture) for picture in (wanted, wanted[:, ::-1])):
                found += 1
                assert (clip == clip[0]).all()
    crops.close()
    assert found >= 2
