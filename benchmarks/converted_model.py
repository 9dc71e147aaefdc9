"""A converted Cosmos-Predict1 model of 1/16 of the width of 4B: tokens a second and memory on this machine.

    .venv/bin/python benchmarks/converted_model.py --seconds 20 --json cosmos.json

It makes a published-like folder of random weights (16 layers, 2 heads, 64,000 ids, latent frames of 40 x 64 tokens) and
converts it. In turns, it draws tokens after two given latent frames (9 frames of pixels) here and by a Llama of equal
shape of transformers, whose static cache has the published 12,800 slots. In a process of its own it measures the memory
of continuing one latent frame, from the import of reelm to the end, against the plan.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from reelm.core.checkpoint import save_json
from reelm.core.protocols import Numerics
from reelm.generation.model_conversion import convert
from reelm.generation.pretrained import load_pretrained
from reelm.lm.cosmos_lm_config import CosmosLMConfig
from reelm.lm.cosmos_transformer import CosmosTransformer
from reelm.lm.cosmos_weights import published
from reelm.sampling.decoders import Jacobi, Sequential
from reelm.sampling.engine import Engine
from reelm.sampling.plan import ClipPlan, NoiseKey
from reelm.tokenizer.codec_files import SIZES, save_codec_weights
from reelm.tokenizer.codecs import write_codec_config
from reelm.tokenizer.cosmos_config import CosmosConfig
from reelm.tokenizer.cosmos_tokenizer import CosmosTokenizer

LM = CosmosLMConfig(width=256, heads=2, kv_heads=1, hidden=896)
GIVEN = 2  # latent frames
# The tokenizer's networks are narrow: what is measured is the language model.
CODEC = CosmosConfig(channels=16, multipliers=(1, 1, 1), blocks=1, latent_channels=8)

MEMORY = """
import json, sys
from pathlib import Path
import numpy as np
import torch
import reelm
from reelm.generation.memory_plan import plan_memory
def kernel(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
from reelm.generation.generator import VideoGenerator
before = kernel("VmRSS")
generator = VideoGenerator.from_pretrained(sys.argv[1], device="cpu")
picture = np.random.default_rng(0).integers(0, 256, (1, 640, 1024, 3), dtype=np.uint8)
generator.continue_clip(picture, num_frames=8, seed=0)
plan = plan_memory(generator.parts.config, seconds=9 / 25, continuing=True)
print(json.dumps({"measured": kernel("VmHWM") - before, "planned": plan.total, "phases": plan.phases}))
"""


def make_model(folder: Path) -> Path:
    """Write a published-like folder of random weights, convert it, and return the converted one."""
    torch.manual_seed(0)
    codec = CosmosTokenizer(CODEC).eval()
    for name in ("tokenizer", "published"):
        (folder / name).mkdir()
    save_codec_weights(codec, folder / "tokenizer")
    save_json(folder / "tokenizer" / SIZES, write_codec_config(CODEC))
    rows = {"wq": LM.heads * LM.head_dim, "wk": LM.kv_heads * LM.head_dim, "wv": LM.kv_heads * LM.head_dim}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in CosmosTransformer(LM).state_dict().items():
        tensor = torch.randn(tensor.shape) * 0.02 if tensor.ndim > 1 else torch.ones(tensor.shape)
        sources = [each.name for each in published(name)]
        sizes = [rows.get(source.split(".")[-2], len(tensor) // len(sources)) for source in sources]
        weights |= dict(zip(sources, tensor.bfloat16().split(sizes if len(sources) > 1 else len(tensor)), strict=True))
    torch.save({"model": {key: part.clone() for key, part in weights.items()}}, folder / "published/model.pt")
    values = {
        "dim": LM.width, "n_layers": LM.depth, "n_heads": LM.heads, "n_kv_heads": LM.kv_heads,
        "ffn_hidden_size": LM.hidden, "norm_eps": LM.epsilon,
    }  # fmt: skip
    (folder / "published/config.json").write_text(json.dumps(values))
    convert(folder / "published", folder / "model", tokenizer=folder / "tokenizer")
    return folder / "model"


class Ours:
    """Draws tokens with the converted model."""

    def __init__(self, model: Path, block_size: int, precision: str) -> None:
        parts = load_pretrained(model, device="cpu", weights="int8" if precision == "int8" else "full")
        decoder = Jacobi(block_size) if block_size > 1 else Sequential()
        self.engine = Engine(parts.lm, parts.config.sampling, decoder=decoder)
        given_tS = torch.randint(LM.vocab_size, (GIVEN, LM.frame_size), generator=torch.Generator().manual_seed(1))
        began = time.perf_counter()
        self.engine.add(ClipPlan(prompts=((0, ""),), key=NoiseKey(0), latent_frames=LM.frames), given_tS)
        self.reading = time.perf_counter() - began

    def run(self, seconds: float) -> float:
        """Return the tokens a second."""
        began, before = time.perf_counter(), self.engine.stats.tokens
        while time.perf_counter() - began < seconds:
            self.engine.step()
        return (self.engine.stats.tokens - before) / (time.perf_counter() - began)


class Llama:
    """Draws tokens with a Llama of equal shape by transformers, token by token with a static cache."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, LlamaConfig, StaticCache
        from transformers.utils import logging

        logging.set_verbosity_error()
        config = LlamaConfig(
            vocab_size=LM.vocab_size, hidden_size=LM.width, intermediate_size=LM.hidden, num_hidden_layers=LM.depth,
            num_attention_heads=LM.heads, num_key_value_heads=LM.kv_heads, head_dim=LM.head_dim,
            max_position_embeddings=2**20, tie_word_embeddings=False,
        )  # fmt: skip
        self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        self.cache = StaticCache(config=config, max_cache_len=LM.frames * LM.frame_size)
        self.position = 0
        prompt = torch.randint(LM.vocab_size, (1, GIVEN * LM.frame_size), generator=torch.Generator().manual_seed(1))
        began = time.perf_counter()
        for part in prompt.split(LM.frame_size, 1):
            self.forward(part)
        self.reading = time.perf_counter() - began
        self.token = prompt[:, -1:]

    @torch.no_grad()
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (V,) after these ids."""
        places = torch.arange(self.position, self.position + ids.shape[1])
        self.position += ids.shape[1]
        out = self.model(ids, past_key_values=self.cache, cache_position=places, logits_to_keep=1, use_cache=True)
        logits_V: torch.Tensor = out.logits[0, -1]
        return logits_V

    def run(self, seconds: float) -> float:
        """Return the tokens a second, drawn with top-p 0.8 as the published code draws."""
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            ordered, indices = self.forward(self.token).softmax(-1).sort(descending=True)
            ordered[ordered.cumsum(-1) - ordered > 0.8] = 0
            self.token = indices[torch.multinomial(ordered, 1)][None]
            count += 1
        return count / (time.perf_counter() - began)


def main() -> None:
    """Measure, print the figures, and write them to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--block-size", type=int, default=24)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = make_model(Path(name))
        memory = json.loads(subprocess.check_output([sys.executable, "-c", MEMORY, model], text=True))
        runs: dict[str, Ours | Llama] = {
            "sequential": Ours(model, 1, "full"),
            f"jacobi, {given.block_size}": Ours(model, given.block_size, "full"),
            f"jacobi, {given.block_size}, int8 weights": Ours(model, given.block_size, "int8"),
            "transformers, static cache": Llama(),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(given.turns):
            for name, each in runs.items():
                rates[name].append(each.run(given.seconds))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    baseline = medians["transformers, static cache"]
    report = {
        "tokens_per_second": {name: [round(each, 1) for each in found] for name, found in rates.items()},
        "ratio_to_transformers": {name: round(rate / baseline, 2) for name, rate in medians.items()},
        "reading_seconds": {name: round(each.reading, 2) for name, each in runs.items()},
        "memory_over_plan": round(memory["measured"] / memory["planned"], 3), "memory": memory,
        "cache_bytes": LM.cost(1, 1, Numerics()).cache, "threads": torch.get_num_threads(),
        "parameters_millions": math.ceil(LM.cost(1, 1, Numerics()).parameters / 1e6),
    }  # fmt: skip
    print(json.dumps(report, indent=2))
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
