#!/usr/bin/env bash
# libswscale (FFmpeg 8.1, by PyAV 18.1.0) converts 4:2:0 to RGB too dark, and its flag for accurate rounding alone makes
# that worse. Seen here (x86-64 with AVX2, Python 3.11), as the mean error against ITU-T H.273's equations, in levels of 255
# over a picture whose chroma changes smoothly:
#
#   no flags                             -0.9 to -1.5 (it rounds down)
#   accurate_rnd                         -1.7 to -2.4
#   accurate_rnd+full_chroma_int         within 0.1
#
# A clip that is read without the last pair of flags and written again loses a level each time, which nobody sees in one
# file and everybody in the tenth. PyAV's VideoFrame.to_ndarray(format="rgb24") takes no flags.
#
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install av==18.1.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import av
import numpy as np
from av.filter import Graph

HEIGHT, WIDTH = 128, 192
rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
luma = (60 + rows * 0.6 + columns * 0.2).round()
# Chroma of pairs of rows and columns, so that repeating it is exact.
blue = (108 + (columns // 2) * 0.4).round()
red = (118 + (rows // 2) * 0.3).round()
y, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
exact = 255 * np.stack([y + 1.5748 * cr, y - 0.1873 * cb - 0.4681 * cr, y + 1.8556 * cb], -1)
planes = np.concatenate([luma.ravel(), blue[::2, ::2].ravel(), red[::2, ::2].ravel()]).astype(np.uint8)
frame = av.VideoFrame.from_ndarray(planes.reshape(HEIGHT * 3 // 2, WIDTH), format="yuv420p")
frame.colorspace = frame.color_range = 1


def error(flags):
    graph = Graph()
    source = f"video_size={WIDTH}x{HEIGHT}:pix_fmt=yuv420p:time_base=1/8:colorspace=1:range=1"
    scale = f"in_color_matrix=bt709:in_range=tv:out_range=pc:flags={flags}"
    chain = [graph.add(*each) for each in (("buffer", source), ("scale", scale), ("format", "rgb24"), ("buffersink",))]
    graph.link_nodes(*chain).configure()
    chain[0].push(frame)
    return (chain[-1].pull().to_ndarray() - exact).mean((0, 1)).round(2)


plain, rounded, full = error("neighbor"), error("neighbor+accurate_rnd"), error("neighbor+accurate_rnd+full_chroma_int")
print(f"PyAV {av.__version__}: no flags {plain}, accurate_rnd {rounded}, with full_chroma_int {full}")
sys.exit(0 if plain.max() < -0.5 and rounded.mean() < plain.mean() - 0.3 and abs(full).max() < 0.1 else 1)
PYTHON
