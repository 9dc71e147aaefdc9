"""What counts as frames: arrays of numpy and torch, and images of Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from reelm.core.errors import ReelmError
from reelm.media.arrays import as_frames
from reelm.media.clip import Clip
from reelm.media.reader import read_clip

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
GREY = FRAMES[..., :1].repeat(3, axis=-1)
ALPHA = np.random.default_rng(1).integers(0, 256, (2, 5, 6, 1), np.uint8)
RGBA = np.concatenate([FRAMES, ALPHA], -1)
ON_BLACK = np.round(FRAMES * (ALPHA / 255.0)).astype(np.uint8)
DEEP = FRAMES.astype(np.uint16) * 257


def image_of(frame):
    return Image.fromarray(frame)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FRAMES, FRAMES),
        (torch.from_numpy(FRAMES), FRAMES),
        (FRAMES.transpose(0, 3, 1, 2), FRAMES),
        (FRAMES[0], FRAMES[:1]),
        (FRAMES[::-1], FRAMES[::-1]),
        (FRAMES[:, ::-1, ::-1], FRAMES[:, ::-1, ::-1]),
        (FRAMES.astype(np.float16) / np.float16(255), FRAMES),
        (FRAMES.astype(np.float32) / 255, FRAMES),
        (FRAMES.astype(np.float64) / 255, FRAMES),
        (FRAMES.astype(">f4") / np.float32(255), FRAMES),
        (torch.from_numpy(FRAMES).half() / 255, FRAMES),
        (FRAMES.astype(np.float32) / 255 * 1.0005, FRAMES),
        # Alpha goes on black.
        (RGBA, ON_BLACK),
        (RGBA.transpose(0, 3, 1, 2), ON_BLACK),
        (RGBA[0], ON_BLACK[:1]),
        (torch.from_numpy(RGBA).permute(0, 3, 1, 2) / 255, ON_BLACK),
        (np.full((64, 64, 4), (10, 20, 30, 255), np.uint8), np.full((1, 64, 64, 3), (10, 20, 30), np.uint8)),
        (np.concatenate([FRAMES[..., :1], ALPHA], -1), ON_BLACK[..., :1].repeat(3, axis=-1)),
        # Grey.
        (FRAMES[..., 0], GREY),
        (FRAMES[..., :1], GREY),
        (FRAMES[..., :1].transpose(0, 3, 1, 2), GREY),
        (FRAMES[0, ..., 0], GREY[:1]),
        (FRAMES[0, ..., :1], GREY[:1]),
        # Other numbers.
        (DEEP, FRAMES),
        (DEEP.astype(">u2"), FRAMES),
        (torch.from_numpy(DEEP), FRAMES),
        (np.full((2, 5, 6), 32768, np.uint16), np.full((2, 5, 6, 3), 128)),
        (FRAMES > 3, np.where(FRAMES > 3, 255, 0)),
        (torch.from_numpy(FRAMES > 3), np.where(FRAMES > 3, 255, 0)),
        (FRAMES[0, ..., 0] > 99, np.where(GREY[:1] > 99, 255, 0)),
        # Images and lists.
        (image_of(FRAMES[0]), FRAMES[:1]),
        (image_of(RGBA[0]), ON_BLACK[:1]),
        (image_of(DEEP[0, ..., 0]), GREY[:1]),
        (image_of(FRAMES[0, :3]), FRAMES[:1, :3]),  # three rows of pixels are no channels
        ([image_of(frame) for frame in FRAMES], FRAMES),
        ([image_of(FRAMES[0]), image_of(FRAMES[1, ..., 0])], np.stack([FRAMES[0], GREY[1]])),
        ([image_of(RGBA[0]), FRAMES[1]], np.stack([ON_BLACK[0], FRAMES[1]])),
        (list(FRAMES), FRAMES),
        (list(RGBA), ON_BLACK),
        (list(FRAMES.transpose(0, 3, 1, 2)), FRAMES),
        (list(FRAMES[..., 0]), GREY),
        (tuple(torch.from_numpy(FRAMES)), FRAMES),
    ],
)
def test_accepted_sources(source, expected):
    frames, fps = as_frames(source)
    assert fps is None and frames.dtype == torch.uint8 and frames.is_contiguous()
    assert frames.shape == expected.shape and np.abs(frames.numpy().astype(int) - expected).max() <= (
        expected is ON_BLACK
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_read_only_and_reversed_arrays_are_read_in_silence_and_left_alone(dtype):
    array = FRAMES.astype(dtype) if dtype != np.float32 else (FRAMES / 255).astype(dtype)
    before = array.copy()
    for source in (array, array[::-1, :, ::-1], np.asfortranarray(array)):
        source.flags.writeable = False
        frames, _ = as_frames(source)  # a warning is an error in these tests
        frames.zero_()
        assert (array == before).all()


def test_images_in_memory_are_those_of_their_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for index, image in enumerate([image_of(FRAMES[0]), image_of(RGBA[0]), image_of(FRAMES[0]).convert("P")]):
        image.save(tmp_path / f"{index}.png", exif=exif)
        opened = Image.open(tmp_path / f"{index}.png")
        frames, _ = as_frames(opened)
        assert frames.shape == (1, 6, 5, 3) and torch.equal(frames, read_clip(tmp_path / f"{index}.png").frames_THW3)
        assert opened.size == (6, 5) and opened.getexif()[0x0112] == 6


def test_clip_gives_its_rate_or_times():
    frames = torch.from_numpy(FRAMES)
    assert as_frames(Clip(frames, 8.0)) == (frames, 8.0)
    times = np.array([0.0, 0.4, 0.5])
    assert np.shares_memory(as_frames(Clip(frames, 8.0, {}, times))[1], times)


NAN = np.full((2, 5, 6, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        (NAN, "must be finite, got 'NaN'"),
        (np.full((2, 5, 6, 3), 1.5), r"floats must be in \[0, 1\], got \(1.5, 1.5\)"),
        (np.full((2, 5, 6, 3), -0.5), r"floats must be in \[0, 1\]"),
        (np.full((2, 5, 6, 3), np.inf), r"floats must be in \[0, 1\]"),
        (FRAMES.astype(np.float32), r"floats must be in \[0, 1\]"),
        (FRAMES.astype(np.int64), "must be uint8, uint16, bool, or float"),
        (FRAMES.astype(np.int8), "must be uint8, uint16, bool, or float"),
        (FRAMES.astype(complex), "must be uint8, uint16, bool, or float"),
        (torch.from_numpy(FRAMES).long(), "must be uint8, uint16, bool, or float"),
        (torch.from_numpy(FRAMES[0, ..., 0]).to_sparse(), "must be uint8, uint16, bool, or float"),
        (np.array([["a"]]), "must be uint8, uint16, bool, or float"),
        (FRAMES[0, 0, 0], r"must have shape .*got \(3,\)"),
        (FRAMES[None], "must have shape"),
        (np.zeros((2, 5, 6, 5), np.uint8), "must have shape"),
        (np.zeros((2, 3, 8, 3), np.uint8), "is ambiguous: its channels must be on one axis only"),
        (np.zeros((2, 4, 8, 3), np.uint8), "is ambiguous: its channels must be on one axis only"),
        (np.zeros((3, 8, 3), np.uint8), "is ambiguous: its channels must be on one axis only"),
        (np.zeros((3, 8, 8), np.uint8), "is ambiguous; add the axis"),
        (np.zeros((4, 8, 8), np.uint8), "is ambiguous; add the axis"),
        (np.zeros((0, 5, 6, 3), np.uint8), "size of zero"),
        (np.zeros((5, 0), np.uint8), "size of zero"),
        ([], "at least one frame"),
        ([FRAMES[0], FRAMES[0, :2]], r"must have one size \(H, W\), got \[\(2, 6\), \(5, 6\)\]"),
        ([FRAMES[0], FRAMES[0] / 255.0], "must have one dtype"),
        ([FRAMES], r"frames in a list must have shape \(H, W, C\)"),
        ([image_of(FRAMES[0]), None], "must be a numpy or torch array"),
        (Image.fromarray(FRAMES[0, ..., 0].astype(np.int32)), "must have 8 or 16 bits in a channel"),
        (Image.fromarray(FRAMES[0, ..., 0].astype(np.float32)), r"must have floats in \[0, 1\]"),
        ("clip.mp4", "must be a numpy or torch array"),
        (None, "must be a numpy or torch array"),
    ],
)
def test_refused_sources(source, rule):
    with pytest.raises(ReelmError, match=f"^clip: .*{rule}|^clip: {rule}"):
        as_frames(source)


def test_animated_image_is_not_taken_for_a_still(tmp_path):
    images = [image_of(frame) for frame in FRAMES]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    with (
        Image.open(tmp_path / "a.gif") as image,
        pytest.raises(ReelmError, match="clip: an animated image must be given"),
    ):
        as_frames(image)


@pytest.mark.parametrize("large", [
    np.broadcast_to(np.uint8(0), (350_000, 64, 64, 3)), np.broadcast_to(np.float64(0), (350_000, 1, 64, 64)),
    torch.zeros((), dtype=torch.uint8).expand(350_000, 64, 64), [np.zeros((1, 1, 3), np.uint8).repeat(2, 0)] * 1000
    + [np.broadcast_to(np.uint8(0), (40_000, 40_000, 3))],
], ids=["array", "floats", "tensor", "list"])  # fmt: skip
def test_more_than_a_file_may_have_is_refused_before_it_is_copied(large):
    """None of these takes memory as it is."""
    with pytest.raises(ReelmError, match=r"^clip: must have at most 4 GiB of frames as 8-bit RGB, got '4\.\d+ GiB'"):
        as_frames(large)
