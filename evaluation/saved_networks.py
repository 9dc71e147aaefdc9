"""Networks that the user provides as files, for metrics and losses; nothing is downloaded.

net = load_network(Path("vgg16.pt"), "lpips_weights", device="cpu")

A file is a TorchScript (torch.jit.save) or an exported program (torch.export.save, .pt2). Either is a program: only
load files whose author you trust to run programs on your machine.
"""

import inspect
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from ..core.errors import ReelmError, require
from ..core.files import as_path


def load_network(path: str | Path, argument: str, *, device: str | torch.device = "cpu") -> torch.nn.Module:
    """Load the network of a file, as it computes in inference, with frozen weights.

    Args:
        path: The file.
        argument: The name of the option that gives the file, for error messages.
        device: The device of the network.

    Raises:
        ReelmError: There is no such file, or it is neither a TorchScript nor an exported program.
    """
    path = as_path(path, argument)
    require(path.is_file(), argument, "must be a file that exists", str(path))
    try:
        net = _load(path, device)
    except Exception as error:  # of torch's two readers, whose errors for damaged files are of many kinds
        rule = "must be a TorchScript file or an exported program (.pt2)"
        raise ReelmError(f"{argument}: {rule}, got {str(path)!r}") from error
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net


def _load(path: Path, device: str | torch.device) -> torch.nn.Module:
    with zipfile.ZipFile(path) as archive:
        is_script = any("/code/" in name for name in archive.namelist())
    if is_script:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch.jit.*is deprecated")  # what most networks are published as
            script: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)
        script.eval()
        return script
    with path.open("rb") as file, warnings.catch_warnings():
        # torch 2.9 makes tensors of the read-only bytes of the file, which nothing writes to.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        program = torch.export.load(file)  # by its path torch would warn of every name that does not end with .pt2
    return move_to_device_pass(program, device).module()


def call_network(net: torch.nn.Module, argument: str, inputs: torch.Tensor, **flags: bool) -> torch.Tensor:
    """Return the network's features (B, D) of B inputs, computed in the precision of the inputs.

    An exported program is given those of the flags that it has; the others were fixed when it was exported.

    Raises:
        ReelmError: The network does not take these arguments, or returns something else.
    """
    if not isinstance(net, torch.jit.ScriptModule):
        known = inspect.signature(net.forward).parameters
        flags = {name: value for name, value in flags.items() if name in known}
    try:
        # TorchScript's optimiser changes how the network computes after some calls, so that a resumed training would
        # not be bit-identical to an uninterrupted one.
        with torch.autocast(inputs.device.type, enabled=False), torch.jit.optimized_execution(False):
            features: Any = net(inputs, **flags)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "an error")
        given = ", ".join([*flags, str(tuple(inputs.shape))])
        raise ReelmError(f"{argument}: must be a network that takes {given}, got {reason!r}") from error
    fits = isinstance(features, torch.Tensor) and features.ndim == 2 and len(features) == len(inputs)
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    require(fits, argument, f"must give features ({len(inputs)}, D)", shape)
    assert isinstance(features, torch.Tensor)
    return features
