"""Emu3's language model: video tokens in raster order after a text, between the delimiters of the published layout.

    model = Emu3Transformer(Emu3LMConfig(rows=90, columns=90)); model.text = Emu3Text(content, model.config)
    cache = model.make_cache(rows)
    model.condition(cache, [0], [(Text("a red ball"),)])
    logits_BLV = model.step(cache, 1)                               # of the next position

The reference is `Emu3ForConditionalGeneration` of transformers. A position is predicted from the token before it, or
from the delimiter between the two: a pass reads that too, so that none is spent on what is known.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..core.checkpoint import save_tensors
from ..core.condition import Condition
from ..core.errors import require
from ..core.files import atomic_write
from ..core.protocols import Backend, Cost, Numerics, Precision, Storage
from ..core.token_history import TokenHistory
from ..kernels.cached_attention import attention_step, cached_attention, prefix_attention
from ..kernels.norm import RMSNorm
from ..kernels.rotary import Rotation
from .blocks import Attend, Attention, Block
from .cache import RingCache
from .emu3_lm_config import Emu3LMConfig
from .emu3_text import Emu3Text
from .lm_config import cache_dtype
from .quantization import stored


class Emu3Cache(RingCache):
    """A ring cache with a slot for each token and each delimiter."""

    def __init__(
        self, config: Emu3LMConfig, rows: int, device: torch.device, dtype: torch.dtype, *, ahead: int
    ) -> None:
        super().__init__(config, rows, device, dtype, ahead=ahead)
        self._sizes = config
        TokenHistory.__init__(self, rows, config.layout.frame_size, device)  # which holds no delimiters

    def slots_to_restore(self, tokens: int) -> torch.Tensor:
        """Return the places of the tokens and delimiters of a clip of so many tokens."""
        end = int(self._sizes.sequence(torch.tensor(tokens)))
        return torch.arange(max(0, end - self._sizes.window * self._sizes.frame_size), end)


class Emu3Transformer(nn.Module):
    """A transformer that predicts the next video token of a picture or clip.

    Attributes:
        config: The sizes of the model.
        layout: The layout of one latent frame.
        horizon: The latent frames of a clip.
        keeps_first: False: where a clip goes on beyond its horizon, it does from the newest latent frames.
        text: The encoder of prompts; None while no prompts are encoded.
        reads: The kinds of conditions that the model can use: text.
        guidance, guided: None, as it has learnt no guidance.
        known_words: None, as it spells any word.
        backend: The implementation of the kernels: "reference", "triton", or None for the best one on the device.
        weights_precision: The precision of the linear layers: "full" is the dtype of the model, the other is int8.
        cache_precision: The precision of the keys and values in new caches.
        processes: The number of processes that hold the layers together.
    """

    horizon: int | None
    keeps_first = False
    reads: tuple[str, ...] = ("text",)
    guidance = guided = None
    known_words: tuple[str, ...] = ()
    backend: Backend | None = None
    weights_precision: Precision = "full"
    cache_precision: Precision = "full"
    processes: int = 1
    text: Emu3Text | None = None

    def __init__(self, config: Emu3LMConfig) -> None:
        super().__init__()
        self.config, self.layout, self.horizon = config, config.layout, config.frames
        self.token_embedding = nn.Embedding(config.text_vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, eps=config.epsilon)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)  # to video tokens alone

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

    def shorten(self, text: str) -> str:
        """Return a prompt, or as many of its first words as fit into the prefix."""
        return text if self.text is None else self.text.shorten(text)

    def unknown_words(self, text: str, argument: str) -> list[str]:
        """Return none, as any word can be spelled.

        Raises:
            ReelmError: The prompt is longer than the prefix.
        """
        assert self.text is not None
        self.text.prefix([text], argument)
        return []

    def cost(self, rows: int, count: int) -> Cost:
        """Return the cost of passes over `count` positions of each of `rows` rows."""
        return self.config.cost(rows, count, self.numerics)

    def save(self, folder: Path, store: Storage = "float16") -> None:
        """Write lm.safetensors and text.json into a checkpoint folder; `LanguageModel` has the arguments."""
        assert self.text is not None
        save_tensors(folder / "lm.safetensors", stored(self.state_dict(), store))
        atomic_write(folder / "text.json", self.text.content)

    def make_cache(self, rows: int, *, ahead: int = 1) -> Emu3Cache:
        """Return an empty cache of so many rows, for passes over up to `ahead` latent frames of new positions."""
        return Emu3Cache(self.config, rows, self.device, cache_dtype(self.numerics), ahead=ahead)

    def _rotation(self, places: torch.Tensor) -> Rotation:
        """Return the rotations (…, 1, E / 2) of tokens at these places of a sequence."""
        size = self.config.head_dim
        pairs_F = torch.arange(0, size, 2, dtype=torch.float64, device=places.device)
        angles = places.double()[..., None] * self.config.theta ** -(pairs_F / size)
        return angles.cos().float().unsqueeze(-2), angles.sin().float().unsqueeze(-2)

    def _states(self, x_BLD: torch.Tensor, attend: Attend) -> torch.Tensor:
        for layer, block in enumerate(self.blocks):
            x_BLD = block(x_BLD, attend, layer)
        return x_BLD

    @torch.no_grad()
    def condition(self, cache: Emu3Cache, rows: Sequence[int], conditions: Sequence[Sequence[Condition]]) -> None:
        """Write the keys and values of the texts of these rows, and of the tokens around them."""
        assert self.text is not None
        config, rows_B = self.config, torch.tensor(rows, device=self.device)
        ids_BP, lengths_B = (part.to(self.device) for part in self.text.read(conditions))
        cache.prefix_lengths_B[rows_B] = lengths_B
        rotation = self._rotation(torch.arange(config.prefix, device=self.device)[None])

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            out_BPNE, k_BKPE, v_BKPE = prefix_attention(
                qkv, None, None, rotation, lengths_B, kv_heads=config.kv_heads, backend=self.backend
            )
            cache.put_prefix(layer, rows_B, k_BKPE, v_BKPE)
            return out_BPNE

        self._states(self.token_embedding(ids_BP), attend)

    def _ids(self, cache: Emu3Cache, places_BM: torch.Tensor) -> torch.Tensor:
        """Return the ids (B, M) at these places of the sequences: tokens, delimiters, and -1 the last of the prefix."""
        config = self.config
        frame_BM, index_BM = places_BM // config.frame_size, places_BM % config.frame_size
        if config.is_pictures:
            row_BM, column_BM = index_BM // (config.columns + 1), index_BM % (config.columns + 1)
            is_end_BM, token_BM, end = column_BM == config.columns, row_BM * config.columns + column_BM, config.line_id
        else:
            is_end_BM, token_BM, end = index_BM == config.frame_size - 1, index_BM, config.frame_id
        positions_BM = (frame_BM * config.layout.frame_size + token_BM).clamp(min=0)
        # A draft may be unknown; a place that holds a delimiter has the token of another one, which is not used.
        tokens_BM = cache.tokens(positions_BM).clamp(0, config.vocab_size - 1) + config.first_video_id
        return tokens_BM.where(~is_end_BM, end).where(places_BM >= 0, config.tokens_id)

    @torch.no_grad()
    def step(
        self, cache: Emu3Cache, count: int = 1, offsets: Sequence[int] | None = None,
        sees_LA: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the logits (B, L, V) of the next L = `count` positions of every row; see `LanguageModel.step`.

        Raises:
            ReelmError: The positions are not consecutive: delimiters stand between them.
        """
        require(offsets is None and sees_LA is None, "decoder", "must not be 'diagonal' for this model", offsets)
        config = self.config
        after_BL = config.sequence(cache.next_positions(count))
        # As many places for each row, up to the one before its last position: where fewer are new, some are read again.
        before_B = config.sequence((cache.positions_B - 1).clamp(min=0)).where(cache.positions_B > 0, -1)
        inputs = count + config.delimiters(count)
        if after_BL.device.type == "cpu":
            inputs = int((after_BL[:, -1] - before_B).max())
        places_BM = after_BL[:, -1:] - torch.arange(inputs, 0, -1, device=self.device)
        step = attention_step(
            cache.keys[0], heads=config.heads, slots_BL=cache.slots(places_BM), rotation=self._rotation(places_BM),
            prefix_rotation=self._rotation(cache.prefix_lengths_B[:, None] + places_BM), positions_B=places_BM[:, 0],
            prefix_lengths_B=cache.prefix_lengths_B, prefix=config.prefix, frame_size=config.frame_size,
            window=config.window, epsilon=config.epsilon, backend=self.backend,
        )  # fmt: skip

        def attend(layer: int, module: Attention, qkv: torch.Tensor) -> torch.Tensor:
            return cached_attention(qkv, None, None, step, **cache.layer(layer))

        x_BMD = self._states(self.token_embedding(self._ids(cache, places_BM)), attend)
        which_BL = after_BL - 1 - places_BM[:, :1]
        x_BLD = x_BMD.gather(1, which_BL[..., None].expand(-1, -1, config.width))
        logits_BLV: torch.Tensor = self.head(self.norm(x_BLD))
        return logits_BLV

    @torch.no_grad()
    def oracle(self, tokens_BS: torch.Tensor, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor:
        """Return the logits (B, S, V) of all positions of whole clips from one causal pass, which `step` must match."""
        return self(tokens_BS, conditions)

    def forward(self, tokens_BS: torch.Tensor, conditions: Sequence[Sequence[Condition]]) -> torch.Tensor:
        """Return the logits (B, S, V) of the tokens of whole clips from one causal pass, for training."""
        assert self.text is not None
        config, rows = self.config, []
        ids_BP, lengths_B = (part.to(self.device) for part in self.text.read(conditions))
        after_S = config.sequence(torch.arange(tokens_BS.shape[1], device=self.device))
        for tokens_S, ids_P, length in zip(tokens_BS, ids_BP, lengths_B.tolist(), strict=True):
            end = config.line_id if config.is_pictures else config.frame_id
            video = torch.full((int(after_S[-1]) + 1,), end, device=self.device)
            video[after_S] = tokens_S + config.first_video_id
            ids_1S = torch.cat([ids_P[:length], video])[None]
            rotation = self._rotation(torch.arange(ids_1S.shape[1], device=self.device)[None])

            def attend(layer: int, module: Attention, qkv: torch.Tensor, rotation: Rotation = rotation) -> torch.Tensor:
                return module.causal(qkv, rotation)

            x_SD = self._states(self.token_embedding(ids_1S), attend)[0]
            rows.append(self.head(self.norm(x_SD[length - 1 + after_S])))
        return torch.stack(rows)
