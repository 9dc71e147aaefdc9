"""A file of prompts becomes a folder of clips, each that of `generate`; none is drawn twice, and bad rows are told."""

import dataclasses
import json

import numpy as np
import pytest

from reelm.core.errors import ReelmError
from reelm.generation import admission
from reelm.generation.generator import VideoGenerator
from reelm.generation.prompt_file import RESULTS, draw_prompts
from reelm.generation.request import make_request
from reelm.generation.video import Video

ROWS = [
    {"prompt": "a red ball", "num_frames": 5},
    {"prompt": "a blue ring", "seed": 7, "num_frames": 9, "temperature": 0.5},
    "not JSON",
    None,  # an empty line
    {"prompt": "a star", "sead": 7},
    {"prompt": "a star", "num_frames": -1},
    ["a star"],
    {"prompt": [[0, "a red ball"], [0.5, "a blue ring"]], "num_frames": 9},
    {"prompt": "a red ball", "num_frames": 5, "seed": None},
    {"prompt": None},
]
GOOD, REASONS = (0, 1, 7, 8), {
    2: "row: must be JSON", 4: "options: must be of", 5: "num_frames: must be", 6: "row: must be an object",
    9: "prompt: must be a text",
}  # fmt: skip


def text_of(row):
    return "" if row is None else row if isinstance(row, str) else json.dumps(row)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(text_of(row) + "\n" for row in ROWS))
    return path


def results(out):
    return [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]


def test_each_row_is_the_clip_of_generate_or_a_reason(debug_generator, prompts, tmp_path):
    out = tmp_path / "clips"
    report = draw_prompts(debug_generator, prompts, out, seed=100, batch_size=2, guidance_scale=1.0, save_state=True)
    assert (report.rows, report.known) == (9, 0)
    assert report.refused.keys() == REASONS.keys()
    assert all(report.refused[number].startswith(reason) for number, reason in REASONS.items())
    found = {entry["row"]: entry for entry in results(out)}
    assert sorted(found) == sorted((*GOOD, *REASONS)) and found[8]["seed"] == 108 and found[1]["seed"] == 7
    for number in GOOD:
        entry = found[number]
        options = {name: entry[name] for name in ("seed", "num_frames", "temperature") if name in entry}
        alone = debug_generator.generate(entry["prompt"], guidance_scale=1.0, **options)
        clip = Video.load(out / entry["file"])
        assert np.array_equal(clip.tokens, alone.tokens) and entry["frames"] == len(alone.frames)
        assert (out / entry["file"]).with_suffix(".session.safetensors").is_file()
    assert found[0]["tokens_sha256"] != found[8]["tokens_sha256"]


def test_what_is_done_is_not_done_again(debug_generator, prompts, tmp_path, monkeypatch):
    out, whole = tmp_path / "clips", VideoGenerator.generate
    calls = []

    def counting(self, prompt, **options):
        calls.append(list(prompt))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, prompt, **options)

    monkeypatch.setattr(VideoGenerator, "generate", counting)
    with pytest.raises(KeyboardInterrupt):
        draw_prompts(debug_generator, prompts, out, batch_size=1)
    with (out / RESULTS).open("ab") as log:
        log.write(b'{"row": 1, "identi')  # what a kill may leave
    before = (out / RESULTS).read_bytes().count(b"\n")
    report = draw_prompts(debug_generator, prompts, out, batch_size=1)
    assert report.known == before and len(calls) == 1 + len(GOOD)  # the one that was interrupted twice
    assert draw_prompts(debug_generator, prompts, out, batch_size=1).known == 9 and len(calls) == 1 + len(GOOD)
    files = {entry["row"]: out / entry["file"] for entry in results(out) if "file" in entry}
    files[0].unlink()
    prompts.write_text(prompts.read_text().replace("a blue ring", "a white star", 1))
    report = draw_prompts(debug_generator, prompts, out, batch_size=1)
    assert report.known == 7 and calls[-2:] == [["a red ball"], ["a white star"]]
    assert files[0].is_file() and files[1].is_file(), "the clip of the row as it was is kept"


def test_rows_that_do_not_fit_together_are_drawn_alone(debug_generator, prompts, tmp_path, monkeypatch):
    request = make_request(debug_generator.parts, "generate", "a red ball", {"num_frames": 9})
    one = admission.admit(debug_generator.parts, dataclasses.replace(request, batch_size=1))
    monkeypatch.setattr(admission, "available_memory", lambda device: one.call)
    prompts.write_text("".join(json.dumps({"prompt": "a red ball", "num_frames": 9}) + "\n" for _ in range(3)))
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "a red ball", "seconds": 3000}))
    report = draw_prompts(debug_generator, prompts, tmp_path / "clips")
    assert report.refused.keys() == {3} and report.refused[3].startswith("memory: must be at least")
    assert len([*(tmp_path / "clips").glob("*.mp4")]) == 3
    prompts.write_text(prompts.read_text().replace("3000", "0.5"))
    monkeypatch.setattr(admission, "available_memory", lambda device: 0)
    assert draw_prompts(debug_generator, prompts, tmp_path / "clips").refused.keys() == {3}
    monkeypatch.undo()
    report = draw_prompts(debug_generator, prompts, tmp_path / "clips")
    assert (report.known, report.refused) == (3, {}), "there is memory again"


def test_what_a_row_says_comes_before_what_all_have(debug_generator, prompts, tmp_path):
    """A line separator inside of a text ends no line."""
    rows = [{"prompt": "a red\u2028ball", "num_frames": 5, "top_k": None}, {"prompt": "a red ball"}]
    prompts.write_text("\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    report = draw_prompts(debug_generator, prompts, tmp_path / "clips", seconds=1, top_k=1, temperature=np.float32(0.5))
    assert (report.rows, report.refused) == (2, {})
    short, long = results(tmp_path / "clips")
    assert (short["frames"], short["top_k"], long["top_k"]) == (5, None, 1) and long["frames"] > 5
    before = prompts.read_text()
    prompts.write_text(before.replace("a red ball", "a star"))
    draw_prompts(debug_generator, prompts, tmp_path / "clips", seconds=1, top_k=1, temperature=np.float32(0.5))
    assert [entry["prompt"] for entry in results(tmp_path / "clips")] == ["a red\u2028ball", "a star"]
    with pytest.raises(ReelmError, match="model: must be that"):
        draw_prompts(VideoGenerator.from_pretrained(debug_generator.parts.origin[0], cache="int8"), prompts,
                     tmp_path / "clips")  # fmt: skip


def test_what_is_refused_leaves_nothing(debug_generator, coarse_checkpoint, prompts, tmp_path):
    out = tmp_path / "clips"
    for options, told in (
        ({"batch_size": 0}, "batch_size: must be"), ({"seed": -1}, "seed: must be"),
        ({"prompts": tmp_path / "none"}, "prompts: must be a text file"),
    ):  # fmt: skip
        with pytest.raises(ReelmError, match=told):
            draw_prompts(debug_generator, **{"prompts": prompts, "out": out, **options})
    prompts.write_text("\n")
    with pytest.raises(ReelmError, match="prompts: must have a row"):
        draw_prompts(debug_generator, prompts, out)
    assert not out.exists()
    prompts.write_text('{"prompt": "a red ball", "num_frames": 5}')
    draw_prompts(debug_generator, prompts, out)
    with pytest.raises(ReelmError, match="model: must be that of the clips in the folder"):
        draw_prompts(VideoGenerator.from_pretrained(coarse_checkpoint, device="cpu"), prompts, out)
