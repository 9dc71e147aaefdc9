"""What passes of a transformer with a key/value cache cost in memory and arithmetic, from its sizes alone.

cost = transformer_cost(config, layer=block_matrices(config), others=[(512, 1024)], rest=65536, slots=2560, …)
"""

from collections.abc import Sequence

import torch

from ..core.protocols import Cost, Numerics
from ..core.token_history import HISTORY
from ..kernels.large_cache_cpu import LARGE, QUERIES
from .sizes import BlockSizes, ModelSizes


def block_matrices(sizes: BlockSizes) -> list[tuple[int, int]]:
    """Return the (inputs, outputs) of the linear layers of a block."""
    heads = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    return [(sizes.width, heads), (sizes.heads * sizes.head_dim, sizes.width),
            (sizes.width, 2 * sizes.hidden), (sizes.hidden, sizes.width)]  # fmt: skip


def norm_weights(sizes: BlockSizes) -> int:
    """Return the number of weights of all norms."""
    return sizes.width + sizes.depth * 2 * (sizes.width + (sizes.head_dim if sizes.qk_norm else 0))


def transformer_cost(
    sizes: ModelSizes, *, layer: list[tuple[int, int]], others: Sequence[tuple[int, int]], rest: int, slots: int,
    rows: int, count: int, numerics: Numerics, inputs: int = 0, states: int = 0,
) -> Cost:  # fmt: skip
    """Return the cost of passes over `count` positions of each of `rows` rows.

    Args:
        sizes: The sizes of the model.
        layer: The (inputs, outputs) of the linear layers of a block.
        others: Those of all other linear layers.
        rest: The number of the other weights, embeddings and norms.
        slots: The slots of a row of the cache.
        rows: The number of rows.
        count: The number of positions.
        numerics: The dtype, precisions and device.
        inputs: The bytes that a position takes while the input of the first block is computed.
        states: The numbers that a row of the cache holds beside its keys and values.
    """
    itemsize, matrices = numerics.dtype.itemsize, [*layer * sizes.depth, *others]
    matrix_weights = sum(inputs * outputs for inputs, outputs in matrices)
    # An int8 matrix has a float32 scale and, on a CPU, an int64 zero point for each output.
    int8_bytes = matrix_weights + sum(12 * outputs for _, outputs in matrices)
    matrix_bytes = int8_bytes if numerics.weights == "int8" else matrix_weights * itemsize
    keys = rows * sizes.depth * sizes.kv_heads * slots // numerics.processes
    kv_bytes = 2 * keys * (sizes.head_dim + 4 if numerics.cache == "int8" else sizes.head_dim * itemsize)
    kv_bytes += rows * states * itemsize
    # Other processes have their parts of the blocks.
    blocks = sizes.depth * sum(inputs * outputs for inputs, outputs in layer)
    elsewhere = matrix_bytes * blocks * (numerics.processes - 1) // (matrix_weights * numerics.processes)
    attention_flops = 4 * sizes.depth * sizes.heads * sizes.head_dim * slots
    return Cost(
        parameters=matrix_weights + rest,
        weights=matrix_bytes + rest * itemsize - elsewhere,
        loading=_loading(max(inputs * outputs for inputs, outputs in matrices), numerics),
        cache=kv_bytes + 8 * rows * HISTORY * sizes.layout.frame_size,
        state=kv_bytes // rows,
        step=_step(sizes, rows, count, slots, numerics, inputs),
        flops=rows * count * (2 * matrix_weights + attention_flops),
        read=matrix_bytes + norm_weights(sizes) * itemsize - elsewhere,
    )


def _loading(largest: int, numerics: Numerics) -> int:
    """Return the bytes beyond the weights while they are loaded, one matrix at a time.

    While the largest matrix becomes int8, it is held in its own dtype and, on a GPU, three times in float32, or, on a
    CPU, once in float32 and once in int8.
    """
    on_gpu = numerics.device != "cpu"
    if numerics.weights == "int8":
        return largest * (numerics.dtype.itemsize + 3 * 4 if on_gpu else 2 * 4 + 1)
    # A float32 matrix is held a second time while it is packed; for other dtypes the float16 of the file is held.
    return 0 if on_gpu else largest * (4 if numerics.dtype == torch.float32 else 2)


def _step(sizes: ModelSizes, rows: int, count: int, slots: int, numerics: Numerics, inputs: int) -> int:
    """Return the bytes of the largest activations of a pass: those of a layer, or the logits."""
    itemsize, on_gpu = numerics.dtype.itemsize, numerics.device != "cpu"
    width, heads = sizes.width, (sizes.heads + sizes.kv_heads) * sizes.head_dim
    # A CPU converts the int8 keys and values of a layer to floating-point numbers.
    dequantized = 2 * max(4, itemsize) * rows * sizes.kv_heads * slots * sizes.head_dim
    dequantized = dequantized if numerics.cache == "int8" and not on_gpu else 0
    # The residual stream and its norm; then heads: projected, in float32, normalised, rotated, split.
    attention = itemsize * (2 * width + 3 * heads) + 4 * 3 * heads
    # Scores in two parts, masked scores, and attention weights; the Triton kernel stores none of them.
    scores = 0 if on_gpu else 3 * max(4, itemsize) * sizes.heads * slots
    in_tiles = not on_gpu and slots >= LARGE and numerics.dtype == torch.float32 and numerics.cache == "full"
    attention += 0 if in_tiles else scores
    mlp = itemsize * (3 * width + 4 * sizes.hidden)
    largest = max(attention, mlp, inputs, itemsize * (sizes.vocab_size + width))
    if in_tiles:  # the scores of some queries at a time, and masks of single bytes
        return rows * (count * (4 * slots + largest) + min(count, QUERIES) * scores)
    return dequantized + rows * count * (3 * 4 * slots + largest)
