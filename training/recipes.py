"""Whole trainings, from a folder of clips to a model: `reelm train tokenizer` and `reelm train lm` call them.

    train_video_tokenizer(Path("runs/tokenizer"), data=Path("my_clips"), preset="small")
    report = train_language_model(Path("runs/lm"), data=Path("my_clips"), tokenizer=Path("runs/tokenizer"))
    VideoGenerator.from_pretrained(report.model)
    train_language_model(Path("runs/lm"), resume=True)          # goes on after an interruption

The loops, the losses and the options are in tokenizer_training.py and lm_training.py.
"""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Literal

from ..core.checkpoint import find_checkpoint, read_json, save_json
from ..core.config import differences, from_dict, to_dict
from ..core.controls import NO_CONTROLLER
from ..core.device import pick_device
from ..core.errors import require
from ..core.files import atomic_write
from ..core.progress import note
from ..core.protocols import AnyCodec
from ..data.clip_shards import ClipShards, is_prepared
from ..data.crops import CropLoader, held_out_clips
from ..data.encode import Windows
from ..data.prepare import prepare_once
from ..data.token_shards import Shards, read_shards
from ..evaluation.continuations import continue_held_out, least_frames
from ..generation.familiarity import MARGIN
from ..generation.generator import VideoGenerator
from ..generation.pretrained import FORMAT, ModelConfig, Pretrained, save_pretrained
from ..lm.lm_config import LMConfig
from ..lm.text import TextEncoder, train_text, words_of
from ..lm.transformer import VideoTransformer
from ..sampling.plan import SamplingConfig
from ..tokenizer.codec_files import load_tokenizer, tokenizer_config
from ..tokenizer.tokenizer_config import TokenizerConfig, tokenizer_preset
from .clip_tokens import OWN_WINDOWS, clip_tokens, window_notes
from .finetuning import check_finetuning, converted_model, finetune
from .lm_training import LMTraining, train_lm
from .loop import RECIPE
from .model_card import model_card, write_card
from .ranks import Ranks, torchrun_ranks
from .run_checks import check_model_run, check_text, check_tokenizer_run, warn_of_a_short_run
from .run_options import Compression, ModelRun, Preset, TokenizerRun, agreed_options, record_options
from .run_reports import (
    ContinuationFigures,
    HeldOutFigures,
    LanguageModelReport,
    RunProgress,
    TokenizerReport,
)
from .samples import write_samples
from .state_folders import newest_state
from .tensor_parallel import check_tensor
from .tokenizer_training import TokenizerTraining, TrainingClips, check_stage, train_tokenizer
from .validation import best_of, read_entries


def train_language_model(
    out: Path,
    *,
    data: Path | None = None,
    tokenizer: Path | None = None,
    fps: float | None = None,
    text: Path | None = None,
    init: str | None = None,
    name: str | None = None,
    windows: Windows | None = None,
    sampling: SamplingConfig | None = None,
    recipe: LMTraining | None = None,
    device: str = "auto",
    resume: bool | Literal["auto"] = False,
) -> LanguageModelReport:
    """Train a language model, and write the checkpoint that `VideoGenerator.from_pretrained` loads.

    Where the data are clips, they are encoded to tokens first; the checkpoint with the lowest loss on the held-out ends
    of the clips is kept; and these ends are continued: continuations.png and continuations.mp4 show the continuations
    next to the truth. A model card, README.md, says how the model was made and what was measured. SIGINT and SIGTERM
    stop the training and leave a checkpoint.

    Args:
        out: The folder of the run.
        data: A folder of token shards, of clips that `prepare` made, or of any clips.
        tokenizer: The folder of the training of the tokenizer that makes, or made, the tokens.
        fps: The frames per second at which any clips are taken; the median of their own rates unless given.
        text: The file of the text model; without it one is trained on the captions.
        init: The model whose weights are the start (a bundled name or a folder); without it they are drawn at random. A
            converted one (`reelm convert`) is trained further as it is, on token shards of its own tokenizer, with its
            sizes, text model and sampling options (finetuning.py).
        name: The name of the model; that of the folder `out` unless given.
        windows: The windows that are cut out of clips, where the data are clips; their seed is that of the recipe.
            `OWN_WINDOWS` unless given.
        sampling: The sampling options that the model is saved with; guidance is off where no clip has a caption.
        recipe: The sizes, the optimizer and the length; the vocabularies, rows and columns are replaced by those of the
            data and the tokenizer.
        device: The device: auto, cpu or cuda[:n].
        resume: Whether the run in `out` goes on; "auto" for whether there is one. Options that are not given are those
            that it has.

    Raises:
        ReelmError: An argument is refused; this comes before anything is encoded or trained, unless the data must be
            read to find out.
    """
    if recipe is not None:
        recipe = dataclasses.replace(recipe, model=_without_data(recipe.model))
    given = ModelRun(
        data=data, tokenizer=tokenizer, fps=fps, text=text, init=init, name=name, windows=windows, sampling=sampling,
        recipe=recipe,
    )  # fmt: skip
    with torchrun_ranks(device) as ranks:
        return _train_language_model(out, given, ranks, device=ranks.device(device), resume=resume)


def _train_language_model(
    out: Path, given: ModelRun, ranks: Ranks, *, device: str, resume: bool | Literal["auto"]
) -> LanguageModelReport:
    options = agreed_options(out, given, resume=resume)
    begun = newest_state(out) is not None
    data, tokenizer = options.data, options.tokenizer
    for argument, folder in (("data", data), ("tokenizer", tokenizer)):
        require(folder is not None, argument, "must be given for a new run", None)
    assert data is not None and tokenizer is not None
    whole = options.recipe or LMTraining(model=_without_data(LMConfig(vocab_size=1)))
    windows, sampling = options.windows or OWN_WINDOWS, options.sampling or SamplingConfig()
    options = dataclasses.replace(options, windows=windows, sampling=sampling, recipe=whole)
    seeded = dataclasses.replace(windows, seed=whole.seed)
    codec = load_tokenizer(tokenizer, device=device)
    # A run of reelm's own model goes on without the model that it began with.
    converted = None if begun and (out / "lm.json").is_file() else converted_model(options.init)
    if converted is not None:
        check_finetuning(converted, codec, options)
    check_model_run(codec, options, seeded, begun=begun)
    warn_of_a_short_run(tokenizer)
    ranks.joined(whole.train.shards, whole.train.tensor)  # refuses what does not go before clips are encoded
    whole.train.check_compiler(pick_device(device))
    check_tensor(whole.model, whole.train.tensor)
    ranks.wait()  # until all have looked at the folder
    if ranks.first:
        record_options(out, options)
    if converted is not None:
        called = options.name or out.resolve().name
        progress = finetune(
            out, converted, data, whole, ranks, name=called, sampling=sampling, device=device, resume=begun
        )
        return LanguageModelReport(out, out / "model", progress)
    return _run(out, options, codec, ranks, begun=begun, device=device)


def _run(
    out: Path, options: ModelRun, codec: AnyCodec, ranks: Ranks, *, begun: bool, device: str
) -> LanguageModelReport:
    """Encode the clips, train, and write the model, its card and its continuations; all options are given."""
    data, tokenizer, whole, sampling, windows = (
        options.data, options.tokenizer, options.recipe, options.sampling, options.windows
    )  # fmt: skip
    assert data and tokenizer and whole and sampling and windows
    seeded = dataclasses.replace(windows, seed=whole.seed)
    prefix = whole.model.prefix

    def check_clips(shards: ClipShards) -> None:
        captions = [caption for sample in shards.samples for caption in sample.captions]
        check_text(_text_encoder(options.text, captions, None), captions, options.init, prefix)

    with ranks.in_turn():
        tokens = clip_tokens(
            codec, data, out, seeded, fps=options.fps, known=tokenizer / "shards",
            resume=begun or not ranks.first, check=check_clips,
        )  # fmt: skip
    sets = read_shards(tokens.train)
    captions = [caption for shards in sets for texts in shards.captions for caption in texts]
    rule = "must be none where no clip has a caption"
    require(any(captions) or whole.model.guidance is None, "guidance", rule, whole.model.guidance)
    with ranks.in_turn():
        trained = None if ranks.first else out / "text.model"  # by the first process
        encoder = _text_encoder(options.text or trained, captions, out)
    whole = dataclasses.replace(whole, model=_sizes(codec, encoder, sets, whole.model))
    called = options.name or out.resolve().name
    measured_tokenizer = HeldOutFigures.read(tokenizer)
    config = _model_config(
        called, codec, sets, whole.model, sampling=sampling if any(captions) else _unguided(sampling),
        least_psnr=None if measured_tokenizer is None else measured_tokenizer.least_psnr - MARGIN,
    )  # fmt: skip

    def parts(lm: VideoTransformer) -> Pretrained:
        return Pretrained(called, "", "", config, codec, lm)

    lm = train_lm(
        whole, tokens.train, encoder, out, held_out=tokens.held_out,
        levels=codec.config.levels, device=device, resume=begun,
        init=None if begun or options.init is None else find_checkpoint(options.init),
        on_checkpoint=lambda lm: write_samples(parts(lm), captions, out / "samples.png"), ranks=ranks,
    )  # fmt: skip
    if ranks.first:
        save_pretrained(out / "model", config, codec, lm, store=whole.store)
    measured = [] if tokens.held_out is None else read_entries(out)
    last = measured[-1] if measured else None
    best = best_of(measured) if measured else None  # `train_lm` has returned this one
    ranks.wait()  # until all is written
    progress, continued = RunProgress.read(out), None
    if ranks.first and tokens.clips is not None and progress.finished:
        continued = _continue_held_out(tokens.clips, parts(lm), out)
    if ranks.first:
        write_card(out, model_card(out, tokenizer, parts(lm)))
    return LanguageModelReport(
        out, out / "model", progress, best, last,
        None if tokens.clips is None else least_frames(codec.compression), continued, tokens.prepared,
    )  # fmt: skip


def _own_sizes(folder: Path, argument: str) -> TokenizerConfig:
    """Return the sizes of a tokenizer that can be trained further."""
    config = tokenizer_config(folder)
    require(isinstance(config, TokenizerConfig), argument, "must be a tokenizer that reelm has trained", config.kind)
    assert isinstance(config, TokenizerConfig)
    return config


def _without_data(model: LMConfig) -> LMConfig:
    """Return the sizes without those that follow from the data and the tokenizer."""
    return dataclasses.replace(model, vocab_size=1, rows=1, columns=1, text_vocab_size=1, controller=NO_CONTROLLER)


def _unguided(sampling: SamplingConfig) -> SamplingConfig:
    return dataclasses.replace(sampling, guidance_scale=1.0)


def _sizes(tokenizer: AnyCodec, text: TextEncoder, sets: list[Shards], model: LMConfig) -> LMConfig:
    """Return the sizes of the language model, with the vocabularies, the grid and the controller of the data."""
    rows, columns = sets[0].tokens_Bthw.shape[2:]
    return dataclasses.replace(
        model, vocab_size=tokenizer.vocab_size, rows=rows, columns=columns, text_vocab_size=text.vocab_size,
        controller=sets[0].controller,
    )  # fmt: skip


def _model_config(
    name: str,
    tokenizer: AnyCodec,
    sets: list[Shards],
    lm: LMConfig,
    *,
    sampling: SamplingConfig,
    least_psnr: float | None,
) -> ModelConfig:
    """Return the config of the whole model."""
    side = tokenizer.compression
    return ModelConfig(
        format=FORMAT, name=name, fps=sets[0].fps, height=lm.rows * side.h, width=lm.columns * side.w,
        tokenizer=tokenizer.config, lm=lm, sampling=sampling, least_psnr=least_psnr,
    )  # fmt: skip


def _text_encoder(file: Path | None, captions: list[str], out: Path | None) -> TextEncoder:
    """Return the text model of `file`, else that of the run in `out`, else one that is trained on the captions.

    Where `out` is None, nothing is written.
    """
    if file is not None:
        return TextEncoder(file.read_bytes())
    if out is not None and newest_state(out) is not None and (out / "text.model").exists():
        return TextEncoder((out / "text.model").read_bytes())
    # Where no clip has a caption the text model has one word, since it cannot have none.
    model = train_text([caption for caption in captions if words_of(caption)] or ["clip"])
    if out is not None:
        atomic_write(out / "text.model", model)
    return TextEncoder(model)


def _continue_held_out(clips: Path, parts: Pretrained, out: Path) -> ContinuationFigures | None:
    """Continue the held-out clips and write continuations.json; return None where all of them are too short."""
    held_out, least = ClipShards(clips, "held-out"), least_frames(parts.tokenizer.compression)
    if all(sample.frames < least for sample in held_out.samples):
        return None
    report = continue_held_out(VideoGenerator(parts), held_out, out)
    save_json(out / "continuations.json", report)
    names = ("predicted_frames", "psnr", "psnr_of_the_last_frame_repeated")
    return from_dict(ContinuationFigures, {"clips": report["n"], **{name: report[name] for name in names}})


def train_video_tokenizer(
    out: Path,
    *,
    data: Path | None = None,
    fps: float | None = None,
    preset: Preset | None = None,
    compression: Compression | None = None,
    init: str | None = None,
    decoder_of: Path | None = None,
    recipe: TokenizerTraining | None = None,
    device: str = "auto",
    resume: bool | Literal["auto"] = False,
) -> TokenizerReport:
    """Train a tokenizer on a folder of clips, or on rendered clips.

    SIGINT and SIGTERM stop the training and leave a checkpoint.

    Args:
        out: The folder of the run.
        data: A folder of clips that `prepare` made, or of any clips; without it clips are rendered.
        fps: The frames per second at which any clips are taken; the median of their own rates unless given.
        preset: The sizes of the model, in place of `recipe.model`: tiny, small or base (1, 8, 100 million parameters).
            With `data` and a recipe whose model is the default it is small.
        compression: The compression of the preset: frames x rows x columns of a token, by default 4x8x8.
        init: The tokenizer whose weights are the start (a bundled name or a folder). The model has its sizes.
        decoder_of: The folder of a tokenizer whose decoder alone is trained. The model has its sizes, and all its
            tokens stay the same.
        recipe: The sizes, the optimizer, the length and the losses.
        device: The device: auto, cpu or cuda[:n].
        resume: Whether the run in `out` goes on; "auto" for whether there is one. Options that are not given are those
            that it has.

    Raises:
        ReelmError: An argument is refused; nothing was trained, and nothing was prepared unless the clips had to be
            read to find out.
    """
    given = TokenizerRun(
        data=data, fps=fps, preset=preset, compression=compression, init=init, decoder_of=decoder_of, recipe=recipe
    )
    with torchrun_ranks(device) as ranks:
        return _train_tokenizer(out, given, ranks, device=ranks.device(device), resume=resume)


def _train_tokenizer(
    out: Path, given: TokenizerRun, ranks: Ranks, *, device: str, resume: bool | Literal["auto"]
) -> TokenizerReport:
    options = agreed_options(out, given, resume=resume)
    own = options.recipe or TokenizerTraining()
    options = dataclasses.replace(options, recipe=own)
    data, decoder_of, begun = options.data, options.decoder_of, newest_state(out) is not None
    start = None if begun or options.init is None else find_checkpoint(options.init)
    if begun and options.init is not None:
        whole = dataclasses.replace(own, model=from_dict(TokenizerConfig, read_json(out / RECIPE)["model"], RECIPE))
    else:
        whole = tokenizer_recipe(
            own, data=data, preset=options.preset, compression=options.compression, init=start, decoder_of=decoder_of
        )
    check_stage(whole, out, decoder_of, begun)
    check_tokenizer_run(whole, options)
    ranks.joined(whole.train.shards, whole.train.tensor)  # refuses what does not go before clips are prepared
    whole.train.check_compiler(pick_device(device))
    ranks.check_batch(whole.batch_size, whole.train.parts, "batch_size")
    require(decoder_of is None or ranks.count == 1, "decoder_of", "must not be given to several processes", ranks.count)
    ranks.wait()  # until all have looked at the folder
    if ranks.first:
        record_options(out, options)
    if data is None:
        prepared = None
        train_tokenizer(whole, out, init=start, decoder_of=decoder_of, device=device, resume=begun, ranks=ranks)
    else:
        with ranks.in_turn():
            done = is_prepared(out / "shards") and (begun or not ranks.first)
            shards, prepared = (out / "shards", None) if done else prepare_once(data, out, fps=options.fps)
        loader = CropLoader(
            ClipShards(shards), whole.batch_size, whole.num_frames, height=whole.height, width=whole.width,
            seed=whole.seed, rank=ranks.rank, world_size=ranks.count,
        )  # fmt: skip
        with contextlib.closing(loader) as crops:
            held_out_shards = ClipShards(shards, "held-out")
            for line in [*crops.notes(), *window_notes(ClipShards(shards), held_out_shards, OWN_WINDOWS.num_frames)]:
                note(line)
            held_out = held_out_clips(held_out_shards, whole.model.temporal)
            read = functools.lru_cache(maxsize=1)(crops.batch)
            clips = TrainingClips(
                batch=lambda step, share: ranks.own_part(share).of(read(step)), name=crops.name, held_out=held_out
            )
            train_tokenizer(
                whole, out, clips=clips, init=start, decoder_of=decoder_of, device=device, resume=begun, ranks=ranks
            )
    ranks.wait()  # until all is written
    return TokenizerReport(out, RunProgress.read(out), HeldOutFigures.read(out), prepared)


def tokenizer_recipe(
    recipe: TokenizerTraining,
    *,
    data: Path | None = None,
    preset: Preset | None = None,
    compression: Compression | None = None,
    init: Path | None = None,
    decoder_of: Path | None = None,
) -> TokenizerTraining:
    """Return the recipe with the model of the preset, or of the tokenizer in `init` or `decoder_of`.

    Raises:
        ReelmError: The sizes are given twice, or there is no tokenizer in the folder.
    """
    changed = {name: value for name, (value, _) in
               differences(to_dict(recipe.model), to_dict(TokenizerConfig()), "model.").items()}  # fmt: skip
    require(init is None or decoder_of is None, "init", "must not be given together with decoder_of", str(init))
    source, folder = ("init", init) if decoder_of is None else ("decoder_of", decoder_of)
    if folder is not None:
        for name, value in {"preset": preset, "compression": compression, **changed}.items():
            require(value is None, name, f"must not be given together with {source}, which has its sizes", value)
        return dataclasses.replace(recipe, model=_own_sizes(folder, source))
    given = {name: value for name, value in (("preset", preset), ("compression", compression)) if value}
    if changed and given:
        name, value = next(iter(given.items()))
        require(False, name, "must not be given together with options of --model", value)
    chosen = preset or ("small" if data is not None and not changed else None)
    require(bool(chosen or not given), "compression", "must be given with a preset", compression)
    if chosen is None:
        return recipe
    return dataclasses.replace(recipe, model=tokenizer_preset(chosen, compression or "4x8x8"))
