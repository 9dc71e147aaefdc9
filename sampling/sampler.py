"""Draw the tokens of an engine's clips from logits: guidance, the user's processors, temperatures, rules and noise.

    sampler = Sampler(settings, processors, model)
    sampler.set_plans(plans)
    tokens_BL = sampler(logits_RLV, positions)

    rules = SegmentRules(layout, device)
    tokens_BL = rules.with_given(tokens_BL, rows, offsets)               # given tokens in place of sampled ones
    logits_RLV = rules.only_allowed(logits_RLV, positions_R, offsets)    # each segment has its own ids only

A token depends on the logits of its position and on the noise of its clip there, and on nothing else.

`noise_bytes` and `draw_bytes` count the memory that drawing takes, tensor by tensor as the code allocates it.
"""

import dataclasses
from collections.abc import Sequence

import torch

from ..core.errors import ReelmError, require
from ..core.layout import FrameLayout
from ..core.protocols import LanguageModel
from ..kernels.backend import pick_backend
from ..kernels.noise import gumbel_noise
from ..kernels.sample import LOW_TEMPERATURE, sample
from ..kernels.sample_cpu import leaves_few
from ..kernels.sample_reference import centre, guide
from .plan import ClipPlan, ClipRow, LogitsProcessor, NoiseKey, SamplingConfig

# The bytes that `gumbel_noise` holds for each number, five tensors of int64, and the numbers that it makes at a time.
NOISE_BYTES, NOISE_NUMBERS = 40, 2**17
BLOCK_NUMBERS = 2**18  # random numbers of a clip that are drawn together
SAMPLED = -1  # in place of a given token: the token is sampled
FORBIDDEN = -1e30  # the logit of an id that a position cannot have; finite, as guidance subtracts logits


class Sampler:
    """Draws the tokens of L positions of B clips at once; under guidance from 2 B rows of logits."""

    def __init__(self, settings: SamplingConfig, processors: Sequence[LogitsProcessor], model: LanguageModel) -> None:
        self.settings, self.processors, self.backend = settings, tuple(processors), model.backend
        self.frame_size = model.layout.frame_size
        self.guided = settings.guidance_scale != 1.0
        self._noise = NoiseBuffer(model.layout.sampled_vocab_size, model.device)
        self._keys_2B = torch.empty(2, 0, dtype=torch.int64, device=model.device)

    def set_plans(self, plans: Sequence[ClipPlan]) -> None:
        """Draw for the clips of these plans from now on."""
        self.plans = list(plans)
        keys_2B = key_tensors([plan.key for plan in plans], self._keys_2B.device)
        if keys_2B.shape == self._keys_2B.shape:
            self._keys_2B.copy_(keys_2B)  # in place: a graph may read it there
        else:
            self._keys_2B = keys_2B

    def can_capture(self, logits_RLV: torch.Tensor) -> bool:
        """Return whether a graph can hold the draw: `on_device` is all of it, and no value is read on the host."""
        varies = self.processors or any(plan.temperatures for plan in self.plans)
        return not varies and pick_backend("sample", self.backend, logits_RLV) == "triton"

    def __call__(
        self,
        logits_RLV: torch.Tensor,
        positions: Sequence[int],
        histories: Sequence[torch.Tensor] = (),
        offsets: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Return the tokens (B, L) of L positions of each clip, at the given offsets from its own position.

        Args:
            logits_RLV: The logits, those of the prompts' rows first.
            positions: The next position of each clip.
            histories: The tokens (n,) of each clip so far, where there are processors (then L = 1).
            offsets: The offsets of the L positions, ascending; by default 0, 1, ….
        """
        count, settings = logits_RLV.shape[1], self.settings
        distances = list(range(count) if offsets is None else offsets)
        if self.processors:
            logits_RLV = self._process(logits_RLV[:, 0], histories)[:, None]
            settings = dataclasses.replace(settings, guidance_scale=1.0)
        if any(plan.temperatures for plan in self.plans):
            logits_RLV = self._divided(logits_RLV, self._temperatures(positions, distances), settings.guidance_scale)
            settings = dataclasses.replace(settings, temperature=1.0)
        noise_MV = None
        if self._takes_noise(logits_RLV, settings) and offsets is None:
            noise_MV = self._noise.take([plan.key for plan in self.plans], positions, count).flatten(0, 1)
        device = logits_RLV.device
        positions_BL = torch.tensor(positions, device=device)[:, None] + torch.tensor(distances, device=device)
        return self.on_device(logits_RLV, positions_BL, settings, noise_MV)

    def _takes_noise(self, logits_RLV: torch.Tensor, settings: SamplingConfig) -> bool:
        """Return whether `sample` needs the noise of the whole vocabulary, which is cheaper for many positions."""
        on_host = pick_backend("sample", self.backend, logits_RLV) == "reference"
        vocab_size, device = logits_RLV.shape[-1], logits_RLV.device.type
        few = self.backend is None and leaves_few(settings.top_k, settings.top_p, vocab_size, device)
        return settings.temperature > 0 and on_host and not few

    def on_device(
        self,
        logits_RLV: torch.Tensor,
        positions_BL: torch.Tensor,
        settings: SamplingConfig | None = None,
        noise_MV: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the tokens (B, L) of these positions by the sampler's own settings or by the given ones."""
        count = logits_RLV.shape[1]
        seeds_M, samples_M = self._keys_2B.repeat_interleave(count, 1)
        tokens_M = sample(
            logits_RLV.flatten(0, 1), seeds_M, samples_M, positions_BL.flatten(), **(settings or self.settings).rules,
            noise_BV=noise_MV, backend=self.backend,
        )  # fmt: skip
        return tokens_M.view(positions_BL.shape)

    def _temperatures(self, positions: Sequence[int], offsets: Sequence[int]) -> list[list[float]]:
        """Return the temperatures of each clip's positions: those of their latent frames."""
        default = self.settings.temperature
        return [
            [plan.temperature_at((position + offset) // self.frame_size, default) for offset in offsets]
            for plan, position in zip(self.plans, positions, strict=True)
        ]

    @staticmethod
    def _divided(logits_RLV: torch.Tensor, temperatures: list[list[float]], guidance_scale: float) -> torch.Tensor:
        """Return the logits (R, L, V) divided by the temperatures (B, L) of their positions."""
        rows, device = logits_RLV.shape[0] // len(temperatures), logits_RLV.device
        inverse = [[1 / temperature for temperature in line] for line in temperatures]
        inverse_RL1 = torch.tensor(inverse, device=device).repeat(rows, 1)[..., None]
        low_BL = [[temperature < LOW_TEMPERATURE for temperature in line] for line in temperatures]
        if any(map(any, low_BL)):
            # Centred and guided as by `sample`, at these positions alone, so that no clip depends on the others.
            centred_BLV = centre(logits_RLV.flatten(0, 1), guidance_scale).view(-1, *logits_RLV.shape[1:])
            low_RL1 = torch.tensor(low_BL, device=device).repeat(rows, 1)[..., None]
            logits_RLV = torch.where(low_RL1, centred_BLV.repeat(rows, 1, 1), logits_RLV)
        return logits_RLV * inverse_RL1

    def _process(self, logits_RV: torch.Tensor, histories: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the guided logits (B, V) after the user's processors, which get all clips at once if equally long."""
        scores_BV = logits_RV.float()
        if self.guided:
            conditional_BV, unconditional_BV = scores_BV.chunk(2)
            scores_BV = guide(conditional_BV, unconditional_BV, self.settings.guidance_scale)
        together = len({len(ids_S) for ids_S in histories}) == 1
        results = []
        for group in [list(range(len(histories)))] if together else [[clip] for clip in range(len(histories))]:
            part_BV, ids_BS = scores_BV[group], torch.stack([histories[clip] for clip in group])
            for processor in self.processors:
                part_BV = _checked_scores(processor, ids_BS, part_BV)
            results.append(part_BV)
        return torch.cat(results)


def _checked_scores(processor: LogitsProcessor, ids_BS: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
    """Return the scores (B, V) float32 that a processor returns: numbers, or -inf for tokens that it forbids."""
    name = getattr(processor, "__qualname__", type(processor).__qualname__)
    argument, shape, device = f"logits_processor {name}", tuple(scores_BV.shape), scores_BV.device
    try:
        result = processor(ids_BS, scores_BV)
    except StopIteration as error:  # it would end, or break, any generator on its way
        raise ReelmError(f"{argument}: must return scores, got StopIteration") from error
    rule = f"must return scores, a floating-point tensor of shape {shape} on {device}"
    require(result is not None, argument, f"{rule}, also where it changes them in place", None)
    require(isinstance(result, torch.Tensor), argument, rule, type(result).__name__)
    fits = result.shape == shape and result.is_floating_point() and result.device == device
    require(fits, argument, rule, (tuple(result.shape), str(result.dtype), str(result.device)))
    scores_BV = result.detach().float()
    best_B = scores_BV.amax(-1)  # NaN where any score is
    # Ids that a position cannot have may come back scaled, but must not become the best ones.
    allowed = bool((best_B > FORBIDDEN / 1000).all())
    require(allowed, argument, "must return no NaN and allow a token in each row", f"best scores {best_B.tolist()}")
    return scores_BV


def key_tensors(keys: Sequence[NoiseKey], device: torch.device) -> torch.Tensor:
    """Return the seeds and the sample indices (2, B) int64 of these keys."""
    return torch.tensor([[key.seed for key in keys], [key.sample for key in keys]], dtype=torch.int64, device=device)


class NoiseBuffer:
    """The noise of the next positions, computed in blocks of up to 256 positions.

    A block takes a quarter of the time that its positions take one by one on a CPU, and the noise of a position that
    several passes look at is computed once. The numbers are those of `gumbel_noise`.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.block = max(1, min(256, BLOCK_NUMBERS // vocab_size))
        self._blocks: dict[tuple[NoiseKey, int], torch.Tensor] = {}  # (key, index of the block) -> (block, V)

    def take(self, keys: Sequence[NoiseKey], positions: Sequence[int], count: int) -> torch.Tensor:
        """Return the noise (B, L, V) of L = `count` positions of each clip, from the clip's own position on."""
        wanted = [
            [(key, block) for block in range(start // self.block, (start + count - 1) // self.block + 1)]
            for key, start in zip(keys, positions, strict=True)
        ]
        self._compute(list(dict.fromkeys(name for names in wanted for name in names)))
        rows = []
        for names, start in zip(wanted, positions, strict=True):
            parts = [self._blocks[name] for name in names]
            rows.append((parts[0] if len(parts) == 1 else torch.cat(parts))[start % self.block :][:count])
        return rows[0][None] if len(rows) == 1 else torch.stack(rows)

    def _compute(self, names: list[tuple[NoiseKey, int]]) -> None:
        """Hold these blocks and no others: the blocks of earlier positions are not needed again."""
        missing = [name for name in names if name not in self._blocks]
        blocks = {name: self._blocks[name] for name in names if name in self._blocks}
        if missing:
            seeds_M, samples_M = key_tensors([key for key, _ in missing], self.device)
            starts_M1 = torch.tensor([[block * self.block] for _, block in missing], device=self.device)
            positions_ML = starts_M1 + torch.arange(self.block, device=self.device)
            noise_MLV = gumbel_noise(seeds_M[:, None], samples_M[:, None], positions_ML, self.vocab_size)
            blocks |= dict(zip(missing, noise_MLV, strict=True))
        self._blocks = blocks


class SegmentRules:
    """Keeps tokens to the segments of their positions; has no effect where only the video is sampled."""

    def __init__(self, layout: FrameLayout, device: torch.device) -> None:
        """Make the tables of a layout on a device."""
        self._layout = layout
        sampled = [segment for segment in layout.segments if not segment.given]
        allowed_SV = layout.allowed_SV[:, : layout.sampled_vocab_size]
        self._allowed_SV = allowed_SV.to(device) if len(sampled) > 1 else None

    def with_given(self, tokens_BL: torch.Tensor, rows: Sequence[ClipRow], offsets: Sequence[int]) -> torch.Tensor:
        """Return the tokens at these offsets from each clip's position, with given tokens in place of sampled ones."""
        layout, size = self._layout, self._layout.frame_size
        if not layout.has_given:
            return tokens_BL
        given_S, given = layout.given_S, []
        for row in rows:
            frames = {(row.position + offset) // size for offset in offsets}
            known = {frame: row.plan.given_tokens(layout, frame).where(given_S, SAMPLED) for frame in frames}
            indices = [divmod(row.position + offset, size) for offset in offsets]
            given.append(torch.stack([known[frame][index] for frame, index in indices]))
        given_BL = torch.stack(given).to(tokens_BL.device)
        return torch.where(given_BL == SAMPLED, tokens_BL, given_BL)

    def only_allowed(self, logits_RLV: torch.Tensor, positions_R: torch.Tensor, offsets: Sequence[int]) -> torch.Tensor:
        """Return the logits, with those of ids that the segment of a position does not have set to FORBIDDEN."""
        if self._allowed_SV is None:
            return logits_RLV
        offsets_L = torch.tensor(list(offsets), device=logits_RLV.device)
        indices_RL = (positions_R[:, None] + offsets_L) % self._layout.frame_size
        return logits_RLV.float().masked_fill(~self._allowed_SV[indices_RL], FORBIDDEN)


def noise_bytes(vocab_size: int, batch: int, count: int, sampling: SamplingConfig) -> tuple[int, int]:
    """Return the bytes of a CPU's noise buffer at its peak, and while it is kept (`NoiseBuffer`, `gumbel_noise`)."""
    if sampling.temperature == 0 or leaves_few(sampling.top_k, sampling.top_p, vocab_size, "cpu"):
        return 0, 0
    block = NoiseBuffer(vocab_size, torch.device("meta")).block
    numbers = batch * -(-count // block) * block * vocab_size
    # At the peak there are the previous block, the new one in parts, and the new one as a whole: of all clips where
    # they advance together. The clips of a block decoder drift apart, so that few of them draw in one pass: from 2 on,
    # and 3 if none drifts.
    together = batch == 1 or count == 1
    return (12 if together else 10) * numbers + NOISE_BYTES * min(numbers, NOISE_NUMBERS), 4 * numbers


def draw_bytes(
    vocab_size: int, rows: int, clips: int, count: int, dtype: torch.dtype, *, sampling: SamplingConfig
) -> int:
    """Return the bytes of the logits of so many rows and of all that torch computes from them for their clips."""
    tensors = 8 if sampling.top_p < 1 else 4
    tensors += 2 if 0 < sampling.temperature < LOW_TEMPERATURE else 0
    logits = rows * (dtype.itemsize + (0 if dtype == torch.float32 else 4))
    # The noise, the scores, the allowed scores and their sum; with top-p also the order and its probabilities; where
    # few tokens are allowed as many of masks, candidates and their noise; centred scores at a low temperature.
    return count * vocab_size * (logits + 4 * clips * tensors)
