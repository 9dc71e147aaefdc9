#!/usr/bin/env bash
# Pillow 13.0.0 composes some animations in other ways than their specifications say. Seen here (Python 3.11, Linux):
#
#   gif: a frame whose disposal is 0 (none specified) gets that of the frame before it. GIF89a: "No disposal specified.
#   The decoder is not required to take any action." FFmpeg leaves such a frame in place.
#       pixel of the second frame, in the third: (0, 0, 0, 0) instead of (0, 255, 0, 255)
#   APNG: a half-transparent frame that is blended OVER an opaque one makes the canvas transparent: the alpha is mixed
#   with itself. PNG, third edition: source over, so that opaque stays opaque.
#       alpha where 128 goes over 255: 191 instead of 255
#
# Exits with 0 while both are so, and with 1 as soon as one of them changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys

from PIL import Image


def gif(frames):
    """A 4x4 gif of flat rectangles (x, y, side, colour, disposal); colour 0 is transparent."""
    data = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x91, 0, 0) + bytes((0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255))
    for x, y, side, colour, disposal in frames:
        codes = [4] + [code for _ in range(side * side // 2) for code in (colour, colour, 4)]
        codes += ([colour] if side % 2 else []) + [5]
        bits = "".join(f"{code:03b}"[::-1] for code in codes)
        stream = bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))
        data += b"!\xf9\x04" + bytes([disposal << 2 | 1]) + b"\x0a\0\0\0"
        data += b"," + struct.pack("<HHHHB", x, y, side, side, 0) + b"\x02" + bytes([len(stream)]) + stream + b"\0"
    return Image.open(io.BytesIO(data + b";"))


image = gif([(3, 3, 1, 1, 2), (0, 0, 2, 2, 0), (2, 0, 1, 3, 1)])
image.seek(2)
left = image.convert("RGBA").getpixel((0, 0))

data = io.BytesIO()
frames = [Image.new("RGBA", (4, 4), (255, 255, 255, 255)), Image.new("RGBA", (4, 4), (200, 100, 0, 128))]
frames[0].save(data, "PNG", save_all=True, append_images=frames[1:], duration=100, blend=1)
image = Image.open(io.BytesIO(data.getvalue()))
image.seek(1)
alpha = image.convert("RGBA").getpixel((0, 0))[3]
print(f"Pillow {Image.__version__}: gif {left}, APNG alpha {alpha}")
sys.exit(0 if (left, alpha) == ((0, 0, 0, 0), 191) else 1)
PYTHON
