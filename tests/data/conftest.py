"""Folders of tiny clips, whole and broken, and shards made of them."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.media.writer import write_clip


def picture(count, seed, height=24, width=32):
    """(count, height, width, 3): a smooth picture of its own for each seed, tinted, which slides and brightens."""
    rng = np.random.default_rng(seed)
    t, y, x = np.mgrid[:count, :height, :width].astype(float)
    waves = sum(np.sin(x / a + y / b + t / c) for a, b, c in rng.uniform(3, 9, (3, 3)))
    grey = 110 + 20 * waves + 3 * (t % 12)
    return (grey[..., None] + rng.uniform(-30, 30, 3)).clip(0, 255).astype(np.uint8)


def good_clip(folder, number):
    """One of several kinds of clip, some with captions."""
    name, frames = f"good-{number:03d}", 6 + number % 7
    if number % 8 == 3:
        Image.fromarray(picture(1, number)[0]).save(folder / f"{name}.png")
    elif number % 8 == 5:
        write_clip(folder / f"{name}.gif", picture(frames, number), 10)
    elif number % 8 == 7:
        (folder / "deeper").mkdir(exist_ok=True)
        write_clip(folder / "deeper" / f"{name}.mkv", picture(frames, number), 25)
    else:
        write_clip(folder / f"{name}.mp4", picture(frames, number), 8)
        if number % 8 == 0:
            (folder / f"{name}.txt").write_text(f"clip  {number}\n")
        if number % 8 == 1:
            (folder / f"{name}.json").write_text(json.dumps({"caption": [f"clip {number}", "another wörd"]}))


def _without_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()


def _audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _cut(path, part, suffix=".mp4"):
    whole = write_clip(path.with_name("whole" + suffix), picture(24, 5), 8)
    data = whole.read_bytes()
    whole.unlink()
    path.write_bytes(data[: int(len(data) * part)])


def _captioned(path, suffix, data):
    write_clip(path, picture(4, 2), 8)
    path.with_suffix(suffix).write_bytes(data)


def _pngs_of_two_sizes(path):
    write_clip(path.with_suffix(""), picture(4, 1), 8)
    Image.new("RGB", (8, 8)).save(path.with_suffix("") / "frame_000002.png")


def _caption_is_a_folder(path):
    write_clip(path, picture(4, 2), 8)
    path.with_suffix(".txt").mkdir()


# How to make a broken clip at a path, and what the report says of it.
BROKEN = [
    (lambda path: path.write_bytes(b""), "must not be empty"),
    (lambda path: path.write_text("no video at all\n" * 40), "must be a readable video"),
    (lambda path: _cut(path, 0.1), "must be a readable video|must hold a video stream|at least one frame"),
    (lambda path: _cut(path, 0.02), "must be a readable video|must hold a video stream|at least one frame"),
    (lambda path: _cut(path.with_suffix(".gif"), 0.02, ".gif"), "must"),
    (lambda path: _cut(path.with_suffix(".webp"), 0.5, ".webp"), "must be"),
    (lambda path: _cut(path.with_suffix(".mkv"), 0.05, ".mkv"), "must be|must hold|at least one frame"),
    (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "must be a readable video"),
    (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), "must be a readable video"),
    (lambda path: path.symlink_to("nowhere.mp4"), "must be an existing file"),
    (lambda path: os.mkfifo(path), "must be an existing file"),
    (_without_frames, "must"),
    (_audio, "must hold a video stream"),
    (lambda path: Image.new("1", (9000, 9000)).save(path.with_suffix(".png")), "at most .* pixels"),
    (_pngs_of_two_sizes, "must hold pictures of one size"),
    (lambda path: _captioned(path, ".txt", "wörter".encode("latin-1")), "caption: must be UTF-8"),
    (lambda path: _captioned(path, ".json", b"{not json"), "caption: must be JSON"),
    (lambda path: _captioned(path, ".json", b'{"title": "x"}'), "caption: must be a string"),
    (lambda path: _captioned(path, ".json", b'{"caption": [3]}'), "caption: must be a string"),
    (lambda path: _captioned(path, ".txt", b"long " * 2**18), "caption: must have at most"),
    (_caption_is_a_folder, "caption: must be a readable file"),
]


def make_folder(folder, good, broken=()):
    """`good` clips that can be used, and those of `BROKEN` with the numbers `broken`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(good):
        good_clip(folder, number)
    for number in broken:
        BROKEN[number][0](folder / f"broken-{number:02d}.mp4")
    return folder


@pytest.fixture(scope="session")
def clip_folder():
    """`make_folder`, for tests."""
    return make_folder


@pytest.fixture(scope="session")
def broken_kinds():
    """What the report must say of each kind of broken clip."""
    return [rule for _, rule in BROKEN]


@pytest.fixture(scope="session")
def small() -> PrepareConfig:
    """Options for clips of a few pixels; several shards for a few clips."""
    return PrepareConfig(height=24, width=32, held_out_seconds=0.25, clips_per_shard=3, max_frames=5)


@pytest.fixture(scope="session")
def long_shards(tmp_path_factory) -> Path:
    """Shards of three clips of 60, 45 and 10 frames without a held-out end."""
    folder = tmp_path_factory.mktemp("long")
    for number, frames in enumerate((60, 45, 10)):
        write_clip(folder / f"{number}.mkv", picture(frames, number), 10)
        (folder / f"{number}.txt").write_text(f"clip {number}")
    config = PrepareConfig(height=24, width=32, held_out_seconds=0, clips_per_shard=2)
    prepare(folder, folder / "shards", config, workers=0)
    return folder / "shards"


@pytest.fixture(scope="session")
def pictures():
    """`picture`, for tests."""
    return picture
