#!/usr/bin/env bash
# `import openvino` (2026.4.1, from its wheel) makes the folder ~/intel with two files: `openvino_ga_cid`, a random client
# id for Google Analytics, and `stats`, a counter. It does so before anything is compiled, with no question and no line
# said, because the package imports its model converter and that its telemetry. No socket was opened by Python in the
# import and the compilation that were watched. Whoever offers it as an optional dependency should tell their users.
#
# Seen here (Linux, Python 3.11). Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install openvino==2026.4.1 numpy
mkdir "$folder/home"
HOME="$folder/home" "$folder/venv/bin/python" - <<'PYTHON'
import sys

opened = []
sys.addaudithook(lambda event, args: event.startswith("socket.") and opened.append(event))

import openvino as ov
from openvino import opset15 as ops

x = ops.parameter([1, 4], ov.Type.f32)
ov.Core().compile_model(ov.Model([ops.add(x, x).output(0)], [x], "twice"), "CPU")
print("openvino", ov.__version__, "sockets:", opened or "none")
sys.exit(bool(opened))
PYTHON
made=$(cd "$folder/home" && find . -type f | sort | tr '\n' ' ')
echo "made in the home folder: $made"
[ "$made" = "./intel/openvino_ga_cid ./intel/stats " ]
