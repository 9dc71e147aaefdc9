"""From a folder of clips to shards: what is in them, what is said of the rest, and that no kill changes a byte."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reelm import cli
from reelm.core.errors import ReelmError
from reelm.core.pool import DIED
from reelm.data.clip_shards import ClipShards
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.media.fitting import fit_clip
from reelm.media.reader import read_clip
from reelm.media.writer import write_clip

SMALL = ["--height", 24, "--width", 32, "--held-out-seconds", 0.25, "--clips-per-shard", 3, "--max-frames", 5]


def contents(folder):
    """The bytes of all shards and their indexes by name."""
    return {path.name: path.read_bytes() for path in folder.glob("clips-*")}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def command(folder, out, workers):
    """`reelm prepare` as a process, killed at the end with SIGKILL if it still runs."""
    code = "import sys; from reelm.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "prepare", folder, "--out", out, "--workers", workers, *SMALL]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.communicate()


def check_broken(folder, out, good, broken, broken_kinds, words, capsys):
    """Run the command on `good` clips and the `broken` kinds: samples of the first, a reason for each of the others."""
    code = cli.main([str(word) for word in ["prepare", folder, "--out", out, *SMALL, *words]])
    said = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert (code, report["files"], report["used"]) == (3, good + len(broken), good)
    assert len(report["skipped"]) == len(broken)
    reasons = {entry["file"]: entry["reason"] for entry in report["skipped"]}
    for number in broken:
        (reason,) = [text for name, text in reasons.items() if name.startswith(f"broken-{number:02d}")]
        assert re.search(broken_kinds[number], reason), (number, reason)
        assert str(folder) not in reason
    samples = [*ClipShards(out).samples, *ClipShards(out, "held-out").samples]
    assert len({sample.source for sample in samples}) == good
    assert all("good" in sample.source for sample in samples)
    assert f": {good} of {good + len(broken)} clips in " in said.out
    assert f"skipped {len(broken)}:" in said.out
    assert "Traceback" not in said.out + said.err
    with Image.open(out / "samples.png") as sheet:
        assert sheet.size == (5 * 32 * 2, min(12, len(ClipShards(out))) * 24 * 2)


def test_broken_clips_are_skipped_with_a_reason(tmp_path, clip_folder, broken_kinds, capsys):
    folder = clip_folder(tmp_path / "clips", 10, (0, 2, 15))
    check_broken(folder, tmp_path / "out", 10, (0, 2, 15), broken_kinds, ["--workers", 0], capsys)
    assert names(tmp_path / "out")[-3:] == ["report.json", "samples.png", "shards.json"]


def test_every_way_to_be_broken_has_a_reason(tmp_path, clip_folder, broken_kinds, capsys):
    broken = range(len(broken_kinds))
    folder = clip_folder(tmp_path / "clips", 1, broken)
    check_broken(folder, tmp_path / "out", 1, broken, broken_kinds, ["--workers", 0], capsys)


@pytest.mark.slow
def test_of_100_clips_20_are_broken(tmp_path, clip_folder, broken_kinds, capsys):
    folder = clip_folder(tmp_path / "clips", 80, range(20))
    check_broken(folder, tmp_path / "out", 80, range(20), broken_kinds, ["--workers", 2], capsys)


def test_all_is_well(tmp_path, clip_folder, capsys):
    folder = clip_folder(tmp_path / "clips", 4)
    (folder / "README.md").write_text("not a clip")
    (folder / ".hidden.mp4").write_text("not looked at")
    words = ["prepare", folder, "--out", folder / "shards", "--workers", 0, *SMALL]
    assert cli.main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 clips in 2 shards" in said and "ignored 1 whose names are not those of clips: README.md" in said
    # The shards lie among the clips, and the contact sheet is none of them.
    first = contents(folder / "shards")
    assert cli.main([str(word) for word in words]) == 0
    assert contents(folder / "shards") == first
    capsys.readouterr()
    assert cli.main([*map(str, words), "--fps", "4"]) == 2
    assert re.fullmatch(r"reelm: error: out: must be a new folder, .* got {'fps': 8.0}\n", capsys.readouterr().err)


def test_samples_are_the_fitted_frames_and_no_end_is_in_training(tmp_path, pictures, small):
    frames = pictures(23, 4, 48, 48)
    (tmp_path / "a").mkdir()
    write_clip(tmp_path / "a" / "b.mkv", frames, 8)
    prepare(tmp_path / "a", tmp_path / "out", small, workers=0)
    wanted, _ = fit_clip(read_clip(tmp_path / "a" / "b.mkv").frames_THW3, 8.0, fps=8, height=24, width=32)
    train, held_out = ClipShards(tmp_path / "out"), ClipShards(tmp_path / "out", "held-out")
    assert [(s.first_frame, s.frames) for s in train.samples] == [(0, 5), (5, 5), (10, 5), (15, 5), (20, 1)]
    assert [(s.first_frame, s.frames) for s in held_out.samples] == [(21, 2)]
    for shards in (train, held_out):
        for number, sample in enumerate(shards.samples):
            read = shards.read(number, 0, sample.frames).astype(float)
            error = read - wanted[sample.first_frame : sample.first_frame + sample.frames].numpy()
            assert 10 * np.log10(255**2 / np.square(error).mean()) > 34


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"height": 16}, lambda shards: shards.height == 16),
        ({"width": 16}, lambda shards: shards.width == 16),
        ({"fit": "pad", "height": 48, "width": 16}, lambda shards: shards.read(0, 0, 1)[0, 0].max() <= 3),
        ({"fps": 4.0}, lambda shards: (shards.samples[0].fps, sum(s.frames for s in shards.samples)) == (4.0, 2)),
        ({"max_frames": 3}, lambda shards: [s.frames for s in shards.samples] == [3, 1]),
        ({"held_out_seconds": 0.0}, lambda shards: [s.frames for s in shards.samples] == [5, 1]),
        ({"clips_per_shard": 1}, lambda shards: (shards.folder / "clips-00000.json").is_file()),
    ],
)
def test_each_option_changes_the_shards(tmp_path, clip_folder, small, change, said):
    folder = clip_folder(tmp_path / "clips", 1)
    config = PrepareConfig(**{**vars(small), **change})
    prepare(folder, tmp_path / "out", config, workers=0)
    assert said(ClipShards(tmp_path / "out"))
    with pytest.raises(ReelmError, match="out: must be a new folder, or one made with the same options"):
        prepare(folder, tmp_path / "out", PrepareConfig(), workers=0)


@pytest.mark.parametrize(
    "change",
    [
        *({"height": 0}, {"height": 25}, {"width": 5000}, {"fps": 0.0}, {"max_frames": 0}, {"held_out_seconds": -1.0}),
        *({"held_out_seconds": 61.0}, {"clips_per_shard": 0}),
    ],
)
def test_what_an_option_may_not_be(change):
    with pytest.raises(ReelmError, match=f"^{next(iter(change))}: must be"):
        PrepareConfig(**change)


def test_what_prepare_refuses(tmp_path, clip_folder, small):
    (tmp_path / "empty").mkdir()
    for folder, words in (("missing", {}), ("empty", {}), (".", {"rank": 2}), (".", {"rank": 3, "world_size": 3})):
        with pytest.raises(ReelmError, match=r"^(folder|rank): must"):
            prepare(tmp_path / folder, tmp_path / "out", small, **{"workers": 0, **words})
    for words in ({"workers": -1}, {"world_size": 0}):
        with pytest.raises(ReelmError, match=f"^{next(iter(words))}: must"):
            prepare(tmp_path, tmp_path / "out", small, **{"workers": 0, **words})


def test_ranks_share_the_work_and_workers_change_nothing(tmp_path, clip_folder, small):
    folder = clip_folder(tmp_path / "clips", 8, (1,))
    one = prepare(folder, tmp_path / "one", small, workers=0)
    prepare(folder, tmp_path / "two", small, workers=2)
    parts = [prepare(folder, tmp_path / "ranks", small, workers=0, rank=rank, world_size=2) for rank in (1, 0)]
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "ranks")
    assert len(contents(tmp_path / "one")) == 6
    assert sum(part.files for part in parts) == one.files == 9
    assert sorted(entry for part in parts for entry in part.skipped) == one.skipped
    assert {"report-0-of-2.json", "report-1-of-2.json"} < set(names(tmp_path / "ranks"))
    assert (tmp_path / "one" / "report.json").read_bytes() == (tmp_path / "two" / "report.json").read_bytes()


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_killed_run_goes_on_to_the_same_shards(tmp_path, clip_folder, small, workers):
    folder = clip_folder(tmp_path / "clips", 30, (1,))
    prepare(folder, tmp_path / "whole", small, workers=0)
    out = tmp_path / "out"
    with command(folder, out, workers):
        deadline = time.monotonic() + 60
        while not (out / "clips-00001.json").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
    kept = contents(out)
    times = {name: (out / name).stat().st_mtime_ns for name in kept if name.replace("tar", "json") in kept}
    assert 4 <= len(kept) < len(contents(tmp_path / "whole")), "killed in the middle"
    assert not (out / "report.json").exists()
    prepare(folder, out, small, workers=0)
    assert contents(out) == contents(tmp_path / "whole")
    assert (out / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items() if name.endswith("json"))
    assert not [name for name in names(out) if name.startswith(".")]


def test_only_what_has_changed_is_made_anew(tmp_path, clip_folder, small):
    folder, out = clip_folder(tmp_path / "clips", 7), tmp_path / "out"
    prepare(folder, out, small, workers=0)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("clips-*")}
    (folder / "good-000.txt").write_text("another caption")
    (out / "clips-00001.tar").write_bytes(b"damaged")
    prepare(folder, out, small, workers=0)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("clips-*")}
    changed = {name for name in after if after[name] != before[name]}
    captioned = next(s.captions for s in ClipShards(out).samples if s.source == "good-000.mp4")
    assert captioned == ("another caption",)
    assert {"clips-00000.tar", "clips-00001.tar"} <= changed and "clips-00002.tar" not in changed
    for path in folder.glob("good-00[3-6].*"):
        path.unlink()
    shutil.rmtree(folder / "deeper", ignore_errors=True)
    prepare(folder, out, small, workers=0)
    assert [name for name in names(out) if name.startswith("clips")] == ["clips-00000.json", "clips-00000.tar"]


def test_what_kills_its_process_is_skipped(tmp_path, clip_folder, small, monkeypatch):
    folder = clip_folder(tmp_path / "clips", 4)

    def dying(work, jobs, workers):
        for place, job in enumerate(jobs):
            work(job)  # the first attempt, of which files are left
            yield DIED if place == 2 else work(job)

    monkeypatch.setattr("reelm.data.prepare.run_all", dying)
    report = prepare(folder, tmp_path / "out", small, workers=0)
    assert report.skipped == [("good-002.mp4", "its decoder died")]
    monkeypatch.undo()
    whole = prepare(folder, tmp_path / "whole", small, workers=0)
    wanted = [s for shard in whole.shards.values() for s in shard.samples if s.source != "good-002.mp4"]
    found = [s for shard in report.shards.values() for s in shard.samples]
    assert [(s.source, s.frames, s.crc32) for s in found] == [(s.source, s.frames, s.crc32) for s in wanted]


def test_a_disk_that_refuses_is_no_broken_clip(tmp_path, clip_folder, small, monkeypatch):
    folder = clip_folder(tmp_path / "clips", 1)

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reelm.data.shard_files.tarfile.TarFile.addfile", full)
    with pytest.raises(ReelmError, match="No space left"):
        prepare(folder, tmp_path / "out", small, workers=0)
    assert names(tmp_path / "out") == ["reelm.json", "shards.json"]


@pytest.mark.parametrize("count", [1, pytest.param(None, marks=pytest.mark.slow)], ids=["smallest", "all"])
def test_real_footage(footage, tmp_path, capsys, count):
    folder = tmp_path / "clips"
    folder.mkdir()
    for path in sorted(footage.glob("*.mp4"), key=lambda path: path.stat().st_size)[:count]:
        (folder / path.name).symlink_to(path)
    words = ["prepare", folder, "--out", tmp_path / "out", "--height", 64, "--width", 64, "--workers", 0]
    assert cli.main([str(word) for word in words]) == 0
    train, held_out = ClipShards(tmp_path / "out"), ClipShards(tmp_path / "out", "held-out")
    assert {sample.source for sample in train.samples} == {sample.source for sample in held_out.samples}
    for sample in held_out.samples:
        assert sample.frames == round(sample.fps)
    for shards in (train, held_out):
        for number, sample in enumerate(shards.samples):
            assert shards.read(number, sample.frames - 1, 1).std() > 5, sample.source


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak memory is read from Linux")
def test_a_long_clip_takes_no_more_memory_than_a_short_one(tmp_path, pictures):
    code = (
        "import sys; from pathlib import Path; from reelm.data.recode import PrepareConfig, recode\n"
        "from reelm.data.sources import Source; path = Path(sys.argv[1]); path.with_suffix('').mkdir()\n"
        "recode(Source(path.name, path), PrepareConfig(height=64, width=64), path.with_suffix(''))\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    peaks = []
    for count in (100, 1000):
        path = write_clip(tmp_path / f"{count}.mp4", np.resize(pictures(50, 1, 360, 640), (count, 360, 640, 3)), 24)
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) // 1024)
    print(f"peak memory of a clip of 100 and of 1000 frames of 640x360: {peaks} MB")
    assert peaks[1] < peaks[0] + 40  # its frames are 691 MB
