"""Trainings from Python by the names of folders: nothing goes to stdout, and what the commands print is returned."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from reelm.core.checkpoint import BUNDLED, SCALES, load_tensors
from reelm.core.errors import ReelmError
from reelm.data.token_recipes import render_tokens
from reelm.generation.generator import VideoGenerator
from reelm.generation.pretrained import read_config
from reelm.lm.lm_config import LMConfig
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig, tokenizer_preset
from reelm.training.clip_tokens import OWN_WINDOWS, clip_tokens
from reelm.training.lm_training import LMTraining
from reelm.training.recipes import tokenizer_recipe, train_language_model, train_video_tokenizer
from reelm.training.run_reports import RunProgress
from reelm.training.text_training import train_text_model
from reelm.training.tokenizer_training import TokenizerTraining, train_tokenizer
from reelm.training.train_config import TrainConfig

SIZES = TokenizerConfig(
    encoder_width=8, decoder_widths=(8,), decoder_depth=(1,), decoder_memory=1, quantizer=QuantizerConfig(levels=(4, 4))
)  # fmt: skip
TOKENIZER = TokenizerTraining(
    model=SIZES, train=TrainConfig(steps=2), batch_size=1, num_frames=5, height=32, width=32
)  # fmt: skip
LM = LMTraining(
    model=LMConfig(vocab_size=1, width=16, depth=1, heads=2, kv_heads=1, head_dim=16, hidden=16, neighbour_dim=4),
    train=TrainConfig(steps=2), batch_tokens=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a tokenizer's training, one of rendered tokens, and the report of the former."""
    folder = tmp_path_factory.mktemp("runs")
    report = train_video_tokenizer(folder / "tokenizer", recipe=TOKENIZER, device="cpu")
    tokens = render_tokens(folder / "tokenizer", folder / "tokens", 4, num_frames=5, height=32, width=32, device="cpu")
    assert (tokens.folder, tokens.clips, tokens.num_frames) == (folder / "tokens", 4, 5)
    return folder, report


def test_a_tokenizer_s_report_is_that_of_its_run(folders):
    folder, report = folders
    assert (report.out, report.progress, report.prepared) == (folder / "tokenizer", RunProgress(2, 2), None)
    assert report.progress.finished and not RunProgress(1, 2).finished
    assert report.held_out.step == 2 and len(report.held_out.clips) == 8
    with pytest.raises(ReelmError, match="out: must be a new folder, or be given with --resume to go on"):
        train_video_tokenizer(folder / "tokenizer", recipe=TOKENIZER, device="cpu")


def test_a_model_of_tokens_takes_the_sizes_of_the_data(folders, tmp_path, capsys):
    folder, _ = folders
    text = train_text_model(tmp_path / "text.model", data=folder / "tokens")
    assert text.captions == 16 and text.vocab_size > 2
    report = train_language_model(
        tmp_path / "lm", data=folder / "tokens", tokenizer=folder / "tokenizer", text=tmp_path / "text.model",
        recipe=LM, device="cpu",
    )  # fmt: skip
    assert (report.best, report.last, report.continuations, report.least_frames, report.prepared) == (None,) * 5
    assert (report.model, report.progress) == (tmp_path / "lm" / "model", RunProgress(2, 2))
    config = VideoGenerator.from_pretrained(report.model, device="cpu").parts.config
    assert (config.lm.vocab_size, config.lm.rows, config.lm.text_vocab_size) == (16, 4, text.vocab_size)
    assert (config.height, config.sampling.guidance_scale) == (32, 3.0)
    assert capsys.readouterr().out == ""


def test_a_model_that_is_stored_in_int8_is_the_trained_one_within_half_a_step(folders, tmp_path):
    folder, _ = folders
    report = train_language_model(
        tmp_path / "lm", data=folder / "tokens", tokenizer=folder / "tokenizer",
        recipe=dataclasses.replace(LM, store="int8"), device="cpu",
    )  # fmt: skip
    stored, trained = load_tensors(report.model / "lm.safetensors"), load_tensors(tmp_path / "lm" / "lm.safetensors")
    loaded = VideoGenerator.from_pretrained(report.model, device="cpu").parts.lm
    assert {stored[name].dtype for name, tensor in trained.items() if tensor.ndim == 2} == {torch.int8}
    for name in ("token_embedding.weight", "place_embedding.weight", "text_embedding.weight"):
        error = (loaded.get_parameter(name) - trained[name]).abs() / stored[name + SCALES][:, None]
        assert 0.1 < error.max() < 0.6  # of a step; the half is passed by what float16 rounds first


def test_a_tokenizer_s_training_begins_with_the_weights_of_another(folders, tmp_path):
    folder, _ = folders
    slow = dataclasses.replace(
        TOKENIZER, model=TokenizerConfig(), train=TrainConfig(steps=1, learning_rate=1e-9, warmup=0)
    )
    out, source = tmp_path / "more", shutil.copytree(folder / "tokenizer", tmp_path / "source")
    train_video_tokenizer(out, init=str(source), recipe=slow, device="cpu")
    before, after = load_tensors(source / "tokenizer.safetensors"), load_tensors(out / "tokenizer.safetensors")
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)
    source.rename(tmp_path / "elsewhere")  # a run that goes on has weights of its own
    more = dataclasses.replace(slow, train=TrainConfig(steps=2, learning_rate=1e-9, warmup=0))
    assert train_video_tokenizer(out, recipe=more, resume=True, device="cpu").progress == RunProgress(2, 2)
    source = tmp_path / "elsewhere"
    with pytest.raises(ReelmError, match="init: must not be given with decoder_of or resume"):
        train_tokenizer(TOKENIZER, tmp_path / "other", init=source, decoder_of=source, device="cpu")
    with pytest.raises(ReelmError, match="model: must be the sizes of the tokenizer in init"):
        train_tokenizer(TokenizerTraining(), tmp_path / "other", init=source, device="cpu")


def test_what_is_refused_leaves_nothing(folders, tmp_path):
    folder, _ = folders
    windows = dataclasses.replace(OWN_WINDOWS, stride=2)
    with pytest.raises(ReelmError, match=r"windows.stride: must not be given where the data are tokens"):
        train_language_model(
            tmp_path / "lm", data=folder / "tokens", tokenizer=folder / "tokenizer", windows=windows, device="cpu"
        )
    with pytest.raises(ReelmError, match="resume: must be left out where the folder holds no run"):
        train_language_model(tmp_path / "lm", resume=True)
    with pytest.raises(ReelmError, match="data, captions: must be exactly one of the two"):
        train_text_model(tmp_path / "text.model")
    assert not list(tmp_path.iterdir())


def test_tokens_are_taken_as_they_are_whatever_the_seed_of_the_windows(folders):
    folder, _ = folders
    found = clip_tokens(None, folder / "tokens", Path("none"), dataclasses.replace(OWN_WINDOWS, seed=7), resume=False)
    assert (found.train, found.held_out, found.clips) == (folder / "tokens", None, None)


def test_which_sizes_a_tokenizer_s_recipe_has(folders):
    folder, _ = folders
    data = Path("clips")
    assert tokenizer_recipe(TokenizerTraining()).model == TokenizerConfig()
    assert tokenizer_recipe(TokenizerTraining(), data=data).model == tokenizer_preset("small", "4x8x8")
    assert tokenizer_recipe(TOKENIZER, data=data) == TOKENIZER
    assert tokenizer_recipe(TokenizerTraining(), decoder_of=folder / "tokenizer").model == SIZES
    assert tokenizer_recipe(TokenizerTraining(), init=folder / "tokenizer").model == SIZES
    assert tokenizer_recipe(TokenizerTraining(), init=BUNDLED / "run").model == read_config(BUNDLED / "run").tokenizer
    with pytest.raises(ReelmError, match="init: must not be given together with decoder_of"):
        tokenizer_recipe(TokenizerTraining(), init=BUNDLED / "run", decoder_of=folder / "tokenizer")
    with pytest.raises(ReelmError, match="preset: must not be given together with options of --model"):
        tokenizer_recipe(TOKENIZER, preset="tiny")
    with pytest.raises(ReelmError, match=r"model.encoder_width: must not be given together with decoder_of"):
        tokenizer_recipe(TOKENIZER, decoder_of=folder / "tokenizer")
