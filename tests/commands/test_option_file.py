"""A TOML file of options is the words of the command line that it stands for."""

import dataclasses
from pathlib import Path

import pytest

from reelm.commands.dispatch import parse
from reelm.core.errors import ReelmError

RECIPE = """
data = "my clips"
tokenizer = "-odd"
batch_tokens = 2560
[model]
width = 64
[train]
learning_rate = 2e-3
optimizer = "adamw"
[windows]
mirror = true
[sampling]
temperature = 0.5
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "recipe.toml").write_text(text)
        return str(tmp_path / "recipe.toml")

    return write


def test_a_file_is_its_words_and_those_of_the_command_line_win(file):
    path = file(RECIPE)
    words = ["--data", "my clips", "--tokenizer=-odd", "--batch-tokens", "2560", "--model.width", "64", "--out", "runs",
             "--train.learning-rate", "2e-3", "--train.optimizer", "adamw", "--windows.mirror",
             "--sampling.temperature", "0.7"]  # fmt: skip
    wanted = dataclasses.asdict(parse("train lm", words)) | {"config": Path(path)}
    for given in (["--out", "runs", "--config", path, "--sampling.temperature", "0.7"],
                  [f"--config={path}", "--out=runs", "--sampling.temperature=0.7"]):  # fmt: skip
        assert dataclasses.asdict(parse("train lm", given)) == wanted


def test_lists_and_what_is_false(file):
    path = file("resume = false\nout = 'runs'\n[model]\ndecoder_widths = [16, 8]\ndecoder_depth = [1, 1]")
    command = parse("train tokenizer", ["--config", path])
    assert command.recipe.model.decoder_widths == (16, 8) and command.resume is False
    path = file("out = 'runs'\nresume = true\n[windows]\nmirror = true")
    command = parse("train lm", ["--config", path, "--no-windows.mirror", "--no-resume"])
    assert (command.windows.mirror, command.resume) == (False, False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[train]\nstepps = 3", r"--train.stepps: is no option of reelm train lm; did you mean --train.steps"),
        ("steps = 3", "--steps: is no option of reelm train lm; did you mean --train.steps"),
        ("[train]\nsteps = 'many'", "train.steps"),
        ("[train]\nsteps = 2026-11-30", "train.steps: must be a text, a number"),
        ("[train", "config: must be a TOML file"),
        ("[windows]\nmiror = false", "--no-windows.miror: is no option of reelm train lm; did you mean --no-windows.m"),
        ("[train]\nsteps = false", "--no-train.steps: is no option"),
        ("config = 'other.toml'", "config: must name no other file of options"),
    ],
)
def test_what_is_no_option_is_refused(file, text, told):
    with pytest.raises(ReelmError, match=told):
        parse("train lm", ["--out", "runs", "--config", file(text)])
    with pytest.raises(ReelmError, match="config: must be a TOML file"):
        parse("train lm", ["--out", "runs", "--config", "none.toml"])
    with pytest.raises(ReelmError, match="config: must be given once"):
        parse("train lm", ["--out", "runs", "--config", "a.toml", "--config=b.toml"])
