"""Score clips: the negative log-likelihood of each token of a clip under a prompt.

    score = score_clip(parts, "ball.mp4")
    score.nats_per_token, score.bits_per_dimension
    score_clip(parts, video, "a blue ring").nats - score_clip(parts, video, "a red ball").nats

The clip goes through an `Engine` whose decoder draws nothing: it accepts the clip's tokens, a latent frame a pass. The
scored distribution is the one that is sampled from, and the cache does not grow with the clip.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch.nn import functional as F

from ..core.modes import in_plain_modes
from ..core.progress import note, progress
from ..media.fitting import Fit
from ..sampling.engine import Engine
from ..sampling.plan import ClipPlan, NoiseKey, PromptSchedule, SamplingConfig
from ..sampling.teacher import TeacherForcing
from .options import ClipLike, Prompt
from .pretrained import Pretrained
from .request import make_request
from .source import read_source


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """The negative log-likelihood of a clip under a model: lower is likelier.

    Attributes:
        nats_thw: The negative logarithm of each token's probability, given the prompt and the tokens before it;
            float32.
        prompts: The prompts of the scoring, from each latent frame on; "" is none.
        dimensions: The number of values in the frames of the tokens: frames x height x width x 3.
    """

    nats_thw: np.ndarray
    prompts: PromptSchedule
    dimensions: int

    @property
    def nats(self) -> float:
        """The sum over all tokens of the clip."""
        return float(self.nats_thw.sum(dtype=np.float64))

    @property
    def nats_per_token(self) -> float:
        """The mean over all tokens."""
        return self.nats / self.nats_thw.size

    @property
    def nats_per_frame(self) -> np.ndarray:
        """The mean (t,) over the tokens of each latent frame, which is high where the clip surprises the model."""
        return self.nats_thw.mean((1, 2), dtype=np.float64)

    @property
    def perplexity(self) -> float:
        """The number of equally likely tokens that would have the same mean."""
        return float(np.exp(self.nats_per_token))

    @property
    def bits_per_dimension(self) -> float:
        """The bits of the tokens for each value of the frames that they represent.

        This is not a likelihood of the pixels, which a lossy tokenizer does not give: information of the frames that
        the tokens do not hold is not counted. It compares models of one tokenizer with each other, and not with models
        of pixels.
        """
        return self.nats / math.log(2) / self.dimensions

    def __repr__(self) -> str:
        count, rows, columns = self.nats_thw.shape
        texts = " -> ".join(repr(text if len(text) <= 60 else text[:57] + "...") for _, text in self.prompts)
        return (
            f"Score({self.nats_per_token:.4g} nats per token, perplexity {self.perplexity:.4g}, "
            f"{self.bits_per_dimension:.3g} bits per dimension, {count} latent frames of {columns}x{rows} tokens, "
            f"prompt={texts})"
        )


@in_plain_modes
def score_clip(parts: Pretrained, clip: ClipLike, prompt: Prompt | None = None, *, fit: Fit = "crop") -> Score:
    """Score the video tokens of a clip: at temperature 1 and guidance scale 1, as the model was trained.

    Args:
        parts: The model.
        clip: The clip, as in `continue_clip`. A clip of this model is scored by its own tokens, any other is encoded.
        prompt: The prompt of the clip, or a schedule by the seconds of the clip; "" for no prompt; by default the
            clip's own prompts, if it has any.
        fit: How a picture of another shape is fitted: "crop", "pad" or "stretch".

    Raises:
        ReelmError: An argument is refused, or the clip cannot be read; nothing was computed.
    """
    prompts = None if prompt is None else _read_prompt(parts, prompt)
    source, layout = read_source(parts, clip, fit), parts.lm.layout
    if source.missing:
        note(source.missing)
    tokens_tS = layout.pack(source.grids).to(parts.lm.device)
    plan = ClipPlan(
        prompts=prompts or source.prompts, conditions=source.conditions, key=NoiseKey(0), latent_frames=len(tokens_tS)
    )
    forced = TeacherForcing(tokens_tS.flatten()[None], layout.frame_size)
    engine = Engine(parts.lm, SamplingConfig(guidance_scale=1.0), decoder=forced)
    engine.add(plan)
    targets_tS = tokens_tS.where(~layout.given_S.to(tokens_tS.device), 0)  # logits have no ids of given segments
    nats_thw = np.empty(source.tokens_thw.shape, np.float32)
    for index in progress(range(len(nats_thw)), "scoring", unit="latent frame"):
        engine.step()
        nats_S = F.cross_entropy(forced.logits_RLV[0].float(), targets_tS[index], reduction="none")
        nats_thw[index] = layout.as_grids(nats_S)["video"].cpu().numpy()
    frames = parts.tokenizer.compression.frames(len(nats_thw))
    return Score(nats_thw, plan.prompts, frames * parts.config.height * parts.config.width * 3)


def _read_prompt(parts: Pretrained, prompt: Prompt) -> PromptSchedule:
    if isinstance(prompt, str) and not prompt:
        return ((0, ""),)
    return make_request(parts, "score", prompt, {}).plans[0].prompts
