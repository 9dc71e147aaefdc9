"""docs/python.md: it has every command, its functions have the commands' names and defaults, and its examples run."""

import dataclasses
import importlib
import inspect
import re
from typing import get_type_hints

import numpy as np
import pytest

from reelm.commands.dispatch import COMMANDS
from reelm.generation.play_options import PlayOptions
from reelm.media.writer import write_clip

# Options that are a form of something else in Python, and what that is.
COMMAND_LINE_ONLY = {
    "json": "how a report is printed",
    "config": "the arguments that a file has",
    "then": "an entry of a prompt's schedule",
    "output": "the path of Video.save or write_stream",
    "keep_source": "which of the examples",
    "plan": "which of the functions is called",
    "words": "which of the functions is called",
    "plot": "the path of BenchmarkReport.plot",
    "headless": "which player is given to play_by_clock",
    "record": "the path of PlayFile",
    "keys": "the text of written_keys",
    "engine": "whether RayOptions are given",
    "address": "a field of RayOptions",
    "workers": "a field of RayOptions",
}
# Parameters that no option stands for: objects in memory, places of hub ids, and results in another form.
PYTHON_ONLY = {
    "VideoGenerator.from_pretrained": {"revision", "cache_dir", "local_files_only"},
    "VideoGenerator.generate": {"output_type", "keep_state", "callback_on_tokens"},
    "VideoGenerator.continue_clip": {"output_type", "image", "callback_on_tokens"},
    "VideoGenerator.decode": {"output_type"},
    "Video.save": {"path"},
    "KeptSource": {"path", "fps"},
    "SessionFiles": {"clips", "inputs", "options", "drawing_options"},
    "write_stream": {"stream", "path", "stop", "sessions"},
    "VideoGenerator.play": set(PlayOptions.__annotations__) - {"clip", "seed", "temperature", "ahead"},
    "play_by_clock": {"session", "player", "show", "stop", "clock", "wait"},
    "PlayFile": {"session", "path"},
    "written_keys": {"text"},
    "serve": {"limits", "say"},
    "benchmark": {"generator"},
    "measure_blocks": {"generator"},
    "evaluate_model": {"generator"},
    "evaluate_on_clips": {"generator"},
    "evaluate_play": {"generator"},
    "draw_prompts": {"generator", "ray"},
    "prepare": {"ray"},
    "encode_clips": {"ray"},
}
DRAWING = {"generator", "height", "width", "conditions", "axes", "controls", "callback_on_step_end", "logits_processor"}
# Defaults that Python has alone.
OTHER_DEFAULTS = {
    ("generate", "num_videos_per_prompt"): None,  # one clip too, but not in a list
    ("continue", "num_videos_per_prompt"): None,
    ("continue", "clip"): None,  # where an image is given
    ("play", "model"): "world",  # from_pretrained has one default for all
    ("play", "prompt"): None,
    ("evaluate play", "model"): "world",
    ("generate", "prompt"): inspect.Parameter.empty,
    ("generate", "prompts"): inspect.Parameter.empty,  # a function of its own
    ("generate", "out"): inspect.Parameter.empty,
    ("generate", "seed"): 0,
    ("generate", "batch_size"): 8,
    ("bench", "against"): inspect.Parameter.empty,  # another function, which has to have one
    ("bench", "preset"): inspect.Parameter.empty,  # a function of its own, in place of from_pretrained
    # Those of the run that goes on, or else those of the command.
    **dict.fromkeys(
        [("train tokenizer", "recipe"), *(("train lm", name) for name in ("windows", "sampling", "recipe"))]
    ),
}
NO_DEFAULT = object()


@pytest.fixture(scope="module")
def sections(root):
    """The text of each command's section by the command's name."""
    text = (root / "docs" / "python.md").read_text(encoding="utf-8")
    parts = re.split(r"^## reelm (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def functions(section):
    """What a section names before its example, by its name inside of its module."""
    found = {}
    for path in re.findall(r"`(reelm\.[\w.]+)`", section.split("```")[0]):
        words = path.split(".")
        count = next(n for n, word in enumerate(words) if word[0].isupper() or n == len(words) - 1)
        value = importlib.import_module(".".join(words[:count]))
        for word in words[count:]:
            value = getattr(value, word)
        found[".".join(words[count:])] = value
    return found


def parameters(function):
    """Names and defaults; keyword options that are typed by a TypedDict have names alone."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            (options,) = parameter.annotation.__args__
            found |= dict.fromkeys(options.__annotations__, NO_DEFAULT)
        elif name != "self":
            found[name] = parameter.default
    return found


def options(command):
    """Names and defaults of a command's options; a group that stands under its own name is the table of its values."""
    hints, found = get_type_hints(command, include_extras=True), {}
    for field in dataclasses.fields(command):
        factory = next(
            (each.group for each in getattr(hints[field.name], "__metadata__", ())
             if getattr(each, "group", None)), None,
        )  # fmt: skip
        if factory is not None:
            found[field.name] = group(factory())
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        else:
            found[field.name] = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return found


def group(kind):
    """The defaults of a dataclass of options, nested ones too."""
    return {
        field.name: dataclasses.asdict(field.default_factory())
        if field.default_factory is not dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
    }  # fmt: skip


def assert_within(wanted, found):
    """Every value of a table is in another one, which may have more: what is not asked for on the command line."""
    for name, value in wanted.items():
        if isinstance(value, dict):
            assert_within(value, found[name])
        else:
            assert value == found[name], name


def test_the_page_has_every_command(sections):
    assert set(sections) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_functions_have_the_names_and_the_defaults_of_the_command(command, sections):
    given, named = options(COMMANDS[command]), functions(sections[command])
    if command in ("generate", "continue", "stream"):  # "model", which stands for the model's own, has no default here
        assert set(given["sampling"].values()) == {"model"}
        given |= dict.fromkeys(given.pop("sampling"), NO_DEFAULT)
    known = set()
    for name, function in named.items():
        drawing = DRAWING if name in ("VideoGenerator.generate", "VideoGenerator.continue_clip",
                                      "VideoGenerator.stream") else set()  # fmt: skip
        for parameter, default in parameters(function).items():
            if parameter in PYTHON_ONLY.get(name, set()) | drawing:
                continue
            if parameter == "processes" and command not in ("generate", "continue", "stream"):
                continue  # only what draws clips
            assert parameter in given, f"{name}: {parameter} is no option of reelm {command}"
            known.add(parameter)
            if default is NO_DEFAULT:
                continue
            wanted = OTHER_DEFAULTS.get((command, parameter), given[parameter])
            if isinstance(wanted, dict):
                assert_within(wanted, dataclasses.asdict(default))
            else:
                assert default == wanted, f"{name}: {parameter}"
    assert set(given) - known <= set(COMMAND_LINE_ONLY), command


def run_examples(sections, folder):
    """Run examples in turn, word for word but for the lengths of the trainings, and return the names that they bind."""
    (folder / "my_clips").mkdir()
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 256, (32, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
        write_clip(folder / "my_clips" / f"{number}.mkv", frames, 8)
        (folder / "my_clips" / f"{number}.txt").write_text("blocks that flicker")
    small = {"steps=5000": "steps=2", "steps=2250": "steps=2", "40_000": "2", "prompts=4": "prompts=1"}
    names = {}
    for command, section in sections.items():
        for code in re.findall(r"```python\n(.*?)```", section, re.S):
            for text, shorter in small.items():
                code = code.replace(text, shorter)
            exec(compile(code, f"docs/python.md: {command}", "exec"), names)
    return names


def test_the_examples_with_the_bundled_model_run(sections, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ("generate", "continue", "stream", "decode", "play", "info", "bench", "bench kernels", "prepare")
    names = run_examples({command: sections[command] for command in short}, tmp_path)
    assert names["written"].frames == 9
    assert {path.name for path in tmp_path.glob("*.mp4")} == {
        "ball.mp4", "longer.mp4", "kept.mp4", "ring.mp4", "again.mp4",
    }  # fmt: skip
    assert (tmp_path / "shards" / "report.json").is_file()


@pytest.mark.slow
def test_all_examples_run(sections, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    names = run_examples(sections, tmp_path)
    assert names["report"]["n"] == 2
    assert (tmp_path / "runs" / "evaluation" / "evaluation.json").is_file()
