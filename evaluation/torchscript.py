"""Networks that a user brings as TorchScript files, for metrics and losses: nothing is downloaded.

net = load_script(Path("vgg16.pt"), "lpips_weights", device="cpu")

Such a file is a program: load one only from somebody you would run a program of.
"""

from pathlib import Path
from typing import Any

import torch

from ..core.errors import ReelmError, require


def load_script(path: str | Path, argument: str, *, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
    """The network of a TorchScript file, whose weights stay as they are.

    Args:
        path: the file.
        argument: what the user calls it, for the refusal.
        device: where it is to compute.

    Raises:
        ReelmError: there is no such file, or it is no TorchScript.
    """
    path = Path(path)
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
    """What the network makes of `inputs`, one row of features for each, in their own precision.

    Raises:
        ReelmError: it takes no such arguments, or gives something else.
    """
    try:
        # As it is written: TorchScript's optimiser changes how it computes after some calls, so that a training that
        # was resumed would not have the bits of a whole one.
        with torch.autocast(inputs.device.type, enabled=False), torch.jit.optimized_execution(False):
            features: Any = net(inputs, **flags)
    except RuntimeError as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "an error")
        took = f"{', '.join(flags)} and {tuple(inputs.shape)}"
        raise ReelmError(f"{argument}: must be a network that takes {took}, got {reason!r}") from error
    fits = isinstance(features, torch.Tensor) and features.ndim == 2 and len(features) == len(inputs)
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    require(fits, argument, f"must give features ({len(inputs)}, D)", shape)
    assert isinstance(features, torch.Tensor)
    return features
