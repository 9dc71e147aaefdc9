"""Networks of the user's: TorchScript files and exported programs compute the same, and other files are refused."""

import warnings
import zipfile

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from reelm.core.errors import ReelmError
from reelm.evaluation.saved_networks import call_network, load_network

FLAGS = {"rescale": True, "return_features": True}
SHAPE = (2, 3, 10, 6, 8)


class Network(torch.nn.Module):
    """A small network of the kind of I3D: a convolution, batch norm, and flags that change what it returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = torch.nn.Conv3d(3, 4, 3), torch.nn.BatchNorm3d(4)
        self.norm.running_mean += 0.25

    def forward(self, videos: torch.Tensor, rescale: bool = False, return_features: bool = False) -> torch.Tensor:
        if rescale:
            videos = 2 * videos / 255 - 1
        x = torch.relu(self.norm(self.conv(videos)))
        return x.mean((2, 3, 4)) if return_features else x


class Features(torch.nn.Module):
    """The same with fixed flags."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, videos):
        return self.net(videos, **FLAGS)


def converted(path):
    """The conversion of docs/tokenizer.md, of the TorchScript file alone."""
    net, videos = torch.jit.load(path).eval(), torch.zeros(SHAPE)
    with torch.no_grad():
        return torch.export.export(make_fx(lambda videos: net(videos, **FLAGS))(videos), (videos,))


@pytest.fixture(params=["script", "exported", "exported-with-fixed-flags", "converted"])
def saved(request, tmp_path):
    """The network, and its file."""
    net, videos, path = Network().eval(), torch.zeros(SHAPE), tmp_path / "network.bin"  # no name tells the format
    torch.jit.script(net).save(str(path))
    program = {
        "script": lambda: None,
        "exported": lambda: torch.export.export(net, (videos,), FLAGS),
        "exported-with-fixed-flags": lambda: torch.export.export(Features(net), (videos,)),
        "converted": lambda: converted(path),
    }[request.param]()
    if program is not None:
        with path.open("wb") as file:
            torch.export.save(program, file)
    return net, path


def test_every_format_computes_the_same_and_has_a_gradient_of_the_inputs_alone(saved):
    net, path = saved
    videos = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 255
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_network(path, "fvd_weights")
        for name, call in (("loaded", lambda x: call_network(loaded, "fvd_weights", x, **FLAGS)),
                           ("plain", lambda x: net(x, **FLAGS))):  # fmt: skip
            x = videos.clone().requires_grad_()
            features = call(x)
            features.square().sum().backward()
            results[name] = features.detach(), x.grad
    assert results["plain"][1].abs().sum() > 0
    torch.testing.assert_close(results["loaded"], results["plain"])
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_what_a_program_does_not_take_is_refused_with_the_option_s_name(saved):
    loaded = load_network(saved[1], "fvd_weights")
    with pytest.raises(ReelmError, match=r"^fvd_weights: must be a network that takes .*\(1, 3, 2, 6, 8\), got"):
        call_network(loaded, "fvd_weights", torch.zeros(1, 3, 2, 6, 8), **FLAGS)


def test_other_files_are_refused(tmp_path):
    files = {name: tmp_path / name for name in ("text.pt2", "empty.pt2", "state.pt", "cut.pt2", "odd.pt2")}
    files["text.pt2"].write_bytes(b"no network")
    zipfile.ZipFile(files["empty.pt2"], "w").close()
    torch.save({"weight": torch.zeros(2)}, files["state.pt"])
    torch.export.save(torch.export.export(Features(Network().eval()), (torch.zeros(SHAPE),)), files["cut.pt2"])
    whole = files["cut.pt2"].read_bytes()
    files["cut.pt2"].write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(files["odd.pt2"], "w") as archive:
        archive.writestr("odd/code/__torch__.py", "def forward(self): pass")
    for path in files.values():
        with pytest.raises(ReelmError, match=r"^lpips_weights: must be a TorchScript file or an exported program"):
            load_network(path, "lpips_weights")
