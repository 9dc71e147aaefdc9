"""Changes of a clip while it is drawn: its prompt, its temperature and what is held, from a latent frame on.

change = read_change(parts, sampling, seed, prompt="a red ball rolls")       # refused before anything is changed
plan = apply_change(engine, clip, change, sampling)                          # from the first latent frame not begun on
"""

import dataclasses
from dataclasses import dataclass

from ..core.errors import require
from ..sampling.engine import Engine
from ..sampling.plan import ClipPlan, SamplingConfig
from .options import Controls, Number, Prompt, TemperatureTimes
from .pretrained import Pretrained
from .request import Request, make_request


@dataclass(frozen=True)
class Change:
    """What is changed of a clip.

    Attributes:
        request: A request with the new values, which count from the latent frame at which they are applied.
        names: Which of prompt, temperature and controls are changed.
    """

    request: Request
    names: frozenset[str]


def read_change(
    parts: Pretrained,
    sampling: SamplingConfig,
    seed: int,
    *,
    prompt: Prompt | None = None,
    temperature: Number | TemperatureTimes | None = None,
    controls: Controls | None = None,
) -> Change:
    """Check what is to be changed of a clip.

    Args:
        parts: The model.
        sampling: The settings of the clip.
        seed: The seed of the clip.
        prompt: The new prompt; second 0 of a schedule is the latent frame at which it is applied.
        temperature: The new temperature, above 0, or a schedule.
        controls: The tokens (t, *shape) of given segments for the latent frames from that one on, by name.

    Raises:
        ReelmError: An argument breaks its rule.
    """
    given = {"temperature": temperature, "controls": controls}
    options = {name: value for name, value in given.items() if value is not None}
    request = make_request(parts, "stream", prompt, {**options, "seed": seed}, continuing=True)
    positive = temperature is None or (request.sampling.temperature > 0 and sampling.temperature > 0)
    require(positive, "temperature", "must be above 0 where it changes, and before", temperature)
    return Change(request, frozenset(options) | ({"prompt"} if prompt is not None else set()))


def apply_change(engine: Engine, clip: int, change: Change, sampling: SamplingConfig) -> ClipPlan:
    """Change a clip from its first latent frame that is not begun on, if there is one, and return its plan.

    Args:
        engine: The engine that draws the clip.
        clip: The number of the clip.
        change: What is changed.
        sampling: The settings of the clip.
    """
    start, new, plan = engine.next_frame(clip), change.request.plans[0], engine.plan(clip)
    if not plan.holds(start):  # all latent frames are begun
        return plan
    if "prompt" in change.names:
        before = tuple(entry for entry in plan.prompts if entry[0] < start)
        plan = dataclasses.replace(plan, prompts=before + tuple((start + at, text) for at, text in new.prompts))
    if "temperature" in change.names:
        coming = new.temperatures or ((0, change.request.sampling.temperature),)
        before_t = tuple(entry for entry in plan.temperatures if entry[0] < start)
        if not before_t and start:
            before_t = ((0, sampling.temperature),)
        plan = dataclasses.replace(plan, temperatures=before_t + tuple((start + at, t) for at, t in coming))
    engine.change(clip, plan)
    if "controls" in change.names:
        engine.feed(clip, new.controls)
    return engine.plan(clip)
