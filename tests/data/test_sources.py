"""Which files are clips, and which captions are theirs."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reelm.core.errors import ClipError
from reelm.core.folders import mark_folder
from reelm.data.sources import Source, find_sources, read_captions
from reelm.tests.examples import examples


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_clips_are_found_by_suffix_in_any_folder_and_sorted(tmp_path):
    touch(tmp_path, "b.MP4", "a.gif", "deep/er/c.webm", "deep/c.jpeg", "a.txt", "notes.txt", "deep/c.json", "x.pdf")
    touch(tmp_path, "b.jsonl", "deep/c.csv", "other.csv", "deep/other.jsonl", "pngs.csv")
    touch(tmp_path, ".hidden.mp4", ".git/d.mp4", "out/e.mp4", "pngs/settings.json", "pngs/frame_000000.png")
    found = find_sources(tmp_path, leave_out=tmp_path / "out")
    assert [source.name for source in found.sources] == ["a.gif", "b.MP4", "deep/c.jpeg", "deep/er/c.webm", "pngs"]
    assert (found.ignored, found.made_here) == (["deep/other.jsonl", "notes.txt", "other.csv", "x.pdf"], [])
    assert "out/e.mp4" in [source.name for source in find_sources(tmp_path).sources]


def test_folders_that_reelm_made_hold_no_clips(tmp_path):
    touch(tmp_path, "a.mp4", "runs/b.mp4", "deep/x/c.mp4", "users/reelm.json", "users/d.mp4")
    for name in ("runs/lm", "deep/shards"):
        mark_folder(tmp_path / name, "shards")
        touch(tmp_path / name, "continuations.mp4", "samples.png", "model/README.md")
    found = find_sources(tmp_path)
    assert [source.name for source in found.sources] == ["a.mp4", "deep/x/c.mp4", "runs/b.mp4", "users/d.mp4"]
    assert found.made_here == ["deep/shards", "runs/lm"]


def numbered(folder, count, size=(8, 6)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        Image.new("L", size).save(folder / f"{number:04d}.png")


def test_folder_of_numbered_frames_is_one_clip(tmp_path):
    def names():
        return [source.name for source in find_sources(tmp_path).sources]

    numbered(tmp_path / "shot", 9)
    touch(tmp_path, "shot.txt", "shot/Thumbs.db", "a.mp4")
    assert names() == ["a.mp4", "shot"]
    # Stills with captions of their own, a clip between them, a gap, or only a few: each is a clip.
    for name, other in (("captions", "0003.txt"), ("mixed", "0003.mp4"), ("gap", None)):
        numbered(tmp_path / name, 9)
        touch(tmp_path / name, *([other] if other else []))
    (tmp_path / "gap" / "0004.png").unlink()
    numbered(tmp_path / "few", 4)
    counts = {
        name: sum(each.startswith(f"{name}/") for each in names()) for name in ("captions", "mixed", "gap", "few")
    }
    assert counts == {"captions": 9, "mixed": 10, "gap": 8, "few": 4} and "shot" in names()


def test_links_to_folders_are_not_followed_and_odd_names_can_be_printed(tmp_path):
    touch(tmp_path, "a/b.mp4", "c.mp4")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / os.fsdecode(b"bad-\xff.mp4")).write_bytes(b"")
    sources = find_sources(tmp_path).sources
    assert [source.name for source in sources] == ["a/b.mp4", "bad-\\udcff.mp4", "c.mp4"]
    assert all(os.path.lexists(source.path) for source in sources)


@examples(40)
@given(st.lists(st.text(max_size=40), max_size=4), st.booleans())
def test_captions_are_single_spaced_and_none_is_empty(tmp_path_factory, texts, listed):
    folder = tmp_path_factory.mktemp("captions")
    touch(folder, "a.mp4")
    source = Source("a.mp4", folder / "a.mp4")
    assert read_captions(source) == ()
    (folder / "a.txt").write_text(" ".join(texts), encoding="utf-8")
    wanted = " ".join(" ".join(texts).split())
    assert read_captions(source) == ((wanted,) if wanted else ())
    caption = texts if listed or not texts else texts[0]
    (folder / "a.json").write_text(json.dumps({"caption": caption, "more": 1}))  # counts before the text
    wanted = [" ".join(text.split()) for text in (caption if isinstance(caption, list) else [caption])]
    assert read_captions(source) == tuple(text for text in wanted if text)


@pytest.mark.parametrize("text", ["[]", "{}", '{"caption": null}', '{"caption": {"a": 1}}', "[" * 100_000, "1"])
def test_json_without_captions_is_refused(tmp_path, text):
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ClipError, match=r"^caption: must be .* 'a.json'"):
        read_captions(Source("a.mp4", tmp_path / "a.mp4"))


def test_a_stamp_changes_with_the_clip_its_captions_and_its_controls(tmp_path):
    touch(tmp_path, "a.mp4")
    source = Source("a.mp4", tmp_path / "a.mp4")
    stamps = [source.stamp()]
    (tmp_path / "a.txt").write_text("one")
    stamps.append(source.stamp())
    for suffix in (".csv", ".jsonl"):
        (tmp_path / f"a{suffix}").write_text("{}")
        stamps.append(source.stamp())
    (tmp_path / "a.csv").unlink()
    stamps.append(source.stamp())
    (tmp_path / "a.jsonl").write_text("{ }")
    stamps.append(source.stamp())
    (tmp_path / "a.mp4").write_bytes(b"longer")
    stamps.append(source.stamp())
    (tmp_path / "a.mp4").unlink()
    stamps.append(source.stamp())
    assert len({json.dumps(stamp) for stamp in stamps}) == 8
    assert json.dumps(source.stamp()) == json.dumps(stamps[-1])
