"""Tokens count only while the pictures are theirs: after other encoders they are, after a change they are not."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from reelm.generation.fingerprint import Fingerprint
from reelm.generation.video import Video, video_metadata
from reelm.media.clip import ClipInfo, pack_metadata
from reelm.media.writer import write_clip


def picture_with_a_ball(count=17, size=64):
    """A ball that rolls over a coloured ground."""
    rows, columns = np.mgrid[:size, :size]
    frames = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        ground = np.stack([80 + rows, 150 - rows // 2 + columns // 4, 60 + columns], -1)
        ball = (rows - 40) ** 2 + (columns - 8 - 2.5 * index) ** 2 < 90
        frames[index] = np.where(ball[..., None], (210, 40, 50), ground).clip(0, 255)
    return frames


FRAMES = picture_with_a_ball()


def video_of(frames=FRAMES):
    return Video(frames, 8.0, tokens=np.zeros((5, 8, 8), int), prompt="a red ball")


def encode(path, frames, rate=8, codec="libx264", metadata=None, sound=False, **options):
    """Write a file as another program does, with the metadata of `video_of()` kept."""
    import av

    text = pack_metadata(metadata or video_metadata(video_of()), ClipInfo(8.0, 17, 64, 64))
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = text
        stream = container.add_stream(codec, rate=rate, options={key: str(value) for key, value in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        if audio is not None:
            for number in range(100):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 48000, 1024 * number
                container.mux(audio.encode(silence))
            container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.webp", "a"])
def test_our_files_keep_their_tokens(tmp_path, name, capsys):
    video = Video.load(video_of().save(tmp_path / name))
    assert video.tokens is not None and capsys.readouterr().err == ""
    assert video.compare() == ("equal" if name in ("a.mkv", "a") else "alike")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"crf": 23}),
        ("a.mkv", {"crf": 28}),
        ("a.mov", {"crf": 23, "preset": "ultrafast"}),
        ("a.mp4", {"crf": 23, "sound": True}),
    ],
)
def test_another_encoder_keeps_the_tokens(tmp_path, name, options):
    video = Video.load(encode(tmp_path / name, FRAMES, **options))
    assert video.tokens is not None and video.compare() == "alike"


def graded(frames, gain=1.0, offset=0.0, gamma=1.0, saturation=1.0):
    values = 255 * ((frames / 255 * gain + offset).clip(0, 1) ** (1 / gamma))
    grey = values @ np.array([0.2126, 0.7152, 0.0722])
    return np.rint(grey[..., None] + saturation * (values - grey[..., None])).clip(0, 255).astype(np.uint8)


def with_frame(index, frame):
    frames = FRAMES.copy()
    frames[index] = frame
    return frames


def with_box(size, opacity=1.0):
    frames = FRAMES.astype(float)
    corner = frames[:, 2 : 2 + size, -2 - size : -2]
    corner += opacity * (255 - corner)
    return np.rint(frames).astype(np.uint8)


CHANGES = {
    "mirrored": FRAMES[:, :, ::-1],
    "upside down": FRAMES[:, ::-1],
    "reversed": FRAMES[::-1],
    "brighter by 4%": graded(FRAMES, gain=1.04),
    "lifted by 4%": graded(FRAMES, offset=0.04),
    "contrast": graded(FRAMES, gain=1.1, offset=-0.05),
    "gamma": graded(FRAMES, gamma=1.05),
    "less saturated": graded(FRAMES, saturation=0.85),
    "more saturated": graded(FRAMES, saturation=1.2),
    "grey": graded(FRAMES, saturation=0.0),
    "channels exchanged": FRAMES[..., ::-1],
    "logo": with_box(6),
    "small logo": with_box(4),
    "transparent logo": with_box(6, 0.5),
    "moved by 1": np.roll(FRAMES, 1, 2),
    "moved by 4": np.roll(FRAMES, 4, 1),
    "another frame": with_frame(8, FRAMES[2]),
    "a black frame": with_frame(8, 0),
    "a frame twice": with_frame(8, FRAMES[7]),
    "one frame late": FRAMES[[0, *range(16)]],
    "two frames exchanged": FRAMES[[*range(8), 9, 8, *range(10, 17)]],
    "twice as fast": FRAMES[[min(16, 2 * n) for n in range(17)]],
    "half as fast": FRAMES[np.arange(17) // 2],
    "frozen": FRAMES[np.zeros(17, int)],
    "another clip at the end": np.concatenate([FRAMES[:9], FRAMES[:8, ::-1]]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_pictures_lose_the_tokens_and_a_note_says_so(tmp_path, change, capsys):
    video = Video.load(encode(tmp_path / "a.mp4", np.ascontiguousarray(CHANGES[change]), crf=18, preset="ultrafast"))
    assert video.tokens is None and video.segments == {} and video.prompt == "a red ball"
    note = f"{tmp_path / 'a.mp4'}: its pictures are no longer those of its tokens; it is read like any other clip\n"
    assert capsys.readouterr().err == note


@pytest.mark.parametrize("frames", [FRAMES[:16], FRAMES[:, :48], np.concatenate([FRAMES, FRAMES])])
def test_a_clip_that_was_cut_cropped_or_joined_loses_its_tokens(tmp_path, frames):
    assert Video.load(encode(tmp_path / "a.mp4", frames, crf=18)).tokens is None


def test_another_rate_is_another_clip(tmp_path):
    assert Video.load(encode(tmp_path / "a.mp4", FRAMES, rate=16, crf=18)).tokens is None


@pytest.mark.parametrize("change", [None, {}, 5, {"sha256": "a", "means": "b"}, {"sha256": "a"}, {"means": ""}])
def test_without_a_fingerprint_there_are_no_tokens(tmp_path, change):
    metadata = video_metadata(video_of()) | {"fingerprint": change}
    assert Video.load(write_clip(tmp_path / "a.mkv", FRAMES, 8, metadata=metadata)).tokens is None


@pytest.mark.parametrize("size", [(1, 1), (2, 6), (9, 17), (48, 32), (200, 130)])
def test_a_fingerprint_of_any_size_survives(size):
    frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    fingerprint = Fingerprint.of(frames)
    again = Fingerprint.unpack(fingerprint.pack(), frames.shape)
    assert again.compare(frames) == "equal" and np.array_equal(again.means_Thw3, fingerprint.means_Thw3)
    assert again.compare(frames ^ 1) == "alike" and again.compare(255 - frames) == "other"
    assert again.compare(frames[:2]) == "other"
    rows, columns = fingerprint.means_Thw3.shape[1:3]
    if size[0] % rows == 0 and size[1] % columns == 0:
        cells = frames.reshape(3, rows, size[0] // rows, columns, size[1] // columns, 3)
        assert np.abs(cells.mean((2, 4)) - fingerprint.means_Thw3).max() <= 0.5


def test_frames_that_are_changed_in_memory_lose_the_tokens(debug_generator, tmp_path):
    video = debug_generator.generate("a red ball", num_frames=5, seed=3)
    mirrored = dataclasses.replace(video, frames=np.ascontiguousarray(video.frames[:, :, ::-1]))
    assert video.to_session() is not None and mirrored.to_session() is None
    assert "tokens" not in video_metadata(mirrored)
    like_any_other = Video(mirrored.frames, 8.0, prompt="a red ball")
    options = {"num_frames": 4, "seed": 1, "temperature": 0.9}
    continued = debug_generator.continue_clip(mirrored, **options)
    assert np.array_equal(continued.tokens, debug_generator.continue_clip(like_any_other, **options).tokens)
    Image.fromarray(mirrored.frames[0]).save(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_clip_that_goes_through_files_keeps_the_pictures_of_its_tokens(debug_generator, tmp_path, name):
    video = debug_generator.generate("a red ball", num_frames=5, seed=3)
    longer = video
    for number in range(3):
        path = longer.save(tmp_path / f"{number}{name}")
        assert Video.load(path).compare() == "alike"
        longer = debug_generator.continue_clip(path, num_frames=4)
        assert np.array_equal(longer.frames[:5], video.frames)
    whole = debug_generator.generate("a red ball", num_frames=17, seed=3)
    assert np.array_equal(longer.frames, whole.frames) and np.array_equal(longer.tokens, whole.tokens)


def test_a_clip_from_elsewhere_keeps_its_own_pictures(debug_generator, tmp_path):
    clip = Video(np.ascontiguousarray(FRAMES[:6, :32, :48]), 8.0)
    soft = debug_generator.continue_clip(clip, num_frames=4, seed=1, detail=False)
    again = debug_generator.continue_clip(soft.save(tmp_path / "a.mp4"), num_frames=4)
    error = np.abs(again.frames[:6].astype(int) - clip.frames)
    assert error.mean() < 3  # the loss of an mp4, and not that of the tokenizer
    assert np.abs(debug_generator.decode(again.state).frames[:5].astype(int) - clip.frames[1:]).mean() > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_a_generated_clip_goes_through_ten_files(tmp_path, name):
    from reelm import VideoGenerator

    generator = VideoGenerator.from_pretrained("world", device="cpu")
    video = longer = generator.generate("a red ball rolls to the right over grass", seconds=1, seed=7)
    for number in range(10):
        longer = generator.continue_clip(longer.save(tmp_path / f"{number}-{name}"), num_frames=4)
    shift = longer.frames[: len(video.frames)].astype(int) - video.frames
    assert len(longer.tokens) == len(video.tokens) + 10 and np.abs(shift).max() == 0
