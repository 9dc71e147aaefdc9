"""A file of streamed tensors is gone on with by the call that began it alone."""

import pytest
import torch
from safetensors.torch import load_file

from reelm.core.streamed_tensors import StreamedTensor, write_tensors


def tensors(value, fails_at):
    """Three tensors of a value, of which one cannot be read."""

    def read(index):
        if index == fails_at:
            raise KeyboardInterrupt
        return torch.full((4,), value)

    return [StreamedTensor(f"t{i}", torch.float32, (4,), ((lambda i=i: read(i)),)) for i in range(3)]


def test_what_another_source_began_is_not_gone_on_with(tmp_path):
    path = tmp_path / "lm.safetensors"
    for source, value, fails_at in (("a", 1.0, 2), ("b", 2.0, 0)):
        with pytest.raises(KeyboardInterrupt):
            write_tensors(path, tensors(value, fails_at), source=source)
    assert write_tensors(path, tensors(1.0, None), source="a") == 0, "the second call has overwritten its tensors"
    assert all(torch.equal(tensor, torch.ones(4)) for tensor in load_file(path).values())


def test_what_was_begun_is_gone_on_with(tmp_path):
    path = tmp_path / "lm.safetensors"
    with pytest.raises(KeyboardInterrupt):
        write_tensors(path, tensors(1.0, 2), source="a")
    assert write_tensors(path, tensors(1.0, None), source="a") == 2
    assert all(torch.equal(tensor, torch.ones(4)) for tensor in load_file(path).values())
