"""What was done beside a clip: two forms that say the same, each mistake named, and each sample with its own part."""

import contextlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reelm import cli
from reelm.core.controls import ControlTrack
from reelm.core.errors import ClipError
from reelm.data import control_files
from reelm.data.clip_shards import ClipShards
from reelm.data.control_files import Recording, read_controls
from reelm.data.prepare import is_up_to_date, prepare
from reelm.data.recode import PrepareConfig, recode
from reelm.data.sources import Source
from reelm.media.writer import write_clip
from reelm.tests.examples import examples

PLAIN = PrepareConfig(height=24, width=32, held_out_seconds=0)


def lines(count, **columns):
    """JSON lines; a column is a function of the picture's number."""
    return "".join(json.dumps({name: value(n) for name, value in columns.items()}) + "\n" for n in range(count))


def beside(folder, suffix, text):
    """A clip's source with this text beside it."""
    data = text if isinstance(text, bytes) else text.encode()
    (folder / f"a{suffix}").write_bytes(data)
    return Source("a.mp4", folder / "a.mp4")


@examples(60)
@given(
    st.lists(st.frozensets(st.sampled_from(("w", "jump", "é"))), min_size=1, max_size=9), st.data(),
)  # fmt: skip
def test_both_forms_say_the_same(tmp_path_factory, keys, data):
    folder = tmp_path_factory.mktemp("forms")
    turns = data.draw(st.lists(st.floats(-1e9, 1e9), min_size=len(keys), max_size=len(keys)))
    rows = list(zip(keys, turns, strict=True))
    wanted = ControlTrack(tuple(keys), {"turn": tuple(turns)})
    values = [{"time": n / 8, "keys": sorted(held), "turn": turn} for n, (held, turn) in enumerate(rows)]
    joint, nothing = data.draw(st.sampled_from("+ ")), data.draw(st.sampled_from(("", "none", " ")))
    cells = [f"{turn!r}, {joint.join(held) or nothing},{n / 8}" for n, (held, turn) in enumerate(rows)]
    written = data.draw(st.sampled_from((str, lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"))))
    source = beside(folder, ".jsonl", written("\n".join(map(json.dumps, values)) + "\n"))
    one = read_controls(source)
    (folder / "a.jsonl").unlink()
    other = read_controls(beside(folder, ".csv", written("\n".join(["turn, keys ,time", *cells, ""]))))
    assert one.track == other.track == wanted
    assert one.times == other.times == tuple(n / 8 for n in range(len(keys)))


def test_what_a_line_leaves_out(tmp_path):
    source = beside(tmp_path, ".jsonl", '{"keys": ["w"]}\n{"x": 2}\n{"y": -1, "time": 3}\n{}')
    recording = read_controls(source)
    assert recording.track.written == "w-1,none-3"
    assert recording.track.axes == {"x": (0, 2, 0, 0), "y": (0, 0, -1, 0)}
    assert recording.times == (None, None, 3, None)
    (tmp_path / "a.jsonl").unlink()
    assert read_controls(source) is None
    assert read_controls(beside(tmp_path, ".csv", "keys\nw\n\nnone\nw\n")).track.written == "w-1,none-2,w-1"
    assert read_controls(beside(tmp_path, ".csv", "x\n1\n2\n")).track == ControlTrack((frozenset(),) * 2, {"x": (1, 2)})
    assert read_controls(beside(tmp_path, ".csv", "x,y\n1,2\n\n3,4\n\n")).track.axes == {"x": (1, 3), "y": (2, 4)}
    assert len(read_controls(beside(tmp_path, ".csv", "")).track) == 0


NAMES = "must be names of 1 to 32 characters that print, without blanks and any of , + -, and not none, keys or video"
NUMBER = "must have a number from -1e30 to 1e30 for"


@pytest.mark.parametrize(("suffix", "text", "message"), [
    (".jsonl", '{"keys": []}\n{"keys": [}\n', "must be JSON, got something else in line 2 of 'a.jsonl'"),
    (".jsonl", '{}\n\n{}', "must be JSON, got something else in line 2 of 'a.jsonl'"),
    (".jsonl", "[" * 100_000, "must be JSON, got something else in line 1 of 'a.jsonl'"),
    (".jsonl", '["w"]', "must be a JSON object on each line, got ['w'] in line 1 of 'a.jsonl'"),
    (".jsonl", '{"keys": "w"}', "must have a list of names for 'keys', got 'w' in line 1 of 'a.jsonl'"),
    (".jsonl", '{"keys": [3]}', "must have a list of names for 'keys', got [3] in line 1 of 'a.jsonl'"),
    (".jsonl", '{"keys": null}', "must have a list of names for 'keys', got None in line 1 of 'a.jsonl'"),
    (".jsonl", '{}\n{"keys": ["a b"]}', f"{NAMES}, got 'a b' in line 2 of 'a.jsonl'"),
    (".jsonl", '{"keys": ["none"]}', f"{NAMES}, got 'none' in line 1 of 'a.jsonl'"),
    (".jsonl", '{"turn-x": 1}', f"{NAMES}, got 'turn-x' in line 1 of 'a.jsonl'"),
    (".jsonl", '{"video": 1}', f"{NAMES}, got 'video' in line 1 of 'a.jsonl'"),
    (".jsonl", '{"turn": "left"}', f"{NUMBER} 'turn', got 'left' in line 1 of 'a.jsonl'"),
    (".jsonl", '{"turn": true}', f"{NUMBER} 'turn', got True in line 1 of 'a.jsonl'"),
    (".jsonl", '{"turn": NaN}', f"{NUMBER} 'turn', got nan in line 1 of 'a.jsonl'"),
    (".jsonl", '{"time": null}', f"{NUMBER} 'time', got None in line 1 of 'a.jsonl'"),
    (".jsonl", '{"mouse": {"x": 1}}',
     NUMBER + " 'mouse', got {'x': 1} in line 1 of 'a.jsonl'"),
    (".jsonl", '{"turn": 1%s}' % ("0" * 400),
     f"{NUMBER} 'turn', got a huge number in line 1 of 'a.jsonl'"),
    (".jsonl", '{"keys": ["x"]}\n{"x": 1}', "must have keys and axes of different names, got 'x' as both in 'a.jsonl'"),
    (".jsonl", '{"time": 0}\n{}\n{"time": 0}', "must have times that ascend, got 0 after 0 in line 3 of 'a.jsonl'"),
    (".jsonl", "wörter".encode("latin-1"), "must be UTF-8, got another encoding in 'a.jsonl'"),
    (".csv", "keys,turn\nw,left\n", f"{NUMBER} 'turn', got 'left' in line 2 of 'a.csv'"),
    (".csv", "keys,turn\nw,1\nw,\n", f"{NUMBER} 'turn', got '' in line 3 of 'a.csv'"),
    (".csv", "keys,turn\nw,inf\n", f"{NUMBER} 'turn', got inf in line 2 of 'a.csv'"),
    (".csv", "keys,turn\nw\n", "must have the 2 columns of the header, got 1 in line 2 of 'a.csv'"),
    (".csv", "keys,x,x\nw,1,2\n", "must have columns that differ, got keys, x, x in 'a.csv'"),
    (".csv", ",keys\n0,w\n", f"{NAMES}, got '' in line 2 of 'a.csv'"),
    (".csv", "keys\nw-a\n", f"{NAMES}, got 'w-a' in line 2 of 'a.csv'"),
    (".csv", 'keys\n"w"a\n', "must be CSV, got something else in line 2 of 'a.csv'"),
    (".csv", "time\n1\n0.5\n", "must have times that ascend, got 0.5 after 1 in line 3 of 'a.csv'"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, suffix, text, message):
    with pytest.raises(ClipError, match=f"^controls: {re.escape(message)}$"):
        read_controls(beside(tmp_path, suffix, text))


def test_files_that_are_not_read(tmp_path, monkeypatch):
    source = beside(tmp_path, ".csv", "keys\nw\n")
    beside(tmp_path, ".jsonl", "{}")
    with pytest.raises(ClipError, match=r"^controls: must be one file beside a clip, got 'a.csv', 'a.jsonl'$"):
        read_controls(source)
    (tmp_path / "a.csv").unlink()
    monkeypatch.setattr(control_files, "MAX_CONTROL_BYTES", 1)
    with pytest.raises(ClipError, match=r"^controls: must have at most 1 bytes, got more in 'a.jsonl'$"):
        read_controls(source)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(ClipError, match=r"^controls: must be a readable file, got 'a.jsonl' \(Is a directory\)$"):
        read_controls(source)


@pytest.mark.parametrize(("text", "reason"), [
    (lines(23, x=float), "controls: must have a line for each of the 24 pictures of the clip, got 23 in 'a.jsonl'"),
    (lines(25, x=float), "controls: must have a line for each of the 24 pictures of the clip, got 25 in 'a.jsonl'"),
    ("", "controls: must have a line for each of the 24 pictures of the clip, got 0 in 'a.jsonl'"),
    (lines(24, time=lambda n: n / 8 + 0.07),
     "controls: must have times within half a picture of the clip's own, 0 for picture 0, got 0.07 in 'a.jsonl'"),
    (lines(24, time=lambda n: n / 10),
     "controls: must have times within half a picture of the clip's own, 0.375 for picture 3, got 0.3 in 'a.jsonl'"),
    ('{"keys": 1}', "controls: must have a list of names for 'keys', got 1 in line 1 of 'a.jsonl'"),
])  # fmt: skip
def test_a_clip_whose_file_does_not_fit_is_skipped_with_the_reason(tmp_path, pictures, text, reason):
    for name in "ab":
        write_clip(tmp_path / f"{name}.mp4", pictures(24, 0), 8)
    beside(tmp_path, ".jsonl", text)
    report = prepare(tmp_path, tmp_path / "out", replace(PLAIN, fps=4.0), workers=0)
    assert report.skipped == [("a.mp4", reason)] and report.ignored == []
    assert report.controls() == (0, [])
    assert [sample.source for sample in ClipShards(tmp_path / "out").samples] == ["b.mp4"]
    assert json.loads(report.path.read_text())["skipped"] == [{"file": "a.mp4", "reason": reason}]


@pytest.mark.parametrize(("told", "start", "stop", "fits"), [
    (0.05 + 0.001, 0.0, 0.1, True), (0.05 + 0.0011, 0.0, 0.1, False), (0.2 - 0.051, 0.2, 0.3, True),
    (0.2 - 0.052, 0.2, 0.3, False),
    # Of a variable rate: a short picture, and one that is held.
    (0.04, 0.0, 0.02, True), (0.06, 0.0, 0.02, False), (1.4, 1.0, 2.0, True), (1.6, 1.0, 2.0, False),
])  # fmt: skip
def test_a_time_may_be_half_a_picture_off_and_a_millisecond_to_which_files_round(told, start, stop, fits):
    recording = Recording("a.csv", ControlTrack((frozenset(),)), (told,))
    with contextlib.nullcontext() if fits else pytest.raises(ClipError, match=r"^controls: must have times within"):
        assert recording.checked(np.array([[start, stop]]), fps=10) is recording.track


def test_the_command_names_the_keys_and_axes(tmp_path, pictures, capsys):
    for name in "abc":
        write_clip(tmp_path / f"{name}.mp4", pictures(4, 0), 8)
    (tmp_path / "a.jsonl").write_text(lines(4, keys=lambda n: ["w", "jump"], turn=float))
    (tmp_path / "b.csv").write_text("keys\n" + "a\n" * 4)
    words = ["prepare", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert cli.main(words) == 0
    assert "\n2 of them with controls: a, jump, turn, w\n" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["controls"] == {"clips": 2, "names": ["a", "jump", "turn", "w"]}


def test_each_sample_has_its_own_part(tmp_path, pictures):
    """Of a clip at half its rate, cut into samples, whose end is held out."""
    write_clip(tmp_path / "a.mkv", pictures(46, 0), 10)
    write_clip(tmp_path / "b.mkv", pictures(9, 1), 10)
    (tmp_path / "a.jsonl").write_text(
        lines(46, keys=lambda n: ["w"] if n == 5 else ["a", "jump"] if n > 40 else [], x=lambda n: n / 7,
              time=lambda n: n / 10 + 0.04)
    )  # fmt: skip
    config = PrepareConfig(height=24, width=32, fps=5.0, max_frames=8, held_out_seconds=0.6)
    assert prepare(tmp_path, tmp_path / "out", config, workers=0).skipped == []
    train, ends = ClipShards(tmp_path / "out"), ClipShards(tmp_path / "out", "held-out")
    told = [
        (s.first_frame, s.frames, s.controls.written) for s in (*train.samples, *ends.samples) if s.source == "a.mkv"
    ]
    assert told == [(0, 8, "none-2,w-1,none-5"), (8, 8, "none-8"), (16, 4, "none-4"), (20, 3, "a+jump-3")]
    turns = [x for s in (*train.samples, *ends.samples) if s.controls for x in s.controls.axes["x"]]
    assert turns == [float(f"{(2 * n) / 7 + (2 * n + 1) / 7:.6g}") for n in range(23)]
    assert [s.controls for s in (*train.samples, *ends.samples) if s.source == "b.mkv"] == [None, None]
    controller = train.controller(4)
    assert controller == ends.controller(4)
    assert (controller.keys, controller.axes, controller.pictures) == (("a", "jump", "w"), ("x",), 4)
    index = json.loads((tmp_path / "out" / "clips-00000.json").read_text())
    assert ["controls" in entry for entry in index["samples"]] == [True] * 4 + [False] * 2
    assert index["samples"][0]["controls"]["keys"] == "none-2,w-1,none-5"


def test_a_variable_rate_is_followed(tmp_path, pictures):
    """A gif whose pictures are shown for 100, 300, 100 and 500 milliseconds, at 10 pictures a second."""
    first, *others = [Image.fromarray(frame) for frame in pictures(4, 0) // 4 * np.uint8(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[100, 300, 100, 500])
    (tmp_path / "a.csv").write_text("time,keys,x\n0,w,1\n0.1,a,3\n0.4,none,0\n0.5,w+a,-10\n")
    (tmp_path / "parts").mkdir()
    config = PrepareConfig(height=24, width=32, fps=10.0, held_out_seconds=0)
    (sample,), *_ = recode(Source("a.gif", tmp_path / "a.gif"), config, tmp_path / "parts")
    assert sample.controls.written == "w-1,a-3,none-1,a+w-5"
    assert sample.controls.axes["x"] == pytest.approx((1, 1, 1, 1, 0, -2, -2, -2, -2, -2))


def test_stills_and_folders_of_pictures_have_controls_too(tmp_path, pictures):
    Image.fromarray(pictures(1, 0)[0]).save(tmp_path / "still.png")
    (tmp_path / "still.jsonl").write_text('{"keys": ["w"], "time": 0}')
    (tmp_path / "shot").mkdir()
    for number, frame in enumerate(pictures(8, 1)):
        Image.fromarray(frame).save(tmp_path / "shot" / f"{number:04d}.png")
    (tmp_path / "shot.csv").write_text("keys\n" + "a\n" * 8)
    assert prepare(tmp_path, tmp_path / "out", PLAIN, workers=0).skipped == []
    found = {sample.source: sample.controls.written for sample in ClipShards(tmp_path / "out").samples}
    assert found == {"shot": "a-8", "still.png": "w-1"}


def test_changed_controls_make_the_shard_anew(tmp_path, pictures):
    for name in "ab":
        write_clip(tmp_path / f"{name}.mp4", pictures(6, 0), 8)
    config, out = PrepareConfig(height=24, width=32, clips_per_shard=1), tmp_path / "out"
    first = prepare(tmp_path, out, config, workers=0)
    indexes = [path.read_bytes() for path in sorted(out.glob("clips-*.json"))]
    path = tmp_path / "b.jsonl"
    for text, written in (("{}\n" * 6, "none-3"), ('{"keys": ["w"]}\n' * 6, "w-3")):
        path.write_text(text)
        assert not is_up_to_date(out, tmp_path, config)
        prepare(tmp_path, out, config, workers=0)
        assert is_up_to_date(out, tmp_path, config)
        assert [s.controls and s.controls.written for s in ClipShards(out).samples] == [None, written]
        assert (out / "clips-00000.json").read_bytes() == indexes[0]
    path.unlink()
    assert prepare(tmp_path, out, config, workers=0).shards == first.shards
    assert [path.read_bytes() for path in sorted(out.glob("clips-*.json"))] == indexes


@pytest.mark.parametrize("damage", [
    {"keys": "w-5", "axes": {}}, {"keys": "w", "axes": {}}, {"keys": "w-6"}, {"keys": "w-6", "axes": {"x": [1]}}, "w-6",
    {"keys": "w-6", "axes": {"x": ["a"] * 6}}, {"keys": 6, "axes": {}}, {"keys": "w-6", "axes": []}, None,
])  # fmt: skip
def test_damaged_controls_of_a_shard_are_refused(tmp_path, pictures, damage):
    write_clip(tmp_path / "a.mp4", pictures(6, 0), 8)
    (tmp_path / "a.jsonl").write_text('{"keys": ["w"]}\n' * 6)
    prepare(tmp_path, tmp_path / "out", PLAIN, workers=0)
    path = tmp_path / "out" / "clips-00000.json"
    index = json.loads(path.read_text())
    assert index["samples"][0]["controls"] == {"keys": "w-6", "axes": {}}
    index["samples"][0]["controls"] = damage
    path.write_text(json.dumps(index))
    with pytest.raises(ClipError, match=r"^data: clips-00000.json must "):
        ClipShards(tmp_path / "out")
