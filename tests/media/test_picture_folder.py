"""Folders of pictures: any names and formats, their order, their rate, and what is missing or does not belong."""

import json

import numpy as np
import pytest
from PIL import Image

from reelm.core.errors import ClipError, ReelmError
from reelm.generation.video import Video
from reelm.media.picture_folder import find_pictures, is_sequence
from reelm.media.reader import read_clip
from reelm.media.streaming import stream_clip
from reelm.media.writer import write_clip


def pictures(folder, names, size=(8, 6)):
    """Save pictures whose grey tells their number in this list."""
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        options = {"lossless": True} if name.endswith(".webp") else {"quality": 95} if name.endswith(".jpg") else {}
        Image.new("RGB", size, (index * 10,) * 3).save(folder / name, **options)
    return folder


def numbers(frames_THW3):
    return np.round(frames_THW3[:, 0, 0, 0].numpy() / 10).astype(int).tolist()


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:04d}.png" for n in range(1, 13)],
        [f"frame{n}.jpg" for n in range(12)],
        [f"frame_{n:03d}.webp" for n in range(5)],
        [f"Take 2, {n}.tif" for n in range(8, 12)],
        [f"shot1_{n}.png" for n in (1, 2)] + [f"shot2_{n}.png" for n in (1, 2)],
        ["a.png", "beach.jpg", "Cat.bmp"],
        ["0001.PNG", "0002.jpg", "0003.avif"],
    ],
)
def test_folder_of_any_names_is_a_clip_in_natural_order(tmp_path, names):
    folder = pictures(tmp_path / "clip", names)
    (folder / "notes.txt").write_text("taken in May")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "below").mkdir()
    clip = read_clip(folder)
    assert numbers(clip.frames_THW3) == list(range(len(names))) and (clip.fps, clip.times) == (24.0, None)
    assert clip.notes == (f"{len(names)} pictures at 24 frames per second: the folder does not say its rate",)
    assert [path.name for path in find_pictures(folder)] == names


def test_rate_of_a_folder_is_the_callers(tmp_path):
    folder = pictures(tmp_path / "clip", [f"{n}.png" for n in range(10)])
    clip = read_clip(folder, folder_fps=5, last_seconds=1)
    assert clip.fps == 5 and clip.seconds == 1 and numbers(clip.frames_THW3) == [5, 6, 7, 8, 9]
    assert Video.load(folder).fps == 24 and Video.load(folder, folder_fps=12.5).fps == 12.5
    assert stream_clip(folder, folder_fps=5).fps == 5
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ReelmError, match="folder_fps: must be finite and above 0"):
            read_clip(folder, folder_fps=rate)


@pytest.mark.parametrize(
    ("kept", "note"),
    [
        ([1, 2, 3, 7, 8, 10], "missing by their numbers: 4 pictures, the first after '0003.png'"),
        ([10, 20, 30, 60], "missing by their numbers: 2 pictures, the first after '0030.png'"),
        ([10, 20, 30, 40], None),
    ],
)
def test_gaps_in_the_numbers_are_said(tmp_path, kept, note):
    clip = read_clip(pictures(tmp_path / "clip", [f"{n:04d}.png" for n in kept]))
    assert list(clip.notes[1:]) == ([] if note is None else [note]) and clip.times is None


def test_unreadable_pictures_are_left_out_and_said(tmp_path):
    folder = pictures(tmp_path / "clip", [f"{n}.png" for n in range(6)])
    (folder / "2.png").write_bytes(b"")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:40])
    clip = read_clip(folder)
    assert numbers(clip.frames_THW3) == [0, 1, 3, 5]
    assert clip.notes[-1] == "left out because they cannot be read: 2 of 6 pictures, the first is '2.png'"
    for name in ("0", "1", "3", "5"):
        (folder / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ClipError, match=r"clip: .*0\.png"):
        read_clip(folder)


@pytest.mark.parametrize(
    ("others", "rule"),
    [
        ({"9.png": (4, 6)}, r"must hold pictures of one size, 8x6 as in '0\.png', got 4x6 in '.*9\.png'"),
        ({"0_mask.png": (8, 6)}, r"must hold one series of pictures, got '0\.png' and '0_mask\.png'"),
        ({"01.png": (8, 6)}, r"must hold one picture of each number, got '01\.png' and '1\.png'"),
        ({"1.jpg": (8, 6)}, r"must hold one picture of each number, got '1\.jpg' and '1\.png'"),
    ],
)
def test_folders_of_several_things_are_refused(tmp_path, others, rule):
    folder = pictures(tmp_path / "clip", [f"{n}.png" for n in range(3)])
    for name, size in others.items():
        pictures(folder, [name], size)
    with pytest.raises(ClipError, match=f"clip: {rule}"):
        read_clip(folder)


def test_folders_without_pictures_or_of_animations_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipError, match=r"clip: a folder must hold pictures, got none in .*empty"):
        read_clip(tmp_path / "empty")
    folder = pictures(tmp_path / "clip", ["0.png"])
    images = [Image.new("L", (8, 6), level) for level in (0, 200)]
    images[0].save(folder / "1.gif", save_all=True, append_images=images[1:], duration=100)
    with pytest.raises(ClipError, match=r"must hold stills, got an animation of 2 frames in .*1\.gif"):
        read_clip(folder)
    (folder / "1.gif").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40)
    assert read_clip(folder).notes[-1] == "left out because they cannot be read: 1 of 2 pictures, the first is '1.gif'"


def test_picture_of_a_phone_is_upright_in_a_folder(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = pictures(tmp_path / "clip", ["0.jpg"], (6, 8))
    Image.new("RGB", (8, 6)).save(folder / "1.jpg", exif=exif)
    assert read_clip(folder).frames_THW3.shape == (2, 8, 6, 3)


def test_folder_of_ours_with_missing_pictures(tmp_path):
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3) * 10
    folder = write_clip(tmp_path / "clip", frames, 10, metadata={"prompt": "a"})
    (folder / "frame_000002.png").unlink()
    clip = read_clip(folder)
    assert numbers(clip.frames_THW3) == [0, 1, 3, 4] and clip.metadata == {"prompt": "a"}
    # The picture before the missing one is shown until the next one.
    assert np.allclose(clip.times, [0, 0.1, 0.3, 0.4, 0.5])
    assert clip.notes == ("4 of 5 pictures are there, the others are missing",)
    Image.new("RGB", (4, 4)).save(folder / "frame_000004.png")
    with pytest.raises(ClipError, match=r"must hold pictures of one size, 8x8 .*got 4x4 in .*frame_000004\.png"):
        read_clip(folder)


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"clip": None}), '{"clip": {"fps": 8,'])
def test_folder_with_settings_of_another_program_is_one_of_pictures(tmp_path, text):
    folder = pictures(tmp_path / "clip", ["a1.png", "a2.png"])
    (folder / "settings.json").write_text(text)
    clip = read_clip(folder)
    assert numbers(clip.frames_THW3) == [0, 1] and clip.metadata == {} and clip.fps == 24


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"{n}.png" for n in range(5, 13)], True),
        ([f"a_{n:03d}.jpg" for n in range(8)], True),
        ([f"{n}.png" for n in range(7)], False),  # too few
        ([f"{2 * n}.png" for n in range(8)], False),
        ([f"{n}.png" for n in range(7)] + ["7.jpg"], False),
        ([f"{n}.png" for n in range(7)] + ["a7.png"], False),
        ([f"{n}.png" for n in range(7)] + ["06.png"], False),
        ([f"a{n}b{n}.png" for n in range(8)], False),
        ([], False),
    ],
)
def test_sequence_counts_up_by_one(tmp_path, names, expected):
    assert is_sequence(find_pictures(pictures(tmp_path / "clip", names))) == expected


def test_pictures_of_several_sizes_or_with_frames_are_no_sequence(tmp_path):
    folder = pictures(tmp_path / "clip", [f"{n}.png" for n in range(8)])
    pictures(folder, ["5.png"], (4, 4))
    assert not is_sequence(find_pictures(folder))
    images = [Image.new("L", (8, 6), level) for level in (0, 200)]
    images[0].save(folder / "5.png", save_all=True, append_images=images[1:], duration=100)
    assert not is_sequence(find_pictures(folder))
