"""The blocks of a small language model as one graph of OpenVINO, for decoding in float32 on a CPU.

    blocks = compile_blocks(config, numerics, model.blocks, model.norm, model.head)     # or None
    logits_BLV = blocks(x_BLD, cache, attention_step(cache.keys[0], …))

A pass over few tokens of a small model is some two hundred small operations. In torch most of its time goes to the
interpreter and to allocating their results; OpenVINO (an optional dependency, which needs no compiler) runs them as one
call, with the elementwise ones fused. It is used where it is installed, unless `REELM_KERNELS=torch`.
`VideoTransformer.step` with its blocks in torch defines the result, up to the last bits, and a test compares both.

What torch's blocks promise is tested when a model is compiled: that a row has the same bits alone and beside others,
and a token the same bits in a pass of its own and in a block. Where that does not hold, torch's blocks are used.
"""

import functools
import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from ..core.protocols import Numerics
from ..kernels.cached_attention import AttentionStep, attention_step
from ..kernels.norm import RMSNorm
from .blocks import Attention, Block
from .cache import RingCache
from .lm_config import LMConfig, is_compiled
from .positions import video_rotation

if TYPE_CHECKING:
    import openvino

_log = logging.getLogger(__name__)


class CompiledBlocks:
    """The blocks, the last norm and the head of a model, compiled for any number of rows, tokens and slots."""

    def __init__(self, config: LMConfig, blocks: Sequence[Block], norm: RMSNorm, head: nn.Module) -> None:
        """Compile the blocks for as many threads as torch uses."""
        self._config = config
        graph = _Graph(config).model(blocks, norm, head)
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
        }  # fmt: skip
        self._compiled = _core().compile_model(graph, "CPU", options)
        # A request holds views of the memory of its cache, and ends with it.
        self._requests: weakref.WeakKeyDictionary[RingCache, _Request] = weakref.WeakKeyDictionary()

    def __call__(self, x_BLD: torch.Tensor, cache: RingCache, step: AttentionStep) -> torch.Tensor:
        """Write the keys and values of L tokens of each row into the cache, and return their logits (B, L, V).

        Args:
            x_BLD: The inputs of the tokens' slots.
            cache: The cache, of which all rows are used.
            step: The slots, rotations and mask of the tokens, for the CPU path.
        """
        slots_BL, mask_BLC, table = step.slots_BL, step.mask_BLC, step.table
        assert mask_BLC is not None and table is not None
        rows_B1 = torch.arange(len(slots_BL))[:, None]
        K, C = self._config.kv_heads, mask_BLC.shape[2]
        # The places of the new keys in a layer's cache whose axes B, K and C are one.
        places_BKL = ((rows_B1 * K + torch.arange(K))[:, :, None] * C + slots_BL[:, None]).flatten().int()
        inputs = [x_BLD, table.heads.cos_BL1E, table.heads.sin_BL1E, mask_BLC[:, None], places_BKL]
        request = self._requests.get(cache)
        if request is None or not request.fits(cache):
            new = self._compiled.create_infer_request()
            request = self._requests[cache] = _Request(new, cache, first=len(inputs))
        logits_BLV, keys_YBLKE, values_YBLKE = request.run(inputs)
        cache.keys.transpose(2, 3)[:, rows_B1, slots_BL] = keys_YBLKE
        cache.values.transpose(2, 3)[:, rows_B1, slots_BL] = values_YBLKE
        return logits_BLV


@functools.cache
def _core() -> "openvino.Core":
    """Return the one core of this process, which lives as long as it does.

    The CPU plugin sets an alternate signal stack for the thread that loads it, and unmaps it when it is unloaded. Where
    another thread frees the last model, the first one would be left with a stack that is not there, and end with the
    next signal that it handles.
    """
    import openvino

    return openvino.Core()


def compile_blocks(
    config: LMConfig, numerics: Numerics, blocks: nn.ModuleList, norm: RMSNorm, head: nn.Module
) -> CompiledBlocks | None:
    """Return the compiled blocks, or None where they do not apply or the bits of a row depend on other rows."""
    if not is_compiled(config, numerics):
        return None
    compiled = CompiledBlocks(config, cast(list[Block], [*blocks]), norm, head)
    if _keeps_bits(config, compiled):
        return compiled
    _log.info("the blocks run in torch: compiled ones would have other bits alone and in a batch")
    return None


def _keeps_bits(config: LMConfig, blocks: CompiledBlocks) -> bool:
    """Return whether random tokens have the same bits in blocks and one by one, and with rows beside theirs or not."""
    rows, count, random = 2, min(3, config.frame_size), torch.Generator().manual_seed(0)
    x_BLD = torch.randn(rows, count, config.width, generator=random)

    def run(rows: int, length: int) -> list[torch.Tensor]:
        """Return the logits of the first row, and its keys and values, of passes of so many tokens."""
        cache, logits = RingCache(config, rows, torch.device("cpu"), torch.float32), []
        for x_BlD in x_BLD[:rows].split(length, 1):
            positions_BL = cache.next_positions(x_BlD.shape[1])
            step = attention_step(
                cache.keys[0], heads=config.heads, slots_BL=cache.slots(positions_BL),
                rotation=video_rotation(positions_BL, config.rows, config.columns, config.head_dim),
                positions_B=cache.positions_B, prefix_lengths_B=cache.prefix_lengths_B, prefix=config.prefix,
                frame_size=config.frame_size, window=config.window,
            )  # fmt: skip
            logits.append(blocks(x_BlD, cache, step))
            cache.advance(x_BlD.shape[1])
        return [torch.cat(logits, 1)[0], cache.keys[:, 0], cache.values[:, 0]]

    found = [run(1, count), run(1, 1), run(rows, count)]
    return all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


class _Request:
    """The memory of the passes over one cache: an infer request of OpenVINO that reads the cache where it is."""

    def __init__(self, request: "openvino.InferRequest", cache: RingCache, *, first: int) -> None:
        """Give the request the layers of the cache as its inputs from number `first` on."""
        import openvino

        self._request, self._place = request, _place(cache)
        layers = [layer for both in zip(cache.keys, cache.values, strict=True) for layer in both]
        for index, layer in enumerate(layers, start=first):
            self._request.set_input_tensor(index, openvino.Tensor(layer.numpy(), shared_memory=True))

    def fits(self, cache: RingCache) -> bool:
        """Return whether the cache still has the rows and the memory that it had."""
        return self._place == _place(cache)

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return copies of the outputs."""
        for index, tensor in enumerate(inputs):
            own = self._request.get_input_tensor(index)
            own.shape = list(tensor.shape)
            own.data[...] = tensor.numpy()
        self._request.infer(share_outputs=True)
        return [torch.from_numpy(output.data.copy()) for output in self._request.output_tensors]


def _place(cache: RingCache) -> tuple[object, ...]:
    return cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape


class _Graph:
    """Builds the graph of the blocks; its methods return outputs of operations, of the shapes in their names."""

    def __init__(self, config: LMConfig) -> None:
        from openvino import opset15

        self.ops, self.config = opset15, config
        self.parameters: list[Any] = []

    def model(self, blocks: Sequence[Block], norm: RMSNorm, head: nn.Module) -> "openvino.Model":
        """Return the model from (x, the two factors of the rotation, mask, places, and K and V of each layer)."""
        import openvino

        config = self.config
        D, E, K = config.width, config.head_dim, config.kv_heads
        x_BLD = self._parameter(-1, -1, D)
        factors = self._parameter(-1, -1, 1, E), self._parameter(-1, -1, 1, E)
        mask_B1LC, places = self._parameter(-1, 1, -1, -1), self._parameter(-1, dtype="i32")
        keys, values = [], []
        for block in blocks:
            caches = self._parameter(-1, K, -1, E), self._parameter(-1, K, -1, E)
            normed_BLD = self._norm(x_BLD, block.attention_norm.weight)
            out_BLD, k_BLKE, v_BLKE = self._attention(normed_BLD, block.attention, factors, mask_B1LC, places, caches)
            keys.append(self.ops.unsqueeze(k_BLKE, self._whole(0)))
            values.append(self.ops.unsqueeze(v_BLKE, self._whole(0)))
            x_BLD = self.ops.add(x_BLD, out_BLD)
            gate_up = self._linear(self._norm(x_BLD, block.mlp_norm.weight), block.gate_up)
            gate, up = self._parts(gate_up, -1, config.hidden, config.hidden)
            x_BLD = self.ops.add(x_BLD, self._linear(self.ops.multiply(self.ops.swish(gate), up), block.down))
        logits_BLV = self._linear(self._norm(x_BLD, norm.weight), head)
        outputs = [logits_BLV, self.ops.concat(keys, 0), self.ops.concat(values, 0)]
        return openvino.Model([each.output(0) for each in outputs], self.parameters, "blocks")

    def _attention(
        self, x_BLD: Any, attention: Attention, factors: tuple[Any, Any], mask_B1LC: Any, places: Any,
        caches: tuple[Any, Any],
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """Return the output of attention, and the new keys and values; see `cached_attention_cpu`."""
        ops, config = self.ops, self.config
        N, K, E, P = config.heads, config.kv_heads, config.head_dim, config.prefix
        qkv_BLJE = self._reshape(self._linear(x_BLD, attention.qkv), 0, 0, N + 2 * K, E)
        qk_BLJE, v_BLKE = self._parts(qkv_BLJE, 2, N + K, K)
        assert attention.q_norm is not None and attention.k_norm is not None
        norm_JE = torch.cat((attention.q_norm.expand(N, -1), attention.k_norm.expand(K, -1)))
        qk_BLJE = self._norm(qk_BLJE, norm_JE)
        first, second = self._parts(qk_BLJE, -1, E // 2, E // 2)
        swapped = ops.multiply(ops.concat([second, first], -1), factors[1])
        rotated_BLJE = ops.add(ops.multiply(qk_BLJE, factors[0]), swapped)
        q_BLNE, k_BLKE = self._parts(rotated_BLJE, 2, N, K)
        q_prefix_BLNE, _ = self._parts(qk_BLJE, 2, N, K)
        k_BKCE, v_BKCE = self._written(caches[0], places, k_BLKE), self._written(caches[1], places, v_BLKE)
        # A product of few rows may have other bits: so the query heads of a key head are the rows of one matrix.
        k_prefix_BKPE, k_ring_BKXE = self._parts(k_BKCE, 2, P, -1)
        products = [
            ops.matmul(self._rows(q_prefix_BLNE), k_prefix_BKPE, False, True),
            ops.matmul(self._rows(q_BLNE), k_ring_BKXE, False, True),
        ]
        scores_BNLC = self._reshape(ops.concat(products, -1), 0, N, -1, 0)
        weights_BNLC = ops.softmax(ops.add(ops.multiply(scores_BNLC, self._number(E**-0.5)), mask_B1LC), -1)
        weights_BKMC = self._reshape(weights_BNLC, 0, K, -1, 0)
        out_BNLE = self._reshape(ops.matmul(weights_BKMC, v_BKCE, False, False), 0, N, -1, E)
        out_BLX = self._reshape(self._transpose(out_BNLE, 0, 2, 1, 3), 0, 0, N * E)
        return self._linear(out_BLX, attention.out), k_BLKE, v_BLKE

    # The operations, by the names and arguments that suit the blocks.

    def _parameter(self, *shape: int, dtype: str = "f32") -> Any:
        from openvino import Type

        self.parameters.append(self.ops.parameter(list(shape), getattr(Type, dtype)))
        return self.parameters[-1]

    def _number(self, value: float) -> Any:
        return self.ops.constant(np.float32(value))

    def _whole(self, *values: int) -> Any:
        return self.ops.constant(np.array(values))

    def _reshape(self, x: Any, *shape: int) -> Any:
        """Return x in another shape, in which 0 is the size that x has at this axis."""
        return self.ops.reshape(x, self._whole(*shape), True)

    def _transpose(self, x: Any, *axes: int) -> Any:
        return self.ops.transpose(x, self._whole(*axes))

    def _parts(self, x: Any, axis: int, *sizes: int) -> list[Any]:
        split = self.ops.variadic_split(x, self.ops.constant(np.int64(axis)), self._whole(*sizes))
        return list(split.outputs())

    def _linear(self, x: Any, linear: nn.Module) -> Any:
        weight_OI = linear.get_parameter("weight").detach()
        plain_OI = weight_OI.to_dense() if weight_OI.is_mkldnn else weight_OI
        return self.ops.matmul(x, self.ops.constant(plain_OI.numpy()), False, True)

    def _norm(self, x: Any, weight: torch.Tensor) -> Any:
        """Return x / sqrt(mean(x^2) + 1e-6) * weight over the last axis."""
        ops = self.ops
        mean = ops.reduce_mean(ops.power(x, self._number(2.0)), self._whole(-1), True)
        scale = ops.divide(self._number(1.0), ops.sqrt(ops.add(mean, self._number(1e-6))))
        return ops.multiply(ops.multiply(x, scale), ops.constant(weight.detach().numpy()))

    def _rows(self, q_BLNE: Any) -> Any:
        """Return queries (B, K, G L, E): those of all heads of a key/value head."""
        K, G, E = self.config.kv_heads, self.config.heads // self.config.kv_heads, self.config.head_dim
        q_BKGLE = self._transpose(self._reshape(q_BLNE, 0, 0, K, G, E), 0, 2, 3, 1, 4)
        return self._reshape(q_BKGLE, 0, K, -1, E)

    def _written(self, cache_BKCE: Any, places: Any, new_BLKE: Any) -> Any:
        """Return the cache of a layer with new keys or values at their places."""
        E = self.config.head_dim
        rows_XE, new_XE = (self._reshape(x, -1, E) for x in (cache_BKCE, self._transpose(new_BLKE, 0, 2, 1, 3)))
        written_XE = self.ops.scatter_update(rows_XE, places, new_XE, self.ops.constant(np.int64(0)))
        return self.ops.reshape(written_XE, self.ops.shape_of(cache_BKCE), False)
