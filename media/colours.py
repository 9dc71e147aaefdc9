"""Conversion of Pillow's images of any mode to upright 8-bit sRGB on black.

frame_HW3, remark = to_srgb(Image.open("photo.jpg"))   # remark: "colours converted from Display P3 to sRGB", or None

Files and images in memory both go through this module, so that a picture looks the same either way.
"""

import io
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ClipError

if TYPE_CHECKING:
    from PIL import Image

# Numbers of TIFF's fields and of EXIF's.
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION = 0x0102, 0x0106, 0x0112
WHITE_IS_ZERO = 0
# Resizers and decoders exceed [0, 1] by rounding errors; values further outside are on another scale.
TOLERANCE = 1e-3


def to_srgb(image: "Image.Image") -> tuple[np.ndarray, str | None]:
    """Convert an image to upright 8-bit sRGB, on black where it is transparent.

    The orientation of EXIF is applied. 16-bit channels are scaled from 0..65535, and floats from 0..1. An embedded
    colour profile is applied, unless it is broken or one of sRGB.

    Args:
        image: The image, of any mode; it is loaded, and not changed otherwise.

    Returns:
        The picture (H, W, 3) uint8, and a remark about an applied colour profile, or None.

    Raises:
        ClipError: The mode has 32-bit integers, or floats that are not in [0, 1].
        Exception: Any exception that Pillow raises on a broken image.
    """
    from PIL import Image, ImageOps

    colour, alpha = split_alpha(image)
    rgb, remark = _apply_profile(colour, image.info.get("icc_profile"))
    if alpha is not None:
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size), alpha)
    rgb.info.clear()
    rgb.getexif()[ORIENTATION] = exif_tag(image, ORIENTATION) or 1
    return np.asarray(ImageOps.exif_transpose(rgb)), remark


def exif_tag(image: "Image.Image", tag: int) -> object:
    """Return the value of a tag of the image's EXIF, or None where there is none or where the EXIF is broken."""
    try:
        return image.getexif().get(tag)
    # A broken EXIF raises many types of exceptions, and the picture is whole without it.
    except Exception:
        return None


def split_alpha(image: "Image.Image") -> tuple["Image.Image", "Image.Image | None"]:
    """Return the colour of an image, in mode L, RGB or CMYK, and its alpha in mode L, or None if it is opaque.

    Raises:
        ClipError: The mode has 32-bit integers, or floats that are not in [0, 1].
        Exception: Any exception that Pillow raises on a broken image.
    """
    # A PNG's transparent value has the depth of the file, which Pillow only tells before it loads the image.
    raw_mode = _raw_mode(image)
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_grey(image), _key_alpha(image, np.asarray(image), image.info.get("transparency"))
    key = image.info.get("transparency")
    if isinstance(key, tuple if image.mode == "RGB" else int) and image.mode in ("1", "L", "RGB"):
        depth = {"L;2": 0b11, "L;4": 0b1111}.get(raw_mode)
        key = key * 255 // depth if depth and isinstance(key, int) else key
        if raw_mode == "RGB;16B" and isinstance(key, tuple):
            key = tuple(channel >> 8 for channel in key)
        opaque = image.convert("L" if image.mode == "1" else image.mode)
        return opaque, _key_alpha(image, np.asarray(opaque), key)
    if image.has_transparency_data:
        if image.mode in ("LA", "La"):
            grey, alpha = image.convert("LA").split()
            return grey, alpha
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    return (image if image.mode in ("L", "RGB", "CMYK") else image.convert("L" if image.mode == "1" else "RGB")), None


def _raw_mode(image: "Image.Image") -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else ""


def _key_alpha(image: "Image.Image", values: np.ndarray, key: object) -> "Image.Image | None":
    """Return an alpha of 0 where the image has the value `key`, and of 255 elsewhere; None without a key."""
    from PIL import Image

    if not isinstance(key, int | tuple):
        return None
    same = values == np.asarray(key)
    same = same.all(axis=-1) if same.ndim == 3 else same
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))


def _deep_grey(image: "Image.Image") -> "Image.Image":
    """Scale grey of 16 bits or floats to 8 bits."""
    from PIL import Image

    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise ClipError(f"must have floats in [0, 1], got {low:g} to {high:g} in an image of 32-bit floats")
        white = 1.0
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):
        # Pillow reads 16-bit PNG and PPM as 32-bit integers; there is no telling what is white in others.
        raise ClipError("must have 8 or 16 bits in a channel, or floats in [0, 1], got an image of 32-bit integers")
    else:
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        white = 2.0**bits - 1
    grey = (values * (255 / white)).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)


def _apply_profile(colour: "Image.Image", profile: object) -> tuple["Image.Image", str | None]:
    """Convert to RGB by an embedded ICC profile if it is one of the image's kind of colour, else as Pillow does."""
    from PIL import ImageCms

    if not isinstance(profile, bytes):
        return colour.convert("RGB"), None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()
        space = source.profile.xcolor_space.strip()
        mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(space)
        # A profile of RGB may stand in a grey image, but no other pair of two kinds.
        fits = mode == colour.mode or (mode, colour.mode) == ("RGB", "L")
        if "sRGB" in name or mode is None or not fits:
            return colour.convert("RGB"), None
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colour.convert(mode), source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return colour.convert("RGB"), "the colour profile is broken, the colours are taken as sRGB"
    return colour.convert("RGB") if converted is None else converted, f"colours converted from {name} to sRGB"
