"""The parts of the language model: grouped-query attention and SwiGLU, each after a norm, and packed weights.

    x_BSD = Block(config)(x_BSD, attend, layer=0)       # `attend` computes attention, with its mask and its cache
    pack_linears(model)                                 # in place, for inference

Packed weights are in the memory layout that the matrix kernels of this CPU read fastest. A decoding step has few rows,
so that most of its time goes into reading weights; oneDNN's blocked layout reduces that time, by up to a half
(docs/log.md). At the sizes of the bundled model a row's result does not depend on how many rows are computed with it,
so that one step over many tokens is bit-identical to many steps; `F.linear` does not ensure this for fewer than four
rows. Products of 2,048 x 2,048 were seen to differ in the last bits for a single row.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..kernels.norm import RMSNorm
from ..kernels.rotary import Rotation, rotate
from .sizes import BlockSizes

# (layer, its attention module, its heads of queries, keys and values) -> the output; both tensors (B, S, heads, E).
Attend = Callable[[int, "Attention", torch.Tensor], torch.Tensor]


class Attention(nn.Module):
    """Grouped-query attention, where `qk_norm` says so with normalised queries and keys (arXiv 2302.05442)."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.heads = (config.heads, config.kv_heads, config.kv_heads)
        self.head_dim, self.epsilon = config.head_dim, config.epsilon
        self.qkv = nn.Linear(config.width, sum(self.heads) * config.head_dim, bias=False)
        self.out = nn.Linear(config.heads * config.head_dim, config.width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(config.head_dim)) if config.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(config.head_dim)) if config.qk_norm else None

    def forward(self, x_BSD: torch.Tensor, attend: Attend, layer: int) -> torch.Tensor:
        """Map (B, S, D) to the same shape; `attend` applies the positions of the tokens, the mask and the cache."""
        qkv_BSJE = self.qkv(x_BSD).unflatten(-1, (-1, self.head_dim))
        return self.out(attend(layer, self, qkv_BSJE).flatten(2))

    def rotated(self, qkv_BSJE: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, ...]:
        """Return rotated and plain queries, rotated keys, and values; `rope_norm_cache` does so without gradients."""
        q, k, v = qkv_BSJE.split(self.heads, 2)
        if self.q_norm is not None and self.k_norm is not None:
            # Norms are in float32 whatever the dtype of the matrix products.
            q = F.rms_norm(q.float(), (self.head_dim,), self.q_norm.float(), self.epsilon).to(v.dtype)
            k = F.rms_norm(k.float(), (self.head_dim,), self.k_norm.float(), self.epsilon).to(v.dtype)
        return rotate(q, rotation), q, rotate(k, rotation), v

    def causal(self, qkv_BSJE: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Return what each token reads of itself and of those before it, (B, S, heads, E), with gradients."""
        q, _, k, v = (each.transpose(1, 2) for each in self.rotated(qkv_BSJE, rotation))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + swiglu(norm(x))."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=config.epsilon)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, eps=config.epsilon)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x_BSD: torch.Tensor, attend: Attend, layer: int) -> torch.Tensor:
        """Map (B, S, D) to the same shape."""
        return self.with_mlp(self.with_attention(x_BSD, attend, layer))

    def with_attention(self, x_BSD: torch.Tensor, attend: Attend, layer: int) -> torch.Tensor:
        """Return the sum (B, S, D) of the states and the output of attention."""
        return x_BSD + self.attention(self.attention_norm(x_BSD), attend, layer)

    def with_mlp(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Return the sum (B, S, D) of the states and the output of the MLP."""
        gate, up = self.gate_up(self.mlp_norm(x_BSD)).chunk(2, -1)
        return x_BSD + self.down(F.silu(gate) * up)


def init_weights(model: nn.Module, depth: int) -> None:
    """Draw the weights of a model of so many blocks anew."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5 if module.embedding_dim < 128 else 0.1)
    for name, weight in model.named_parameters():
        if name.endswith(("out.weight", "down.weight")):  # branches start small, so that depth adds up gently
            nn.init.normal_(weight, std=0.02 / (2 * depth) ** 0.5)


class PackedLinear(nn.Module):
    """A linear layer x @ weight.T for float32 on a CPU, without gradients; the weight has an opaque layout.

    Attributes:
        pairs: Whether a row that is alone is computed with a copy beside it, to have the bits that it has among others.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.weight = nn.Parameter(packed, requires_grad=False)
        # From some 1,280 inputs on, oneDNN sums a row that is alone in another order.
        row_1I = torch.arange(self.in_features).sin()[None]
        self.pairs = not torch.equal(self._product(row_1I), self._product(row_1I.repeat(2, 1))[:1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map inputs (…, in) to outputs (…, out); the bits of a row do not depend on the rows beside it."""
        if self.pairs and x.numel() == self.in_features:
            return self._product(x.view(1, -1).repeat(2, 1))[0].view(*x.shape[:-1], self.out_features)
        return self._product(x)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return out


def can_pack(linear: nn.Linear) -> bool:
    """Return whether this build of torch can pack this layer, with its device and dtype."""
    weight, has_ops = linear.weight, hasattr(torch.ops.mkldnn, "_linear_pointwise")
    available = torch.backends.mkldnn.is_available() and has_ops
    return available and weight.device.type == "cpu" and weight.dtype == torch.float32 and linear.bias is None


def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer inside `module` that can be packed by a `PackedLinear`."""
    for name, _ in list(module.named_parameters()):
        pack_weight(module, name)


def pack_weight(module: nn.Module, name: str) -> bool:
    """Replace the linear layer with the parameter `name` inside `module` by a `PackedLinear`.

    Returns:
        Whether the parameter is the weight of a linear layer that can be packed; otherwise nothing changes.
    """
    path, _, own = name.removesuffix(".weight").rpartition(".")
    parent = module.get_submodule(path)
    linear = getattr(parent, own)
    fits = isinstance(linear, nn.Linear) and can_pack(linear)
    if fits:
        setattr(parent, own, PackedLinear(linear))
    return fits
