#!/usr/bin/env bash
# transformers 5.24.0 saves Emu3ForConditionalGeneration under other names of tensors than the model's own: where
# state_dict() says model.text_model.layers.… , model.vqmodel.… and lm_head.weight, the safetensors file of
# save_pretrained has text_model.model.layers.… , vqmodel.… and text_model.lm_head.weight, the names of before version 5.
# No name is the same. from_pretrained maps them back, so that a reader of the file alone must know both. Seen here, as
# numbers of names: 0 in both.
#
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install torch==2.13.0 transformers==5.24.0 safetensors numpy
cat > "$folder/names.py" <<'PYTHON'
import sys

import transformers
from safetensors import safe_open
from transformers import Emu3Config, Emu3ForConditionalGeneration

model = Emu3ForConditionalGeneration(Emu3Config(
    text_config={"vocab_size": 80, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                 "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "pad_token_id": 0,
                 "eos_token_id": 2},
    vq_config={"codebook_size": 16, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
               "attn_resolutions": [1], "hidden_size": 32},
    vocabulary_map={f"<|visual token {code:06d}|>": 40 + code for code in range(16)} | {"<|extra_200|>": 3},
))
model.save_pretrained(sys.argv[1])
with safe_open(f"{sys.argv[1]}/model.safetensors", framework="pt") as file:
    saved = set(file.keys())
own = set(model.state_dict())
print("transformers", transformers.__version__, len(own & saved), "names in both, such as",
      sorted(own - saved)[0], "and", sorted(saved - own)[0])
again = set(Emu3ForConditionalGeneration.from_pretrained(sys.argv[1]).state_dict())
heads = "lm_head.weight" in own and "text_model.lm_head.weight" in saved
sys.exit(0 if not own & saved and heads and again == own else 1)
PYTHON
"$folder/venv/bin/python" "$folder/names.py" "$folder/saved"
