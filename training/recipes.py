"""Whole trainings, from a folder of clips to a model: `reelm train tokenizer` and `reelm train lm` call them.

    train_video_tokenizer(Path("runs/tokenizer"), data=Path("my_clips"), preset="small")
    report = train_language_model(Path("my_clips"), Path("runs/tokenizer"), Path("runs/lm"))
    VideoGenerator.from_pretrained(report.model)

The loops, the losses and the options are in tokenizer_training.py and lm_training.py.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Literal

from ..core.checkpoint import find_checkpoint, read_json, save_json
from ..core.config import differences, from_dict, to_dict
from ..core.errors import require
from ..core.files import atomic_write
from ..data.clip_shards import ClipShards
from ..data.crops import CropLoader, held_out_clips
from ..data.encode import Windows
from ..data.prepare import prepare_once
from ..data.token_shards import Shards, read_shards
from ..evaluation.continuations import continue_held_out, least_frames
from ..generation.generator import VideoGenerator
from ..generation.pretrained import FORMAT, ModelConfig, Pretrained, save_pretrained
from ..lm.lm_config import LMConfig
from ..lm.text import TextEncoder, train_text, words_of
from ..lm.transformer import VideoTransformer
from ..sampling.plan import SamplingConfig
from ..tokenizer.tokenizer_config import TokenizerConfig, tokenizer_preset
from ..tokenizer.video_tokenizer import VideoTokenizer, load_tokenizer
from .clip_tokens import OWN_WINDOWS, clip_tokens
from .lm_training import LMTraining, train_lm
from .loop import check_run
from .model_card import model_card
from .run_reports import (
    ContinuationFigures,
    HeldOutFigures,
    LanguageModelReport,
    RunProgress,
    TokenizerReport,
)
from .samples import write_samples
from .tokenizer_training import TokenizerTraining, TrainingClips, check_stage, train_tokenizer
from .validation import best_of, read_entries

LM_RECIPE, SAMPLING, TOKENIZER_RECIPE = LMTraining(), SamplingConfig(), TokenizerTraining()
Preset = Literal["tiny", "small", "base"]
Compression = Literal["4x8x8", "8x8x8", "4x16x16", "8x16x16"]


def train_language_model(
    data: Path,
    tokenizer: Path,
    out: Path,
    *,
    text: Path | None = None,
    init: str | None = None,
    windows: Windows = OWN_WINDOWS,
    sampling: SamplingConfig = SAMPLING,
    recipe: LMTraining = LM_RECIPE,
    device: str = "auto",
    resume: bool = False,
) -> LanguageModelReport:
    """Train a language model, and write the checkpoint that `VideoGenerator.from_pretrained` loads.

    Where the data are clips, they are encoded to tokens first; the checkpoint with the lowest loss on the held-out ends
    of the clips is kept; and these ends are continued: continuations.png and continuations.mp4 show the continuations
    next to the truth. A model card, README.md, says how the model was made and what was measured. SIGINT and SIGTERM
    stop the training and leave a checkpoint.

    Args:
        data: A folder of token shards, of clips that `prepare` made, or of any clips.
        tokenizer: The folder of the training of the tokenizer that makes, or made, the tokens.
        out: The folder of the run.
        text: The file of the text model; without it one is trained on the captions.
        init: The model whose weights are the start (a bundled name or a folder); without it they are drawn at random.
        windows: The windows that are cut out of clips, where the data are clips; their seed is that of the recipe.
        sampling: The sampling options that the model is saved with; guidance is off where no clip has a caption.
        recipe: The sizes, the optimizer and the length; the vocabularies, rows and columns are replaced by those of the
            data and the tokenizer.
        device: The device: auto, cpu or cuda[:n].
        resume: Whether the run in `out` is continued.

    Raises:
        ReelmError: An argument is refused; this comes before anything is encoded or trained, unless the data must be
            read to find out.
    """
    check_run(out, resume)
    codec = load_tokenizer(tokenizer, device=device)
    seeded = dataclasses.replace(windows, seed=recipe.seed)
    tokens = clip_tokens(codec, data, out, seeded, known=tokenizer / "shards", resume=resume)
    sets = read_shards(tokens.train)
    captions = [caption for shards in sets for texts in shards.captions for caption in texts]
    encoder = _text_encoder(text, captions, out, resume)
    recipe = dataclasses.replace(recipe, model=_sizes(codec, encoder, sets, recipe.model))
    config = _model_config(codec, sets, recipe.model, sampling if any(captions) else _unguided(sampling))
    quantizer = codec.config.quantizer

    def parts(lm: VideoTransformer) -> Pretrained:
        return Pretrained("training", "", "", config, codec, lm)

    lm = train_lm(
        recipe, tokens.train, encoder, out, held_out=tokens.held_out,
        levels=quantizer.levels if quantizer.kind == "fsq" else (), device=device, resume=resume,
        init=None if init is None else find_checkpoint(init),
        on_checkpoint=lambda lm: write_samples(parts(lm), captions, out / "samples.png"),
    )  # fmt: skip
    save_pretrained(out / "model", config, codec, lm)
    measured = [] if tokens.held_out is None else read_entries(out)
    best, last = (best_of(measured), measured[-1]) if measured else (None, None)
    continued = None if tokens.clips is None else _continue_held_out(tokens.clips, parts(lm), out)
    atomic_write(out / "model" / "README.md", model_card(out, tokenizer, parts(lm)).encode())
    return LanguageModelReport(
        out, out / "model", RunProgress.read(out), best, last,
        None if tokens.clips is None else least_frames(codec.compression.t), continued, tokens.prepared,
    )  # fmt: skip


def _unguided(sampling: SamplingConfig) -> SamplingConfig:
    return dataclasses.replace(sampling, guidance_scale=1.0)


def _sizes(tokenizer: VideoTokenizer, text: TextEncoder, sets: list[Shards], model: LMConfig) -> LMConfig:
    """Return the sizes of the language model, with the vocabularies and the grid of the data."""
    rows, columns = sets[0].tokens_Bthw.shape[2:]
    return dataclasses.replace(
        model, vocab_size=tokenizer.vocab_size, rows=rows, columns=columns, text_vocab_size=text.vocab_size
    )


def _model_config(tokenizer: VideoTokenizer, sets: list[Shards], lm: LMConfig, sampling: SamplingConfig) -> ModelConfig:
    """Return the config of the whole model."""
    side = tokenizer.config.spatial
    return ModelConfig(
        format=FORMAT, fps=sets[0].fps, height=lm.rows * side, width=lm.columns * side, tokenizer=tokenizer.config,
        lm=lm, sampling=sampling,
    )  # fmt: skip


def _text_encoder(file: Path | None, captions: list[str], out: Path, resume: bool) -> TextEncoder:
    """Return the text model of `file`, else that of a resumed run, else one that is trained on the captions."""
    if file is not None:
        return TextEncoder(file.read_bytes())
    path = out / "text.model"
    if not (resume and path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where no clip has a caption the text model has one word, since it cannot have none.
        atomic_write(path, train_text([caption for caption in captions if words_of(caption)] or ["clip"]))
    return TextEncoder(path.read_bytes())


def _continue_held_out(clips: Path, parts: Pretrained, out: Path) -> ContinuationFigures | None:
    """Continue the held-out clips and write continuations.json; return None where all of them are too short."""
    held_out, least = ClipShards(clips, "held-out"), least_frames(parts.tokenizer.compression.t)
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
    preset: Preset | None = None,
    compression: Compression | None = None,
    decoder_of: Path | None = None,
    recipe: TokenizerTraining = TOKENIZER_RECIPE,
    device: str = "auto",
    resume: bool = False,
) -> TokenizerReport:
    """Train a tokenizer on a folder of clips, or on rendered clips.

    SIGINT and SIGTERM stop the training and leave a checkpoint.

    Args:
        out: The folder of the run.
        data: A folder of clips that `prepare` made, or of any clips; without it clips are rendered.
        preset: The sizes of the model, in place of `recipe.model`: tiny, small or base (1, 8, 100 million parameters).
            With `data` and a recipe whose model is the default it is small.
        compression: The compression of the preset: frames x rows x columns of a token, by default 4x8x8.
        decoder_of: The folder of a tokenizer whose decoder alone is trained. The model has its sizes, and all its
            tokens stay the same.
        recipe: The sizes, the optimizer, the length and the losses.
        device: The device: auto, cpu or cuda[:n].
        resume: Whether the run in `out` is continued.

    Raises:
        ReelmError: An argument is refused; nothing was prepared or trained.
    """
    whole = tokenizer_recipe(recipe, data=data, preset=preset, compression=compression, decoder_of=decoder_of)
    check_stage(whole, out, decoder_of, resume)
    if data is None:
        prepared = None
        train_tokenizer(whole, out, decoder_of=decoder_of, device=device, resume=resume)
    else:
        shards, prepared = prepare_once(data, out)
        loader = CropLoader(
            ClipShards(shards), whole.batch_size, whole.num_frames,
            height=whole.height, width=whole.width, seed=whole.seed,
        )  # fmt: skip
        with contextlib.closing(loader) as crops:
            held_out = held_out_clips(ClipShards(shards, "held-out"), whole.model.temporal)
            clips = TrainingClips(batch=crops.batch, held_out=held_out)
            train_tokenizer(whole, out, clips=clips, decoder_of=decoder_of, device=device, resume=resume)
    return TokenizerReport(out, RunProgress.read(out), HeldOutFigures.read(out), prepared)


def tokenizer_recipe(
    recipe: TokenizerTraining,
    *,
    data: Path | None = None,
    preset: Preset | None = None,
    compression: Compression | None = None,
    decoder_of: Path | None = None,
) -> TokenizerTraining:
    """Return the recipe with the model of the preset, or of the tokenizer in `decoder_of`.

    Raises:
        ReelmError: The sizes are given twice, or `decoder_of` has no tokenizer.
    """
    changed = {name: value for name, (value, _) in
               differences(to_dict(recipe.model), to_dict(TokenizerConfig()), "model.").items()}  # fmt: skip
    if decoder_of is not None:
        for name, value in {"preset": preset, "compression": compression, **changed}.items():
            require(value is None, name, "must not be given together with decoder_of, which has its sizes", value)
        path = decoder_of / "tokenizer.json"
        return dataclasses.replace(recipe, model=from_dict(TokenizerConfig, read_json(path), path.name))
    given = {name: value for name, value in (("preset", preset), ("compression", compression)) if value}
    if changed and given:
        name, value = next(iter(given.items()))
        require(False, name, "must not be given together with options of --model", value)
    chosen = preset or ("small" if data is not None and not changed else None)
    require(bool(chosen or not given), "compression", "must be given with a preset", compression)
    if chosen is None:
        return recipe
    return dataclasses.replace(recipe, model=tokenizer_preset(chosen, compression or "4x8x8"))
