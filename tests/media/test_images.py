"""Reading images: modes, depths, orientation, colour profiles and transparency, and the frames of animations."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from reelm.core.errors import ClipError
from reelm.media.arrays import as_frames
from reelm.media.clip import ClipLimits
from reelm.media.images import image_format
from reelm.media.reader import is_video, read_clip
from reelm.media.writer import write_clip
from reelm.tests.media.files import mutate

RAMP = np.linspace(0, 65535, 64).astype(np.uint16)
GREY_RAMP = np.round(RAMP / 257)
CHART = np.zeros((48, 64, 3), np.uint8)
CHART[:24, :32], CHART[:24, 32:], CHART[24:, :32], CHART[24:, 32:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
)
# What EXIF's orientations do to an array: the standard says which side of the picture row 0 and column 0 are.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def still(path):
    clip = read_clip(path)
    assert (len(clip.frames_THW3), clip.fps, clip.times) == (1, 1.0, None)
    return clip.frames_THW3[0].numpy().astype(int)


def moving(count, height=32, width=32):
    """A grey ramp whose brightness tells the frame's number."""
    ramp = np.linspace(0, 60, width, dtype=np.uint8)[None, None, :, None]
    return np.broadcast_to(ramp + (np.arange(count) * 2 % 190)[:, None, None, None], (count, height, width, 3)).astype(
        np.uint8
    )


def png(path, values, depth, colour, extra=()):
    """Write a PNG of any depth by hand; `values` (H, W, C) are raw samples, and `extra` chunks before the pixels."""
    height, width, _ = values.shape

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = (values.reshape(height, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*each) for each in extra) + data + chunk(b"IEND", b"")
    )
    return path


# ---- modes and depths


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tiff", ".ppm", ".avif", ".jp2", ".ico", ""]
)
def test_still_image_is_a_clip_of_one_frame(tmp_path, suffix):
    image, path = moving(1)[0], tmp_path / f"a{suffix}"
    sharp = {".jpg": {"quality": 95}, ".webp": {"quality": 95}, ".avif": {"quality": 95}}
    Image.fromarray(image).save(path, **sharp.get(suffix, {}), **({} if suffix else {"format": "PNG"}))
    assert np.abs(still(path) - image).max() <= 4 and not is_video(path)
    # The first bytes decide, not the name.
    renamed = path.rename(tmp_path / "a.mp4")
    assert np.abs(still(renamed) - image).max() <= 4


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1)])
def test_thin_images(tmp_path, size):
    Image.new("RGB", size, (9, 90, 200)).save(tmp_path / "a.png")
    assert (still(tmp_path / "a.png") == (9, 90, 200)).all()


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = np.broadcast_to(RAMP[None, :, None], (4, 64, 1))
    png(tmp_path / "grey.png", grey, 16, 0)
    assert (still(tmp_path / "grey.png") == GREY_RAMP[None, :, None]).all()
    png(tmp_path / "low.png", grey // 257, 16, 0)  # a depth map of low values is almost black, not white
    assert still(tmp_path / "low.png").max() == 1
    png(tmp_path / "middle.png", np.full((2, 2, 1), 32768), 16, 0)
    assert (still(tmp_path / "middle.png") == 128).all()
    colour = np.broadcast_to(np.stack([RAMP, RAMP[::-1], RAMP], -1), (4, 64, 3))
    png(tmp_path / "rgb.png", colour, 16, 2)
    expected = np.stack([GREY_RAMP, GREY_RAMP[::-1], GREY_RAMP], -1)
    assert np.abs(still(tmp_path / "rgb.png") - expected).max() <= 1
    png(
        tmp_path / "la.png",
        np.stack([grey[..., 0], np.where(np.arange(64) < 32, 0, 65535) + 0 * grey[..., 0]], -1),
        16,
        4,
    )
    assert np.abs(still(tmp_path / "la.png") - np.where(np.arange(64) < 32, 0, GREY_RAMP)[:, None]).max() <= 1
    png(tmp_path / "rgba.png", np.concatenate([colour, np.full((4, 64, 1), 32768)], -1), 16, 6)
    assert np.abs(still(tmp_path / "rgba.png") - expected / 2).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
@pytest.mark.parametrize("suffix", [".tiff", ".png", ".pgm", ".jp2"])
def test_sixteen_bit_grey_of_any_byte_order_and_format(tmp_path, mode, suffix):
    values = np.broadcast_to(RAMP, (4, 64)).astype({"I;16": "<u2", "I;16B": ">u2"}[mode])
    image = Image.frombytes(mode, (64, 4), values.tobytes())
    assert (as_frames(image)[0][0].numpy() == GREY_RAMP[:, None]).all()
    if mode == "I;16B" and suffix in (".jp2", ".pgm"):  # which Pillow does not write
        return
    image.save(tmp_path / f"a{suffix}", **({"irreversible": False} if suffix == ".jp2" else {}))
    assert (still(tmp_path / f"a{suffix}") == GREY_RAMP[:, None]).all()
    assert (as_frames(Image.open(tmp_path / f"a{suffix}"))[0][0].numpy() == GREY_RAMP[:, None]).all()


def tiff(path, values, tags):
    """Write an uncompressed little-endian TIFF of one strip by hand."""
    height, width = values.shape[:2]
    data = values.tobytes()
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)} | tags
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + ifd)
    return path


def test_white_is_zero_and_twelve_bits_of_tiff(tmp_path):
    values = np.broadcast_to(RAMP, (2, 64)).astype("<u2")
    assert (still(tiff(tmp_path / "a.tiff", values, {262: 0})) == 255 - GREY_RAMP[:, None]).all()
    # Twelve bits: two samples in three bytes, the first bits first.
    packed = np.array([[0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00]], np.uint8)  # 0, 4095, 2048, 0
    tiff(tmp_path / "b.tiff", packed, {256: 4, 258: 12})
    assert still(tmp_path / "b.tiff")[0, :, 0].tolist() == [0, 255, 128, 0]


def test_integers_of_32_bits_and_floats_on_another_scale_are_refused(tmp_path):
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(2, 0)
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    assert (still(tmp_path / "a.tiff") == np.round(ramp * 255)[..., None]).all()
    for values in (ramp * 255, ramp - 0.5, np.full((2, 2), np.nan, np.float32)):
        Image.fromarray(values).save(tmp_path / "b.tiff")
        with pytest.raises(ClipError, match=r"clip: must have floats in \[0, 1\].*b\.tiff"):
            read_clip(tmp_path / "b.tiff")
    Image.fromarray((ramp * 1000).astype(np.int32)).save(tmp_path / "c.tiff")
    with pytest.raises(ClipError, match=r"clip: must have 8 or 16 bits in a channel.*32-bit integers.*c\.tiff"):
        read_clip(tmp_path / "c.tiff")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_low_depths_and_transparent_greys(tmp_path, depth):
    white = 2**depth - 1
    values = np.arange(64).reshape(8, 8, 1) % (white + 1)
    shown = values * 255 // white
    assert (still(png(tmp_path / "a.png", values, depth, 0)) == shown).all()
    key = white - 1
    png(tmp_path / "b.png", values, depth, 0, [(b"tRNS", struct.pack(">H", key))])
    assert (still(tmp_path / "b.png") == np.where(values == key, 0, shown)).all()


def test_transparent_values_of_other_kinds(tmp_path):
    grey = np.broadcast_to(RAMP[None, :, None], (2, 64, 1))
    png(tmp_path / "a.png", grey, 16, 0, [(b"tRNS", struct.pack(">H", 65535))])
    assert still(tmp_path / "a.png")[0, -1].tolist() == [0] * 3 and still(tmp_path / "a.png")[0, -2].min() > 200
    chart = CHART[::8, ::8]
    for depth, key in ((8, (0, 255, 0)), (16, (0, 65535, 0))):
        values = chart.astype(int) * (257 if depth == 16 else 1)
        png(tmp_path / "b.png", values, depth, 2, [(b"tRNS", struct.pack(">HHH", *key))])
        assert (still(tmp_path / "b.png") == np.where((chart == (0, 255, 0)).all(-1, keepdims=True), 0, chart)).all()
    palette = [(b"PLTE", bytes((255, 0, 0, 0, 255, 0, 200, 100, 50))), (b"tRNS", bytes((0, 255, 128)))]
    png(tmp_path / "c.png", np.arange(6).reshape(2, 3, 1) % 3, 2, 3, palette)
    assert np.abs(still(tmp_path / "c.png")[0] - [[0, 0, 0], [0, 255, 0], [100, 50, 25]]).max() <= 1


MODES = {
    "1": lambda rgba: rgba.convert("L").convert("1"),
    "LA": None, "PA": lambda rgba: rgba.convert("PA"), "P": lambda rgba: rgba.convert("RGB").convert("P"),
    "RGBa": lambda rgba: rgba.convert("RGBa"), "La": lambda rgba: rgba.convert("LA").convert("La"),
    "RGBX": None, "CMYK": None, "YCbCr": None, "HSV": None,
    "LAB": lambda rgba: rgba.convert("LAB"), "RGBA": None, "RGB": None, "L": None,
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_in_memory(mode):
    rgba = Image.fromarray(
        np.dstack([CHART, np.where(np.arange(64) < 16, 0, 255) + np.zeros((48, 1))]).astype(np.uint8)
    )
    source = rgba.convert("RGB") if mode in ("RGBX", "CMYK", "YCbCr", "HSV", "LAB", "RGB", "L") else rgba
    image = (MODES[mode] or (lambda each: each.convert(mode)))(source)
    assert image.mode == mode
    frames, _ = as_frames(image)
    colour = np.asarray(image.convert("LA" if mode == "La" else "RGBA").convert("RGB")).astype(int)
    expected = np.where(np.arange(64)[:, None] < 16, 0, colour) if "A" in mode.upper() and mode != "LAB" else colour
    assert frames.shape == (1, 48, 64, 3) and np.abs(frames[0].numpy() - expected).max() <= 2


def test_transparency_goes_on_black_in_every_format(tmp_path):
    rgba = np.full((8, 8, 4), (255, 255, 255, 128), np.uint8)
    rgba[:, :4, 3] = 0
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True, "exact": True}), ("a.tiff", {}), ("a.avif", {}),
                          ("a.jp2", {}), ("a.ico", {"sizes": [(8, 8)]})):  # fmt: skip
        Image.fromarray(rgba).save(tmp_path / name, **options)
        shown = still(tmp_path / name)
        assert shown[:, :3].max() == 0 and np.abs(shown[:, 5:] - 128).max() <= 4, name


def test_cmyk_of_adobe(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(still(tmp_path / "a.jpg") - (255, 0, 0)).max() <= 3
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.tiff")
    assert np.abs(still(tmp_path / "a.tiff") - (255, 0, 0)).max() <= 3


# ---- orientation


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tiff"])
def test_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {
        ".jpg": {"subsampling": 0, "quality": 95},
        ".webp": {"lossless": True},
        ".avif": {"subsampling": "4:4:4"},
    }
    Image.fromarray(CHART).save(tmp_path / f"a{suffix}", exif=exif, **options.get(suffix, {}))
    expected = UPRIGHT[orientation](CHART).astype(int)
    # Away from the edges between the fields, which a codec may blur.
    shown, handed = still(tmp_path / f"a{suffix}"), as_frames(Image.open(tmp_path / f"a{suffix}"))[0][0].numpy()
    assert shown.shape == expected.shape and np.abs(shown - expected)[8::16, 8::16].max() <= 8
    assert (handed == shown).all()


def test_rotation_of_the_avif_container_counts_and_not_its_exif(tmp_path):
    """HEIF: EXIF's orientation says what the container's own rotation does, or nothing."""
    exif = Image.Exif()
    exif[0x0128] = 6
    Image.fromarray(CHART).save(tmp_path / "a.avif", exif=exif, subsampling="4:4:4")
    data = (tmp_path / "a.avif").read_bytes()
    little, big = struct.pack("<HHIH", 0x0128, 3, 1, 6), struct.pack(">HHIH", 0x0128, 3, 1, 6)
    assert data.count(little) + data.count(big) == 1
    data = data.replace(little, struct.pack("<HHIH", 0x0112, 3, 1, 6)).replace(
        big, struct.pack(">HHIH", 0x0112, 3, 1, 6)
    )
    (tmp_path / "a.avif").write_bytes(data)
    assert still(tmp_path / "a.avif").shape == CHART.shape


def test_broken_exif_does_not_cost_the_picture(tmp_path):
    Image.fromarray(CHART).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert (still(tmp_path / "a.png") == CHART).all()
    assert (as_frames(Image.open(tmp_path / "a.png"))[0][0].numpy() == CHART).all()


# ---- colour profiles


def matrix_profile(primaries, gamma=2.2):
    """A profile of three primaries (rows of CIE XYZ at D50) and one gamma."""

    def tag(kind, values):
        return kind + b"\0" * 4 + values

    def number(value):
        return struct.pack(">i", round(value * 65536))

    name = b"A wide test profile\0"
    text = tag(b"desc", struct.pack(">I", len(name)) + name + b"\0" * 78)
    curve = tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)))
    points = [tag(b"XYZ ", b"".join(map(number, row))) for row in (*primaries, (0.9642, 1.0, 0.8249))]
    named = [*zip((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt"), points, strict=True), (b"desc", text), *(
        (each, curve) for each in (b"rTRC", b"gTRC", b"bTRC"))]  # fmt: skip
    offset, table, body = 132 + 12 * len(named), struct.pack(">I", len(named)), b""
    for kind, values in named:
        values = values + b"\0" * (-len(values) % 4)
        table += kind + struct.pack(">II", offset + len(body), len(values))
        body += values
    header = (
        struct.pack(">I4sI4s4s4s", offset + len(body), b"\0" * 4, 0x02100000, b"mntr", b"RGB ", b"XYZ ") + b"\0" * 12
    )
    header += b"acsp" + b"\0" * 28 + b"".join(map(number, (0.9642, 1.0, 0.8249)))
    return header + b"\0" * (128 - len(header)) + table + body


# Display P3's primaries, adapted to D50 (by the ICC's own registry entry).
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))


SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))


def from_linear(primaries, colour):
    """The sRGB value of a colour under such primaries and a gamma of 2.2, by IEC 61966-2-1."""
    linear = np.linalg.inv(np.array(SRGB).T) @ np.array(primaries).T @ (np.array(colour) / 255) ** 2.2
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".avif"])
def test_colour_profile_is_converted(tmp_path, suffix):
    colours = (
        np.array([[(200, 100, 50), (128, 128, 128), (0, 0, 0), (255, 255, 255)]], np.uint8).repeat(16, 0).repeat(16, 1)
    )
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True},
               ".avif": {"quality": 100, "subsampling": "4:4:4"}}  # fmt: skip
    profile = matrix_profile(DISPLAY_P3)
    Image.fromarray(colours).save(tmp_path / f"a{suffix}", icc_profile=profile, **options.get(suffix, {}))
    clip = read_clip(tmp_path / f"a{suffix}")
    shown = clip.frames_THW3[0, 8, 8::16].numpy().astype(int)
    assert np.abs(shown[0] - from_linear(DISPLAY_P3, (200, 100, 50))).max() <= 3
    assert np.abs(shown[1:] - np.array([[128], [0], [255]])).max() <= 2
    assert clip.notes == ("colours converted from A wide test profile to sRGB",)


def test_profiles_that_change_nothing_or_do_not_fit(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile, notes in (
        (srgb, ()),
        (lab, ()),
        (b"no profile", ("the colour profile is broken, the colours are taken as sRGB",)),
    ):
        Image.fromarray(CHART).save(tmp_path / "a.png", icc_profile=profile)
        assert (still(tmp_path / "a.png") == CHART).all() and read_clip(tmp_path / "a.png").notes == notes
    # A profile of RGB in a grey image, and one under transparency.
    Image.new("L", (4, 4), 128).save(tmp_path / "b.png", icc_profile=matrix_profile(DISPLAY_P3))
    assert np.abs(still(tmp_path / "b.png") - 128).max() <= 1
    Image.new("RGBA", (4, 4), (200, 100, 50, 0)).save(tmp_path / "c.png", icc_profile=matrix_profile(DISPLAY_P3))
    assert still(tmp_path / "c.png").max() == 0


# ---- animations

PALETTE = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)


def gif(path, frames, size=(16, 16)):
    """Write a gif by hand of flat rectangles (x, y, w, h, colour, delay, disposal), with colour 0 transparent."""
    data = (
        b"GIF89a" + struct.pack("<HHBBB", *size, 0x91, 0, 0) + PALETTE.tobytes() + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    )

    def packed(pixels):  # LZW without compression: a clear code after every two pixels keeps codes at three bits
        codes = (
            [4] + [code for index, pixel in enumerate(pixels) for code in ((pixel, 4) if index % 2 else (pixel,))] + [5]
        )
        bits = "".join(f"{code:03b}"[::-1] for code in codes)
        stream = bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))
        blocks = [stream[start : start + 255] for start in range(0, len(stream), 255)]
        return b"\x02" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"

    for x, y, width, height, colour, delay, disposal in frames:
        data += b"!\xf9\x04" + bytes([disposal << 2 | 1]) + struct.pack("<H", delay) + b"\0\0"
        data += b"," + struct.pack("<HHHHB", x, y, width, height, 0) + packed([colour] * (width * height))
    path.write_bytes(data + b";")
    return path


def composed(frames, size=(16, 16)):
    """What each frame of such a gif shows, by the words of the GIF89a specification."""
    canvas = np.zeros((size[1], size[0]), int)
    for x, y, width, height, colour, _, disposal in frames:
        before, area = canvas.copy(), (slice(y, y + height), slice(x, x + width))
        if colour:  # colour 0 is transparent
            canvas[area] = colour
        yield PALETTE[canvas]
        if disposal == 2:
            canvas[area] = 0
        elif disposal == 3:
            canvas[area] = before[area]


@pytest.mark.parametrize("seed", range(6))
def test_gif_is_composed_by_its_disposals(tmp_path, seed):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(8):
        x, y = rng.integers(0, 12, 2).tolist()
        frames.append(
            (x, y, *rng.integers(1, 5, 2).tolist(), *rng.integers(0, 4, 1).tolist(), 10, int(rng.integers(0, 4)))
        )
    if seed % 2:
        frames[0] = (0, 0, 16, 16, 1, 10, 1)
    clip = read_clip(gif(tmp_path / "a.gif", frames))
    assert (clip.frames_THW3.numpy() == np.array(list(composed(frames)))).all()


@pytest.mark.parametrize(("disposal", "corner"), [(1, (0, 255, 0)), (2, (0, 0, 0)), (3, (255, 0, 0))])
def test_disposals_that_were_reported(tmp_path, disposal, corner):
    frames = [(0, 0, 16, 16, 1, 10, 1), (0, 0, 8, 8, 2, 10, disposal), (8, 8, 8, 8, 3, 10, 1)]
    last = read_clip(gif(tmp_path / "a.gif", frames)).frames_THW3[-1]
    assert (last[0, 0].tolist(), last[0, 15].tolist(), last[15, 15].tolist()) == ([*corner], [255, 0, 0], [0, 0, 255])


def test_delays_of_gif_are_those_of_browsers(tmp_path):
    frames = [(0, 0, 16, 16, 1, 0, 1), (0, 0, 8, 8, 2, 1, 1), (8, 8, 8, 8, 3, 2, 1)]
    clip = read_clip(gif(tmp_path / "a.gif", frames))
    assert np.allclose(np.diff(clip.times), [0.1, 0.1, 0.02])


def test_first_frame_smaller_than_the_screen(tmp_path):
    frames = [(4, 4, 8, 8, 1, 10, 1), (0, 0, 8, 8, 2, 10, 1)]
    clip = read_clip(gif(tmp_path / "a.gif", frames))
    assert clip.frames_THW3.shape == (2, 16, 16, 3) and clip.frames_THW3[0, 0, 0].tolist() == [0, 0, 0]
    assert (clip.frames_THW3.numpy() == np.array(list(composed(frames)))).all()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
def test_animation_has_its_frames_and_times(tmp_path, suffix):
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    options = {".webp": {"lossless": True}, ".avif": {"subsampling": "4:4:4"}}.get(suffix, {})
    images[0].save(
        tmp_path / f"a{suffix}", save_all=True, append_images=images[1:], duration=[50, 500, 1000], **options
    )
    clip = read_clip(tmp_path / f"a{suffix}")
    assert np.allclose(clip.times, [0, 0.05, 0.55, 1.55]) and clip.seconds == pytest.approx(1.55)
    shown = clip.frames_THW3[:, 16, 16].numpy().astype(int)
    assert np.abs(shown - [(255, 0, 0), (0, 255, 0), (0, 0, 255)]).max() <= 4
    tail = read_clip(tmp_path / f"a{suffix}", last_seconds=1.2)
    assert len(tail.frames_THW3) in (1, 2) and (tail.frames_THW3[-1] == clip.frames_THW3[-1]).all()


@pytest.mark.parametrize("suffix", [".webp", ".png", ".avif"])
def test_transparent_animation_is_on_black_and_upright(tmp_path, suffix):
    rgba = np.dstack([CHART, np.where(np.arange(64) < 32, 0, 255) + np.zeros((48, 1))]).astype(np.uint8)
    exif = Image.Exif()
    orientation = 1 if suffix == ".avif" else 6  # Pillow does not write an animated AVIF that is turned
    exif[0x0112] = orientation
    options = {".webp": {"lossless": True}, ".avif": {"subsampling": "4:4:4"}, ".png": {"blend": 0}}[suffix]
    images = [Image.fromarray(rgba), Image.fromarray(rgba[::-1].copy())]
    images[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=images[1:], duration=100, exif=exif, **options)
    clip = read_clip(tmp_path / f"a{suffix}")
    expected = [
        UPRIGHT[orientation](np.where(each[..., 3:] > 0, each[..., :3], 0)).astype(int) for each in (rgba, rgba[::-1])
    ]
    assert clip.frames_THW3.shape == (2, *expected[0].shape)
    assert np.abs(clip.frames_THW3.numpy() - np.array(expected))[:, 8::16, 8::16].max() <= 8


def test_foreign_gif_with_uneven_durations(tmp_path):
    images = [Image.fromarray(frame) for frame in moving(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 500, 100])
    clip = read_clip(tmp_path / "a.gif")
    assert np.allclose(clip.times, [0.0, 0.1, 0.6, 0.7]) and clip.metadata == {}


@pytest.mark.parametrize("ours", [False, True])
def test_cut_gif_has_the_frames_before_the_cut(tmp_path, ours):
    frames = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    if ours:
        write_clip(tmp_path / "a.gif", frames, 10)
    else:
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    whole, data = read_clip(tmp_path / "a.gif"), (tmp_path / "a.gif").read_bytes()
    assert len(whole.frames_THW3) == 10 and whole.notes == ()
    (tmp_path / "a.gif").write_bytes(data[: len(data) * 6 // 10])
    clip = read_clip(tmp_path / "a.gif")
    count = len(clip.frames_THW3)
    assert count in (5, 6) and (clip.frames_THW3 == whole.frames_THW3[:count]).all()
    assert clip.fps == 10 and len(clip.notes) == 1 and clip.notes[0].startswith(f"{count} of ")


def test_gif_without_its_end_is_read_and_said(tmp_path):
    frames = [(0, 0, 16, 16, 1, 10, 1), (0, 0, 8, 8, 2, 10, 1)]
    data = gif(tmp_path / "a.gif", frames).read_bytes()
    (tmp_path / "a.gif").write_bytes(data[:-1])
    clip = read_clip(tmp_path / "a.gif")
    assert len(clip.frames_THW3) == 2 and clip.notes == ("the file may be cut: its end is not marked",)


def test_gif_of_ours_cut_between_two_frames(tmp_path):
    shorter = write_clip(tmp_path / "b.gif", moving(6), 10).read_bytes()
    # A gif of fewer frames whose comment promises nine, without the byte that ends a gif.
    (tmp_path / "a.gif").write_bytes(shorter[:-1].replace(b'"frames": 6', b'"frames": 9'))
    clip = read_clip(tmp_path / "a.gif")
    assert len(clip.frames_THW3) == 6 and clip.notes == ("6 of 9 frames are read, the others are missing",)


# ---- files of several pictures, and what is refused


def test_first_page_of_a_tiff_is_read_and_said(tmp_path):
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    clip = read_clip(tmp_path / "a.tiff")
    assert clip.frames_THW3[:, 0, 0].tolist() == [[255, 0, 0]] and "the first of 3 pages" in clip.notes[0]


def test_second_picture_of_a_phone_is_no_frame(tmp_path):
    photo, depth = Image.fromarray(CHART), Image.new("L", (8, 8))
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[depth.convert("RGB")], quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    assert still(tmp_path / "a.jpg").shape == CHART.shape


def ftyp(*brands):
    return struct.pack(">I4s4sI", 16 + 4 * (len(brands) - 1), b"ftyp", brands[0], 0) + b"".join(brands[1:]) + b"\0" * 64


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("HEIC", ftyp(b"heic", b"mif1", b"heic")), ("HEIC", ftyp(b"mif1", b"heic")), ("HEIC", ftyp(b"hevc", b"msf1")),
        ("JPEG XL", b"\xff\x0a" + b"\0" * 60), ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 60),
        ("OpenEXR", b"\x76\x2f\x31\x01" + b"\0" * 60), ("Photoshop", b"8BPS\0\1" + b"\0" * 60),
    ],
)  # fmt: skip
def test_formats_that_are_not_read_are_refused_by_name(tmp_path, name, data):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ClipError, match=rf"clip: must be of a format that is read .*got {name} in .*a\.jpg"):
        read_clip(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("brands", "expected"),
    [((b"avif", b"mif1"), "AVIF"), ((b"avis", b"msf1"), "AVIF"), ((b"mif1", b"avif"), "AVIF"),
     ((b"isom", b"iso2"), None), ((b"mp42", b"avif"), None), ((b"qt  ",), None)],
)  # fmt: skip
def test_brands_tell_an_avif_from_an_mp4(tmp_path, brands, expected):
    (tmp_path / "a").write_bytes(ftyp(*brands))
    assert image_format(tmp_path / "a") == expected and is_video(tmp_path / "a") == (expected is None)


def test_raw_photo_is_refused_by_name(tmp_path):
    values = np.zeros((2, 2), "<u2")
    for tags in ({254: 1}, {50706: 1}):
        with pytest.raises(ClipError, match=r"clip: must be a picture .*a camera's raw file .*a\.dng"):
            read_clip(tiff(tmp_path / "a.dng", values, tags))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [6000, 12000, 60000])
def test_bombs_are_refused_from_their_header(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    (tmp_path / "a.png").write_bytes(data + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(ClipError, match=r"a\.png"):
        read_clip(tmp_path / "a.png")
    (tmp_path / "a.gif").write_bytes(
        b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2L\1\0;"
    )
    with pytest.raises(ClipError, match=r"a\.gif"):
        read_clip(tmp_path / "a.gif", limits=ClipLimits(max_pixels=10**7))


# ---- broken bytes: a clip or a ClipError, never anything else


def seeds():
    """A small file of each format, by its suffix."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (12, 12, 4), np.uint8)) for _ in range(4)]
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": frames[1:], "duration": 100}
    options = {"gif": more, "webp": {**more, "exif": exif}, "apng": {**more, "blend": 1}, "avif": more,
               "png": {"exif": exif}, "tiff": {"compression": "tiff_lzw"}, "jp2": {},
               "ico": {"sizes": [(12, 12)]}}  # fmt: skip
    files = {}
    for name in (*options, "jpg", "bmp", "ppm", "deep.png"):
        image = frames[0].convert("RGB") if name in ("jpg", "bmp", "ppm", "avif") else frames[0]
        if name == "deep.png":
            image = Image.fromarray(rng.integers(0, 65536, (12, 12), np.uint16))
        kind = {"apng": "PNG", "deep.png": "PNG", "jpg": "JPEG", "jp2": "JPEG2000"}.get(name, name.upper())
        data, icc = io.BytesIO(), {"icc_profile": matrix_profile(DISPLAY_P3)} if name in ("jpg", "png") else {}
        image.save(data, kind, **options.get(name, {}), **icc)
        files[name] = data.getvalue()
    return files


SEEDS = seeds()


def sweep(path, seed, count):
    """Read mutations of a file; return how many are clips and how many are refused by name."""
    rng, limits, clips = random.Random(seed), ClipLimits(max_pixels=10**6, max_bytes=10**8, max_seconds=600), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of what it finds broken
        for _ in range(count):
            path.write_bytes(mutate(SEEDS[path.name[2:]], rng, 200))
            try:
                clip = read_clip(path, limits=limits)
                assert clip.frames_THW3.numel() > 0 and clip.fps > 0 and isinstance(clip.metadata, dict)
                clips += 1
            except ClipError as error:
                assert path.name in str(error)
    return clips


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_images(tmp_path, name):
    (tmp_path / f"a.{name}").write_bytes(SEEDS[name])
    assert read_clip(tmp_path / f"a.{name}").frames_THW3.shape[1:] == (12, 12, 3)
    assert sweep(tmp_path / f"a.{name}", 1, 40) < 40


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_many_mutated_images(tmp_path, name):
    clips = sweep(tmp_path / f"a.{name}", 2, 1500)
    assert 0 < clips < 1500
