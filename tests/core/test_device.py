import pytest
import torch

from reelm.core import device
from reelm.core.device import faster_in_bfloat16, pick_device, pick_dtype
from reelm.core.errors import ReelmError


def test_auto_is_what_there_is():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16


@pytest.mark.parametrize("device", ["abacus", "cuda:999", "mps", "meta", None])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ReelmError, match="device: must"):
        pick_device(device)


@pytest.mark.parametrize("dtype", ["float7", torch.int8, None])
def test_an_unknown_dtype_is_refused(dtype):
    with pytest.raises(ReelmError, match="dtype: must be"):
        pick_dtype(dtype, torch.device("cpu"))


def test_bfloat16_is_chosen_by_a_trial_where_the_cpu_has_it(monkeypatch):
    cpu, seconds = torch.device("cpu"), {torch.bfloat16: 1.0, torch.float32: 2.0}
    monkeypatch.setattr(device, "_product_seconds", seconds.get)
    assert faster_in_bfloat16(torch.device("cuda")) and not faster_in_bfloat16(cpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert faster_in_bfloat16(cpu)
    seconds[torch.float32] = 1.0
    assert not faster_in_bfloat16(cpu)


def test_the_trial_takes_time():
    assert device._product_seconds(torch.float32) > 0
