"""No file of a user is lost: what an output may replace, and what it may not."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reelm.core.errors import ReelmError
from reelm.media.frame_encoder import write_frames
from reelm.media.own_files import is_own_clip
from reelm.media.reader import read_clip
from reelm.media.writer import ClipWriter, check_output, write_clip

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
NAMES = ["a.mp4", "a.mkv", "a.gif", "a.webp", "a"]
LOST = r"^output: must be a new file, or one that reelm wrote, unless overwrite is given, got '.*"


def by_another_program(path: Path) -> Path:
    """Write a clip without our metadata, as an encoder of someone else does."""
    import av

    if path.suffix in (".gif", ".webp"):
        images = [Image.fromarray(frame) for frame in FRAMES]
        images[0].save(path, save_all=True, append_images=images[1:], duration=100)
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 16
        container.metadata["comment"] = '{"reelm": "holiday"}'
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_of_ours_is_known_and_replaced(tmp_path, name):
    path = write_clip(tmp_path / name, FRAMES, 8)
    assert is_own_clip(path)
    assert len(read_clip(write_clip(path, FRAMES[:2], 8)).frames_THW3) == 2


@pytest.mark.parametrize("name", NAMES[:4])
def test_a_clip_of_another_program_is_replaced_only_where_that_is_asked_for(tmp_path, name):
    path = by_another_program(tmp_path / name)
    before = path.read_bytes()
    for write in (check_output, lambda to: write_clip(to, FRAMES, 8)):
        with pytest.raises(ReelmError, match=LOST + name):
            write(path)
    assert path.read_bytes() == before and not is_own_clip(path)
    assert write_clip(path, FRAMES, 8, overwrite=True) == path and is_own_clip(path)


@pytest.mark.parametrize("content", [b"not a clip", b"GIF89a broken", b"RIFF0000WEBP", b"\0" * 5000])
def test_a_file_of_another_kind_is_not_replaced_and_an_empty_one_is(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ReelmError, match=LOST):
        check_output(path)
    path.write_bytes(b"")
    check_output(path)
    (tmp_path / "b.mp4").symlink_to(tmp_path / "nothing")
    with pytest.raises(ReelmError, match=LOST):
        check_output(tmp_path / "b.mp4")


def test_overwriting_takes_files_and_no_folders(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "holiday.png").write_bytes(b"mine")
    with pytest.raises(ReelmError, match="must be a new or empty folder, or one that reelm wrote"):
        write_clip(folder, FRAMES, 8, overwrite=True)
    assert (folder / "holiday.png").read_bytes() == b"mine"


@pytest.mark.parametrize("name", NAMES)
def test_an_output_is_never_what_it_is_made_from(tmp_path, name, monkeypatch):
    path = write_clip(tmp_path / name, FRAMES, 8)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    link = tmp_path / f"link{path.suffix}"
    link.symlink_to(path)
    spellings = [Path(name), Path("sub/..") / name, link, path]
    if name == "a":
        spellings += [path / "frame_000001.png", path / "settings.json"]
    else:
        os.link(path, tmp_path / f"hard{path.suffix}")
        spellings.append(tmp_path / f"hard{path.suffix}")
    for source in spellings:
        with pytest.raises(ReelmError, match="output: must be another file than what it is made from"):
            write_clip(path, FRAMES, 8, inputs=[source], overwrite=True)
    if name != "a":
        with pytest.raises(ReelmError, match="must be another file"):
            check_output(link, inputs=[path])
    assert len(read_clip(path).frames_THW3) == 3
    check_output(path, inputs=[FRAMES, str(tmp_path / "another.mp4")])


def test_the_partial_file_of_a_killed_stream_is_kept(tmp_path):
    killed = tmp_path / "a.partial.mp4"
    killed.write_bytes(b"all that is left")
    with ClipWriter(tmp_path / "a.mp4", 8) as writer, ClipWriter(tmp_path / "a.mp4", 8) as other:
        other.write(FRAMES[:2])
        writer.write(FRAMES)  # another stream to the same name has begun meanwhile
        assert [writer.growing.name, other.growing.name] == ["a.partial-3.mp4", "a.partial-2.mp4"]
    assert killed.read_bytes() == b"all that is left"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.partial.mp4"]


def test_a_stream_does_not_replace_a_file_that_came_while_it_was_written(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(ReelmError, match=LOST), ClipWriter(path, 8) as writer:
        writer.write(FRAMES)
        path.write_bytes(b"mine")
    assert path.read_bytes() == b"mine"
    assert len(read_clip(tmp_path / "a.partial.mp4").frames_THW3) == 3


def test_training_clips_are_ours(tmp_path):
    write_frames(tmp_path / "a.mp4", iter(FRAMES), 8, keyframes=4)
    assert is_own_clip(tmp_path / "a.mp4")
