"""Writing clips: what each format keeps, what players need, and that no failure costs the old file."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ClipError, ReelmError
from reelm.media import writer as clip_write
from reelm.media.reader import read_clip
from reelm.media.writer import ClipWriter, check_output, write_clip
from reelm.tests.examples import examples

FORMATS = ["a.mp4", "a.mkv", "a.gif", "a.webp", "a"]
EXACT = ["a.mkv", "a"]


def moving(count, height=32, width=32):
    """Smooth frames that change from one to the next."""
    y, x = np.mgrid[:height, :width]
    t = np.arange(count)[:, None, None]
    return np.stack([80 + 2 * x + 3 * t, 200 - y + 0 * t, 128 + (x - y) + 2 * t], axis=-1).clip(0, 255).astype(np.uint8)


def noise(count, height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def boxes(path):
    """Names of the top-level boxes of an mp4, in order."""
    return [name for name, _ in spans(path)]


def spans(path):
    """(name, end) of each top-level box; the last one may end beyond the file."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        name = data[at + 4 : at + 8].decode()
        at += int.from_bytes(data[at : at + 4], "big") or len(data)
        found.append((name, at))
    return found


# ---- what comes back


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("count", "height", "width"), [(9, 128, 128), (5, 127, 129), (1, 64, 64), (3, 1, 1), (2, 2, 37), (4, 33, 1)]
)
def test_round_trip(tmp_path, name, count, height, width):
    frames = moving(count, height, width)
    metadata = {"prompt": "ein Bär \u202e \U0001f43b", "seed": 7, "list": [1.5, None]}
    assert write_clip(tmp_path / name, torch.from_numpy(frames), 24, metadata=metadata) == tmp_path / name
    clip = read_clip(tmp_path / name)
    assert clip.frames_THW3.shape == frames.shape and clip.metadata == metadata and clip.times is None
    assert clip.fps == pytest.approx(24, abs=1e-9)
    error = np.abs(clip.frames_THW3.numpy().astype(int) - frames)
    if name in EXACT:
        assert error.max() == 0
    else:
        assert error.mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_same_frames_are_the_same_file(tmp_path):
    cells = np.random.default_rng(0).integers(0, 256, (8, 60, 3), np.uint8)
    pattern = cells.repeat(8, 0).repeat(8, 1)
    np.save(tmp_path / "frames.npy", np.stack([pattern[:, 2 * index : 2 * index + 64] for index in range(100)]))
    code = "import numpy, reelm.media.writer as w; w.write_clip('{name}', numpy.load('frames.npy'), 8)"
    for byte in ("1", "200"):  # with which glibc fills new memory: an encoder may read what it has not written
        environment = {**os.environ, "MALLOC_PERTURB_": byte}
        command = [sys.executable, "-c", code.format(name=f"{byte}.mp4")]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "200.mp4").read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_flat_colours_are_true(tmp_path, name):
    colours = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    colours[0] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    frames = np.broadcast_to(colours.repeat(16, axis=0).repeat(16, axis=1), (6, 64, 64, 3))
    read = read_clip(write_clip(tmp_path / name, frames, 8)).frames_THW3.numpy()[:, 8::16, 8::16].astype(int)
    assert np.abs(read - colours).max() <= (0 if name in EXACT else 3)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    fps=st.sampled_from([0.05, 1, 7.5, 23.976, 24000 / 1001, 29.97, 50, 60, 1000]),
    seed=st.integers(0, 99),
)
@examples(25)
def test_mkv_is_exact(tmp_path_factory, shape, fps, seed):
    frames = noise(*shape, seed)
    clip = read_clip(write_clip(tmp_path_factory.mktemp("clip") / "a.mkv", frames, fps))
    assert np.array_equal(clip.frames_THW3.numpy(), frames)
    assert clip.fps == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize("fps", [0.05, 7.5, 23.976, 24000 / 1001, 30, 1000])
def test_mp4_keeps_the_rate(tmp_path, fps):
    clip = read_clip(write_clip(tmp_path / "a.mp4", moving(12), fps))
    assert clip.fps == pytest.approx(fps, rel=1e-6) and clip.times is None and len(clip.frames_THW3) == 12


@pytest.mark.parametrize("name", FORMATS)
def test_equal_frames_are_all_there(tmp_path, name):
    """Encoders of gif and webp merge them."""
    frames = moving(4)[[0, 0, 0, 1, 1, 2, 3, 3]]
    clip = read_clip(write_clip(tmp_path / name, frames, 24))
    assert np.abs(clip.frames_THW3.numpy().astype(int) - frames).mean() < 4 and len(clip.frames_THW3) == 8
    assert len(read_clip(write_clip(tmp_path / name, frames[[0, 0, 0]], 24)).frames_THW3) == 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_megabyte_of_metadata(tmp_path, name):
    metadata = {"tokens": np.random.default_rng(0).bytes(500_000).hex()}
    assert read_clip(write_clip(tmp_path / name, moving(3), 8, metadata=metadata)).metadata == metadata


def test_mp4_is_what_players_expect(tmp_path, capfd):
    path = write_clip(tmp_path / "a.mp4", moving(30, 64, 64), 24)
    assert capfd.readouterr().err == ""
    names = boxes(path)
    assert names.index("moov") < names.index("mdat") and "moof" not in names
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert tags == (1, 1, 1, 1)


def test_odd_sizes_are_padded_and_said(tmp_path, capfd):
    path = write_clip(tmp_path / "a.mp4", moving(3, 127, 129), 24)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "129x127 is padded to 130x128" in said and said.startswith("a.mp4")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert frame.shape == (128, 130, 3)
    assert np.abs(frame[:, 129] - frame[:, 128]).max() <= 6 and np.abs(frame[127] - frame[126]).max() <= 6


def test_a_scaled_copy_is_not_cropped(tmp_path):
    """Another program may scale a clip and keep its comment; the old size in it must do no harm."""
    path = write_clip(tmp_path / "a.mp4", moving(3, 31, 31), 24)
    with av.open(str(path)) as container:
        comment = container.metadata["comment"]
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    assert read_clip(tmp_path / "b.mp4").frames_THW3.shape == (1, 64, 64, 3)


# ---- what is refused, before anything is written

GOOD = moving(2)


@pytest.mark.parametrize(
    ("name", "frames", "fps", "rule"),
    [
        ("a.avi", GOOD, 8, "output: must end in .mp4"),
        ("none/a.mp4", GOOD, 8, "output: its folder must exist"),
        ("a.mp4", GOOD, 0, "fps: must be from 0.01 to 1000"),
        ("a.mp4", GOOD, -1, "fps: must be"),
        ("a.mp4", GOOD, float("nan"), "fps: must be"),
        ("a.mp4", GOOD, float("inf"), "fps: must be"),
        ("a.mp4", GOOD, "8", "fps: must be"),
        ("a.gif", GOOD, 60, "fps: must be from 0.01 to 50 in .gif"),
        ("a.webp", GOOD, 120, "fps: must be from 0.01 to 90 in .webp"),
        ("a.mp4", GOOD.astype(np.float32), 8, "frames_THW3: must be uint8"),
        ("a.mp4", GOOD[0], 8, r"frames_THW3: must have shape \(T, H, W, 3\)"),
        ("a.mp4", GOOD[..., :2], 8, "frames_THW3: must have shape"),
        ("a.mp4", GOOD[:0], 8, "frames_THW3: must hold at least one frame"),
        ("a.mp4", "frames", 8, "frames_THW3: must have shape"),
    ],
)
def test_bad_arguments(tmp_path, name, frames, fps, rule):
    with pytest.raises(ReelmError, match=rule):
        write_clip(tmp_path / name, frames, fps)
    assert not list(tmp_path.iterdir())


def test_bad_metadata_writes_nothing(tmp_path):
    with pytest.raises(ReelmError, match="metadata: "):
        write_clip(tmp_path / "a.mp4", GOOD, 8, metadata={"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_check_output_before_work(tmp_path):
    assert check_output(f"{tmp_path}/new.folder/") == tmp_path / "new.folder"
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(ReelmError, match="must not be a folder"):
        check_output(tmp_path / "b.mp4")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ReelmError, match="new or empty folder"):
        check_output(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ReelmError, match="its folder must be writable"):
        write_clip(tmp_path / "a.mp4", GOOD, 8)
    tmp_path.chmod(0o700)


def test_folder_of_pictures_replaces_only_its_own_kind(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    write_clip(folder, moving(5), 8)
    write_clip(f"{folder}/", moving(3), 8)
    assert sorted(path.name for path in folder.iterdir())[-1] == "settings.json"
    assert len(read_clip(folder).frames_THW3) == 3
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ReelmError, match="or one that reelm wrote"):
        write_clip(folder, moving(4), 8)
    assert (folder / "notes.txt").read_text() == "mine" and len(read_clip(folder).frames_THW3) == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "frame_0.png").write_bytes(b"")
    with pytest.raises(ReelmError, match="or one that reelm wrote"):
        write_clip(tmp_path / "other", moving(4), 8)


# ---- what fails on the way: the old file stays, and nothing beside it


@pytest.mark.parametrize("name", FORMATS)
def test_disk_full_at_the_rename(tmp_path, name, monkeypatch):
    write_clip(tmp_path / name, moving(3), 8, metadata={"old": True})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = os.replace
    # For a folder: fail when the new one takes its place, after the old one has been moved aside.
    calls = iter([real, full, real] if name == "a" else [full])
    monkeypatch.setattr(os, "replace", lambda *args: next(calls)(*args))
    with pytest.raises(ReelmError, match=r"could not be written.*No space left"):
        write_clip(tmp_path / name, moving(4), 8)
    monkeypatch.undo()
    clip = read_clip(tmp_path / name)
    assert clip.metadata == {"old": True} and len(clip.frames_THW3) == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


CHILD = """
import resource, signal, sys
import numpy as np
from reelm.media.writer import write_clip
frames = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from PIL import Image
import av, imageio.v3
write_clip(sys.argv[2], frames, 8)
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_clip(sys.argv[1], frames, 8)
        print(limit, "written")
    except ValueError as error:
        print(limit, "refused" if "could not be written" in str(error) else error)
"""


@pytest.mark.parametrize(
    "name", [name if name in ("a.mp4", "a") else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]
)
def test_disk_that_takes_no_more(tmp_path, name):
    """A limit on the size of files stands for a full disk: the real encoders meet the real error, at every stage."""
    old, sizer, folder = tmp_path / "files" / name, tmp_path / f"sizer{name[1:]}", tmp_path / "files"
    folder.mkdir()
    write_clip(old, moving(3), 8)
    write_clip(sizer, noise(12, 64, 64), 8)
    size = max(path.stat().st_size for path in sizer.iterdir()) if sizer.is_dir() else sizer.stat().st_size
    limits = [1, size // 10, size // 2, size - 700, size - 60]
    command = [sys.executable, "-c", CHILD, str(old), str(sizer), *map(str, limits)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.split("\n")[:-1] == [f"{limit} refused" for limit in limits]
    assert len(read_clip(old).frames_THW3) == 3
    assert [path.name for path in folder.iterdir()] == [name]


SAVER = """
import sys
import numpy as np
from reelm.media.writer import write_clip
frames = np.random.default_rng(0).integers(0, 256, (60, 96, 96, 3), np.uint8)
write_clip(sys.argv[1], frames, 8)
print("started", flush=True)
while True:
    write_clip(sys.argv[1], frames, 8)
"""


@contextlib.contextmanager
def child(*command):
    process = subprocess.Popen([sys.executable, "-c", *map(str, command)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("name", "delays"), [("a.mp4", (0.0, 0.05)), pytest.param("a.mkv", (0.02,), marks=pytest.mark.slow)]
)
def test_kill_during_a_save_leaves_a_whole_file(tmp_path, name, delays):
    for delay in delays:
        with child(SAVER, tmp_path / name) as process:
            assert process.stdout.readline() == "started\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert read_clip(tmp_path / name).frames_THW3.shape == (60, 96, 96, 3)


# ---- frames as they arrive


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_stream_plays_while_it_grows_and_ends_as_an_ordinary_file(tmp_path, suffix):
    frames = moving(60)
    path = write_clip(tmp_path / f"a{suffix}", moving(2), 8, metadata={"old": True})
    with ClipWriter(path, 24, {"prompt": "a"}) as writer:
        for start in range(0, 60, 12):
            writer.write(torch.from_numpy(frames[start : start + 12]))
            growing = read_clip(writer.growing)
            # The last frame is on disk once its successor comes.
            assert len(growing.frames_THW3) == start + 11 == writer.frames - 1
            assert growing.metadata == {"prompt": "a"} and growing.fps == 24
            assert read_clip(path).metadata == {"old": True}
        streamed = read_clip(writer.growing).frames_THW3
        writer.metadata = {"prompt": "a", "tokens": "x" * 10_000}
    clip = read_clip(path)
    assert clip.metadata == {"prompt": "a", "tokens": "x" * 10_000}
    assert clip.frames_THW3.shape == frames.shape and clip.fps == 24 and clip.times is None
    assert torch.equal(clip.frames_THW3[:59], streamed), "the packets are copied, not encoded again"
    error = np.abs(clip.frames_THW3.numpy().astype(int) - frames)
    assert error.max() == 0 if suffix == ".mkv" else error.mean() < 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == ".mp4":
        names = boxes(path)
        assert "moof" not in names and names.index("moov") < names.index("mdat")
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.colorspace, context.color_range, context.pix_fmt) == (1, 1, "yuv420p")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_stream_is_readable_wherever_it_is_cut(tmp_path, suffix):
    with contextlib.suppress(KeyError), ClipWriter(tmp_path / f"a{suffix}", 8) as writer:
        writer.write(noise(20))
        data = writer.growing.read_bytes()
        raise KeyError
    assert not writer.path.exists()
    assert len(read_clip(writer.growing).frames_THW3) == 20, "an exception loses no frame"
    cut = tmp_path / f"cut{suffix}"
    counts = []
    for end in np.linspace(len(data) // 3, len(data), 60).astype(int):
        cut.write_bytes(data[:end])
        # A fragment's header is written in one call with what follows: half of one is no trace of a kill.
        if suffix == ".mkv" or spans(cut)[-1][0] == "mdat":
            counts.append(len(read_clip(cut).frames_THW3))
    assert counts == sorted(counts) and len(counts) > 50 and 4 <= counts[0] <= 7 and counts[-1] == 19


STREAMER = """
import sys, time
import numpy as np
from reelm.media.writer import ClipWriter
frames = np.random.default_rng(0).integers(0, 256, (10, 48, 48, 3), np.uint8)
with ClipWriter(sys.argv[1], 8) as writer:
    while True:
        writer.write(frames)
        print(writer.frames, flush=True)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_stream_survives_a_kill(tmp_path, suffix):
    with child(STREAMER, tmp_path / f"a{suffix}") as process:
        said = [int(process.stdout.readline()) for _ in range(3)][-1]
        process.send_signal(signal.SIGKILL)
        process.wait()
    clip = read_clip(tmp_path / f"a.partial{suffix}")
    assert len(clip.frames_THW3) >= said - 1


def test_stream_refusals(tmp_path):
    for name in ("a.gif", "a", "a.txt"):
        with pytest.raises(ReelmError, match=r"must end in \.mp4 or \.mkv"):
            ClipWriter(tmp_path / name, 8)
    with pytest.raises(ReelmError, match="fps: "):
        ClipWriter(tmp_path / "a.mp4", 0)
    with pytest.raises(ReelmError, match="metadata: "):
        ClipWriter(tmp_path / "a.mp4", 8, {"value": object()})
    with ClipWriter(tmp_path / "a.mp4", 8):
        pass
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(ReelmError, match=r"like the frames before, got \(16, 16\)"),
        ClipWriter(tmp_path / "a.mp4", 8) as writer,
    ):
        writer.write(moving(5))
        writer.write(moving(2, 16, 16))
    assert len(read_clip(tmp_path / "a.partial.mp4").frames_THW3) == 5


def test_failed_end_of_a_stream_keeps_what_grew(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", moving(2), 8)
    writer = ClipWriter(path, 8)
    writer.write(moving(9))

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(clip_write, "remux", full)
    with pytest.raises(ReelmError, match="No space left"):
        writer.close()
    assert len(read_clip(path).frames_THW3) == 2 and len(read_clip(writer.growing).frames_THW3) == 9
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "a.partial.mp4"]


def test_importing_loads_no_video_library():
    code = (
        "import sys, reelm.media.reader, reelm.media.writer, reelm.media.fitting\n"
        "print(sorted({'av', 'imageio', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_errors_are_one_family():
    assert issubclass(ClipError, ReelmError) and issubclass(ReelmError, ValueError)
