#!/usr/bin/env bash
# torch.compile of torch 2.13.0 leaves a layer alone, without a word, whose forward is a functools.partial of
# torch.utils.checkpoint.checkpoint: the short way to compute a layer again in the backward pass. nn.Module.compile then
# compiles nothing, and losses and gradients are right, so that only the speed tells. A function that calls checkpoint
# is compiled as a whole. Seen here, as the graphs that a backend gets for one forward pass of a small layer:
#
#   plain       1
#   function    1
#   partial     0
#
# Exits with 0 while this is so, and with 1 as soon as it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install torch==2.13.0 numpy
cat > "$folder/partial.py" <<'PYTHON'
import functools
import sys

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.linear(x))


def by_function(layer):
    inner = layer.forward
    layer.forward = lambda x: checkpoint(inner, x, use_reentrant=False)


def by_partial(layer):
    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def graphs(change):
    torch.compiler.reset()
    count = []

    def backend(graph, inputs):
        count.append(1)
        return graph.forward

    layer = Layer()
    change(layer)
    layer.compile(backend=backend)
    layer(torch.ones(2, 4)).sum().backward()
    assert layer.linear.weight.grad is not None
    return len(count)


found = {"plain": graphs(lambda layer: None), "function": graphs(by_function), "partial": graphs(by_partial)}
print("torch", torch.__version__, found)
sys.exit(0 if found == {"plain": 1, "function": 1, "partial": 0} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/partial.py"
