"""Gifs against FFmpeg's decoder, which composes them by itself."""

import struct

import av
import numpy as np
import pytest

from reelm.media.reader import read_clip

SIZE = (13, 11)


def packed(indices):
    """LZW without compression: codes of 9 bits, and a clear code before they would grow."""
    codes = [256]
    for count, index in enumerate(indices):
        codes += [256] if count % 200 == 199 else []
        codes.append(int(index))
    bits = "".join(f"{code:09b}"[::-1] for code in [*codes, 257])
    stream = bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))
    return b"\x08" + b"".join(
        bytes([len(stream[start : start + 255])]) + stream[start : start + 255] for start in range(0, len(stream), 255)
    ) + b"\0"  # fmt: skip


def random_gif(seed, *, global_palette=True, cover=True, count=8):
    """A gif of random pixels, places, palettes, transparencies and disposals."""
    rng = np.random.default_rng(seed)

    def colours():
        return rng.integers(0, 256, (256, 3), np.uint8).tobytes()

    background = int(rng.integers(0, 8))
    data = b"GIF89a" + struct.pack("<HHBBB", *SIZE, 0xF7 if global_palette else 0x77, background, 0)
    data += colours() if global_palette else b""
    for number in range(count):
        width, height = (int(rng.integers(1, side + 1)) for side in SIZE)
        left, top = (int(rng.integers(0, side - part + 1)) for side, part in zip(SIZE, (width, height), strict=True))
        if number == 0 and cover:
            left, top, (width, height) = 0, 0, SIZE
        local = not global_palette or rng.random() < 0.4
        flags = (int(rng.integers(0, 4)) << 2) | int(rng.random() < 0.6)
        data += b"!\xf9\x04" + struct.pack("<BHBB", flags, int(rng.integers(2, 20)), int(rng.integers(0, 8)), 0)
        interlaced = rng.random() < 0.3
        data += b"," + struct.pack(
            "<HHHHB", left, top, width, height, (0x87 if local else 0) | (0x40 if interlaced else 0)
        )
        data += (colours() if local else b"") + packed(rng.integers(0, 8, width * height))
    return data + b";"


@pytest.mark.parametrize("cover", [True, False])
@pytest.mark.parametrize("global_palette", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_composition_is_ffmpegs(tmp_path, seed, global_palette, cover):
    (tmp_path / "a.gif").write_bytes(random_gif(seed, global_palette=global_palette, cover=cover))
    clip = read_clip(tmp_path / "a.gif")
    with av.open(str(tmp_path / "a.gif")) as container:
        shown = np.array([frame.to_ndarray(format="rgba") for frame in container.decode(video=0)])
    assert (clip.frames_THW3.numpy() == np.where(shown[..., 3:] > 0, shown[..., :3], 0)).all() and clip.notes == ()
