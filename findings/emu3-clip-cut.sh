#!/usr/bin/env bash
# Emu3VQVAE.encode of transformers 5.24.0 takes clips (batch, frames, channels, height, width) beside pictures, and cuts
# the codes to image_sizes. Codes of a picture are (rows, columns), and those of a clip (latent frames, rows, columns):
# the cut is made on the first two axes in both cases. So a clip with more latent frames than its height has rows of
# codes loses its end, without a word. Seen here, 32 frames, which are 8 latent frames, of pictures of 16 x 64:
#
#   image_sizes 16 x 64      (4, 4, 16)        4 of the 8 latent frames
#   image_sizes 64 x 64      (8, 4, 16)        all
#
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install torch==2.13.0 transformers==5.24.0 numpy
cat > "$folder/cut.py" <<'PYTHON'
import sys

import torch
import transformers
from transformers import Emu3VQVAE, Emu3VQVAEConfig

config = Emu3VQVAEConfig(
    codebook_size=64, base_channels=32, channel_multiplier=[1, 1, 2], num_res_blocks=1, attn_resolutions=[2],
    hidden_size=64,
)
model = Emu3VQVAE(config).eval()
clip = torch.rand(1, 32, 3, 16, 64) * 2 - 1


def codes(height, width):
    with torch.no_grad():
        return tuple(model.encode(clip, torch.tensor([[height, width]])).image_tokens[0].shape)


found = {"16 x 64": codes(16, 64), "64 x 64": codes(64, 64)}
print("transformers", transformers.__version__, found)
sys.exit(0 if found == {"16 x 64": (4, 4, 16), "64 x 64": (8, 4, 16)} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/cut.py"
