#!/usr/bin/env bash
# In OpenVINO 2026.4.1 on a CPU (float32), a product of two activations, q k^T, has other bits for one row of q than for
# two or more; from two rows on, a row's bits do not depend on the others. A product with a constant matrix, and one with
# a second factor that is not transposed, keep their bits for one row too. So a decoder that draws blocks of drafts, and
# must find the tokens of one-by-one sampling, may not let a query stand alone. Seen here (x86-64 with AVX-512, Python
# 3.11), with static and with dynamic shapes alike, 1 thread:
#
#   q k^T (transpose_b)   1 row: other bits (differences of some 1e-6)   2, 3, 4, 8 rows: the same bits as 16
#   p v                   1, 2, 3, 4, 8 rows: the same bits as 16
#   x W^T, W constant     1, 2, 3, 4, 8 rows: the same bits as 16
#
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install openvino==2026.4.1 numpy
HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import openvino as ov
from openvino import opset15 as ops

OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
random = np.random.default_rng(0)
keys, values = random.standard_normal((2, 1, 2, 480, 32), np.float32)
matrix = random.standard_normal((256, 256), np.float32)


def product(rows, second, transposed, static, constant=False):
    shapes = [list(x.shape) if static else [-1] * x.ndim for x in (rows, second)]
    first = ops.parameter(shapes[0], ov.Type.f32)
    other = ops.constant(second) if constant else ops.parameter(shapes[1], ov.Type.f32)
    inputs = [first] if constant else [first, other]
    model = ov.Model([ops.matmul(first, other, False, transposed).output(0)], inputs, "product")
    compiled = ov.Core().compile_model(model, "CPU", OPTIONS)
    return compiled([rows] if constant else [rows, second])[0].copy()


def same_bits(width, *factor, **options):
    rows = random.standard_normal((1, 2, 16, width), np.float32)
    whole = product(rows, *factor, **options)
    return [
        bool(np.array_equal(whole[:, :, :n], product(np.ascontiguousarray(rows[:, :, :n]), *factor, **options)))
        for n in (1, 2, 3, 4, 8)
    ]


print("openvino", ov.__version__)
found = []
for static in (True, False):
    for name, width, *factor, constant in (
        ("q k^T", 32, keys, True, False), ("p v", 480, values, False, False), ("x W^T", 256, matrix, True, True),
    ):
        found.append(same_bits(width, *factor, static=static, constant=constant))
        print("static " if static else "dynamic", f"{name:6}", dict(zip((1, 2, 3, 4, 8), found[-1])))
sys.exit(found != [[False, True, True, True, True], [True] * 5, [True] * 5] * 2)
PYTHON
