"""A model that two processes hold together draws the tokens of one process; each has its half of the layers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from reelm import VideoGenerator
from reelm.core.condition import Embedding
from reelm.core.errors import ReelmError
from reelm.core.protocols import Numerics
from reelm.generation.model_conversion import convert
from reelm.generation.video import Video
from reelm.tests import emu3_models
from reelm.tests.generation.test_model_conversion import PREDICT, SIZE, TEXT, publish, tokenizer  # noqa: F401 (a fixture)

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]

# As in test_ranks.py: the name of this machine need not lead to it.
ENVIRONMENT = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}

DRAW = """
import json, os, sys
import numpy as np
import torch
import torch.distributed as dist
from reelm import VideoGenerator
from reelm.core.condition import Embedding
found = {}
for name, options in json.loads(sys.argv[1]).items():
    generator = VideoGenerator.from_pretrained(f"{sys.argv[2]}/{name}", device="cpu", processes=2)
    lm = generator.parts.lm
    if options.pop("embedding", False):
        options["conditions"] = [Embedding(np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32))]
    video = generator.generate(options.pop("prompt"), seed=3, **options)
    cost = lm.config.cost(1, 1, lm.numerics)
    found[name] = {"tokens": video.tokens.tolist(), "heads": lm.config.heads, "weights": cost.weights,
                   "held": sum(weight.nbytes for weight in lm.parameters())}
both = [None, None]
dist.all_gather_object(both, found)
if dist.get_rank() == 0:
    json.dump(both, open(sys.argv[3], "w"))
"""


def test_two_processes_draw_the_tokens_of_one(tokenizer, tmp_path):  # noqa: F811
    (tmp_path / "models").mkdir()
    convert(publish(tmp_path / "predict", PREDICT), tmp_path / "models/cosmos", tokenizer=tokenizer, **SIZE)
    convert(publish(tmp_path / "text-model", TEXT), tmp_path / "models/text", tokenizer=tokenizer, **SIZE)
    convert(emu3_models.publish(tmp_path / "emu3-model"), tmp_path / "models/emu3", height=8, width=12)
    jobs = {
        "cosmos": {"prompt": None, "num_frames": 49, "decoder": "jacobi", "block_size": 4},
        "text": {"prompt": None, "num_frames": 9, "embedding": True},
        "emu3": {"prompt": "a red ball", "guidance_scale": 2.0, "batch_size": 1},
    }
    words = [json.dumps(jobs), tmp_path / "models", tmp_path / "found.json"]
    (tmp_path / "draw.py").write_text(DRAW)
    result = subprocess.run(
        [*TORCHRUN, tmp_path / "draw.py", *words], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stderr
    first, second = json.loads((tmp_path / "found.json").read_text())
    assert first == second, "all processes get the same clips"
    for name, options in jobs.items():
        generator = VideoGenerator.from_pretrained(tmp_path / "models" / name, device="cpu")
        if options.pop("embedding", False):
            text = Embedding(np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32))
            options["conditions"] = [text]
        video = generator.generate(options.pop("prompt"), seed=3, **options)
        assert first[name]["tokens"] == video.tokens.tolist()
        lm = generator.parts.lm
        assert first[name]["heads"] == lm.config.heads // 2
        whole = sum(weight.nbytes for weight in lm.parameters())
        assert first[name]["held"] < 0.8 * whole, "each has a part of the weights"
        planned = lm.config.cost(1, 1, Numerics(processes=2)).weights
        assert planned == pytest.approx(first[name]["held"], rel=0.2)


@pytest.mark.slow
def test_the_command_writes_the_clip_of_one_process_once(tmp_path):
    convert(emu3_models.publish(tmp_path / "model"), tmp_path / "emu3", height=8, width=12)
    words = ["generate", "a red ball", "--model", "emu3", "--seed", "3", "--device", "cpu", "--processes", "2"]
    command = [*TORCHRUN, "-m", "reelm", *words, "-o", "clip.mkv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote clip.mkv") == 1
    alone = VideoGenerator.from_pretrained(tmp_path / "emu3", device="cpu").generate("a red ball", seed=3)
    assert np.array_equal(Video.load(tmp_path / "clip.mkv").tokens, alone.tokens)


def test_processes_that_are_not_there_or_do_not_divide_the_model_are_refused(debug_checkpoint):
    with pytest.raises(ReelmError, match=r"^processes: must be the number that torchrun has started, 1, got 2"):
        VideoGenerator.from_pretrained(debug_checkpoint, device="cpu", processes=2)
    with pytest.raises(ReelmError, match=r"^processes: must be at least 1, got 0"):
        VideoGenerator.from_pretrained(debug_checkpoint, device="cpu", processes=0)
