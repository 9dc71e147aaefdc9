"""`reelm serve`: what it refuses before it serves. tests/serving/test_kills.py starts and stops it."""

import socket

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "token: must be given for 0.0.0.0, which others can reach"),
        (["--host", "0.0.0.0", "--token", "short"], "token: must have at least 16 characters"),
        (["--token", "a/" * 5], "token: must have at least 16 characters"),
        (["--port", "65536"], "port: must be from 0 to 65535"),
        (["--port", "0", "--model", "wrld"], "model"),
    ],
)
def test_what_it_refuses(run, tmp_path, words, told):
    code, out, err = run("serve", *words, "--out", tmp_path / "clips")
    assert code == 2 and told in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "clips").exists()


def test_a_port_that_is_in_use_and_a_folder_of_something_else_are_refused(run, tmp_path, debug_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("serve", "--port", taken.getsockname()[1], "--out", tmp_path / "clips")
    assert code == 2 and "host, port: must be an address that is free" in err
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run("serve", "--port", 0, "--model", debug_checkpoint, "--out", tmp_path, "--device", "cpu")
    assert code == 2 and "store: must be a new or empty folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
