"""Damaged video: all that decodes is used, and what is missing is said with numbers."""

import io
import os
import random
import re
import time

import av
import numpy as np
import pytest

from reelm.core.errors import ClipError
from reelm.media.clip import ClipLimits
from reelm.media.reader import read_clip
from reelm.media.writer import ClipWriter
from reelm.tests.media.files import numbered, numbers_of, write_video

KINDS = {
    "a.mp4": {}, "b.mkv": {}, "c.ts": {}, "d.webm": {"codec": "libvpx"},
    "e.avi": {"codec": "mpeg4", "options": {"qmin": "1", "qmax": "1"}},
    "f.mpg": {"codec": "mpeg2video", "options": {"qmin": "1", "qmax": "1"}}, "g.flv": {},
    "h.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "frag.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
}  # fmt: skip
COUNT = 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {
        name: write_video(folder / name, numbered(COUNT), **{"fps": 25, "options": {"g": "5"}} | kind)
        for name, kind in KINDS.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_is_whole(whole, name):
    clip = read_clip(whole[name])
    assert len(clip.frames_THW3) == COUNT and clip.notes == () and clip.times is None


@pytest.mark.parametrize(("suffix", "codec", "late"), [
    ("ts", "aac", 25), ("flv", "aac", 25), ("mkv", "aac", 25),
    ("wmv", "mp2", 25), ("mpg", "mp2", 25), ("avi", "mp2", 0),
])  # fmt: skip
def test_sound_may_begin_earlier_and_last_longer_than_the_pictures(tmp_path, suffix, codec, late):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        video = {"wmv": "wmv2", "avi": "mpeg4", "mpg": "mpeg2video"}.get(suffix, "libx264")
        stream = container.add_stream(video, rate=25, options={"g": "5"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        sound = container.add_stream(codec, rate=44100)
        sound.layout = "stereo"
        fifo = av.AudioFifo()
        noise = np.random.default_rng(0).uniform(-1, 1, (2, 5 * 44100)).astype(np.float32)
        wave = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
        wave.sample_rate = 44100
        fifo.write(av.AudioResampler(sound.format, "stereo", 44100).resample(wave)[0])
        for number, picture in enumerate(numbered(COUNT)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts = number + late
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.mux(packet for wave in fifo.read_many(1152) for packet in sound.encode(wave))
    clip = read_clip(path)
    assert len(clip.frames_THW3) == COUNT and clip.notes == () and clip.times is None


def test_a_recorder_that_could_not_go_back_to_its_header_leaves_a_placeholder(tmp_path):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        seek = None

    pipe = Pipe()
    whole = write_video(tmp_path / "whole.avi", numbered(COUNT), codec="mjpeg", pix_fmt="yuvj420p", fps=25)
    with av.open(str(whole)) as old, av.open(pipe, "w", format="avi") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
        data = pipe.getvalue()
    (tmp_path / "a.avi").write_bytes(data)
    clip = read_clip(tmp_path / "a.avi")
    assert len(clip.frames_THW3) == COUNT and clip.seconds == pytest.approx(COUNT / 25)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.75, 0.9])
def test_the_part_before_a_cut_is_used_and_the_cut_is_said(whole, name, share, tmp_path):
    data = whole[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share) - 7])  # within a packet, also of a broadcast
    if name in ("a.mp4", "h.mov"):  # the index, at the end, is gone
        with pytest.raises(ClipError, match=re.escape(repr(str(path)))):
            read_clip(path)
        return
    clip = read_clip(path)
    assert 3 <= len(clip.frames_THW3) < COUNT + (name == "f.mpg") and numbers_of(clip)[:3] == [0, 1, 2]
    # A program stream does not say where it ends.
    assert any(re.search(r"\d", line) for line in clip.notes) or name == "f.mpg"


def test_a_cut_file_with_its_index_first_says_how_many_frames_are_missing(tmp_path):
    path = write_video(
        tmp_path / "a.mp4", numbered(COUNT), options={"g": "1"}, container_options={"movflags": "faststart"}
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    clip = read_clip(path)
    missing, declared = re.match(r"(\d+) of (\d+) declared frames are missing", clip.notes[0]).groups()
    assert int(declared) == COUNT and len(clip.frames_THW3) == COUNT - int(missing) < COUNT


def test_a_cut_asf_says_so_by_its_size(tmp_path):
    path = write_video(tmp_path / "a.wmv", numbered(COUNT), codec="wmv2", fps=25, options={"qmin": "1", "qmax": "1"})
    assert read_clip(path).notes == ()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    clip = read_clip(path)
    assert 3 <= len(clip.frames_THW3) < COUNT and "the file is cut or damaged" in clip.notes[0]


def test_a_recording_that_begins_before_its_first_keyframe(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", numbered(COUNT), fps=25, options={"g": "10", "bf": "0"})
    with av.open(str(whole)) as old, av.open(str(tmp_path / "a.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in [packet for packet in old.demux(video=0) if packet.size][1:]:
            packet.stream = stream
            new.mux(packet)
    clip = read_clip(tmp_path / "a.mkv")
    assert len(clip.frames_THW3) == COUNT - 10 and clip.seconds == pytest.approx((COUNT - 10) / 25, abs=0.01)
    assert clip.notes == ("the first 0.36 s do not decode",)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_one_lost_packet_of_a_broadcast_costs_little(whole, share, tmp_path):
    data = whole["c.ts"].read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    video = [n for n, packet in enumerate(packets) if (packet[1] & 31) << 8 | packet[2] == 256]
    del packets[video[int(len(video) * share)]]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(packets))
    clip = read_clip(path)
    assert len(clip.frames_THW3) >= COUNT - 2
    assert clip.seconds == pytest.approx(COUNT / 25, abs=0.1) and clip.notes


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_partial_file_of_a_killed_writer_is_read(tmp_path, suffix):
    writer = ClipWriter(tmp_path / f"a{suffix}", 8)
    for picture in numbered(COUNT):
        writer.write(picture[None])
    data = writer.growing.read_bytes()
    path = tmp_path / f"cut{suffix}"
    for share in (0.4, 0.7, 1.0):
        path.write_bytes(data[: int(len(data) * share)])
        assert numbers_of(read_clip(path))[:2] == [0, 1]
    writer.close()


def test_nothing_that_decodes_is_an_error_that_names_the_file(whole, tmp_path):
    path = tmp_path / "a.ts"
    path.write_bytes(whole["c.ts"].read_bytes()[: 188 * 3])
    with pytest.raises(ClipError, match=r"^clip: .*a\.ts"):
        read_clip(path)


def damaged(data, rng):
    """Cut a file, flip some of its bits, or take a part out of it."""
    data = bytearray(data)
    how = rng.choice(["cut", "flip", "lose"])
    if how == "cut":
        del data[rng.randrange(len(data) // 5, len(data)) :]
    elif how == "flip":
        for _ in range(rng.choice([1, 5, 30])):
            data[rng.randrange(len(data) // 4, len(data))] ^= 1 << rng.randrange(8)
    else:
        start = rng.randrange(len(data) // 4, len(data))
        del data[start : start + 188]
    return data


def plainly_decoded(path):
    """Count the frames that a decoder with one thread finds that goes on after each error."""
    count = 0
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for packet in container.demux(video=0):
                try:
                    count += len(packet.decode())
                except (av.FFmpegError, ValueError):
                    continue
    except (av.FFmpegError, IndexError, AttributeError, UnicodeDecodeError):
        pass
    return count


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_as_much_is_used_as_a_plain_decoder_finds(whole, name, tmp_path):
    rng, path = random.Random(name), tmp_path / name
    for _ in range(25):
        path.write_bytes(damaged(whole[name].read_bytes(), rng))
        plain = plainly_decoded(path)
        try:
            clip = read_clip(path)
        except ClipError:
            assert plain == 0
            continue
        assert len(clip.frames_THW3) >= plain - 1
        # Broadcast streams do not say where they end.
        assert len(clip.frames_THW3) == COUNT or clip.notes or name in ("c.ts", "f.mpg")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_malformed_files_are_read_or_refused(whole, name, tmp_path):
    """REELM_MALFORMED of each kind: no foreign exception, no hang, no limit exceeded, and what is missing is said."""
    rng, path = random.Random(f"malformed {name}"), tmp_path / name
    limits = ClipLimits(max_bytes=2**24, max_seconds=60)
    for _ in range(int(os.environ.get("REELM_MALFORMED", "100"))):
        data = bytearray(damaged(whole[name].read_bytes(), rng))
        in_header = name in ("a.mp4", "h.mov")  # whose index is at the end
        if rng.random() < 0.5:
            in_header = True
            for _ in range(rng.choice([1, 4, 16])):
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        began = time.monotonic()
        try:
            clip = read_clip(path, limits=limits)
        except ClipError as error:
            assert name in str(error)
        else:
            assert clip.frames_THW3.numel() <= limits.max_bytes and clip.seconds <= limits.max_seconds + 1
            # Nothing else says how many frames there are than a header, and broadcast streams have none.
            assert len(clip.frames_THW3) >= COUNT or clip.notes or in_header or name in ("c.ts", "f.mpg")
        assert time.monotonic() - began < 30
