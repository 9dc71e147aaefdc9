"""What the command line refuses, in one line each, and before work is done."""

import shutil
from pathlib import Path

import pytest
import torch

from reelm.core.checkpoint import load_tensors, save_tensors
from reelm.tests.folders import names

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", ""], "prompt: must not be empty, got ''"),
        (["generate", "ball", "--seconds", "0"], "seconds: must be a number above 0, got 0.0"),
        (["generate", "ball", "--seconds", "-1"], "seconds: must be a number above 0, got -1.0"),
        (["generate", "ball", "--seconds", "nan"], "seconds: must be a number above 0, got nan"),
        (["generate", "ball", "--top-k", "0"], "top_k: must be a whole number of at least 1, or None, got 0"),
        (["generate", "ball", "--top-p", "1.5"], "top_p: must be above 0 and at most 1, got 1.5"),
        (["generate", "ball", "--temperature", "-1"], "temperature: must be 0 or between 1e-6 and 100, got -1.0"),
        (["generate", "ball", "--seed", "-1"], "seed: must be a whole number from 0 to 2**63 - 1, got -1"),
        (["generate", "ball", "--num-videos-per-prompt", "0"], "num_videos_per_prompt: must be from 1 to 4096, got 0"),
        (["generate", "ball", "-o", "none/x.mp4"], "output: its folder must exist, got 'none/x.mp4'"),
        (["generate", "ball", "-o", ""], "output: must be the name of a file or folder, got ''"),
        (["generate", "ball", "-o", "."], "output: must be the name of a file or folder, got '.'"),
        (["generate", "ball", "-o", ".mp4"], "output: must have a name before its suffix, got '.mp4'"),
        (["generate", "ball", "-o", ".mp4", "--num-videos-per-prompt", "2"], "output: must have a name before its"),
        (["continue", "none.mp4", "-o", "none/.mkv"], "output: must have a name before its suffix, got 'none/.mkv'"),
        (["decode", "x.safetensors", "-o", ""], "output: must be the name of a file or folder, got ''"),
        (["generate", "ball", "--then", "-1: ring"], "then: must have seconds that ascend, got [0.0, -1.0]"),
        (
            ["generate", "ball", "--then", "1: a", "--then", "1: b"],
            "then: must have seconds that ascend, got [0.0, 1.0, 1",
        ),
        (["generate", "ball", "--then", "1:"], "then: must be like '4: a blue ring spins', got '1:'"),
        (["continue", "none.mp4", "--then", "1: ring"], "then: needs a prompt to begin with, got ('1: ring',)"),
        (["generate", "ball", "-o", "x.avi"], "output: must end in .mp4, .mkv, .gif, .webp, or in no suffix"),
        (["generate", "ball", "--device", "abacus"], "device: must be 'auto', 'cpu' or 'cuda[:n]', got 'abacus'"),
        (
            ["stream", "ball", "-o", "x.gif"],
            "output: must end in .mp4 or .mkv to be written while it grows, got 'x.gif'",
        ),
        (["stream", "ball", "--seconds", "0"], "seconds: must be a number above 0, got 0.0"),
        (["continue", "none.mp4"], "clip: "),
        (["bench", "--batch", "0"], "batch: must be at least 1, got 0"),
        (["evaluate", "--clips", "0"], "clips: must be at least 1, got 0"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(words, message, run, debug):
    chosen = [] if "--device" in words else ["--device", "cpu"]
    code, out, err = run(*words, *debug[:2], *chosen)
    assert (code, out) == (2, "")
    assert err.startswith(f"reelm: error: {message}")
    assert err.count("\n") == 1
    assert names() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tokenizer", "--out", "x", "--train.steps", "0"], "steps: must be at least 1, got 0"),
        (["train", "tokenizer", "--out", "x", "--model.spatial", "6"], "spatial: must be a power of two, at least 4"),
        (["train", "tokenizer", "--out", "x", "--seed", "-1"], "seed: must be at least 0, got -1"),
        (["train", "tokenizer", "--out", "x", "--height", "30"], "height: must be a multiple of 8, got 30"),
        (["render", "--tokenizer", "none", "--out", "x", "--clips", "1"], "model: tokenizer.json must exist"),
        (["encode", "none", "--tokenizer", "none", "--out", "x"], "model: tokenizer.json must exist"),
        (["train", "tokenizer", "--out", "x", "--compression", "4x8x8"], "compression: must be given with a preset"),
        (
            ["train", "tokenizer", "--out", "x", "--preset", "tiny", "--model.front", "haar"],
            "preset: must not be given together with options of --model, got 'tiny'",
        ),
        (["train", "tokenizer", "--out", "x", "--data", "none"], "data: must be an existing folder"),
        (["train", "text", "--data", "none", "--out", "x"], "data: must be a folder of token shards"),
        (["frobnicate"], "command: must be one of generate, continue, "),
        (["generat", "x"], "command: must be one of generate, "),
        (["train"], "command: must be one of train tokenizer, train text, train lm, got 'train'"),
        (
            ["train", "ln"],
            "command: must be one of train tokenizer, train text, train lm, got 'train ln'; did",
        ),
        (["bench", "kernel"], "command: must be one of bench kernels, bench tokenizer, bench startup, bench blocks, "),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(words, message, run):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"reelm: error: {message}")
    assert err.count("\n") == 1
    assert names() == []


def test_a_clip_that_is_none_is_refused(run, debug):
    Path("empty.mp4").touch()
    Path("text.mp4").write_text("no clip at all\n" * 100)
    for name in ("empty.mp4", "text.mp4"):
        code, out, err = run("continue", name, *debug)
        assert (code, out) == (2, "")
        assert err.startswith("reelm: error: clip: ")
        assert name in err
        assert err.count("\n") == 1
    assert names() == ["empty.mp4", "text.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "ball", "--frobnicate"], "--frobnicate: is no option of reelm generate; "),
        (["generate"], "prompt, prompts: must be exactly one of the two, got None"),
        (["info", "--seed", "1"], "--seed: is no option of reelm info; did you mean "),
    ],
)
def test_an_unknown_or_missing_option_is_refused(words, message, run):  # of all kinds: tests/commands/test_parser.py
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"reelm: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", 0], "seconds: must be"),
        (["--seed", -1], "seed: must be"),
        (["--top-k", 0], "top_k: must be"),
        (["--decoder", "jacobi", "--block-size", 10_000], "block_size: must be"),
        (["--negative-prompt", "ring", "--guidance-scale", 1], "negative_prompt: needs"),
    ],
)
def test_arguments_are_checked_before_the_weights_are_read(words, message, run, debug_checkpoint):
    Path("model").mkdir()
    shutil.copy(debug_checkpoint / "config.json", "model")  # and nothing else
    for command in (["generate", "ball"], ["stream", "ball"], ["continue", "none.mp4"]):
        assert run(*command, *words, "--model", "./model", "--device", "cpu")[2].startswith(f"reelm: error: {message}")


def test_the_output_is_checked_before_the_model_is_loaded(run):
    for command in (["generate", "ball"], ["continue", "none.mp4"], ["stream", "ball"]):
        assert "output: must end in" in run(*command, "-o", "x.doc", "--model", "none")[2]
    assert run("generate", "ball", "--model", "none")[2].startswith("reelm: error: model: must be a folder")


def break_missing(path: Path) -> None:
    path.unlink()


def break_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def break_pickled(path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, path)


def break_shape(path: Path) -> None:
    tensors = load_tensors(path)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    save_tensors(path, tensors | {name: tensors[name][1:]})


@pytest.mark.parametrize("file", ["lm.safetensors", "tokenizer.safetensors"])
@pytest.mark.parametrize("damage", [break_missing, break_truncated, break_pickled, break_shape])
def test_a_damaged_checkpoint_is_refused_in_one_line(file, damage, run, debug_checkpoint, tmp_path_factory):
    folder = shutil.copytree(debug_checkpoint, tmp_path_factory.mktemp("damaged") / "model")
    if damage is break_shape and file == "tokenizer.safetensors":
        (folder / file).write_bytes((folder / "lm.safetensors").read_bytes())  # another model's weights
    else:
        damage(folder / file)
    code, out, err = run("generate", "ball", "--model", folder, "--device", "cpu")
    assert (code, out) == (2, "")
    assert err.startswith(f"reelm: error: model: {file}")
    assert err.count("\n") == 1
    assert names() == []


def test_one_clip_takes_one_thread_unless_the_user_says_otherwise(run, debug, monkeypatch):
    before = torch.get_num_threads()
    try:
        for given, wanted in ((None, 1), ("2", 2)):
            torch.set_num_threads(2)
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            if given is not None:
                monkeypatch.setenv("OMP_NUM_THREADS", given)
            assert run("generate", "a red ball", "--num-frames", 1, "-o", f"{wanted}.mkv", *debug)[0] == 0
            assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(before)
