"""When each picture of a video is shown: held pictures, variable rates, joined recordings, missing times."""

from fractions import Fraction

import av
import numpy as np
import pytest

from reelm.media.fitting import resample_frames
from reelm.media.reader import read_clip
from reelm.media.streaming import resampled, stream_clip
from reelm.media.timeline import nominal_rate
from reelm.tests.media.files import number_of, numbered, numbers_of, write_video


def shown_at(path, fps):
    """Return the numbers of the pictures at a rate, which whole clips and streams must agree on."""
    clip, stream = read_clip(path), stream_clip(path)
    whole, _ = resample_frames(clip.frames_THW3, clip.fps if clip.times is None else clip.times, fps)
    streamed = list(resampled(stream.frames, fps))
    assert [number_of(frame) for frame in streamed] == [number_of(frame) for frame in whole]
    assert stream.fps == clip.fps and tuple(stream.notes) == clip.notes
    return [number_of(frame) for frame in whole]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_pictures_that_are_held_are_shown_until_the_next(tmp_path, suffix):
    """A recording of a screen: one picture for 2 seconds, then motion at 25 frames a second."""
    seconds = [0.0] + [2 + n / 25 for n in range(25)]
    codec = {"webm": "libvpx"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"a.{suffix}", numbered(26), seconds=seconds, codec=codec, fps=25)
    clip = read_clip(path)
    assert clip.fps == pytest.approx(25, rel=0.02) and numbers_of(clip) == list(range(26))
    assert clip.seconds == pytest.approx(3, abs=0.05)
    shown = shown_at(path, 12.5)
    assert shown[:25] == [0] * 25 and len(shown) == pytest.approx(37, abs=1) and shown[-1] >= 23
    assert len(shown_at(path, 25)) == pytest.approx(75, abs=1)


def held(path, seconds):
    """Write an mp4 or mkv whose last picture lasts long, as slides do."""
    whole = write_video(path.with_stem("whole"), numbered(10), fps=10, options={"crf": "4", "bf": "0"})
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        packets[-1].duration = round(seconds / packets[-1].time_base)
        for packet in packets:
            packet.stream = stream
            new.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_last_picture_may_last_long(tmp_path, suffix):
    clip = read_clip(held(tmp_path / f"a.{suffix}", 4.0))
    assert numbers_of(clip) == list(range(10)) and clip.fps == 10
    assert clip.seconds == pytest.approx(4.9, abs=0.1)
    assert shown_at(tmp_path / f"a.{suffix}", 10)[-40:] == [9] * 40
    # A file that was cut declares the same, and holds nothing.
    if suffix == "mkv":
        data = (tmp_path / "a.mkv").read_bytes()
        (tmp_path / "a.mkv").write_bytes(data[:-40])
        assert "the file ends early" in read_clip(tmp_path / "a.mkv").notes[0]


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_joined_recordings_are_shown_one_after_the_other(tmp_path, suffix):
    codec = {"ts": "libx264", "mpg": "mpeg2video"}[suffix]
    parts = [
        write_video(tmp_path / f"{n}.{suffix}", numbered(44)[22 * n : 22 * n + 22], codec=codec, fps=25,
                    options={"qmin": "1", "qmax": "1"} if suffix == "mpg" else {"crf": "4"})
        for n in range(2)
    ]  # fmt: skip
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = read_clip(path)
    assert numbers_of(clip) == list(range(44)) and clip.seconds == pytest.approx(44 / 25, abs=0.05)
    assert "2 recordings are joined in the file, and shown one after the other" in clip.notes


def test_frames_with_times_of_decoding_only_are_shown_in_order(tmp_path):
    """An AVI stores no presentation times: with B-frames, those of its packets are in another order."""
    path = write_video(tmp_path / "a.avi", numbered(25), fps=25, options={"bf": "2", "crf": "4"})
    clip = read_clip(path)
    assert clip.times is None and clip.fps == 25 and numbers_of(clip) == list(range(25))
    assert shown_at(path, 25) == list(range(25))


def test_frames_that_an_avi_leaves_out_repeat_the_one_before(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
        for number, picture in enumerate(numbered(10)):
            if not 3 < number < 8:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
                frame.pts = number
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert shown_at(path, 10) == [0, 1, 2, 3, 3, 3, 3, 3, 8, 9]
    assert read_clip(path).seconds == pytest.approx(1.0)


def test_an_avi_may_leave_out_frames_and_have_b_frames(tmp_path):
    """A picture is shown when the decoder puts it out; those that wait in it for the end follow at the rate."""
    seconds = [n / 25 for n in range(40) if n < 20 or n % 3 == 0]
    path = write_video(
        tmp_path / "a.mp4", numbered(len(seconds)), seconds=seconds, fps=25, options={"bf": "2", "crf": "4"}
    )
    with av.open(str(path)) as old, av.open(str(tmp_path / "a.avi"), "w") as new:
        stream = new.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.options = {"bf": "2", "crf": "4"}
        for number, frame in enumerate(old.decode(video=0)):
            frame.pts, frame.time_base = round(25 * seconds[number]), Fraction(1, 25)
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    clip = read_clip(tmp_path / "a.avi")
    assert numbers_of(clip) == list(range(len(seconds)))
    assert np.abs(clip.times[:-3] - seconds[:-2]).max() < 0.001


@pytest.mark.parametrize(("suffix", "codec"), [("h264", "libx264"), ("m2v", "mpeg2video"), ("m4v", "mpeg4")])
def test_a_raw_stream_has_the_times_of_its_rate(tmp_path, suffix, codec):
    path = tmp_path / f"a.{suffix}"
    write_video(path, numbered(12), codec=codec, fps=25, options={"crf": "4", "qmin": "1", "qmax": "1"})
    clip = read_clip(path)
    assert clip.times is None and numbers_of(clip) == list(range(12)) and clip.seconds == pytest.approx(12 / 25)


@pytest.mark.parametrize("jitter", [0, 0.005])
def test_whole_clips_and_streams_take_the_same_pictures(tmp_path, jitter):
    """Also where the times of a file are rounded to milliseconds, or those of a camera that wavers."""
    rng = np.random.default_rng(0)
    seconds = [round(n * 1001 / 60000 + jitter * rng.uniform(), 3) for n in range(45)]
    path = write_video(tmp_path / "a.mkv", numbered(45), seconds=seconds, fps=60)
    for fps in (8, 12, 24, 25, 30):
        shown = shown_at(path, fps)  # which asserts that both are the same
        assert shown == sorted(set(shown)) and shown[0] == 0 and shown[-1] >= 44 - 60 / fps


@pytest.mark.parametrize(("suffix", "fps"), [("h264", 8), ("ts", 25)])
def test_the_rate_of_few_pictures_is_that_of_the_coded_stream(tmp_path, suffix, fps):
    """A raw stream has no times, and FFmpeg guesses twice the rate of a short broadcast: that of its fields."""
    clip = read_clip(write_video(tmp_path / f"a.{suffix}", numbered(2, 96, 96), fps=fps, options={"crf": "1"}))
    assert clip.fps == fps and clip.times is None and clip.seconds == pytest.approx(2 / fps)


def test_a_clip_begins_with_its_first_picture(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(10), seconds=[100 + n / 10 for n in range(10)], fps=10)
    clip = read_clip(path)
    assert clip.times is None and clip.seconds == pytest.approx(1.0) and clip.fps == pytest.approx(10)


def test_the_rate_of_a_recorder_that_declares_its_clock(tmp_path):
    """A browser's recorder declares no rate, and FFmpeg may take the thousandths of its clock for one."""
    jitter = np.random.default_rng(0).uniform(-0.004, 0.004, 60)
    assert nominal_rate(np.arange(60) / 30 + jitter, [1000.0, 30.2]) == 30.2
    assert nominal_rate(np.arange(60) / 30 + jitter, [1000.0]) == pytest.approx(30, rel=0.01)
    assert nominal_rate([0, 0.04, 0.08, 30, 30.04], [125 / 752]) == pytest.approx(25)
    assert nominal_rate([0, *(10 + np.arange(60) / 30)], [5.0, 30.0]) == 30.0
    assert nominal_rate([0.0], [25.0]) is None and nominal_rate([1.0, 1.0], []) is None
