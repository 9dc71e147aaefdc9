"""Reading clips: colours, times, rotation, limits, and refusal of all that is broken."""

import os
import random
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from reelm.core.errors import ClipError, ReelmError
from reelm.media.clip import ClipLimits
from reelm.media.reader import read_clip
from reelm.media.writer import write_clip
from reelm.tests.media.files import mutate

COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3, [0] * 3, [200, 100, 50], [20, 180, 160], [128] * 3], np.uint8
)


def patches(count=4, size=16):
    """(count, 2 * size, 4 * size, 3): eight flat colours, the same in every frame."""
    image = COLOURS.reshape(2, 4, 3).repeat(size, axis=0).repeat(size, axis=1)
    return np.broadcast_to(image, (count, *image.shape))


def moving(count, height=32, width=32):
    """A grey ramp whose brightness tells the frame's number."""
    ramp = np.linspace(0, 60, width, dtype=np.uint8)[None, None, :, None]
    return np.broadcast_to(ramp + (np.arange(count) * 2 % 190)[:, None, None, None], (count, height, width, 3)).astype(
        np.uint8
    )


def number_of(frame):
    return round((float(frame.float().mean()) - 29.5) / 2)


def encode(path, frames, *, fps=24, pts=None, tags=None, rotation=None, matrix=None, full=False):
    """A plain H.264 encoder of this test's own, with every freedom that foreign files take."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if tags is not None:
            stream.codec_context.colorspace = tags
            stream.codec_context.color_range = 2 if full else 1
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            )
            frame.pts = index if pts is None else pts[index]
            frame.time_base = 1 / Fraction(fps) if pts is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# ---- what a good file gives


TAGGED = [(1, Colorspace.ITU709), (6, Colorspace.ITU601), (9, Colorspace.BT2020)]


@pytest.mark.parametrize(
    ("tag", "matrix", "full"),
    [(None, Colorspace.ITU601, False), *((*pair, full) for pair in TAGGED for full in (False, True))],
)
def test_colour_tags_are_honoured(tmp_path, tag, matrix, full):
    path = encode(tmp_path / "a.mp4", patches(), tags=tag, matrix=matrix, full=full)
    read = read_clip(path).frames_THW3.numpy()[:, 8::16, 8::16].astype(int)
    assert np.abs(read - COLOURS.reshape(2, 4, 3)).max() <= 4


def test_untagged_hd_is_bt709(tmp_path):
    path = encode(tmp_path / "a.mp4", patches(2, 360), tags=None, matrix=Colorspace.ITU709)
    read = read_clip(path).frames_THW3.numpy()[:, 180::360, 180::360].astype(int)
    assert np.abs(read - COLOURS.reshape(2, 4, 3)).max() <= 4


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_rotation_is_honoured(tmp_path, angle):
    path = encode(tmp_path / "a.mp4", patches(), rotation=angle)
    upright = np.rot90(COLOURS.reshape(2, 4, 3), angle // 90)
    read = read_clip(path).frames_THW3.numpy()
    assert read.shape[1:] == (upright.shape[0] * 16, upright.shape[1] * 16, 3)
    assert np.abs(read[0, 8::16, 8::16].astype(int) - upright).max() <= 4


def test_variable_frame_rate_keeps_times(tmp_path):
    pts = [0, 40, 80, 1080, 1120, 3000]
    clip = read_clip(encode(tmp_path / "a.mp4", moving(6), pts=pts))
    assert clip.frames_THW3.shape == (6, 32, 32, 3)
    assert np.allclose(clip.times[:-1], np.array(pts) / 1000, atol=1e-3) and 3.0 < clip.seconds < 3.2


@pytest.mark.parametrize("fps", [8, 24, Fraction(24000, 1001), 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_constant_frame_rate_has_no_times(tmp_path, fps, suffix):
    clip = read_clip(encode(tmp_path / f"a{suffix}", moving(40), fps=fps))
    assert clip.times is None
    assert clip.fps == pytest.approx(float(fps), rel=1e-6)
    assert [number_of(frame) for frame in clip.frames_THW3] == list(range(40))


def test_one_frame(tmp_path):
    clip = read_clip(encode(tmp_path / "a.mp4", moving(1), fps=8))
    assert (clip.frames_THW3.shape, clip.fps, clip.times) == ((1, 32, 32, 3), 8.0, None)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ""])
def test_last_seconds_are_the_end_of_the_clip(tmp_path, suffix):
    path = write_clip(tmp_path / f"a{suffix}", moving(50), 10)
    limits = ClipLimits(max_bytes=15 * 32 * 32 * 3 if suffix != ".gif" else 10**9)
    clip = read_clip(path, last_seconds=1.5, limits=limits)
    assert [number_of(frame) for frame in clip.frames_THW3] == list(range(35, 50))
    assert clip.times is None
    assert len(read_clip(path, last_seconds=1e-3).frames_THW3) == 1
    assert len(read_clip(path, last_seconds=100).frames_THW3) == 50


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_last_seconds_must_be_positive(tmp_path, value):
    with pytest.raises(ReelmError, match="last_seconds: must be above 0"):
        read_clip(tmp_path / "a.mp4", last_seconds=value)


def test_content_decides_not_the_suffix(tmp_path):
    gif = write_clip(tmp_path / "a.gif", moving(3), 10)
    gif.rename(tmp_path / "a.mp4")
    assert read_clip(tmp_path / "a.mp4").frames_THW3.shape == (3, 32, 32, 3)


def test_names_that_look_like_protocols_are_plain_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.rename(write_clip("a.mp4", moving(2), 8), "data:a%03d.mp4")
    assert len(read_clip("data:a%03d.mp4").frames_THW3) == 2


# ---- what is refused


def test_bad_files_are_refused_by_name(tmp_path):
    good = write_clip(tmp_path / "good.mp4", moving(10), 8).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "head.mp4").write_bytes(good[:300])
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "playlist.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\ngood.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.txt").write_text("ffconcat version 1.0\nfile good.mp4\n")
    audio_only(tmp_path / "audio.mp4")
    names = {
        "missing.mp4": "must be an existing file",
        "empty.mp4": "must not be empty",
        "text.mp4": "must be a readable video",
        "head.mp4": "must hold a video stream|must be a readable video",
        "head.png": "must be a readable video",
        "folder": "must hold pictures",
        "audio.mp4": "must hold a video stream",
        # Playlists would make reading one file open others.
        "playlist.m3u8": "must be a readable video",
        "concat.txt": "must be a readable video",
    }
    for name, rule in names.items():
        with pytest.raises(ClipError, match=f"clip: .*({rule}).*{name}"):
            read_clip(tmp_path / name)


@pytest.mark.parametrize("suffix", [".webp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_images_are_refused(tmp_path, suffix, share):
    frames = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)
    path = write_clip(tmp_path / f"a{suffix}", frames, 10)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ClipError):
        read_clip(path)


def test_mp4_cut_without_encoding_is_whole(tmp_path):
    """Its edit list hides frames that the header still counts."""
    source = encode(tmp_path / "a.mp4", moving(40))
    with av.open(str(source)) as old, av.open(str(tmp_path / "cut.mp4"), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        shift = int(7 / 24 / template.time_base)
        for packet in old.demux(template):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert container.streams.video[0].frames == 40
    assert [number_of(frame) for frame in read_clip(tmp_path / "cut.mp4").frames_THW3] == list(range(7, 40))


def test_bomb_is_refused_from_its_header(tmp_path):
    """A small file of large frames, refused before any of them is converted."""
    path = tmp_path / "bomb.mp4"
    frame = av.VideoFrame(4096, 4096, "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 4096, 4096, "yuv420p"
        for index in range(2):
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for limits, rule in (
        (ClipLimits(max_pixels=2**20), "pixels in a frame, got 1.67772e[+]07"),
        (ClipLimits(max_bytes=10**8), "bytes once decoded"),
        (ClipLimits(max_seconds=0.05), "seconds"),
    ):
        began = time.perf_counter()
        with pytest.raises(ClipError, match=rule):
            read_clip(path, limits=limits)
        assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("suffix", [".mkv", ".gif", ".webp", ".png", ""])
def test_every_format_obeys_the_limits(tmp_path, suffix):
    if suffix == ".png":
        path = tmp_path / "a.png"
        Image.fromarray(moving(1)[0]).save(path)
    else:
        path = write_clip(tmp_path / f"a{suffix}", moving(20), 10)
    assert len(read_clip(path).frames_THW3) in (1, 20)
    with pytest.raises(ClipError, match="pixels in a frame, got 1024"):
        read_clip(path, limits=ClipLimits(max_pixels=1023))
    with pytest.raises(ClipError, match="bytes once decoded"):
        read_clip(path, limits=ClipLimits(max_bytes=3071))
    if suffix != ".png":
        with pytest.raises(ClipError, match=r"at most 1\.5 seconds"):
            read_clip(path, limits=ClipLimits(max_seconds=1.5))


def test_limits_hold_where_the_header_says_nothing(tmp_path):
    """A stream that grew declares neither its frames nor its duration."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", container_options={"movflags": "frag_every_frame+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(48):
            frame = av.VideoFrame(32, 32, "yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(read_clip(path).frames_THW3) == 48
    with pytest.raises(ClipError, match="bytes once decoded"):
        read_clip(path, limits=ClipLimits(max_bytes=47 * 32 * 32 * 3))


# ---- broken bytes: a clip or a ClipError, never anything else


def sweep(tmp_path, suffix, count, seed):
    frames = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), np.uint8)
    source = write_clip(tmp_path / f"good{suffix}", frames, 8, metadata={"prompt": "é"}).read_bytes()
    rng = random.Random(seed)
    limits = ClipLimits(max_pixels=10**6, max_bytes=10**8, max_seconds=600)
    outcomes = {"clip": 0, "refused": 0}
    path = tmp_path / f"bad{suffix}"
    for _ in range(count):
        path.write_bytes(mutate(source, rng, 900))
        try:
            clip = read_clip(path, limits=limits)
            assert clip.frames_THW3.numel() > 0 and clip.fps > 0 and isinstance(clip.metadata, dict)
            outcomes["clip"] += 1
        except ClipError as error:
            assert path.name in str(error)
            outcomes["refused"] += 1
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("suffix", "count"), [(".mp4", 100), (".mkv", 40), (".gif", 40), (".webp", 40)])
def test_mutated_files(tmp_path, suffix, count):
    outcomes = sweep(tmp_path, suffix, count, seed=1)
    assert outcomes["clip"] > 0 and outcomes["refused"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp"])
def test_many_mutated_files(tmp_path, suffix):
    for seed in range(2, 12):
        outcomes = sweep(tmp_path, suffix, 300, seed)
        assert sum(outcomes.values()) == 300


# ---- footage that nobody here made


def test_real_footage(footage):
    for path in sorted(footage.glob("*.mp4")):
        clip = read_clip(path, last_seconds=0.4)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames, size, fps = stream.frames, (stream.height, stream.width), float(stream.average_rate)
        assert clip.frames_THW3.shape == (round(0.4 * fps), *size, 3) and clip.fps == fps and frames > 10
        assert clip.frames_THW3.float().std() > 5
