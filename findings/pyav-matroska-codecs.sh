#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1.2) refuses to copy packets of some codecs to Matroska that Matroska holds. It asks
# avformat_query_codec(), which knows only the codecs with a name of their own in Matroska, while FFmpeg's muxer also
# writes any codec that has a tag in WAV (codec id A_MS/ACM of the Matroska codec mappings). `ffmpeg -c copy` does
# not ask.
# Seen here (Python 3.11, Linux), for mu-law sound that is copied from a wav file:
#
#   ValueError: 'matroska' format does not support 'pcm_mulaw' codec
#
# Exits with 0 while it is so, and with 1 as soon as PyAV copies the sound.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install av==18.1.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import av
import numpy as np

with av.open("a.wav", "w") as container:
    stream = container.add_stream("pcm_mulaw", rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
print(f"PyAV {av.__version__}")
try:
    with av.open("a.wav") as source, av.open("a.mkv", "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
except ValueError as error:
    print(f"ValueError: {error}")
    sys.exit(0 if "does not support 'pcm_mulaw' codec" in str(error) else 1)
print("copied")
sys.exit(1)
PYTHON
