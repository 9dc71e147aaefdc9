"""Time steps of a training of a language model by this checkout and by an older one, in turns, on one thread.

    git worktree add --detach runs/compare 00d48e3
    .venv/bin/python benchmarks/measure_training.py --against runs/compare

Prints the seconds of a step, the median of each turn, and the median of the older ones over the newer ones: 1 is as
fast, and more is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Runs in either checkout; both make batches by a call a step.
STEPS = """
import statistics, sys, tempfile, time
from pathlib import Path
import torch
torch.set_num_threads(1)
try:
    from reelm.training.lm_training import LMTraining, TokenBatches, train_lm
    from reelm.data.token_shards import write_shard
except ImportError:
    from reelm.lm.training import LMTraining, TokenBatches, train_lm
    from reelm.core.shards import write_shard
try:
    from reelm.training.train_config import TrainConfig
except ImportError:
    try:
        from reelm.training.loop import TrainConfig
    except ImportError:
        from reelm.core.training import TrainConfig
from reelm.lm.text import TextEncoder, train_text
try:
    from reelm.lm.lm_config import LMConfig
except ImportError:
    from reelm.lm.transformer import LMConfig

begun, whole = [], TokenBatches.__call__
def timed(self, step):
    begun.append(time.perf_counter())
    return whole(self, step)
TokenBatches.__call__ = timed
captions = ["a red ball", "a blue ring"]
text = TextEncoder(train_text(captions))
with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "data"
    data.mkdir()
    tokens = torch.randint(512, (64, 5, 8, 8), generator=torch.Generator().manual_seed(0))
    write_shard(data / "0.safetensors", tokens, [[captions[n % 2]] for n in range(64)], fps=8)
    model = LMConfig(vocab_size=512, text_vocab_size=text.vocab_size, width=128, depth=3, heads=4, hidden=256)
    train = TrainConfig(steps=int(sys.argv[1]), warmup=5, precision="float32", optimizer="muon", report_steps=20)
    recipe = LMTraining(model=model, train=train, batch_tokens=4 * 320)
    train_lm(recipe, data, text, Path(folder) / "run", device="cpu")
print(statistics.median(later - one for one, later in zip(begun[5:], begun[6:])))
"""


def seconds_of_a_step(checkout: Path, steps: int) -> float:
    """Return the median time of a step of a training by a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "reelm").symlink_to(checkout.resolve())
        environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", STEPS, str(steps)]
        found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
        return float(found.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, required=True, help="the older checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    turns = [
        [seconds_of_a_step(checkout, options.steps) for checkout in (options.against, ROOT)]
        for _ in range(options.rounds)
    ]  # fmt: skip
    older, newer = zip(*turns, strict=True)
    ratio = statistics.median(old / new for old, new in turns)
    print(json.dumps({"older": older, "newer": newer, "older_over_newer": ratio}))


if __name__ == "__main__":
    main()
