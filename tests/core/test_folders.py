"""Whose a folder is: files of a user are not replaced, and the message names them."""

import os

import pytest

from reelm.core.errors import ReelmError
from reelm.core.folders import check_folder, kind_of, mark_folder, options_of


def test_a_new_or_empty_folder_becomes_ours_and_keeps_its_options(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").write_text("")
    for name in ("new/deep", "empty"):
        assert kind_of(tmp_path / name) is None
        mark_folder(tmp_path / name, "shards", {"fps": 8})
        mark_folder(tmp_path / name, "shards")
        assert (kind_of(tmp_path / name), options_of(tmp_path / name)) == ("shards", {"fps": 8})
        (tmp_path / name / "report.json").write_text("ours")
        assert check_folder(str(tmp_path / name), "shards") == tmp_path / name


@pytest.mark.parametrize("name", ["report.json", "samples.png", "README.md", "recipe.json", "reelm.json", "b/c"])
def test_a_folder_with_files_of_a_user_is_refused_by_their_names(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"kind": "shards"}')
    with pytest.raises(ReelmError, match=rf"^out: must be a new or empty folder, .* holds {name.split('/')[0]}$"):
        mark_folder(tmp_path / "out", "shards")
    assert sorted(os.listdir(tmp_path / "out")) == [name.split("/")[0]]
    assert path.read_text() == '{"kind": "shards"}'


def test_a_folder_of_another_kind_is_refused(tmp_path):
    mark_folder(tmp_path, "shards")
    with pytest.raises(ReelmError, match=r"^runs: .* made for the evaluation, got .* which holds the shards$"):
        check_folder(tmp_path, "evaluation", "runs")
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ReelmError, match=r"^out: must be a folder"):
            check_folder(wrong, "shards")
    with pytest.raises(ReelmError, match=r"^out: must be a path"):
        check_folder(3, "shards")
