"""Clips read frame by frame: the frames of reading them whole."""

import gc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from reelm.core.errors import ClipError, ReelmError
from reelm.media import frame_decoder, streaming
from reelm.media.clip import ClipLimits
from reelm.media.fitting import fit_clip, resample_frames
from reelm.media.frame_encoder import write_frames
from reelm.media.reader import read_clip
from reelm.media.streaming import resampled, stream_clip, stream_fitted
from reelm.media.writer import write_clip
from reelm.tests.examples import examples

RATES = st.sampled_from([1.0, 7.5, 8.0, 10.0, 12.0, 23.976, 24.0, 25.0, 29.97, 30.0, 59.94, 60.0])


def moving(count, height=20, width=30):
    ramp = np.linspace(0, 60, width, dtype=np.uint8)[None, None, :, None]
    number = (np.arange(count) * 2 % 190)[:, None, None, None]
    return np.broadcast_to(ramp + number, (count, height, width, 3)).astype(np.uint8)


@examples(200)
@given(st.integers(1, 90), RATES, RATES | st.floats(0.5, 70))
@example(31, 60.0, 30.0)  # 15.5 frames, to the last digit
@example(29, 60.0, 30.0)  # 14.5
def test_frames_that_arrive_are_resampled_like_whole_clips(count, own, fps):
    frames = np.arange(count, dtype=np.int32)[:, None]
    wanted, _ = resample_frames(torch.from_numpy(frames), own, fps)
    timed = [(n / own, (n + 1) / own, frame) for n, frame in enumerate(frames)]
    if count == 1:
        timed = [(0.0, 0.0, frames[0])]
    made = list(resampled(timed, fps))
    assert [int(frame[0]) for frame in made] == wanted[:, 0].tolist()


@pytest.mark.parametrize(("count", "own", "fps"), [(6, 60, 15), (6, 60, 25), (6, 24, 10), (31, 60, 30)])
def test_times_in_milliseconds_make_no_frame_more_or_less(count, own, fps):
    times = np.round(np.arange(count + 1) / own, 3)
    frames = np.arange(count, dtype=np.int32)[:, None]
    wanted, _ = resample_frames(torch.from_numpy(frames), times, fps)
    made = list(resampled(zip(times[:-1], times[1:], frames, strict=True), fps))
    assert [int(frame[0]) for frame in made] == wanted[:, 0].tolist()
    assert len(made) == int(count / own * fps + 0.5)


@examples(200)
@given(st.lists(st.floats(0.001, 3), min_size=2, max_size=20), st.floats(1, 40))
def test_frames_of_any_times_are_resampled_like_whole_clips(gaps, fps):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    frames = np.arange(len(gaps), dtype=np.int32)[:, None]
    wanted, _ = resample_frames(torch.from_numpy(frames), times, fps)
    made = list(resampled(zip(times[:-1], times[1:], frames, strict=True), fps))
    assert [int(frame[0]) for frame in made] == wanted[:, 0].tolist()


def test_a_picture_that_is_held_stays_until_the_next():
    times = [0.0, 0.1, 0.2, 1.0, 1.1, 1.3]
    timed = zip(times[:-1], times[1:], np.arange(5)[:, None], strict=True)
    assert [int(frame[0]) for frame in resampled(timed, 10.0)] == [0, 1] + [2] * 8 + [3, 4, 4]
    with pytest.raises(ReelmError, match=r"^fps: must be finite"):
        list(resampled([], 0.0))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp", ""])
@pytest.mark.parametrize(("count", "fps", "size"), [(1, 8, (20, 30)), (13, 10, (20, 30)), (21, 5, (16, 16))])
def test_a_stream_is_the_clip(tmp_path, suffix, count, fps, size):
    path = write_clip(tmp_path / f"a{suffix}", moving(count), 10)
    clip, stream = read_clip(path), stream_clip(path)
    assert stream.fps == clip.fps
    wanted, _ = fit_clip(clip.frames_THW3, clip.fps, fps=fps, height=size[0], width=size[1], fit="pad")
    made = np.stack(list(stream_fitted(stream, fps=fps, height=size[0], width=size[1], fit="pad")))
    assert np.array_equal(made, wanted.numpy())


def test_a_stream_refuses_what_reading_refuses(tmp_path, monkeypatch):
    whole = write_clip(tmp_path / "a.mp4", moving(40), 8).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) // 8])
    (tmp_path / "c.mp4").write_text("nothing")
    for path in (tmp_path / "missing.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"):
        with pytest.raises(ClipError, match=path.name):
            list(stream_clip(path).frames)
    for limits in (ClipLimits(max_pixels=599), ClipLimits(max_seconds=4.9)):
        with pytest.raises(ClipError, match="must have at most"):
            stream_clip(tmp_path / "a.mp4", limits=limits)
    # A frame that is to be shown for two hours; the header tells of their length, this test of the frames.
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr0"
        for pts in (0, 1, 8 * 7200):
            frame = av.VideoFrame.from_ndarray(moving(1, 16, 16)[0], format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = pts, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video_frames = streaming._video_frames(path, ClipLimits(max_seconds=8000), [])
    assert len([next(video_frames) for _ in range(4)]) == 4
    monkeypatch.setattr(
        frame_decoder.VideoFile, "seconds", property(lambda self: 0.0, lambda self, value: None), raising=False
    )
    with pytest.raises(ClipError, match="must have at most 3600 seconds"):
        list(stream_clip(path).frames)
    monkeypatch.undo()
    # No more than a frame is held, so its bytes are no limit to a video's length.
    assert len(list(stream_clip(tmp_path / "a.mp4", limits=ClipLimits(max_bytes=2000)).frames)) == 40


def test_what_goes_wrong_with_the_reader_is_no_fault_of_the_clip(tmp_path):
    path = write_clip(tmp_path / "a.mp4", moving(9), 8)
    with pytest.raises(ZeroDivisionError):
        for _ in stream_clip(path).frames:
            raise ZeroDivisionError
    gc.collect()


def test_frames_written_as_they_arrive_have_regular_keyframes(tmp_path):
    path = tmp_path / "a.mp4"
    # A cut in the middle, where an encoder would like one.
    frames = np.concatenate([moving(17), 255 - moving(20)])
    assert write_frames(path, iter(frames), 8, keyframes=5) == 37
    with av.open(str(path)) as container:
        kinds = [(frame.key_frame, int(frame.pict_type)) for frame in container.decode(video=0)]
        packets = [packet.pts == packet.dts for packet in av.open(str(path)).demux(video=0) if packet.size]
    assert [key for key, _ in kinds] == [place % 5 == 0 for place in range(37)]
    assert all(packets) and 3 not in {kind for _, kind in kinds}  # B
    clip = read_clip(path)
    assert clip.fps == 8
    assert np.abs(clip.frames_THW3.numpy().astype(int) - frames).mean() < 3


@pytest.mark.parametrize("size", [(16, 16), (24, 32), (64, 48)])
def test_the_same_frames_give_the_same_bytes(tmp_path, size):
    rng = np.random.default_rng(0)
    frames = (moving(6, *size) + rng.integers(0, 40, (6, *size, 3))).clip(0, 255).astype(np.uint8)
    found = set()
    for _ in range(12):
        write_frames(tmp_path / "a.mp4", iter(frames), 8, keyframes=12)
        found.add((tmp_path / "a.mp4").read_bytes())
        rng.bytes(int(rng.integers(10_000)))
    assert len(found) == 1
