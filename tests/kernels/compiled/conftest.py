"""What the cases in this folder share: they compile kernels ahead of time for chips that are not here.

test_triton.py runs them in a process of its own; pytest alone collects none of them. A stand-in driver names the chip,
and every launch, through the op's own launch code, stops after compiling. `make kernels` prints a row for each kernel.
"""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from packaging.version import Version

ROOT = Path(__file__).parents[3]
# Target, and the bytes of shared memory that one program may have.
CHIPS = {
    "sm_80": (("cuda", 80, 32), 166912),
    "sm_90": (("cuda", 90, 32), 232448),
    "sm_100": (("cuda", 100, 32), 232448),
    "gfx942": (("hip", "gfx942", 64), 65536),
}
TESTED = Version(re.search(r"^triton==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M).group(1))
TENSOR_CORES = ("tcgen05.mma", "wgmma.mma_async", "mma.sync", "v_mfma")

rows = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[rows] = []


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[rows]:
        columns = ("case", "kernel", "chip", "warps", "registers", "spilled", "shared", "tensor cores")
        terminalreporter.write_line("| " + " | ".join(columns) + " |")
        terminalreporter.write_line("|" + "---|" * len(columns))
        for row in sorted(config.stash[rows]):
            terminalreporter.write_line("| " + " | ".join(map(str, row)) + " |")


def chip_driver(target):
    """A driver of Triton's that knows a target and nothing else."""
    from triton.backends.driver import DriverBase

    class ChipDriver(DriverBase):
        def __init__(self):
            pass

        @classmethod
        def is_active(cls):
            return True

        def map_python_to_cpp_type(self, ty):
            return ty

        def get_current_target(self):
            return target

        def get_active_torch_device(self):
            return torch.device("cpu")

        def get_benchmarker(self):
            return lambda *args, quantiles, **options: [1.0] * len(quantiles)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    return ChipDriver()


def usage(kernel, folder):
    """(registers, bytes spilled to local memory, tensor-core instruction or "-") of a compiled kernel."""
    text = kernel.asm.get("ptx") or kernel.asm["amdgcn"]
    cores = next((name for name in TENSOR_CORES if name in text), "-")
    if "ptx" not in kernel.asm:
        registers, spilled = (
            int(re.search(rf"\.{name}:\s+(\d+)", text).group(1)) for name in ("vgpr_count", "vgpr_spill_count")
        )
        return registers, 4 * spilled, cores
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    (folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    command = [str(tool), "-res-usage", str(folder / "kernel.cubin")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", told).group(1)) for name in ("REG", "STACK", "LOCAL"))
    return registers, stack + local, cores


# The limits of sm_80 lie between those of gfx942 and sm_90.
@pytest.fixture(params=[pytest.param(chip, marks=pytest.mark.slow if chip == "sm_80" else ()) for chip in CHIPS])
def compiled(request, monkeypatch, tmp_path):
    """A list that every launched kernel is put into, compiled for the chip and never run; checked at the end."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    target, shared_limit = GPUTarget(*CHIPS[request.param][0]), CHIPS[request.param][1]
    kernels, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        assert "enable_fp_fusion" in options, f"{self.__name__}: say FUSED or SEPARATE (kernels/fusion.py)"
        self.device_caches.clear()
        kernels.append(run(self, *args, grid=grid, warmup=True, **options))

    monkeypatch.setattr(JITFunction, "run", compile_only)
    driver.set_active(chip_driver(target))
    yield kernels
    case = re.sub(r"test_|_compiles?|-?" + request.param + "-?", "", request.node.name)
    for kernel in kernels:
        meta = kernel.metadata
        registers, spilled, cores = usage(kernel, tmp_path)
        row = (case, meta.name.strip("_"), request.param, meta.num_warps, registers, spilled, meta.shared, cores)
        request.config.stash[rows].append(row)
        assert meta.target == target
        assert 0 <= meta.shared <= shared_limit, row
        # Older compilers than the tested one may spill, which costs time on that chip.
        assert spilled == 0 or request.param != "sm_90" or Version(triton.__version__) < TESTED, row
