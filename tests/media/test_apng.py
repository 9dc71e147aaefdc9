"""Animated PNGs against a compositor that goes pixel by pixel, by the words of the PNG specification."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from reelm.media.apng import frames_in_apng, read_apng
from reelm.media.reader import read_clip

PALETTE = np.random.default_rng(1).integers(0, 256, (16, 4), np.uint8)
# colour type: channels, and how raw samples of 8 bits become RGBA
KINDS = {
    "grey": (0, lambda raw: np.stack([raw[..., 0]] * 3 + [np.full(raw.shape[:2], 255)], -1)),
    "rgb": (2, lambda raw: np.concatenate([raw, np.full((*raw.shape[:2], 1), 255)], -1)),
    "palette": (3, lambda raw: PALETTE[raw[..., 0] % 16]),
    "grey_alpha": (4, lambda raw: raw[..., [0, 0, 0, 1]]),
    "rgba": (6, lambda raw: raw),
}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def build_apng(size, frames, *, colour=6, default=None, declared=None):
    """Frames are (left, top, raw, delay, disposal, blend); `default` is the raw of a default image outside of them."""
    width, height = size
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    if colour == 3:
        out += chunk(b"PLTE", PALETTE[:, :3].tobytes()) + chunk(b"tRNS", PALETTE[:, 3].tobytes())
    out += chunk(b"acTL", struct.pack(">II", declared or len(frames), 0))

    def packed(raw):
        return zlib.compress(b"".join(b"\0" + row.tobytes() for row in raw))

    if default is not None:
        out += chunk(b"IDAT", packed(default))
    sequence = 0
    for left, top, raw, (numerator, denominator), disposal, blend in frames:
        fields = (sequence, raw.shape[1], raw.shape[0], left, top, numerator, denominator, disposal, blend)
        out += chunk(b"fcTL", struct.pack(">IIIIIHHBB", *fields))
        sequence += 1
        if default is None and sequence == 1:
            out += chunk(b"IDAT", packed(raw))
        else:
            out += chunk(b"fdAT", struct.pack(">I", sequence) + packed(raw))
            sequence += 1
    return out + chunk(b"IEND", b"")


def random_frames(rng, size, colour, count):
    frames = []
    for index in range(count):
        width, height = (int(rng.integers(1, length + 1)) for length in size)
        left, top = (int(rng.integers(0, full - part + 1)) for full, part in zip(size, (width, height), strict=True))
        if index == 0:
            (width, height), left, top = size, 0, 0
        raw = rng.integers(0, 256, (height, width, CHANNELS[colour]), np.uint8)
        raw = raw % 16 if colour == 3 else raw
        frames.append((left, top, raw, (int(rng.integers(1, 9)), 20), int(rng.integers(0, 3)), int(rng.integers(0, 2))))
    return frames


def composed(size, frames, rgba):
    """What each frame shows, on black: the specification's rules, in float, pixel by pixel."""
    canvas = np.zeros((size[1], size[0], 4))
    for left, top, raw, _, disposal, blend in frames:
        before = canvas.copy()
        for (y, x), _ in np.ndenumerate(raw[..., 0]):
            source = rgba(raw)[y, x] / 255
            target = canvas[top + y, left + x]
            if blend:
                alpha = source[3] + target[3] * (1 - source[3])
                mixed = source[:3] * source[3] + target[:3] * target[3] * (1 - source[3])
                source = np.array([*(mixed / alpha if alpha else mixed), alpha])
            canvas[top + y, left + x] = source
        yield canvas[..., :3] * canvas[..., 3:] * 255
        area = slice(top, top + raw.shape[0]), slice(left, left + raw.shape[1])
        if disposal == 1:
            canvas[area] = 0
        elif disposal == 2:
            canvas[area] = before[area]


@pytest.mark.parametrize("kind", KINDS)
def test_composition_is_that_of_the_specification(tmp_path, kind):
    colour, rgba = KINDS[kind]
    size = (7, 5)
    frames = random_frames(np.random.default_rng(colour), size, colour, 12)
    (tmp_path / "a.png").write_bytes(build_apng(size, frames, colour=colour))
    clip = read_clip(tmp_path / "a.png")
    expected = list(composed(size, frames, rgba))
    assert clip.frames_THW3.shape == (12, 5, 7, 3) and clip.notes == ()
    # Pillow keeps 8 bits a channel between frames.
    assert np.abs(clip.frames_THW3.numpy() - np.array(expected)).max() <= 4
    delays = [max(numerator / denominator, 0.011) for *_, (numerator, denominator), _, _ in frames]
    assert np.allclose(np.diff(clip.times), delays)


def test_half_transparent_frames_stay_bright_over_an_opaque_one(tmp_path):
    """Pillow's own composition multiplies the alpha with itself, which is too dark on black."""
    opaque = np.full((4, 4, 4), 255, np.uint8)
    half = np.full((4, 4, 4), (200, 100, 0, 128), np.uint8)
    data = build_apng((4, 4), [(0, 0, opaque, (1, 10), 0, 0), (0, 0, half, (1, 10), 0, 1)])
    (tmp_path / "a.png").write_bytes(data)
    assert read_clip(tmp_path / "a.png").frames_THW3[1, 0, 0].tolist() == [227, 177, 127]


def test_default_image_is_no_frame(tmp_path):
    raw = [np.full((4, 4, 4), (*rgb, 255), np.uint8) for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames = [(0, 0, each, (1, 10), 0, 0) for each in raw[1:]]
    for some in (frames, frames[:1]):  # a single frame replaces the default image too
        (tmp_path / "a.png").write_bytes(build_apng((4, 4), some, default=raw[0]))
        clip = read_clip(tmp_path / "a.png")
        assert [frame[0, 0].tolist() for frame in clip.frames_THW3] == [[0, 255, 0], [0, 0, 255]][: len(some)]


def test_delay_of_zero_and_denominator_of_zero(tmp_path):
    raw = np.zeros((4, 4, 4), np.uint8)
    delays = [(0, 100), (1, 100), (50, 0), (3, 1000)]
    (tmp_path / "a.png").write_bytes(build_apng((4, 4), [(0, 0, raw, delay, 0, 0) for delay in delays]))
    # A denominator of 0 counts as 100; browsers show up to 10 ms as 100 ms.
    assert np.allclose(np.diff(read_clip(tmp_path / "a.png").times), [0.1, 0.1, 0.5, 0.1])


def test_cut_animation_ends_before_the_damage(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 4), np.uint8)
    data = build_apng((8, 8), [(0, 0, each, (1, 10), 0, 0) for each in raw])
    ends = [data.find(b"fcTL", start) for start in range(len(data)) if data.startswith(b"fcTL", start)]
    (tmp_path / "a.png").write_bytes(data[: ends[4] + 60])
    clip = read_clip(tmp_path / "a.png")
    assert len(clip.frames_THW3) == 4 and clip.notes == ("4 of 6 frames are read, the others are missing or damaged",)


def test_frame_outside_of_the_canvas_ends_the_animation(tmp_path):
    raw = np.full((4, 4, 4), 255, np.uint8)
    frames = [(0, 0, raw, (1, 10), 0, 0), (1, 0, raw, (1, 10), 0, 0)]
    (tmp_path / "a.png").write_bytes(build_apng((4, 4), frames))
    clip = read_clip(tmp_path / "a.png")
    assert len(clip.frames_THW3) == 1 and "1 of 2 frames" in clip.notes[0]


def test_plain_png_is_no_animation():
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    assert frames_in_apng(data.getvalue()) == 0 and list(read_apng(data.getvalue())) == []
