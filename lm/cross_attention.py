"""Cross-attention: the tokens of a pass attend to states of a text encoder, whose keys and values are computed once.

cross = CrossAttention(config, context_dim=1024)
k_BKPE, v_BKPE = cross.context(context_BPX)             # once for each prompt
x_BLD = x_BLD + cross(norm(x_BLD), k_BKPE, v_BKPE)      # in every pass
"""

import torch
from torch import nn

from ..kernels.decode_attention_reference import product
from ..kernels.norm import rms_norm
from .sizes import BlockSizes


class CrossAttention(nn.Module):
    """Grouped-query attention to states, without positions, with normalised queries and keys."""

    def __init__(self, sizes: BlockSizes, context_dim: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = sizes.heads, sizes.kv_heads, sizes.head_dim
        self.epsilon = sizes.epsilon
        self.q = nn.Linear(sizes.width, sizes.heads * sizes.head_dim, bias=False)
        self.kv = nn.Linear(context_dim, 2 * sizes.kv_heads * sizes.head_dim, bias=False)
        self.out = nn.Linear(sizes.heads * sizes.head_dim, sizes.width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(sizes.head_dim))
        self.k_norm = nn.Parameter(torch.ones(sizes.head_dim))

    def context(self, context_BPX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and the values (B, K, P, E) of P states of each row."""
        k_BPKE, v_BPKE = self.kv(context_BPX).unflatten(-1, (-1, self.head_dim)).chunk(2, 2)
        return rms_norm(k_BPKE, self.k_norm, self.epsilon).transpose(1, 2), v_BPKE.transpose(1, 2)

    def forward(self, x_BLD: torch.Tensor, k_BKPE: torch.Tensor, v_BKPE: torch.Tensor) -> torch.Tensor:
        """Return the output (B, L, D) of attention to these keys and values."""
        (B, L, _), K, E = x_BLD.shape, self.kv_heads, self.head_dim
        q_BLNE = rms_norm(self.q(x_BLD).unflatten(-1, (-1, E)), self.q_norm, self.epsilon)
        # The query heads of a key/value head become the rows of one matrix, so that keys and values are not repeated.
        q_BKME = q_BLNE.unflatten(2, (K, -1)).permute(0, 2, 3, 1, 4).reshape(B, K, -1, E)
        weights_BKMP = (product(q_BKME, k_BKPE.transpose(2, 3)) * E**-0.5).softmax(-1)
        out_BKME = product(weights_BKMP, v_BKPE)
        return self.out(out_BKME.reshape(B, -1, L, E).transpose(1, 2).flatten(2))
