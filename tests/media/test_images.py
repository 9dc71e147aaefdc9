"""Reading images: stills, animations and folders of pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from reelm.core.errors import ClipError
from reelm.media.reader import read_clip
from reelm.media.writer import write_clip


def moving(count, height=32, width=32):
    """A grey ramp whose brightness tells the frame's number."""
    ramp = np.linspace(0, 60, width, dtype=np.uint8)[None, None, :, None]
    return np.broadcast_to(ramp + (np.arange(count) * 2 % 190)[:, None, None, None], (count, height, width, 3)).astype(
        np.uint8
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif"])
def test_still_image_is_a_clip_of_one_frame(tmp_path, suffix):
    image = moving(1)[0]
    Image.fromarray(image).save(tmp_path / f"a{suffix}", **({"quality": 95} if suffix in (".jpg", ".webp") else {}))
    clip = read_clip(tmp_path / f"a{suffix}")
    assert (clip.frames_THW3.shape, clip.fps, clip.metadata) == ((1, 32, 32, 3), 1.0, {})
    assert np.abs(clip.frames_THW3[0].numpy().astype(int) - image).max() <= 4


def test_photo_is_turned_upright_and_transparency_is_black(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(moving(1, 32, 64)[0]).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert read_clip(tmp_path / "a.jpg").frames_THW3.shape == (1, 64, 32, 3)
    rgba = np.full((4, 4, 4), 255, np.uint8)
    rgba[:, :2, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    frame = read_clip(tmp_path / "a.png").frames_THW3[0]
    assert frame[:, :2].max() == 0 and frame[:, 2:].min() == 255


def test_foreign_gif_with_uneven_durations(tmp_path):
    images = [Image.fromarray(frame) for frame in moving(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 500, 100])
    clip = read_clip(tmp_path / "a.gif")
    assert np.allclose(clip.times, [0.0, 0.1, 0.6]) and clip.metadata == {}
    assert clip.fps == pytest.approx(3 / 0.7)


def test_gif_cut_between_two_frames_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.gif", moving(10), 10)
    shorter = write_clip(tmp_path / "b.gif", moving(6), 10).read_bytes()
    whole = path.read_bytes()
    # A gif of fewer frames whose comment promises ten, without the byte that ends a gif.
    path.write_bytes(shorter[:-1].replace(b'"frames": 6', b'"frames": 9'))
    with pytest.raises(ClipError, match="6 of 9 declared frames"):
        read_clip(path)
    path.write_bytes(whole)
    assert len(read_clip(path).frames_THW3) == 10


def test_folder_with_missing_or_foreign_pictures_is_refused(tmp_path):
    folder = write_clip(tmp_path / "clip", moving(5), 10)
    settings = (folder / "settings.json").read_text()
    Image.new("RGB", (8, 8)).save(folder / "frame_000002.png")
    with pytest.raises(ClipError, match="must be 32x32"):
        read_clip(folder)
    (folder / "frame_000002.png").unlink()
    with pytest.raises(ClipError, match="4 of 5 declared frames"):
        read_clip(folder)
    for broken in ("", "{}", json.dumps({"clip": None}), settings[:-9]):
        (folder / "settings.json").write_text(broken)
        with pytest.raises(ClipError, match=r"settings\.json"):
            read_clip(folder)
