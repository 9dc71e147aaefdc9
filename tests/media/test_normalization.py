"""What is shown of a video: colours, orientation, shape of pixels, crops, fields, HDR, transparency, sizes."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from reelm.core.errors import ClipError
from reelm.media.fitting import fit_clip
from reelm.media.normalization import MATRICES, OTHER_MATRICES, FrameNormalizer, upright
from reelm.media.reader import read_clip
from reelm.media.streaming import stream_clip
from reelm.media.writer import write_clip
from reelm.tests.media.files import number_of, numbered, write_video

COLOURS = np.array(
    [[200, 40, 40], [40, 180, 60], [50, 60, 200], [230] * 3, [128] * 3, [20] * 3, [220, 180, 40], [180, 60, 180]],
    np.uint8,
)
QUADRANTS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]], np.uint8)


def chart(height=32, width=64):
    return COLOURS.reshape(2, 4, 3).repeat(height // 2, 0).repeat(width // 4, 1)


def colours_of(clip):
    height, width = clip.frames_THW3.shape[1:3]
    return clip.frames_THW3[0, height // 4 :: height // 2, width // 8 :: width // 4].reshape(8, 3).numpy().astype(int)


@pytest.mark.parametrize(("matrix", "name"), MATRICES.items())
@pytest.mark.parametrize(("codec", "pix_fmt", "full"), [
    ("libx264", "yuv420p", False), ("libx264", "yuv420p", True), ("libx264", "yuv444p", False),
    ("ffv1", "yuv420p10le", False), ("ffv1", "yuv422p10le", True), ("ffv1", "yuv444p12le", False),
])  # fmt: skip
def test_every_matrix_range_and_depth_gives_the_colours_back(tmp_path, matrix, name, codec, pix_fmt, full):
    levels = "pc" if full else "tv"
    path = write_video(
        tmp_path / "a.mkv", [chart()], codec=codec, pix_fmt=pix_fmt, options={"crf": "1"} if codec == "libx264" else {},
        scale=f"out_color_matrix={name}:out_range={levels}",
        tags={"colorspace": matrix, "color_range": 2 if full else 1},
    )  # fmt: skip
    difference = colours_of(read_clip(path)) - COLOURS
    assert np.abs(difference).max() <= 2 and abs(difference.mean()) <= 0.4


@pytest.mark.parametrize(("size", "name"), [
    ((480, 640), "smpte170m"), ((576, 720), "smpte170m"), ((720, 1280), "bt709"), ((544, 1280), "bt709"),
    ((1280, 720), "bt709"),
])  # fmt: skip
def test_colours_without_a_tag_are_those_of_the_size(tmp_path, size, name):
    path = write_video(tmp_path / "a.mkv", [chart(*size)], codec="ffv1", scale=f"out_color_matrix={name}:out_range=tv")
    assert np.abs(colours_of(read_clip(path)) - COLOURS).max() <= 2


@pytest.mark.parametrize("matrix", OTHER_MATRICES)
def test_matrices_that_are_not_converted_are_refused_by_name(matrix):
    frame = av.VideoFrame(32, 16, "yuv420p")
    frame.colorspace = matrix
    with pytest.raises(ClipError, match=f"colour matrix must be .*, got {OTHER_MATRICES[matrix]}$"):
        list(FrameNormalizer().frames([(0, frame)]))


def test_a_file_with_such_a_matrix_is_named(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(2), tags={"colorspace": 8})
    with pytest.raises(ClipError, match=r"^clip: the colour matrix must be .* got YCgCo in .*a\.mp4"):
        read_clip(path)


@pytest.mark.parametrize(("codec", "pix_fmt", "suffix"), [
    ("ffv1", "bgr0", "mkv"), ("libx264rgb", "rgb24", "mkv"), ("rawvideo", "bgr24", "avi"), ("qtrle", "rgb24", "mov"),
    ("ffv1", "gbrp10le", "mkv"), ("mjpeg", "yuvj420p", "avi"), ("mpeg4", "yuv420p", "avi"),
])  # fmt: skip
def test_rgb_and_other_codecs(tmp_path, codec, pix_fmt, suffix):
    exact = {"mjpeg": {"qmin": "1", "qmax": "1"}, "mpeg4": {"qmin": "1", "qmax": "1"}, "libx264rgb": {"crf": "0"}}
    path = write_video(tmp_path / f"a.{suffix}", [chart()], codec=codec, pix_fmt=pix_fmt, options=exact.get(codec))
    # libswscale takes BT.601 where neither side says anything, as these codecs do.
    assert np.abs(colours_of(read_clip(path)) - COLOURS).max() <= 3


@pytest.mark.parametrize("full", [False, True])
def test_grey_has_its_own_range(tmp_path, full):
    path = write_video(
        tmp_path / "a.mkv", [numbered(1)[0] + 100], codec="ffv1", pix_fmt="gray",
        scale=f"out_range={'pc' if full else 'tv'}", tags={"color_range": 2 if full else 1},
    )  # fmt: skip
    assert abs(float(read_clip(path).frames_THW3.float().mean()) - 120) <= 1


def test_a_clip_can_be_written_and_read_any_number_of_times(tmp_path):
    """Its colours do not move: chroma that is averaged and repeated is the same again."""
    row, column = np.mgrid[0:64, 0:64] / 63.0
    near = np.stack([np.exp(-8 * ((column - n % 4 / 3) ** 2 + (row - n // 4) ** 2)) for n in range(8)], -1)
    smooth = (near / near.sum(-1, keepdims=True)) @ COLOURS
    frames = torch.from_numpy(smooth.round().astype(np.uint8)).repeat(4, 1, 1, 1)
    again = frames
    for _ in range(10):
        again = read_clip(write_clip(tmp_path / "a.mp4", again, 8)).frames_THW3
    difference = again.double() - frames.double()
    assert difference.mean().abs() < 0.2
    assert 10 * (255**2 / (difference**2).mean()).log10() > 38.5


@pytest.mark.slow
@pytest.mark.parametrize("size", ["its own", 64])
def test_footage_can_be_written_and_read_ten_times(tmp_path, footage, size):
    """Clips of 64 pixels lose more at each encoding, which is printed, and not bounded."""
    for path in sorted(footage.glob("*.mp4")):
        clip = read_clip(path)
        frames = clip.frames_THW3[:16]
        if size == 64:
            frames, _ = fit_clip(clip.frames_THW3, clip.fps, fps=8, height=64, width=64)
        again = frames
        for _ in range(10):
            again = read_clip(write_clip(tmp_path / "a.mp4", again, 8)).frames_THW3
        difference = again.float() - frames
        shift, psnr = float(difference.mean()), float(10 * (255**2 / (difference**2).mean()).log10())
        print(f"{path.name}, {tuple(frames.shape)}: {shift:+.3f} levels, {psnr:.1f} dB")
        assert size == 64 or (abs(shift) <= 0.2 and psnr >= 38.5)


MATRIX = {
    "as it is": ((1, 0, 0, 1), QUADRANTS), "quarter": ((0, 1, -1, 0), np.rot90(QUADRANTS, -1)),
    "half": ((-1, 0, 0, -1), np.rot90(QUADRANTS, 2)), "three quarters": ((0, -1, 1, 0), np.rot90(QUADRANTS)),
    "mirrored": ((-1, 0, 0, 1), QUADRANTS[:, ::-1]), "upside down": ((1, 0, 0, -1), QUADRANTS[::-1]),
    "transposed": ((0, 1, 1, 0), QUADRANTS.transpose(1, 0, 2)),
    "transverse": ((0, -1, -1, 0), np.rot90(QUADRANTS, 2).transpose(1, 0, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRIX)
def test_all_eight_orientations(tmp_path, name):
    (a, b, c, d), wanted = MATRIX[name]
    image = QUADRANTS.repeat(24, 0).repeat(32, 1)
    data = write_video(tmp_path / "a.mp4", [image] * 2, options={"crf": "1"}).read_bytes()
    place = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    values = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data[:place] + values + data[place + 36 :])
    frame = read_clip(tmp_path / "a.mp4").frames_THW3[0].numpy()
    streamed = next(stream_clip(tmp_path / "a.mp4").frames)[2]
    assert torch.equal(torch.from_numpy(streamed), torch.from_numpy(frame))  # torch takes no reversed views
    height, width = frame.shape[:2]
    assert (height, width) == ((64, 48) if a == 0 else (48, 64))
    assert np.abs(frame[height // 4 :: height // 2, width // 4 :: width // 2].astype(int) - wanted).max() <= 4


def test_a_matrix_that_is_none_changes_nothing():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert upright(image, None) is image and upright(image, np.zeros(2, np.int32)) is image
    assert np.array_equal(upright(image, np.zeros(9, np.int32)), image)


@pytest.mark.parametrize(("stored", "aspect", "shown"), [
    ((36, 45), Fraction(64, 45), (36, 64)), ((48, 72), Fraction(8, 9), (48, 64)), ((54, 72), Fraction(4, 3), (54, 96)),
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_become_square(tmp_path, stored, aspect, shown, suffix):
    image = np.zeros((*stored, 3), np.uint8)
    image[:, : stored[1] // 3] = 250
    clip = read_clip(write_video(tmp_path / f"a.{suffix}", [image] * 2, codec="mpeg4", aspect=aspect))
    assert clip.frames_THW3.shape[1:3] == shown
    assert abs(int((clip.frames_THW3[0, 9, :, 0] > 128).sum()) - shown[1] // 3) <= 1
    assert clip.notes == (f"pixels of {aspect.numerator}:{aspect.denominator} made square: "
                          f"{stored[1]}x{stored[0]} -> {shown[1]}x{shown[0]}",)  # fmt: skip


def test_the_crop_of_matroska_is_applied(tmp_path):
    image = numbered(1, 64, 64)[0]
    image[:, :8], image[:, 60:] = 255, 255
    data = write_video(tmp_path / "a.mkv", [image] * 3, codec="ffv1", pix_fmt="bgr0").read_bytes()
    # The video's element: width, height, unit of its display; then, outside it, the most additions to a block.
    video = b"\xe0\x8a\xb0\x81\x40\xba\x81\x40\x54\xb2\x81\x04\x55\xee\x81\x00"
    assert data.count(video) == 1
    crop = b"\xe0\x8e\xb0\x81\x40\xba\x81\x40\x54\xcc\x81\x08\x54\xdd\x81\x04"  # left 8, right 4
    (tmp_path / "a.mkv").write_bytes(data.replace(video, crop))
    clip = read_clip(tmp_path / "a.mkv")
    assert clip.frames_THW3.shape == (3, 64, 52, 3) and int(clip.frames_THW3.max()) < 40
    assert clip.notes == ("cropped as the container says: left 8, top 0, right 4, bottom 0 pixels",)


def test_the_clean_aperture_of_mp4_is_applied(tmp_path):
    image = numbered(1, 64, 64)[0]
    image[:, :8], image[:, 60:] = 255, 255
    data = bytearray(write_video(tmp_path / "a.mp4", [image] * 3, options={"crf": "1"}).read_bytes())
    # 52 columns of 64, whose centre is 2 to the right of that of the picture, and 63 of 64 rows.
    aperture = struct.pack(">I4s8i", 40, b"clap", 104, 2, 63, 1, 2, 1, 1, 2)
    place = data.index(b"avc1", data.index(b"stsd")) - 4
    length = int.from_bytes(data[place : place + 4], "big")
    data[place + length : place + length] = aperture
    for name in (b"avc1", b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        start = data.rindex(name, 0, place + 8) - 4
        data[start : start + 4] = struct.pack(">I", int.from_bytes(data[start : start + 4], "big") + len(aperture))
    (tmp_path / "a.mp4").write_bytes(data)
    clip = read_clip(tmp_path / "a.mp4")
    assert clip.frames_THW3.shape == (3, 63, 52, 3) and int(clip.frames_THW3.max()) < 60
    assert clip.notes == ("cropped as the container says: left 8, top 1, right 4, bottom 0 pixels",)


@pytest.mark.parametrize(("suffix", "how"), [
    ("mp4", {"options": {"x264-params": "tff=1", "crf": "4"}}),
    ("mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"qmin": "1", "qmax": "1"},
             "tags": {"field_order": 2}}),
])  # fmt: skip
def test_fields_become_frames_without_combs(tmp_path, suffix, how):
    """A bar moves by 8 pixels between the fields: rows that alternate between its places are a comb."""

    def bar(number):
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, 8 * number % 48 : 8 * number % 48 + 12] = 250
        return image

    def woven(number):
        frame = bar(2 * number)
        frame[1::2] = bar(2 * number + 1)[1::2]
        return frame

    def combs(frames):
        rows = frames[:, :, :, 0].float()
        return float((rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).abs().mean())

    path = write_video(tmp_path / f"a.{suffix}", [woven(n) for n in range(8)], **how)
    clip = read_clip(path)
    assert clip.notes == ("interlaced: deinterlaced by bwdif, one frame for two fields",)
    assert len(clip.frames_THW3) == 8
    assert combs(clip.frames_THW3) < 0.15 * combs(torch.from_numpy(np.stack([woven(n) for n in range(8)])))


def pq(nits):
    """SMPTE ST 2084: the signal of a luminance, from 0 to 1."""
    power = (nits / 1e4) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), pytest.param(18, "HLG", marks=pytest.mark.slow)])
def test_hdr_is_mapped_to_sdr(tmp_path, transfer, name):
    signal = [pq(n) for n in (0, 1, 10, 100, 203, 1000, 4000)] if transfer == 16 else np.linspace(0, 1, 7)
    image = (
        np.array([round(255 * value) for value in signal], np.uint8)
        .repeat(16)[None, :, None]
        .repeat(32, 0)
        .repeat(3, 2)
    )
    path = write_video(
        tmp_path / "a.mkv", [image], codec="ffv1", pix_fmt="yuv420p10le",
        scale="out_color_matrix=bt2020nc:out_range=tv",
        tags={"colorspace": 9, "color_range": 1, "color_trc": transfer, "color_primaries": 9},
    )  # fmt: skip
    clip = read_clip(path)
    levels = clip.frames_THW3[0, 16, 8::16].int()
    # Greys stay grey and in order, the brightest is nearly white, and a paper white of 100 nits is no dark grey.
    assert (levels.amax(1) - levels.amin(1)).max() <= 2 and bool((levels[1:, 0] > levels[:-1, 0]).all())
    assert levels[0, 0] <= 2 and levels[-1, 0] >= 230
    assert clip.notes == (f"HDR ({name}) mapped to SDR: BT.709, by libswscale's perceptual tone curve",)


@pytest.mark.parametrize(("codec", "pix_fmt", "suffix", "metadata"), [
    ("ffv1", "bgra", "mkv", None), ("qtrle", "argb", "mov", None), ("prores_ks", "yuva444p10le", "mov", None),
    ("libvpx-vp9", "yuva420p", "webm", {"alpha_mode": "1"}), ("libvpx", "yuva420p", "webm", {"alpha_mode": "1"}),
])  # fmt: skip
def test_what_is_transparent_is_black(tmp_path, codec, pix_fmt, suffix, metadata):
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., 0] = 255  # red, under all that is transparent
    image[16:48, 16:48] = (0, 255, 0, 255)
    path = write_video(
        tmp_path / f"a.{suffix}", [image] * 3, codec=codec, pix_fmt=pix_fmt, stream_metadata=metadata,
        options={"auto-alt-ref": "0"} if codec.startswith("libvpx") else {},
    )  # fmt: skip
    frames = read_clip(path).frames_THW3
    assert len(frames) == 3 and int(frames[:, :8].max()) <= 8
    assert (frames[:, 32, 32].int() - torch.tensor([0, 255, 0])).abs().max() <= 12


def test_frames_of_another_size_are_scaled_to_that_of_the_first(tmp_path):
    red, lime = np.full((64, 64, 3), (250, 0, 0), np.uint8), np.full((96, 128, 3), (0, 250, 0), np.uint8)
    parts = [write_video(tmp_path / f"{n}.h264", [image] * 8) for n, image in enumerate((red, lime))]
    (tmp_path / "a.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = read_clip(tmp_path / "a.h264")
    assert clip.frames_THW3.shape == (16, 64, 64, 3)
    assert [frame[32, 32].argmax().item() for frame in clip.frames_THW3] == [0] * 8 + [1] * 8
    assert clip.notes == ("the size of the frames changes: 128x96 is scaled to 64x64",)


def test_the_default_stream_is_shown(tmp_path):
    from av.stream import Disposition

    def film(path, dispositions, value):
        with av.open(str(path), "w") as container:
            streams = [container.add_stream("ffv1", rate=8) for _ in dispositions]
            for stream, disposition in zip(streams, dispositions, strict=True):
                stream.height, stream.width, stream.pix_fmt = 32, 48, "bgr0"
                stream.disposition = disposition
            for number in range(3):
                for stream, level in zip(streams, value, strict=True):
                    frame = av.VideoFrame.from_ndarray(numbered(45)[level], format="rgb24").reformat(format="bgr0")
                    frame.pts, frame.time_base = number, Fraction(1, 8)
                    container.mux(stream.encode(frame))
            for stream in streams:
                container.mux(stream.encode(None))
        return number_of(read_clip(path).frames_THW3[0])

    default, none = Disposition.default, Disposition(0)
    assert film(tmp_path / "a.mkv", (none, default), (1, 40)) == 40
    assert film(tmp_path / "b.mkv", (default, none), (1, 40)) == 1
    assert film(tmp_path / "c.mkv", (none, none), (1, 40)) == 1
