"""Training of a converted language model further, on tokens of its own tokenizer: of all its weights, or low-rank.

    train_language_model(Path("runs/mine"), data=Path("tokens"), tokenizer=Path("cosmos-4b"), init="cosmos-4b")

What is learnt is the model's own prediction of the next token, over clips of at most as many latent frames as it was
trained on, under their captions where it reads prompts. The checkpoint has the tokenizer and the text model of the
model that it began with.
"""

import dataclasses
import math
import shutil
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..core.checkpoint import find_checkpoint, load_weights, save_tensors, uninitialised
from ..core.condition import Text
from ..core.config import differences, to_dict
from ..core.device import pick_device
from ..core.errors import require
from ..core.files import atomic_path
from ..core.protocols import AnyCodec, LanguageModelConfig
from ..data.token_shards import Shards, is_token_folder, read_shards
from ..generation.pretrained import ModelConfig, read_config
from ..lm.cosmos_lm_config import CosmosLMConfig
from ..lm.cosmos_transformer import CosmosTransformer
from ..lm.emu3_lm_config import Emu3LMConfig
from ..lm.emu3_text import Emu3Text
from ..lm.emu3_transformer import Emu3Transformer
from ..lm.lm_config import LMConfig
from ..lm.quantization import stored
from ..sampling.plan import SamplingConfig
from ..tokenizer.codec_files import load_tokenizer
from .lm_training import WEIGHTS, LMTraining
from .loop import check_run, train
from .low_rank import adapt, merge_adapters
from .ranks import Ranks, Share
from .run_options import ModelRun
from .run_reports import RunProgress
from .speed import Work
from .state_folders import SavedState
from .token_batches import ClipOrder


def finetune(
    out: Path, init: Path, data: Path, recipe: LMTraining, ranks: Ranks, *, name: str,
    sampling: SamplingConfig, device: str, resume: bool,
) -> RunProgress:  # fmt: skip
    """Train a converted model further, and write its checkpoint to the folder `model` in `out`.

    Args:
        out: The folder of the run.
        init: The checkpoint of the model.
        data: The folder of token shards, which its tokenizer has made.
        recipe: The optimizer, the length and `lora_rank`; the sizes are those of the model.
        ranks: The processes of the training.
        name: The name of the new model.
        sampling: The sampling options that it is saved with; those with their usual values are those of the model.
        device: The device.
        resume: Whether the run in `out` goes on.

    Raises:
        ReelmError: The model cannot be trained, or not with these options, or on these tokens.
    """
    config, usual = read_config(init), vars(SamplingConfig())
    changed = {option: value for option, value in vars(sampling).items() if value != usual[option]}
    config = dataclasses.replace(config, name=name, sampling=dataclasses.replace(config.sampling, **changed))
    check_run(out, resume, recipe)
    sets = _read(data, trainable(config.lm))
    torch_device = pick_device(device)
    model = _load(trainable(config.lm), init).to(torch_device)
    for caption in {text for shards in sets for texts in shards.captions for text in texts if model.reads}:
        model.unknown_words(caption, "captions")  # refuses what is longer than the prefix
    torch.manual_seed(recipe.seed)
    if recipe.lora_rank:
        adapt(model, recipe.lora_rank)
    order = ClipOrder(sets, recipe.train.steps, recipe.batch_tokens, recipe.seed)
    for shards in sets:
        ranks.check_batch(order.size(shards), recipe.train.parts, "batch_tokens")

    def loss(trained: nn.Module, step: int, share: Share) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        shards, clips = order.clips(step)
        tokens_BS = config.lm.layout.pack({"video": shards.tokens_Bthw[clips].long()}).flatten(1)
        captions = order.captions(step, recipe.drop_caption) if model.reads else [""] * len(clips)
        return next_token_nats(trained, share.of(tokens_BS).to(torch_device), share.of(captions)), {}

    def export(saved: SavedState, _: bool) -> None:
        weights = saved.weights()
        merged = merge_adapters(weights) if recipe.lora_rank else weights
        _write(out / "model", init, config, stored(merged, recipe.store))

    train(
        model, loss, recipe.train, out, recipe=recipe, resume=resume, on_checkpoint=export, batch_name=order.name,
        batch_option=("batch_tokens", recipe.batch_tokens), ranks=ranks,
        work=Work("tokens", lambda step: math.prod(order.shape(step))),
    )  # fmt: skip
    return RunProgress.read(out)


def converted_model(init: str | None) -> Path | None:
    """Return the folder of the model whose weights are the start, where it is no model of reelm's own; None else."""
    folder = None if init is None else find_checkpoint(init)
    # The folder of a run, which may be given in place of its model, has no such file.
    is_own = folder is None or not (folder / "config.json").is_file() or isinstance(read_config(folder).lm, LMConfig)
    return None if is_own else folder


def check_finetuning(folder: Path, codec: AnyCodec, options: ModelRun) -> None:
    """Check that a converted model can be trained further with these options.

    Args:
        folder: The checkpoint of the model.
        codec: The tokenizer that has made the tokens.
        options: The options of the run, with its recipe.

    Raises:
        ReelmError: It cannot.
    """
    config, recipe = read_config(folder), options.recipe
    assert recipe is not None and options.data is not None
    kind = trainable(config.lm).kind
    own = load_tokenizer(folder, config.tokenizer, device="cpu").tokens_id
    require(codec.tokens_id == own, "tokenizer", "must be that of the model (--tokenizer its folder)", codec.tokens_id)
    is_tokens = is_token_folder(options.data)
    require(is_tokens, "data", "must be token shards (reelm encode) for a converted model", str(options.data))
    require(options.text is None, "text", f"must not be given for a model of the kind {kind}", str(options.text))
    usual = LMTraining(model=LMConfig(vocab_size=1, rows=1, columns=1, text_vocab_size=1))
    for name, (_, value) in differences(to_dict(usual), to_dict(recipe)).items():
        is_own = name.partition(".")[0] in ("model", "token_noise", "own_noise", "key_guidance", "guidance_temperature")
        require(not is_own, name, f"must not be given for a model of the kind {kind}", value)
    for name in ("shards", "tensor"):
        value = getattr(recipe.train, name)
        require(value == 1, f"train.{name}", f"must be 1 for a model of the kind {kind}", value)


def trainable(lm: LanguageModelConfig) -> CosmosLMConfig | Emu3LMConfig:
    """Return the sizes of a model that can be trained further here.

    Raises:
        ReelmError: It cannot.
    """
    require(isinstance(lm, CosmosLMConfig | Emu3LMConfig), "init", "must be a model that can be trained here", lm.kind)
    assert isinstance(lm, CosmosLMConfig | Emu3LMConfig)
    reads = isinstance(lm, CosmosLMConfig) and lm.context_dim
    require(not reads, "init", "must not read embeddings of text, which token shards do not have", lm.kind)
    return lm


def _load(lm: CosmosLMConfig | Emu3LMConfig, folder: Path) -> CosmosTransformer | Emu3Transformer:
    """Return the language model of a checkpoint, in float32."""
    model: CosmosTransformer | Emu3Transformer
    with uninitialised():
        if isinstance(lm, Emu3LMConfig):
            model = Emu3Transformer(lm)
            model.text = Emu3Text((folder / "text.json").read_text(encoding="utf-8"), lm)
        else:
            model = CosmosTransformer(lm)
    load_weights(model, folder / WEIGHTS)
    return model


def next_token_nats(model: nn.Module, tokens_BS: torch.Tensor, captions: list[str]) -> torch.Tensor:
    """Return the mean cross-entropy of the tokens of clips that a model predicts, in nats."""
    logits_BLV = model(tokens_BS, [[Text(caption)] for caption in captions])
    # Without a text nothing is known of a clip's first token, which has no logits then.
    return F.cross_entropy(logits_BLV.flatten(0, 1).float(), tokens_BS[:, -logits_BLV.shape[1] :].flatten())


def _read(data: Path, lm: CosmosLMConfig | Emu3LMConfig) -> list[Shards]:
    """Read token shards, and check that the model can be trained on them."""
    sets, video = read_shards(data), lm.layout.video
    for shards in sets:
        frames, grid = shards.tokens_Bthw.shape[1], tuple(shards.tokens_Bthw.shape[2:])
        require(grid == video.shape, "data", f"must have latent frames of {video.shape} tokens, as the model", grid)
        rule = f"must have clips of at most {lm.frames} latent frames, as the model was trained on"
        require(frames <= lm.frames, "data", rule, frames)
        largest = int(shards.tokens_Bthw.max())
        require(largest < video.vocab_size, "data", f"must have token ids below {video.vocab_size}", largest)
        require(not shards.controls, "data", "must have no keys or axes, which the model does not read",
                list(shards.controls))  # fmt: skip
    return sets


def _write(folder: Path, init: Path, config: ModelConfig, weights: dict[str, torch.Tensor]) -> None:
    """Write a checkpoint with these weights, and all else of the model that it began with."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.safetensors", "text.json"):
        if (init / name).is_file():
            with atomic_path(folder / name) as file:
                shutil.copyfile(init / name, file)
    save_tensors(folder / WEIGHTS, weights)
    config.save(folder)
