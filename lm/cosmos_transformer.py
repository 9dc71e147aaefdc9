"""NVIDIA's Cosmos-Predict1 autoregressive models: video tokens in raster order, from a clip, and a text's embeddings.

    model = CosmosTransformer(CosmosLMConfig())
    cache = model.make_cache(rows)
    model.condition(cache, [0], [(Embedding(states_SD),)])          # 5B and 13B; others read none
    logits_BLV = model.step(cache, 1)                               # of the next position

It follows the published code (github.com/nvidia-cosmos/cosmos-predict1). A position is predicted from the token before
it. The published code ends a clip after `config.frames` latent frames. Here one that has no text goes on: a token sees
the newest latent frames, as many as in training, one of which is always the first, since that one alone stands for a
single frame of pixels. Scores with the first are computed by a second query, rotated as in the last latent frame of
training. Positions that are added to the states of models with text forbid that: there a cache ends after
`config.frames`, and the clip goes on in a new one, from the first latent frame and the newest ones.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..core.checkpoint import save_tensors
from ..core.condition import Condition, Embedding, Text
from ..core.errors import require
from ..core.protocols import Backend, Cost, Numerics, Precision, Storage
from ..kernels.cached_attention import attention_step, cached_attention, prefix_attention
from ..kernels.norm import RMSNorm
from .blocks import Attend, Attention, Block
from .cosmos_cache import CosmosCache
from .cosmos_lm_config import CosmosLMConfig
from .cosmos_oracle import masked_attention
from .cosmos_positions import added_positions, cosmos_rotation
from .cross_attention import CrossAttention
from .lm_config import cache_dtype
from .quantization import stored

# The keys and values (B, K, P, E) of text embeddings in a block.
Context = Callable[[int], tuple[torch.Tensor, torch.Tensor]]


class CosmosTransformer(nn.Module):
    """A transformer that predicts the next video token of a clip.

    A model without text has no begin token, and was trained to continue clips: of a clip that it begins itself the
    first token has equal logits.

    Attributes:
        config: The sizes of the model.
        layout: The layout of one latent frame.
        horizon: The latent frames of a cache; None where it rolls without end.
        keeps_first: Whether a new cache begins with the first latent frame of the clip.
        guidance, guided: None, as it has learnt no guidance.
        known_words: None, as it reads no prompts.
        backend: The implementation of the kernels: "reference", "triton", or None for the best one on the device.
        weights_precision: The precision of the linear layers: "full" is the dtype of the model, the other is int8.
        cache_precision: The precision of the keys and values in new caches.
        processes: The number of processes that hold the layers together.
    """

    keeps_first = True
    guidance = guided = None
    known_words: tuple[str, ...] = ()
    backend: Backend | None = None
    weights_precision: Precision = "full"
    cache_precision: Precision = "full"
    processes: int = 1

    def __init__(self, config: CosmosLMConfig) -> None:
        super().__init__()
        self.config, self.layout = config, config.layout
        self.horizon = None if config.rolls else config.frames
        crossing = config.depth if config.context_dim else 0
        # The last id of a model with text is the begin token.
        self.token_embedding = nn.Embedding(config.vocab_size + (1 if crossing else 0), config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.cross_norms = nn.ModuleList(RMSNorm(config.width, eps=config.epsilon) for _ in range(crossing))
        self.cross_attention = nn.ModuleList(CrossAttention(config, config.context_dim) for _ in range(crossing))
        self.norm = RMSNorm(config.width, eps=config.epsilon)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.token_embedding.weight.device

    @property
    def numerics(self) -> Numerics:
        """The dtype, precisions and device of the model."""
        weight = self.token_embedding.weight
        return Numerics(
            dtype=weight.dtype, weights=self.weights_precision, cache=self.cache_precision, device=weight.device.type,
            processes=self.processes,
        )  # fmt: skip

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds of conditions that the model can use: embeddings of a text, or none."""
        return ("embedding",) if self.config.context_dim else ()

    def shorten(self, text: str) -> str:
        """Return the prompt."""
        return text

    def unknown_words(self, text: str, argument: str) -> list[str]:
        """Refuse a prompt.

        Raises:
            ReelmError: There is one.
        """
        reads = "embeddings of text (conditions=)" if self.config.context_dim else "clips alone"
        require(not text.strip(), argument, f"must be none: this model reads {reads}", text)
        return []

    def cost(self, rows: int, count: int) -> Cost:
        """Return the cost of passes over `count` positions of each of `rows` rows."""
        return self.config.cost(rows, count, self.numerics)

    def save(self, folder: Path, store: Storage = "float16") -> None:
        """Write lm.safetensors into a checkpoint folder; `LanguageModel` has the arguments."""
        save_tensors(folder / "lm.safetensors", stored(self.state_dict(), store))

    def make_cache(self, rows: int, *, ahead: int = 1) -> CosmosCache:
        """Return an empty cache of so many rows, for passes over up to `ahead` latent frames of new positions."""
        numerics = self.numerics
        return CosmosCache(
            self.config, rows, self.device, cache_dtype(numerics), ahead=ahead, context_dtype=numerics.dtype
        )

    @torch.no_grad()
    def condition(self, cache: CosmosCache, rows: Sequence[int], conditions: Sequence[Sequence[Condition]]) -> None:
        """Write what the text embeddings of these rows determine: their keys and values, and the begin token's."""
        context_BPX = self._read(conditions)
        if context_BPX is None:
            return
        config, rows_B = self.config, torch.tensor(rows, device=self.device)
        begin_B1 = torch.full((len(rows), 1), -1, device=self.device)
        rotation, lengths_B = cosmos_rotation(config, begin_B1[:1]), torch.ones_like(rows_B)
        for layer in range(config.depth):
            cache.put_context(layer, rows_B, *self._cross(layer).context(context_BPX))

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            out_B1NE, k_BK1E, v_BK1E = prefix_attention(
                qkv, module.q_norm, module.k_norm, rotation, lengths_B, kv_heads=config.kv_heads,
                epsilon=config.epsilon, backend=self.backend,
            )  # fmt: skip
            cache.put_prefix(layer, rows_B, k_BK1E, v_BK1E)
            return out_B1NE

        def context(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
            k_BKPE, v_BKPE = cache.context(layer)
            return k_BKPE[rows_B], v_BKPE[rows_B]

        self._states(self._input(begin_B1, begin_B1), begin_B1, attend, context)

    def _read(self, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor | None:
        """Return the text embeddings (B, P, X) of rows, with zeros after their ends; None for a model that reads none.

        Raises:
            ReelmError: A row has no text embeddings, other conditions, or embeddings of another shape.
        """
        config, found = self.config, []
        for row in conditions:
            states = [each.states_SD for each in row if isinstance(each, Embedding)]
            others = [each.kind for each in row if not isinstance(each, Embedding) and each != Text("")]
            fits = not others and len(states) == (1 if config.context_dim else 0)
            rule = "must be one embedding of a text" if config.context_dim else "must be none"
            require(fits, "conditions", f"{rule} for this model", [each.kind for each in row])
            for states_SD in states:
                most = (config.context_length, config.context_dim)
                fits = len(states_SD) <= most[0] and states_SD.shape[1] == most[1]
                require(fits, "conditions", f"must be an embedding of at most {most}", tuple(states_SD.shape))
                # The published code pads with zeros, too, and attends to all of them.
                padded = F.pad(states_SD.float(), (0, 0, 0, most[0] - len(states_SD)))
                found.append(padded.to(self.device, self.numerics.dtype))
        return torch.stack(found) if found else None

    def _cross(self, layer: int) -> CrossAttention:
        cross = self.cross_attention[layer]
        assert isinstance(cross, CrossAttention)
        return cross

    def _input(self, tokens_BL: torch.Tensor, positions_BL: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (B, L, D) of the tokens at these positions; that of -1 is the begin token."""
        known_BL = tokens_BL.clamp(0, self.config.vocab_size - 1)  # a draft may be unknown
        if self.config.context_dim:
            known_BL = known_BL.where(positions_BL >= 0, self.config.vocab_size)
        embedded: torch.Tensor = self.token_embedding(known_BL)
        return embedded

    def _states(
        self, x_BLD: torch.Tensor, positions_BL: torch.Tensor, attend: Attend, context: Context | None
    ) -> torch.Tensor:
        """Return the states (B, L, D) after all blocks."""
        if context is None:
            for layer, block in enumerate(self.blocks):
                x_BLD = block(x_BLD, attend, layer)
            return x_BLD
        added_BLD = added_positions(self.config, positions_BL).to(x_BLD.dtype)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x_BLD = block.with_attention(x_BLD + added_BLD, attend, layer)
            x_BLD = x_BLD + self._cross(layer)(self.cross_norms[layer](x_BLD), *context(layer))
            x_BLD = block.with_mlp(x_BLD)
        return x_BLD

    def _logits(self, x_BLD: torch.Tensor, positions_BL: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, L, V) of the tokens after these positions."""
        logits_BLV: torch.Tensor = self.head(self.norm(x_BLD))
        if self.config.context_dim:
            return logits_BLV
        return logits_BLV.masked_fill((positions_BL < 0)[..., None], 0)  # nothing comes before the first token

    @torch.no_grad()
    def step(
        self, cache: CosmosCache, count: int = 1, offsets: Sequence[int] | None = None,
        sees_LA: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the logits (B, L, V) of the next L = `count` positions of every row; see `LanguageModel.step`."""
        config = self.config
        positions_BL = cache.next_positions(count, offsets) - 1
        step = attention_step(
            cache.keys[0], heads=config.heads, slots_BL=cache.slots(positions_BL),
            rotation=cosmos_rotation(config, positions_BL),
            prefix_rotation=cosmos_rotation(config, positions_BL, last_frame=config.frames - 1),
            positions_B=cache.positions_B - 1, prefix_lengths_B=cache.prefix_lengths_B, prefix=config.prefix,
            prefix_from=config.prefix_from, frame_size=config.frame_size, window=config.window, epsilon=config.epsilon,
            ancestors_BLA=None if sees_LA is None else sees_LA.to(positions_BL.device)[None],
            query_positions_BL=None if sees_LA is None else positions_BL, backend=self.backend,
        )  # fmt: skip

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            return cached_attention(qkv, module.q_norm, module.k_norm, step, **cache.layer(layer))

        x_BLD = self._input(cache.tokens(positions_BL), positions_BL)
        x_BLD = self._states(x_BLD, positions_BL, attend, cache.context if config.context_dim else None)
        return self._logits(x_BLD, positions_BL)

    def forward(self, tokens_BS: torch.Tensor, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor:
        """Return the logits of the last L tokens of clips from one causal pass (B, L, V), for training.

        L is S, or S - 1 for a model without text, which cannot tell the first token of a clip. The clips have at most
        `frames` latent frames, within which no token is rotated otherwise later.
        """
        context_BPX, config = self._read(conditions), self.config
        before = 0 if context_BPX is None else 1
        positions_1L = torch.arange(-before, tokens_BS.shape[1] - 1, device=self.device)[None]
        rotation = cosmos_rotation(config, positions_1L)

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            return module.causal(qkv, rotation)

        x_BLD = self._input(tokens_BS.roll(1, 1)[:, 1 - before :], positions_1L)
        return self._logits(self._states(x_BLD, positions_1L, attend, self._contexts(context_BPX)), positions_1L)

    def _contexts(self, context_BPX: torch.Tensor | None) -> Context | None:
        """Return what gives the keys and values of text embeddings in a layer; None for a model that reads none."""
        return None if context_BPX is None else lambda layer: self._cross(layer).context(context_BPX)

    @torch.no_grad()
    def oracle(self, tokens_BS: torch.Tensor, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor:
        """Return the logits (B, S, V) of all positions of whole clips from one masked pass, which `step` must match."""
        context_BPX, config = self._read(conditions), self.config
        positions_1S = torch.arange(tokens_BS.shape[1], device=self.device)[None] - 1

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            return masked_attention(config, module, qkv, positions_1S)

        x_BSD = self._input(tokens_BS.roll(1, 1), positions_1S)
        x_BSD = self._states(x_BSD, positions_1S, attend, self._contexts(context_BPX))
        return self._logits(x_BSD, positions_1S)
