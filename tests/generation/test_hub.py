"""Models of the hub, from a server on this machine that answers as the hub does, by the real library."""

import hashlib
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
from typing import ClassVar

import pytest

from reelm.core.checkpoint import load_tensors, save_tensors
from reelm.core.errors import CheckpointError, ReelmError
from reelm.generation.generator import VideoGenerator
from reelm.generation.model_copy import copy_pretrained
from reelm.generation.pretrained import load_pretrained
from reelm.tests.golden.models import write_debug

hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers for the files of `folders`, by the name of the repository and the revision."""

    folders: ClassVar = {}
    asked: ClassVar = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        self.asked.append(path)
        parts = path.removeprefix("api/models/").split("/")
        name, kind, revision = "/".join(parts[:2]), *parts[2:4], *[""] * (4 - len(parts))
        revision = {commit: key for key, commit in COMMITS.items()}.get(revision, revision)
        folder = self.folders.get((name, revision))
        if folder is None:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif kind == "resolve":
            content = (folder / parts[4]).read_bytes()
            digest = hashlib.sha1(content).hexdigest()
            self.answer(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMITS[revision]})
        else:
            files = [{"rfilename": file.name} for file in folder.iterdir()]
            tree = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"}
                    for file in folder.iterdir()]  # fmt: skip
            about = {"id": name, "modelId": name, "sha": COMMITS[revision], "siblings": files, "private": False,
                     "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": []}  # fmt: skip
            self.answer(200, json.dumps(tree if kind == "tree" else about).encode(), {})

    def answer(self, code, content, headers):
        self.send_response(code)
        for key, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    """A hub on this machine, which the library asks in place of its own; old versions read the address once."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", address)
        yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a small model, with files beside it that nobody should fetch."""
    folder = tmp_path_factory.mktemp("models")
    path = folder / "raster"
    write_debug(path, "raster")
    (path / "modeling.py").write_text("raise SystemExit")
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (path / "README.md").write_text("# a card of its own\n")
    return path


@pytest.fixture
def repositories(model, tmp_path, server):
    """The requests that the hub got; it has the model as owner/name, and an empty repository."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing yet")
    Hub.folders = {("owner/name", "main"): model, ("owner/name", "v1"): model,
                   ("owner/empty", "main"): tmp_path / "empty"}  # fmt: skip
    Hub.asked.clear()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return Hub.asked


def files_asked(asked):
    return {path.rpartition("/")[2] for path in asked if "/resolve/" in path}


def test_a_model_is_fetched_once_and_draws_what_its_folder_does(model, repositories, tmp_path):
    options = {"cache_dir": str(tmp_path / "cache"), "device": "cpu"}
    fetched = VideoGenerator.from_pretrained("owner/name", **options)
    assert files_asked(repositories) == {"config.json", "lm.safetensors", "tokenizer.safetensors", "text.model"}
    repositories.clear()
    again = VideoGenerator.from_pretrained("owner/name", local_files_only=True, **options)
    assert repositories == []
    local = VideoGenerator.from_pretrained(model, device="cpu")
    clips = [each.generate("a red ball", num_frames=9, seed=3) for each in (fetched, again, local)]
    assert all((clip.tokens == clips[0].tokens).all() for clip in clips)
    assert fetched.parts.name == "owner/name"


def test_a_revision_is_that_one(repositories, tmp_path):
    load_pretrained("owner/name", revision="v1", cache_dir=str(tmp_path), device="cpu")
    assert any(COMMITS["v1"] in path for path in repositories)
    assert not any(COMMITS["main"] in path for path in repositories)
    with pytest.raises(CheckpointError, match="could not fetch 'owner/name' from the hub"):
        load_pretrained("owner/name", revision="v2", cache_dir=str(tmp_path), device="cpu")


def test_offline_nothing_is_asked(repositories, tmp_path):
    load_pretrained("owner/name", cache_dir=str(tmp_path), device="cpu")
    repositories.clear()
    script = "from reelm.cli import main; print([main(['info', '--model', f'owner/{n}']) for n in ('name', 'other')])"
    where = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": constants.ENDPOINT}
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=os.environ | where, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 2]"
    assert "error: model: could not fetch 'owner/other' from the hub" in done.stderr
    assert done.stderr.count("\n") == 1
    assert repositories == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("owner/other", "could not fetch 'owner/other' from the hub: 404 .*"),
        ("owner/empty", "config.json must exist in the folder, got none"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(repositories, tmp_path, name, told):
    with pytest.raises(CheckpointError, match=f"^model: {told}") as error:
        load_pretrained(name, cache_dir=str(tmp_path), device="cpu")
    assert "\n" not in str(error.value)


def test_a_copy_has_the_files_and_the_card_of_the_model(model, repositories, tmp_path, capsys):
    generator = VideoGenerator.from_pretrained(model, device="cpu")
    copy = generator.save_pretrained(tmp_path / "copy")
    names = {"config.json", "lm.safetensors", "tokenizer.safetensors", "text.model", "README.md"}
    assert {path.name for path in copy.iterdir()} == names
    assert all((copy / name).read_bytes() == (model / name).read_bytes() for name in names)
    assert copy.stat().st_mode & 0o055 == 0o055
    Hub.folders["owner/copy", "main"] = copy
    fetched = load_pretrained("owner/copy", cache_dir=str(tmp_path / "cache"), device="cpu")
    assert fetched.lm_id == generator.parts.lm_id
    # That one has no card of its own, since a card is not fetched.
    assert "license" not in capsys.readouterr().err
    again = copy_pretrained(fetched, tmp_path / "again")
    assert "the card of owner/copy, and the license in it, were not fetched" in capsys.readouterr().err
    assert load_tensors(again / "lm.safetensors").keys() == load_tensors(model / "lm.safetensors").keys()
    assert "# owner/copy" in (again / "README.md").read_text()


def test_the_hub_understands_a_card(tmp_path):
    generator = VideoGenerator.from_pretrained("run", device="cpu")
    card = hub.ModelCard.load(generator.save_pretrained(tmp_path / "run") / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("reelm", "text-to-video")
    assert "world-model" in card.data.tags
    assert card.text.strip().startswith("# run\n") and "| width | 64 |" in card.text
    assert "coin" in card.text


def test_a_copy_loses_nothing(model, tmp_path):
    parts = load_pretrained(model, device="cpu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the user")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "notes.txt", model, tmp_path / "link"):
        with pytest.raises(ReelmError, match=r"^folder: must be new or empty"):
            copy_pretrained(parts, folder)
    with pytest.raises(ReelmError, match=r"^folder: its folder must exist"):
        copy_pretrained(parts, tmp_path / "no" / "folder")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "mine", "notes.txt", "nothing"]
    (tmp_path / "empty").mkdir()
    copy_pretrained(parts, tmp_path / "empty")
    with pytest.raises(ReelmError, match=r"^folder: must be a path, got 3"):
        VideoGenerator(parts).save_pretrained(3)


def test_what_is_no_longer_the_loaded_model_is_not_copied(model, tmp_path):
    copy = copy_pretrained(load_pretrained(model, device="cpu"), tmp_path / "copy")
    parts = load_pretrained(copy, device="cpu")
    weights = load_tensors(copy / "lm.safetensors")
    save_tensors(copy / "lm.safetensors", {name: tensor * 0 for name, tensor in weights.items()})
    with pytest.raises(ReelmError, match=r"^model: must have the files that it was loaded from"):
        copy_pretrained(parts, tmp_path / "other")
    assert not (tmp_path / "other").exists()
