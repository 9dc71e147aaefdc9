"""The commands that make a model: of the rendered world, and of clips of one's own."""

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from reelm.commands.dispatch import parse
from reelm.core.config import from_dict
from reelm.data.crops import CropLoader
from reelm.generation.video import Video
from reelm.media.writer import write_clip
from reelm.tokenizer.codec_files import load_tokenizer
from reelm.tokenizer.tokenizer_config import TokenizerConfig, tokenizer_preset
from reelm.training import tokenizer_training
from reelm.training.recipes import tokenizer_recipe
from reelm.training.tokenizer_training import TokenizerTraining

pytestmark = pytest.mark.usefixtures("empty_folder")

TINY_TOKENIZER = [
    *(
        "--model.encoder-width",
        8,
        "--model.decoder-widths",
        8,
        "--model.decoder-depth",
        1,
        "--height",
        32,
        "--width",
        32,
    ),
    *("--model.decoder-memory", 1, "--model.quantizer.levels", 4, 4, "--batch-size", 1, "--num-frames", 5),
    *("--train.steps", 4, "--train.warmup", 1, "--train.report-steps", 1, "--device", "cpu"),
]
TINY_LM = [
    *("--model.width", 16, "--model.depth", 1, "--model.heads", 2, "--model.kv-heads", 1, "--model.head-dim", 16),
    *("--model.hidden", 16, "--model.neighbour-dim", 4, "--batch-tokens", 64, "--train.steps", 3, "--device", "cpu"),
    *("--train.warmup", 1),
]


def test_from_nothing_to_a_model_and_a_clip(run, monkeypatch):
    # A run that is stopped leaves a checkpoint, and --resume goes on from it.
    clips, seen = tokenizer_training.training_clips, []

    def interrupted(recipe, step, device, share):
        seen.append(step)
        if seen == [0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)
        return clips(recipe, step, device, share)

    monkeypatch.setattr(tokenizer_training, "training_clips", interrupted)
    train = ["train", "tokenizer", "--out", "runs/tokenizer", *TINY_TOKENIZER]
    code, out, err = run(*train)
    assert (code, err) == (143, "stopped at step 2 of 4; go on with --resume\n")
    assert out.startswith("wrote runs/tokenizer: ")
    assert "of step 2 of 4" in out
    refused = run(*train)
    assert refused[0] == 2
    assert refused[2].startswith("reelm: error: out: must be a new folder, or be given with --resume")
    code, _, err = run("train", "tokenizer", "--out", "runs/tokenizer", "--resume", "--batch-size", 2)
    assert code == 2
    assert err.startswith("reelm: error: batch_size: must be as in the run that goes on, {'batch_size': 1}, got ")
    code, out, _ = run(
        "train", "tokenizer", "--out", "runs/tokenizer", "--resume", "--train.checkpoint-minutes", 7, "--device", "cpu"
    )
    assert code == 0
    assert "of step 4 of 4" in out
    assert seen == [0, 1, 2, 3]

    size = ["--height", 32, "--width", 32]
    render = ["render", "--tokenizer", "runs/tokenizer", "--out", "runs/tokens", "--clips", 6, "--num-frames", 5, *size]
    assert run(*render) == (0, "wrote runs/tokens: 6 clips of 5 frames\n", "")
    code, out, _ = run("train", "text", "--data", "runs/tokens", "--out", "runs/text.model")
    assert code == 0
    assert re.fullmatch(r"wrote runs/text.model: \d+ text ids from 24 captions\n", out)

    words = ["--data", "runs/tokens", "--text", "runs/text.model", "--tokenizer", "runs/tokenizer"]
    sampling = ["--sampling.guidance-scale", 2.5, "--sampling.temperature", 0.5, "--sampling.top-k", 7]
    code, out, err = run("train", "lm", "--out", "runs/lm", *words, *TINY_LM, *sampling)
    assert code == 0
    assert err == ""  # samples are drawn of captions that it knows
    assert "--model runs/lm/model" in out
    assert "of step 3 of 3" in out
    names = {path.name for path in Path("runs/lm/model").iterdir()}
    assert names == {"README.md", "config.json", "lm.safetensors", "tokenizer.safetensors", "text.model"}
    values = json.loads(run("info", "--json", "--model", "runs/lm/model")[1])
    assert (values["vocab_size"], values["height"], values["fps"]) == (16, 32, 8)
    assert (values["guidance_scale"], values["temperature"], values["top_k"]) == (2.5, 0.5, 7)
    assert run("generate", "a red", "--num-frames", 5, "--model", "runs/lm/model", "-o", "out.mp4")[0] == 0
    assert Video.load("out.mp4").frames.shape == (5, 32, 32, 3)


def test_a_model_of_ones_own_clips(run):
    """From a folder of clips to a model that loads, with the held-out ends continued."""
    Path("clips").mkdir()
    for number in range(3):
        steps = np.arange(40, dtype=np.float64)[:, None, None, None] + np.arange(32)[:, None, None] * (number + 1)
        frames = np.broadcast_to((steps * 9 % 255).astype(np.uint8), (40, 32, 32, 3))
        write_clip(Path(f"clips/{number}.mkv"), np.ascontiguousarray(frames), 10)
    code, out, _ = run("prepare", "clips", "--out", "shards", "--height", 32, "--width", 32, "--held-out-seconds", 2)
    assert code == 0
    assert run("train", "tokenizer", "--out", "tok", *TINY_TOKENIZER)[0] == 0
    code, out, err = run("train", "lm", "--out", "lm", "--data", "shards", "--tokenizer", "tok", *TINY_LM)
    assert (code, err) == (0, "")
    assert "continued 3 held-out clips by 8 frames: " in out
    assert re.search(r"the model is that of step 3: \d+\.\d{3} nats a held-out token", out)
    assert {path.name for path in Path("lm").iterdir()} >= {"continuations.png", "continuations.mp4", "tokens"}
    values = json.loads(run("info", "--json", "--model", "lm/model")[1])
    assert (values["height"], values["fps"], values["guidance_scale"]) == (32, 10, 1.0)  # for there are no captions
    report = json.loads(Path("lm/continuations.json").read_text())
    assert report["n"] == 3 == len(report["samples"])
    card = Path("lm/model/README.md").read_text()
    assert (
        card.startswith("---\nlibrary_name: reelm\n")
        and "\n# lm\n" in card
        and "4x8x8 pixels a token, fsq, 16 codes" in card
    )
    judged = [json.loads(line) for line in Path("lm/held-out.jsonl").read_text().splitlines()]
    assert f"- {judged[-1]['nats_per_token']:.3f} nats a token; the weights are those of step" in card
    for clip in report["samples"]:
        assert f"| {clip['source']} | {clip['psnr']:.2f} | " in card and f" | {clip['still']:.2f} |\n" in card
    # The same tokens by hand; windows of their own are then refused.
    code, out, _ = run("encode", "shards", "--tokenizer", "tok", "--out", "tokens", "--stride", 4)
    assert (code, out) == (0, "wrote tokens: 3 crops of 17 frames\n")
    words = ["--data", "tokens", "--tokenizer", "tok", *TINY_LM]
    code, _, err = run("train", "lm", "--out", "other", *words, "--windows.stride", 2, "--windows.crops", 3)
    assert code == 2
    assert err.startswith("reelm: error: windows.stride, windows.crops: must not be given where the data are tokens")
    # A smaller model, of several crops of each window; what is held out is made to fit.
    small = ["--windows.height", 16, "--windows.width", 24, "--windows.crops", 3, "--windows.mirror"]
    small += ["--windows.motion", 1]
    code, out, err = run("train", "lm", "--out", "crops", "--data", "shards", "--tokenizer", "tok", *TINY_LM, *small)
    assert (code, err) == (0, "")
    values = json.loads(run("info", "--json", "--model", "crops/model")[1])
    assert (values["height"], values["width"]) == (16, 24)
    assert "continued 3 held-out clips" in out


def test_a_run_of_a_language_model_keeps_the_tokens_that_it_has(run, shards, monkeypatch):
    """Whatever is asked of a run that is there; and nothing of a run that never began is trained on."""
    assert run("train", "tokenizer", "--out", "tok", *TINY_TOKENIZER)[0] == 0
    words = ["train", "lm", "--out", "lm", "--data", shards, "--tokenizer", "tok", *TINY_LM]
    windows = ["--windows.num-frames", 5, "--windows.width", 32, "--windows.height", 16]
    for wrong in (["--sampling.top-k", -1], ["--train.steps", 0], ["--batch-tokens", 0]):
        assert run(*words, *windows, *wrong)[0] == 2
        assert not Path("lm").exists()
    run(*words, "--windows.num-frames", 9, "--init", "nothing")
    assert not Path("lm").exists()
    with monkeypatch.context() as patch:  # as if killed when its tokens are there
        patch.setattr("reelm.training.recipes.train_lm", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*words, "--windows.num-frames", 9)
    assert [path.name for path in Path("lm/tokens").iterdir()] == ["clips-train-00000-9.safetensors"]
    assert run(*words, *windows, "--windows.crops", 3)[0] == 0
    assert [path.name for path in Path("lm/tokens").iterdir()] == ["clips-train-00000-5.safetensors"]
    tokens = Path("lm/tokens/clips-train-00000-5.safetensors").read_bytes()
    code, _, err = run(*words, *windows)
    assert (code, err.startswith("reelm: error: out: must be a new folder, or be given with --resume")) == (2, True)
    code, _, err = run("train", "lm", "--out", "lm", "--resume", "--windows.crops", 2)
    assert code == 2
    assert err.startswith("reelm: error: windows.crops: must be as in the run that goes on, {'windows.crops': 3}, got")
    assert Path("lm/tokens/clips-train-00000-5.safetensors").read_bytes() == tokens
    assert run("train", "lm", "--out", "lm", "--resume", "--device", "cpu")[0] == 0
    assert Path("lm/tokens/clips-train-00000-5.safetensors").read_bytes() == tokens


def test_the_tokenizer_s_clips_are_taken_where_they_are_the_same(run, monkeypatch):
    monkeypatch.setattr("reelm.training.samples.LATENT_FRAMES", 1)
    for folder, count in (("clips", 2), ("others", 1)):
        Path(folder).mkdir()
        for number in range(count):
            frames = np.random.default_rng(number).integers(0, 256, (20, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
            write_clip(Path(f"{folder}/{number}.mp4"), frames, 8)
    assert run("train", "tokenizer", "--data", "clips", "--out", "tok", *TINY_TOKENIZER)[0] == 0
    for folder, made in (("clips", "tok/shards"), ("others", "shards")):
        words = ["--data", folder, "--tokenizer", "tok", "--windows.num-frames", 5, *TINY_LM]
        assert run("train", "lm", "--out", f"{folder}-lm", *words)[0] == 0
        assert json.loads(Path(f"{folder}-lm/data.json").read_text())["clips"] == (
            "shards" if made == "shards" else f"../{made}"
        )
        assert (Path(f"{folder}-lm") / "shards").exists() == (made != "tok/shards")


TINY_CROPS = [
    *("--height", 16, "--width", 32, "--batch-size", 2, "--num-frames", 5, "--train.steps", 3, "--device", "cpu"),
    *("--train.report-steps", 1, "--train.warmup", 1),
]


@pytest.fixture
def shards(run):
    """The folder of shards of two clips of 32x48."""
    Path("clips").mkdir()
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 256, (20, 4, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        write_clip(Path(f"clips/{number}.mp4"), frames, 8)
    assert run("prepare", "clips", "--out", "shards", "--height", 32, "--width", 48, "--workers", 0)[0] == 0
    return "shards"


@pytest.mark.parametrize("compression", ["4x8x8", "4x16x16"])
def test_a_tokenizer_of_own_clips(run, shards, compression):
    words = ["train", "tokenizer", "--data", shards, "--out", "runs/own", "--preset", "tiny", *TINY_CROPS]
    code, out, err = run(*words, "--compression", compression)
    assert (code, err.startswith("warning: the longest clip has 12 frames to train on: train lm will")) == (0, True)
    first, told, *clips, after = out.splitlines()
    assert after == "next: reelm train lm --data shards --tokenizer runs/own --out runs/lm"
    assert first == "wrote runs/own: tokenizer.json and tokenizer.safetensors of step 3 of 3"
    assert re.fullmatch(
        r"held out, step 3: \d+\.\d\d dB mean PSNR of 2 clips of 48x32, .*% of the codes in \d+ tokens .*", told
    )
    assert [line.split(":")[0] for line in clips] == ["  0.mp4", "  1.mp4"]
    assert load_tokenizer(Path("runs/own"), device="cpu").config == tokenizer_preset("tiny", compression)
    assert Path("runs/own/reconstructions.png").exists()


def test_a_stopped_run_on_own_clips_goes_on_to_the_bit(run, shards, monkeypatch):
    model = ["--model.encoder-width", 8, "--model.decoder-widths", 8, "--model.decoder-depth", 1]
    train = ["train", "tokenizer", "--data", shards, *TINY_CROPS, *model]
    assert run(*train, "--out", "whole")[0] == 0
    batch, seen = CropLoader.batch, []

    def interrupted(crops, step):
        seen.append(step)
        if seen == [0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(crops, step)

    monkeypatch.setattr(CropLoader, "batch", interrupted)
    assert run(*train, "--out", "parts", "--resume", "auto")[0] == 143  # the same command begins, and goes on
    assert run(*train, "--out", "parts", "--resume", "auto")[0] == 0
    assert seen == [0, 1, 2]
    for name in ("metrics.jsonl", "tokenizer.safetensors", "held-out.json"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes()


def test_the_decoder_of_a_tokenizer_alone(run, shards):
    model = ["--model.encoder-width", 8, "--model.decoder-widths", 8, "--model.decoder-depth", 1]
    words = ["train", "tokenizer", *TINY_CROPS]
    assert run(*words, *model, "--out", "first")[0] == 0
    second = ["--decoder-of", "first", "--adversarial-weight", 0.5]
    code, out, _ = run(*words, "--data", shards, *second, "--out", "second")
    assert code == 0
    assert out.startswith("wrote second: tokenizer.json and tokenizer.safetensors of step 3 of 3")
    old, new = (load_tokenizer(Path(name), device="cpu") for name in ("first", "second"))
    assert (old.config, old.tokens_id) == (new.config, new.tokens_id)
    assert not torch.equal(old.decoder.head.weight, new.decoder.head.weight)
    assert "adversarial" in json.loads(Path("second/metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--decoder-of", "first", "--preset", "tiny"], "preset"),
        (["--decoder-of", "first", "--compression", "4x8x8"], "compression"),
        (["--decoder-of", "first", "--model.encoder-width", 8], "model.encoder_width"),
        (["--decoder-of", "first", "--model.quantizer.levels", 4, 4], "model.quantizer.levels"),
        (["--decoder-of", "first"], "model: tokenizer.json"),
        (["--adversarial-weight", 1], "adversarial_weight"),
        (["--perceptual-weight", 1, "--lpips-weights", "net.pt"], "perceptual_weight"),
        (["--perceptual-weight", 1], "lpips_weights"),
    ],
)
def test_what_does_not_go_with_a_stage_is_refused(run, shards, words, name):
    code, _, err = run("train", "tokenizer", "--data", "clips", "--out", "out", "--device", "cpu", *words)
    assert code == 2
    assert re.match(f"reelm: error: {name}:? must ", err)
    assert not Path("out").exists()  # before the clips are prepared


def test_which_model_a_tokenizer_s_training_takes():
    def model(*words):
        command = parse("train tokenizer", ["--out", "x", *words])
        recipe = from_dict(TokenizerTraining, dataclasses.asdict(command.recipe))
        options = {name: getattr(command, name) for name in ("data", "preset", "compression", "decoder_of")}
        return tokenizer_recipe(recipe, **options).model

    assert model() == TokenizerConfig()
    assert model("--data", "x") == tokenizer_preset("small", "4x8x8")
    assert model("--data", "x", "--compression", "8x16x16") == tokenizer_preset("small", "8x16x16")
    assert model("--data", "x", "--model.spatial", "16") == TokenizerConfig(spatial=16)
    assert model("--preset", "base", "--compression", "8x8x8") == tokenizer_preset("base", "8x8x8")
    assert model("--preset", "tiny") == tokenizer_preset("tiny", "4x8x8")


def test_train_text_from_a_file(run):
    Path("captions.txt").write_text("a red ball\na blue ring\n")
    words = ["train", "text", "--captions", "captions.txt", "--out", "text.model", "--model-type", "bpe"]
    assert run(*words, "--vocab-size", 20)[0] == 0
    assert Path("text.model").is_file()
    for both in ([], ["--data", "d", "--captions", "c"]):
        code, _, err = run("train", "text", "--out", "other.model", *both)
        assert code == 2
        assert err.startswith("reelm: error: data, captions: must be exactly one of the two")
    assert run("train", "text", "--captions", "none.txt", "--out", "other.model")[0] == 2
    assert not Path("other.model").exists()
