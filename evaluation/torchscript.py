"""Networks that the user provides as TorchScript files, for metrics and losses; nothing is downloaded.

net = load_script(Path("vgg16.pt"), "lpips_weights", device="cpu")

Such a file is a program: only load files whose author you trust to run programs on your machine.
"""

from pathlib import Path
from typing import Any

import torch

from ..core.errors import ReelmError, require
from ..core.files import as_path


def load_script(path: str | Path, argument: str, *, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
    """Load the network of a TorchScript file, in eval mode and with frozen weights.

    Args:
        path: The file.
        argument: The name of the option that gives the file, for error messages.
        device: The device of the network.

    Raises:
        ReelmError: There is no such file, or it is not a TorchScript.
    """
    path = as_path(path, argument)
    require(path.is_file(), argument, "must be a file that exists", str(path))
    try:
        net = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError) as error:
        raise ReelmError(f"{argument}: must be a TorchScript file, got {str(path)!r}") from error
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net.eval()
    return net


def call_script(net: torch.jit.ScriptModule, argument: str, inputs: torch.Tensor, **flags: bool) -> torch.Tensor:
    """Return the network's features (B, D) of B inputs, computed in the precision of the inputs.

    Raises:
        ReelmError: The network does not take these arguments, or returns something else.
    """
    try:
        # TorchScript's optimiser changes how the network computes after some calls, so that a resumed training would
        # not be bit-identical to an uninterrupted one.
        with torch.autocast(inputs.device.type, enabled=False), torch.jit.optimized_execution(False):
            features: Any = net(inputs, **flags)
    except RuntimeError as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "an error")
        given = f"{', '.join(flags)} and {tuple(inputs.shape)}"
        raise ReelmError(f"{argument}: must be a network that takes {given}, got {reason!r}") from error
    fits = isinstance(features, torch.Tensor) and features.ndim == 2 and len(features) == len(inputs)
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    require(fits, argument, f"must give features ({len(inputs)}, D)", shape)
    assert isinstance(features, torch.Tensor)
    return features
