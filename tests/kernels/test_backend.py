"""Which implementation runs, and what is said about it."""

import logging
import subprocess
import sys

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.kernels import backend
from reelm.kernels.backend import pick_backend, unserved_heads

QUERIES = torch.zeros(1, 1, 1, 16)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("REELM_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backend._log_cached.cache_clear()


def test_automatic_on_cpu_is_the_reference():
    assert pick_backend("attention", None, QUERIES) == "reference"


def test_argument_beats_environment_beats_automatic(monkeypatch):
    monkeypatch.setattr(backend, "HAS_TRITON", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert pick_backend("attention", "triton", QUERIES) == "triton"
    monkeypatch.setenv("REELM_KERNELS", "triton")
    assert pick_backend("attention", None, QUERIES) == "triton"
    assert pick_backend("attention", "reference", QUERIES) == "reference"
    monkeypatch.setenv("REELM_KERNELS", "auto")
    assert pick_backend("attention", None, QUERIES) == "reference"


@pytest.mark.parametrize("value", [None, "auto", "openvino", "torch", "reference"])
def test_openvino_is_used_where_it_is_installed_unless_something_else_is_chosen(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("REELM_KERNELS", value)
    for installed in (True, False):
        monkeypatch.setattr(backend, "HAS_OPENVINO", installed)
        assert backend.openvino_is_chosen() == (installed and value not in ("torch", "reference"))
        if value == "openvino" and not installed:
            with pytest.raises(ReelmError, match=r"^REELM_KERNELS: must not be 'openvino' where it is not installed"):
                pick_backend("attention", None, QUERIES)
        else:
            assert pick_backend("attention", None, QUERIES) == "reference"


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ReelmError, match=r"^backend: must be one of reference, triton, got 'cuda'"):
        pick_backend("attention", "cuda", QUERIES)
    monkeypatch.setenv("REELM_KERNELS", "fast")
    with pytest.raises(
        ReelmError, match=r"^REELM_KERNELS: must be one of auto, reference, triton, openvino, torch, got 'fast'"
    ):
        pick_backend("attention", None, QUERIES)


@pytest.mark.parametrize("installed", [True, False])
def test_triton_where_it_cannot_run_is_refused(monkeypatch, installed):
    monkeypatch.setattr(backend, "HAS_TRITON", installed)
    if not installed:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ReelmError, match=r"^backend: 'triton' needs triton installed and CUDA tensors"):
        pick_backend("attention", "triton", QUERIES)


@pytest.mark.parametrize("argument", ["triton", None])
def test_what_a_kernel_cannot_serve_goes_to_the_reference_with_one_line(monkeypatch, caplog, argument):
    monkeypatch.setattr(backend, "HAS_TRITON", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("REELM_KERNELS", "triton")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert pick_backend("sort", argument, QUERIES, "odd numbers") == "reference"
    assert [record.message for record in caplog.records] == [
        "sort runs on the reference: its Triton kernel does not serve odd numbers"
    ]


def test_heads_that_the_attention_kernels_serve():
    assert unserved_heads(QUERIES) is None
    assert unserved_heads(torch.zeros(1, 1, 1, 20)) == "head_dim 20"
    assert unserved_heads(torch.zeros(1, 1, 1, 144)) == "head_dim 144"
    assert unserved_heads(QUERIES.double()) == "dtype torch.float64"


def test_the_choice_is_said_once_at_info(caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            pick_backend("attention", None, QUERIES)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "attention backend: reference (automatic on cpu)")
    ]


def test_the_ops_import_no_triton():
    code = "import sys, reelm.kernels.attention, reelm.kernels.decode_attention; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
