"""What trainings of language models cost, by a model of them: memory, time, traffic and storage; writes docs/scale.md.

.venv/bin/python docs/scale.py                  # measures three sizes on this CPU first, some minutes; nothing else run
.venv/bin/python docs/scale.py --measure        # only that

B clips have S positions each, of which P are text. The figures of chips are those of NVIDIA's data sheet of the H200.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from reelm.core.memory import keep_freed_memory, memory_bytes, peak_memory_bytes
from reelm.kernels.attention import attention
from reelm.kernels.attention_reference import ROWS
from reelm.lm.blocks import Block
from reelm.lm.lm_config import LMConfig
from reelm.lm.neighbours import neighbours
from reelm.lm.transformer import VideoTransformer
from reelm.training.lm_training import cross_entropy
from reelm.training.speed import PEAKS, attended_slots, layer_weights, matrix_flops, training_flops
from reelm.training.train_config import TrainConfig
from reelm.training.train_state import TrainState

# An H200: bfloat16 operations a second, bytes of memory, and bytes a second to the others of its machine (half of what
# NVLink has in both directions) and to other machines (400 Gb/s for each GPU).
PEAK, MEMORY, NVLINK, NETWORK = PEAKS["H200"], 141e9, 450e9, 50e9
GPUS_OF_A_MACHINE = 8
PAGE = Path(__file__).with_name("scale.md")
MFU = 0.4  # assumed: it was not measured
GIGA = 1e9


@dataclass(frozen=True)
class Batch:
    """The clips that one process computes in a step, each of so many latent frames."""

    clips: int
    frames: int


def scored_on_cpu(config: LMConfig, frames: int) -> float:
    """Return the pairs of a query and a slot whose scores a CPU computes, which takes blocks of whole latent frames."""
    return attended_slots(config, frames, ROWS // config.frame_size * config.frame_size or ROWS)


def state_bytes(config: LMConfig, moments: int = 1) -> float:
    """Return the bytes of weights, gradients, averages and moments in float32; Muon has one moment, AdamW two."""
    return 4.0 * (3 + moments) * config.parameters


def activation_bytes(config: LMConfig, batch: Batch, *, itemsize: int = 4, cpu: bool = False) -> float:
    """Return the bytes that a step needs beside its state: what is kept for the gradients, counted from the code.

    For each position a layer keeps the inputs of two norms and what these make (six times the width), heads as they are
    projected, normalised and rotated, the gate, the other half, the silu and their product. A CPU keeps the weights of
    attention, too. The logits are there in float32 four times: with their softmax, and the gradients of both.
    """
    text, video = batch.clips * config.prefix, batch.clips * batch.frames * config.frame_size
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer = 6 * config.width + 5 * heads + 6.25 * keys + 4 * config.hidden
    scores = 4.0 * config.heads * batch.clips * scored_on_cpu(config, batch.frames) if cpu else 0.0
    ends = 4 * 4 * config.vocab_size + itemsize * len(neighbours(config.order)) * config.neighbour_dim
    return config.depth * (itemsize * layer * (text + video) + scores) + video * ends


@dataclass(frozen=True)
class Plan:
    """A training on H200s: what a step takes of each of them, and in all.

    Attributes:
        memory: The bytes that a GPU needs.
        computing: The seconds of computing of a step, at `MFU` of the peak.
        traffic: The seconds in which a GPU sends and takes weights and gradients, all of them at the slowest line.
        tokens: The video tokens of a step in all.
    """

    memory: float
    computing: float
    traffic: float
    tokens: int

    @property
    def efficiency(self) -> float:
        """The share of the time that computes where no traffic is hidden behind computing: the worst case."""
        return self.computing / (self.computing + self.traffic)


def plan(config: LMConfig, batch: Batch, gpus: int, shards: int) -> Plan:
    """Return what a step takes.

    Weights are gathered in float32 for the forward pass and again for the backward pass, and gradients are added up and
    scattered: 12 bytes a weight. What a GPU has of the gradients is then added up over the copies: 8 bytes.
    """
    weights = config.parameters
    inside = 12.0 * weights * (shards - 1) / shards
    across = 8.0 * weights / shards * (1 - shards / gpus)
    shard_line = NVLINK if shards <= GPUS_OF_A_MACHINE else NETWORK
    copy_line = NVLINK if gpus <= GPUS_OF_A_MACHINE else NETWORK
    gathered = 2 * 4.0 * weights / config.depth if shards > 1 else 0.0
    memory = state_bytes(config) / shards + gathered + activation_bytes(config, batch, itemsize=2)
    return Plan(
        memory, training_flops(config, batch.clips, batch.frames) / (MFU * PEAK),
        inside / shard_line + across / copy_line,
        gpus * batch.clips * batch.frames * config.frame_size,
    )  # fmt: skip


def model_of(width: int, depth: int) -> LMConfig:
    """Return a model of common proportions for clips of 16 x 16 tokens a latent frame and a vocabulary of 65,536."""
    heads = width // 128
    return LMConfig(
        vocab_size=2**16, rows=16, columns=16, window=8, text_vocab_size=32_000, prefix=64, width=width, depth=depth,
        heads=heads, kv_heads=next(n for n in range(max(1, heads // 4), 0, -1) if heads % n == 0), head_dim=128,
        hidden=128 * round(width / 48), neighbour_dim=128,
    )  # fmt: skip


MODELS = {"100M": model_of(640, 12), "1B": model_of(2048, 18), "3B": model_of(2816, 32), "12B": model_of(5120, 44)}
CLIP = Batch(clips=1, frames=33)  # 8,448 tokens: 129 pictures at 4x16x16, 16 seconds at 8 a second
# What is measured on a CPU: sizes of this project's models and above. The first one gives the rate of the others.
MEASURED = {
    "5M, 4 clips of 1,280 tokens": (LMConfig(vocab_size=4096, width=256, depth=6, hidden=512), Batch(4, 20)),
    "2M, 12 clips of 320": (LMConfig(vocab_size=4096, width=128, depth=4, heads=4, hidden=384), Batch(12, 5)),
    "11M, 4 clips of 640": (LMConfig(vocab_size=4096, width=384, depth=8, heads=12, hidden=768), Batch(4, 10)),
    "23M, 2 clips of 1,024": (LMConfig(vocab_size=8192, width=512, depth=8, heads=16, hidden=1024), Batch(2, 16)),
}


def measure(config: LMConfig, batch: Batch, steps: int = 6) -> tuple[float, float]:
    """Return the median seconds of a step on one thread, and the bytes that the training has added to this process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    if steps > 1:  # the libraries have memory of their own from the first step on
        measure(LMConfig(vocab_size=64, width=32, depth=1, heads=1, kv_heads=1), Batch(1, 2), steps=1)
    draw = torch.Generator().manual_seed(0)
    shape = (batch.clips, batch.frames, config.rows, config.columns)
    tokens_Bthw = torch.randint(config.vocab_size, shape, generator=draw)
    text_BP = torch.zeros(batch.clips, config.prefix, dtype=torch.int64)
    before, times = memory_bytes(torch.device("cpu")), list[float]()
    model = VideoTransformer(config)
    state = TrainState(model, TrainConfig(steps=100, optimizer="adamw"))
    for _ in range(steps):
        begun = time.perf_counter()
        state.begin_step()
        state.backward(cross_entropy(model, tokens_Bthw, text_BP, torch.full((batch.clips,), config.prefix)))
        state.advance()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:] or times), peak_memory_bytes(torch.device("cpu")) - before


def planned_bytes(config: LMConfig, batch: Batch) -> float:
    """Return the bytes of a training with AdamW on a CPU, without what is lost between tensors."""
    return state_bytes(config, moments=2) + activation_bytes(config, batch, cpu=True)


def rates() -> tuple[float, float, float]:
    """Return the seconds of one thread for an operation of a layer, for a score of a head, and for a logit.

    Each is that of the forward and backward passes: of a block whose attention does nothing, of attention alone, and of
    the cross-entropy alone.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    config, batch = LMConfig(vocab_size=4096), Batch(4, 10)
    block, length = Block(config), config.prefix + batch.frames * config.frame_size
    x_BSD = torch.randn(batch.clips, length, config.width, requires_grad=True)
    layer = _seconds(lambda: block(x_BSD, lambda _, module, qkv: qkv[:, :, : config.heads], 0))
    q, k, v = (
        torch.randn(batch.clips, length, heads, config.head_dim, requires_grad=True)
        for heads in (config.heads, config.kv_heads, config.kv_heads)
    )
    head = _seconds(
        lambda: attention(q, k, v, prefix=config.prefix, frame_size=config.frame_size, window=config.window)
    )  # fmt: skip
    logits, targets = torch.randn(2048, config.vocab_size, requires_grad=True), torch.zeros(2048, dtype=torch.int64)
    return (
        layer / (3 * 2 * layer_weights(config) * batch.clips * length),
        head / (batch.clips * config.heads * scored_on_cpu(config, batch.frames)),
        _seconds(lambda: functional.cross_entropy(logits, targets)) / logits.numel(),
    )


def _seconds(forward: Callable[[], torch.Tensor]) -> float:
    times = []
    for _ in range(8):
        begun = time.perf_counter()
        forward().sum().backward()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:])


def measured() -> list[str]:
    """Return rows of what is planned and measured of `MEASURED`, each in a process of its own.

    The memory of the first one gives how much of the heap is lost between tensors.
    """
    rows, lost, (layer, score, logit) = [], 0.0, _in_process("rates")
    print(f"{layer:.3g} {score:.3g} {logit:.3g} seconds", flush=True)
    for name, (config, batch) in MEASURED.items():
        seconds, took = _in_process(name)
        scores = batch.clips * config.depth * config.heads * scored_on_cpu(config, batch.frames)
        logits = batch.clips * batch.frames * config.frame_size * config.vocab_size
        time_planned = matrix_flops(config, batch.clips, batch.frames) * layer + scores * score + logits * logit
        planned = planned_bytes(config, batch)
        lost = lost or took / planned
        rows.append(
            f"| {name} | {time_planned:.2f} | {seconds:.2f} | {time_planned / seconds:.2f} | "
            f"{planned * lost / 2**20:,.0f} | {took / 2**20:,.0f} | {planned * lost / took:.2f} |"
        )
        print(rows[-1], flush=True)
    return rows


def _in_process(name: str) -> list[float]:
    command = [sys.executable, __file__, "--one", name]
    found: list[float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def planned() -> Iterator[str]:
    """Yield rows of plans of the models on one machine and more."""
    for name, config in MODELS.items():
        for gpus, shards in ((1, 1), (8, 8), (64, 8), (1024, 8), (1024, 64)):
            found = plan(config, CLIP, gpus, shards)
            fits = "" if found.memory < MEMORY else " (too much)"
            rate = found.tokens / found.computing / 1e6
            yield (
                f"| {name} | {gpus:,} | {shards} | {found.memory / GIGA:.0f} GB{fits} | {found.computing:.3f} s | "
                f"{found.traffic:.3f} s | {100 * found.efficiency:.0f}% | {rate:.3g} million |"
            )


def main() -> None:
    """Measure, and write the tables of the page; its text is written by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="only measure")
    parser.add_argument("--one", help="measure one size, or the rates, in this process")
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(rates() if options.one == "rates" else measure(*MEASURED[options.one])))
        return
    tables = {"measured": measured()}
    if not options.measure:
        tables["planned"] = [*planned()]
        text = PAGE.read_text(encoding="utf-8")
        for name, rows in tables.items():
            begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            head, _, rest = text.partition(begin)
            table, _, tail = rest.partition(end)
            titles = table.strip().splitlines()[:2]
            text = "\n".join([head + begin, "", *titles, *rows, "", end + tail])
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
