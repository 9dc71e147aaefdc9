"""Training of the language model on token shards: `reelm train lm --data runs/tokens --out runs/lm`.

The loss is the cross-entropy of every video token under the mask of prefix and window, which is also the mask of the
ring cache: training and generation see the same context. One caption in ten is left out, for classifier-free guidance
(Ho and Salimans 2022, arXiv 2207.12598). For a model with a guidance scale (`LMConfig.guidance`) only the second set of
weights is trained: it learns the guided distribution of a trained model (guidance_distillation.py). A model that is
played learns guidance by its keys in the same way, in its own weights (`LMTraining.key_guidance`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F

from ..core.checkpoint import load_weights, read_json, save_json, save_tensors, uninitialised
from ..core.config import differences, from_dict, to_dict
from ..core.controls import Controller
from ..core.device import pick_device
from ..core.errors import require
from ..core.files import atomic_write
from ..core.plain_values import convert_fields
from ..core.progress import note
from ..core.protocols import Storage
from ..data.token_shards import Shards, read_shards
from ..lm.lm_config import LMConfig
from ..lm.neighbours import carry_over
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer
from .factored_vocabulary import factor_vocabulary, merge_factors
from .guidance_distillation import GuidanceTeacher, KeyTeacher, PromptTeacher
from .loop import check_run, train
from .low_rank import adapt, merge_adapters
from .ranks import ONE_RANK, Ranks, Share
from .run_reports import RunProgress
from .speed import Work, training_flops
from .state_folders import SavedState
from .tensor_parallel import check_tensor
from .token_batches import ClipOrder
from .token_noise import with_noise, with_own_draws
from .train_config import TrainConfig
from .validation import BEST, HeldOut, Nats

WEIGHTS = "lm.safetensors"
IGNORED = -100  # a target that counts for nothing
# The sizes of a language model that follow from the data and the tokenizer, and are therefore no options of commands.
DERIVED = ("vocab_size", "rows", "columns", "text_vocab_size", "controller")
# Those that the shapes of its weights follow from.
SHAPES = ("width", "depth", "heads", "kv_heads", "head_dim", "hidden", "neighbour_dim")


@dataclass(frozen=True, kw_only=True)
class LMTraining:
    """The recipe of a language model.

    Attributes:
        model: The sizes of the model. The grid and the vocabularies must be those of the data; `train_language_model`
            (recipes.py) sets them, whatever they are here. With `guidance`, the training is a distillation of the
            guidance of the model whose weights are the start, for which a learning rate of 4e-4 was right and 1e-3 too
            high (docs/log.md).
        train: The optimizer, the length and the checkpoints.
        batch_tokens: The number of video tokens in a step; the clips of a step all have one length.
        drop_caption: The share of clips whose caption is left out.
        token_noise: The largest share of a clip's video tokens that the model sees replaced by others, while it is to
            predict the true ones, so that it goes on from its own mistakes (token_noise.py); that of each clip is drawn
            from 0 to this.
        own_noise: The same with what the model draws in their places: its own mistakes, for a pass more in each step.
        key_guidance: The scale of guidance by keys and axes that a model which is played learns from its first weights
            (`init`): above 1, the picture does what is held more often. 1 is a training on the clips themselves.
        guidance_temperature: In a distillation of guidance, the temperature of the distributions that are compared,
            such as that at which clips will be drawn.
        store: The numbers of the matrices in the model's checkpoint: "float16", or "int8" with a scale for each row, in
            half the bytes.
        lora_rank: The rank of what is trained beside each matrix of the blocks, where a trained model (`init`) is
            adapted (low_rank.py) and all its weights stay as they are; 0 for a training of all weights.
        seed: The seed of the initial weights and of the order of the clips.
    """

    model: LMConfig = field(default_factory=lambda: LMConfig(vocab_size=1))
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=2250, learning_rate=3e-3, optimizer="muon", ema=0.999)
    )
    batch_tokens: int = 16 * 320
    drop_caption: float = 0.1
    token_noise: float = 0.0
    own_noise: float = 0.0
    key_guidance: float = 1.0
    guidance_temperature: float = 1.0
    store: Storage = "float16"
    lora_rank: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.seed >= 0, "seed", "must be at least 0", self.seed)
        require(self.store in get_args(Storage), "store", "must be 'float16' or 'int8'", self.store)
        require(self.batch_tokens >= 1, "batch_tokens", "must be at least 1", self.batch_tokens)
        for name in ("drop_caption", "token_noise", "own_noise"):
            require(0 <= getattr(self, name) < 1, name, "must be in [0, 1)", getattr(self, name))
        require(1 <= self.key_guidance <= 100, "key_guidance", "must be from 1 to 100", self.key_guidance)
        rule = "must be 1 where guidance by prompts is distilled (--model.guidance)"
        require(self.key_guidance == 1 or self.model.guidance is None, "key_guidance", rule, self.key_guidance)
        width = self.model.width
        require(0 <= self.lora_rank <= width, "lora_rank", f"must be from 0 to the width, {width}", self.lora_rank)
        apart = not self.lora_rank or not (self.distils or self.train.tensor > 1)
        rule = "must be 0 where guidance is distilled, or layers are divided (--train.tensor)"
        require(apart, "lora_rank", rule, self.lora_rank)
        name, temperature = "guidance_temperature", self.guidance_temperature
        require(0 < temperature <= 100, name, "must be above 0 and at most 100", temperature)
        rule = "must be 1 where no guidance is distilled (--model.guidance, --key-guidance)"
        require(temperature == 1 or self.distils, name, rule, temperature)

    @property
    def distils(self) -> bool:
        """Whether the guidance of a trained model is learnt, and not clips."""
        return self.model.guidance is not None or self.key_guidance != 1


class TokenBatch(NamedTuple):
    """Clips of one length, with what they are predicted from: the arguments of `VideoTransformer.forward`.

    Attributes:
        tokens_Bthw: Their video tokens, int64.
        text_BP: The text ids of their captions, padded.
        text_lengths_B: The number of text ids of each caption.
        controls: The tokens (B, t, pictures) of the controller's segments by name; none where there is no controller.
    """

    tokens_Bthw: torch.Tensor
    text_BP: torch.Tensor
    text_lengths_B: torch.Tensor
    controls: dict[str, torch.Tensor]

    def part(self, share: Share, device: torch.device) -> "TokenBatch":
        """Return a part of the batch, on a device."""
        tokens, text, lengths = (share.of(part).to(device) for part in self[:3])
        controls = {name: share.of(part).to(device) for name, part in self.controls.items()}
        return TokenBatch(tokens, text, lengths, controls)


class TokenBatches:
    """The training batches as a function of the step alone."""

    def __init__(self, sets: list[Shards], text: TextEncoder, recipe: LMTraining) -> None:
        self.text, self.recipe = text, recipe
        self.order = ClipOrder(sets, recipe.train.steps, recipe.batch_tokens, recipe.seed)

    def work(self) -> Work:
        """Return what the steps process."""
        layout, model = self.recipe.model.layout, self.recipe.model

        def clips(step: int) -> tuple[int, int]:
            return self.order.shape(step)[0], self.order.shape(step)[1]

        return Work("tokens", lambda step: math.prod(clips(step)) * layout.video.size,
                    lambda step: training_flops(model, *clips(step)))  # fmt: skip

    def __call__(self, step: int) -> TokenBatch:
        """Return the batch of a step, on the CPU."""
        (shards, clips), recipe = self.order.clips(step), self.recipe
        prompts = self.order.captions(step, recipe.drop_caption)
        text_BP, lengths_B = self.text.prefix(prompts, recipe.model.prefix, "captions")
        controls = {name: tokens[clips].long() for name, tokens in shards.controls.items()}
        return TokenBatch(shards.tokens_Bthw[clips].long(), text_BP, lengths_B, controls)


def train_lm(
    recipe: LMTraining,
    data: Path,
    text: TextEncoder,
    folder: Path,
    *,
    held_out: Path | None = None,
    levels: tuple[int, ...] = (),
    device: str = "auto",
    resume: bool = False,
    init: Path | None = None,
    on_checkpoint: Callable[[VideoTransformer], None] | None = None,
    ranks: Ranks = ONE_RANK,
) -> VideoTransformer:
    """Train a language model and write lm.json, lm.safetensors and text.model to the folder.

    Args:
        held_out: Token shards that are not trained on. Every checkpoint is measured on them (held-out.jsonl), and the
            best one is returned (best.safetensors), not the last.
        levels: The levels of the FSQ that made the tokens; empty for another quantizer. See factored_vocabulary.py.
        resume: Whether the run in the folder is continued.
        init: The folder of a trained model whose weights are the start; see `start_from`.
        on_checkpoint: A function that is called with the averaged model at every checkpoint, e.g. to draw samples; not
            at that of a run that a signal stops.
        ranks: The processes of the training, each of which gets the model.

    Raises:
        ReelmError: A batch cannot be divided among the processes; the data's grid or vocabulary is not the model's, or
            `init` has another model or text model, or there is none to distil guidance from.
    """
    torch_device, ranks = pick_device(device), ranks.joined(recipe.train.shards, recipe.train.tensor)
    check_tensor(recipe.model, recipe.train.tensor)
    # Both are checked before any work, though the held-out ones are first read at a checkpoint.
    sets, others = read_shards(data), [] if held_out is None else read_shards(held_out)
    _check_data(sets + others, text, recipe.model)
    require(not (resume and init), "init", "must not be given with resume, which has weights of its own", str(init))
    check_run(folder, resume, recipe)
    check_guidance(recipe, init, resume=resume)
    rule = "must be 0 without a trained model that is adapted (--init)"
    require(not recipe.lora_rank or init is not None or resume, "lora_rank", rule, recipe.lora_rank)
    model, teacher = _start(recipe, text, folder, init, torch_device, ranks, resume=resume)
    trained = model if teacher is None else teacher.student
    if recipe.lora_rank:
        adapt(trained, recipe.lora_rank)
    elif levels:
        factor_vocabulary(trained, levels, fresh=init is None)
    batches, nats = TokenBatches(sets, text, recipe), teacher or cross_entropy
    for shards in sets:
        ranks.check_batch(batches.order.size(shards), recipe.train.parts, "batch_tokens")

    def loss(model: Any, step: int, share: Share) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return _loss(model, batches, step, share, nats, torch_device), {}

    validation = None
    if held_out is not None and ranks.first:
        step = RunProgress.read(folder).step if resume else 0
        validation = HeldOut(others, text, folder, nats, batch_tokens=recipe.batch_tokens, step=step)

    def export(saved: SavedState, stopped: bool) -> None:
        weights = saved.weights()
        merged = merge_adapters(weights) if recipe.lora_rank else merge_factors(weights, levels) if levels else weights
        lm = _empty(recipe.model, text, torch_device)
        lm.load_state_dict(merged if teacher is None else teacher.weights(merged))
        del weights, merged  # before the content of the file is made
        save_json(folder / "lm.json", to_dict(recipe.model))
        save_tensors(folder / WEIGHTS, lm.state_dict())
        atomic_write(folder / "text.model", text.model)
        if validation is not None:
            validation.judge(lm, saved.values().step)
        if on_checkpoint is not None and not stopped:
            on_checkpoint(lm)

    train(trained, loss, recipe.train, folder, recipe=recipe, resume=resume, on_checkpoint=export,
          batch_name=batches.order.name, batch_option=("batch_tokens", recipe.batch_tokens), work=batches.work(),
          ranks=ranks)  # fmt: skip
    result = _empty(recipe.model, text, torch_device)
    load_weights(result, folder / (WEIGHTS if held_out is None else BEST))
    return result


def _empty(config: LMConfig, text: TextEncoder, device: torch.device) -> VideoTransformer:
    """Return a model for inference whose weights are to be loaded."""
    with uninitialised():
        model = VideoTransformer(config).to(device)
    for each in filter(None, (model, model.guided)):
        each.text = text
    return model.eval().requires_grad_(False)


def _start(
    recipe: LMTraining, text: TextEncoder, folder: Path, init: Path | None, device: torch.device, ranks: Ranks, *,
    resume: bool,
) -> tuple[VideoTransformer, GuidanceTeacher | None]:  # fmt: skip
    """Return the model with its first weights, and the teacher whose guidance it learns, if it does."""
    torch.manual_seed(recipe.seed)
    model = VideoTransformer(recipe.model).to(device)
    if init is not None:
        start_from(model, init, text)
    with ranks.in_turn():  # the first process writes the weights of the teacher
        return model, _teacher(recipe, model, text, folder, resume=resume or not ranks.first)


def _teacher(
    recipe: LMTraining, model: VideoTransformer, text: TextEncoder, folder: Path, *, resume: bool
) -> GuidanceTeacher | None:
    """Return the teacher of the guidance that a model is to learn; None where it learns clips."""
    if model.guided is not None:
        return PromptTeacher(model, text, folder, recipe.guidance_temperature, resume=resume)
    if recipe.key_guidance != 1:
        return KeyTeacher(model, recipe.key_guidance, folder, recipe.guidance_temperature, resume=resume)
    return None


def cross_entropy(
    model: VideoTransformer, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor,
    controls: Mapping[str, torch.Tensor] | None = None, *, seen_Bthw: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return the mean cross-entropy of the video tokens of whole clips, in nats.

    `TokenBatch` has the arguments; `seen_Bthw` are the tokens that the model sees, where they are not the true ones.
    """
    logits_BSV = model(tokens_Bthw if seen_Bthw is None else seen_Bthw, text_BP, lengths_B, controls)
    targets_BtS = model.layout.pack({"video": tokens_Bthw, **(controls or {})})
    targets_BtS = targets_BtS.masked_fill(model.layout.given_S.to(targets_BtS.device), IGNORED)
    return F.cross_entropy(logits_BSV.flatten(0, 1).float(), targets_BtS.flatten(), ignore_index=IGNORED)


def _loss(model: Any, batches: TokenBatches, step: int, share: Share, nats: Nats, device: torch.device) -> torch.Tensor:
    """Return the loss of a part of the batch of a step, with the noise of the recipe in the tokens that are seen."""
    recipe, batch = batches.recipe, batches(step)
    part, seed = batch.part(share, device), recipe.seed
    if not (recipe.token_noise or recipe.own_noise):
        return nats(model, *part)
    # Drawn for the whole batch, so that it does not depend on the number of parts.
    noisy_Bthw = with_noise(batch.tokens_Bthw, recipe.token_noise, np.random.default_rng([seed, 4, step]))
    seen_Bthw, first = share.of(noisy_Bthw).to(device), share.index * len(part.tokens_Bthw)
    if recipe.own_noise:
        seen_Bthw = with_own_draws(
            model, *part, seen_Bthw=seen_Bthw, most=recipe.own_noise, seeds=(seed, 5, step), first=first
        )
    return nats(model, *part, seen_Bthw=seen_Bthw)


def _check_data(sets: list[Shards], text: TextEncoder, model: LMConfig) -> None:
    """Check that a model of these sizes can be trained on these clips and their captions."""
    for shards in sets:
        grid = tuple(shards.tokens_Bthw.shape[2:])
        require(grid == (model.rows, model.columns), "rows, columns", f"must be {grid} as in the data",
                (model.rows, model.columns))  # fmt: skip
        least, largest = (int(value) for value in shards.tokens_Bthw.aminmax())
        require(least >= 0, "data", "must have token ids of at least 0", least)
        require(largest < model.vocab_size, "vocab_size", f"must be above {largest}", model.vocab_size)
        same = shards.controller == model.controller
        require(same, "controller", f"must be that of the data, {shards.controller}", model.controller)
    least = text.vocab_size
    require(least <= model.text_vocab_size, "text_vocab_size", f"must be at least {least}", model.text_vocab_size)
    captions = {caption for shards in sets for texts in shards.captions for caption in texts}
    longest = max(captions, key=lambda caption: len(text.encode(caption)))
    text.prefix([longest], model.prefix, "captions")


def start_from(model: VideoTransformer, folder: Path, text: TextEncoder) -> None:
    """Load the weights of the trained model in `folder` into `model`.

    The two may differ in the token order. Where `model` is to learn guidance, its second set begins with these weights.

    Raises:
        ReelmError: The trained model has other sizes or another text model.
    """
    check_same_text(folder, text)
    sizes = _sizes_of(folder)
    order = sizes.get("order", "raster")
    if order != model.config.order:
        note(f"init: the model writes in {order} order, this one is trained to write in {model.config.order} order")
    played = from_dict(Controller, sizes.get("controller", {}), "init")
    require(played == model.config.controller, "init", "must be played by the keys and axes of the data", played)
    shapes = {name: sizes[name] for name in SHAPES if sizes.get(name) not in (None, getattr(model.config, name))}
    told = " ".join(f"--model.{name.replace('_', '-')} {size}" for name, size in shapes.items())
    rule = f"must have the sizes of the model that is trained, or that one its own ({told})"
    require(not shapes, "init", rule, str(folder))
    with uninitialised():
        other = VideoTransformer(dataclasses.replace(model.config, order=order, guidance=sizes.get("guidance")))
    load_weights(other, folder / "lm.safetensors")
    weights = other.state_dict()
    if other.guided is None:
        weights |= {f"guided.{name}": weight for name, weight in weights.items()}
    for name in [name for name in weights if name.endswith("neighbour_mix.weight")]:
        weights[name] = carry_over(weights[name], order, model.config.order)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})


def _sizes_of(folder: Path) -> dict[str, Any]:
    """Return the sizes of the trained model in a folder, as they are written there."""
    config = folder / "config.json"  # a checkpoint has it; the folder of a run has lm.json instead
    sizes: Any = read_json(config).get("lm") if config.is_file() else read_json(folder / "lm.json")
    require(isinstance(sizes, dict), "init", "must have the sizes of a language model in its config.json", str(folder))
    return {name: value for name, value in sizes.items() if name != "kind"}


def check_guidance(recipe: LMTraining, init: Path | None, *, resume: bool) -> None:
    """Check that a model that is to learn guidance begins with a model of its sizes, whose guidance it learns.

    Raises:
        ReelmError: The recipe has a guidance scale, and no trained model is its start, or one of other sizes, order or
            window, or one without keys where guidance by keys is learnt.
    """
    if not recipe.distils or resume:
        return
    rule = "must be a trained model whose guidance is distilled, where the recipe has a guidance scale"
    require(init is not None, "init", rule, None)
    assert init is not None
    taught = from_dict(LMConfig, _sizes_of(init), "init")
    played = recipe.key_guidance == 1 or bool(taught.controller)
    require(played, "key_guidance", "must be 1 for a model that is not played by keys or axes", recipe.key_guidance)
    for name, (wanted, given) in differences(to_dict(taught), to_dict(recipe.model)).items():
        same = name.partition(".")[0] in (*DERIVED, "guidance")
        require(same, f"model.{name}", f"must be {wanted!r} as in the model whose guidance is distilled", given)


def check_same_text(folder: Path, text: TextEncoder) -> None:
    """Check that the trained model in `folder` has this text model.

    Raises:
        ReelmError: It has another one, or none.
    """
    own = folder / "text.model"
    same = own.is_file() and own.read_bytes() == text.model
    rule = "must have the text model that is used here (--text its text.model): others number their words otherwise"
    require(same, "init", rule, str(folder))
