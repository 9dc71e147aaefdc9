"""The options of the training loop.

config = TrainConfig(steps=1000)
config.rate(step)                       # the learning rate at a step, as a share of its peak
"""

import math
import os
import shutil
from dataclasses import dataclass
from typing import Literal

import torch

from ..core.errors import require
from ..core.plain_values import convert_fields


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of the training loop.

    Attributes:
        steps: The total number of optimizer steps; the cosine schedule ends there.
        learning_rate: The peak learning rate, reached after `warmup` steps; a cosine lowers it to a twentieth.
        warmup: The number of steps in which the learning rate rises linearly from 0. A warning says so where a training
            has no more steps than this.
        optimizer: "adamw", or "muon" for the matrices (torch.optim.Muon) and AdamW for all else.
        weight_decay: The decoupled weight decay, on matrices and kernels only.
        clip: The largest norm of a gradient.
        ema: The decay of the moving average of the weights, which is what is saved for use; 0 keeps no average.
        spike: How many times the mean norm of the gradients before it the norm of a gradient may be. A step of a larger
            one is left out, as is one that is not finite (step_guard.py).
        most_left_out: The number of steps in a row that may be left out; one more ends the run.
        parts: The number of parts of a batch that each process computes one after another, for less memory.
        shards: The number of processes among which weights, gradients, moments and averages are divided (FSDP2), a
            divisor of the number that torchrun has started; with 1 each process has all of them (data parallel).
        tensor: The number of processes among which each layer of a language model is divided (tensor parallel), which
            compute a share of a batch together; they should be of one machine.
        recompute: Whether the layers are computed again in the backward pass, in place of keeping what is in them: less
            memory, for about a third more computing (Chen et al. 2016, arXiv 1604.06174).
        compile: Whether the layers are compiled (torch.compile): faster steps after a first one of a minute or so, for
            which a CPU needs a C++ compiler.
        keep: The number of the last states that are kept, in folders with their steps in their names.
        precision: The precision of the products: "float32", "bfloat16" (weights and their updates stay in float32), or
            "auto", which is the faster one on the device where the run begins; a run that goes on keeps it.
        checkpoint_minutes: The minutes between two checkpoints.
        report_steps: The number of steps between two lines of metrics.
    """

    steps: int
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    spike: float = 50.0
    most_left_out: int = 10
    parts: int = 1
    shards: int = 1
    tensor: int = 1
    recompute: bool = False
    compile: bool = False
    keep: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_minutes: float = 5.0
    report_steps: int = 20

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.steps >= 1, "steps", "must be at least 1", self.steps)
        require(0 < self.learning_rate < 1, "learning_rate", "must be in (0, 1)", self.learning_rate)
        require(self.optimizer in ("adamw", "muon"), "optimizer", "must be 'adamw' or 'muon'", self.optimizer)
        known = self.precision in ("auto", "float32", "bfloat16")
        require(known, "precision", "must be 'auto', 'float32' or 'bfloat16'", self.precision)
        require(self.warmup >= 0, "warmup", "must be at least 0", self.warmup)
        decay, minutes = self.weight_decay, self.checkpoint_minutes
        require(0 <= decay < math.inf, "weight_decay", "must be finite and at least 0", decay)
        require(0 < self.clip < math.inf, "clip", "must be finite and above 0", self.clip)
        require(0 <= self.ema < 1, "ema", "must be in [0, 1)", self.ema)
        require(0 < minutes < math.inf, "checkpoint_minutes", "must be finite and above 0", minutes)
        require(1 < self.spike < math.inf, "spike", "must be finite and above 1", self.spike)
        require(self.parts >= 1, "parts", "must be at least 1", self.parts)
        require(self.shards >= 1, "shards", "must be at least 1", self.shards)
        require(self.tensor >= 1, "tensor", "must be at least 1", self.tensor)
        require(self.keep >= 1, "keep", "must be at least 1", self.keep)
        require(self.most_left_out >= 0, "most_left_out", "must be at least 0", self.most_left_out)
        require(self.report_steps >= 1, "report_steps", "must be at least 1", self.report_steps)

    def rate(self, step: int) -> float:
        """Return the learning rate at `step` as a share of its peak: linear warm-up, then a cosine down to 0.05."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        elapsed = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(elapsed, 1.0)))

    def check_compiler(self, device: torch.device) -> None:
        """Check that there is what compiles layers for a device, where they are to be compiled.

        Raises:
            ReelmError: There is no C++ compiler for a CPU.
        """
        compiler = os.environ.get("CXX", "g++")
        missing = self.compile and device.type == "cpu" and shutil.which(compiler) is None
        require(not missing, "compile", "must be off where there is no C++ compiler (CXX names another one)", compiler)
