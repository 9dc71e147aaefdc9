"""What `import reelm` and a clip cost, and what they leave alone. Each test is a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from reelm.media.writer import write_clip


def run(code, cwd):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_triton_web_or_video_library_and_changes_nothing(tmp_path):
    code = """
import json, logging, random, sys, threading, warnings
import numpy, torch
def state():
    return [torch.get_num_threads(), torch.get_default_dtype() is torch.float32, torch.is_grad_enabled(),
            torch.initial_seed(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(),
            random.getstate()[1], len(warnings.filters), len(logging.getLogger().handlers), threading.active_count(),
            torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()]
before, modules = state(), set(sys.modules)
import reelm
assert state() == before, "import reelm changed global state"
print(json.dumps(sorted(name.split(".")[0] for name in set(sys.modules) - modules)))
"""
    new = set(json.loads(run(code, tmp_path)))
    assert "reelm" in new
    unwanted = {"triton", "av", "imageio", "PIL", "requests", "urllib3", "http", "huggingface_hub", "transformers",
                "matplotlib", "vector_quantize_pytorch", "tqdm", "scipy"}  # fmt: skip
    assert not new & unwanted


def test_clips_from_a_shell_load_nothing_that_they_do_not_use(debug_checkpoint, tmp_path):
    """Of what pip installs beside torch's own import, only these; torch's compiler alone would take a second."""
    write_clip(tmp_path / "foreign.mp4", np.zeros((5, 32, 48, 3), np.uint8), 8)
    code = f"""
import json, sys
import torch
before = set(sys.modules)
from reelm.cli import main
model = ["--model", {str(debug_checkpoint)!r}, "--seconds", "0.1"]
for words in (
    ["generate", "a red ball", *model, "-o", "clip.mp4", "--save-state"],
    ["continue", "clip.mp4", *model, "-o", "longer.mp4"],
    ["continue", "foreign.mp4", *model, "-o", "foreign-and-on.mp4", "--fit", "crop"],
    ["stream", "a red ball", *model, "-o", "stream.mp4"],
    ["decode", "clip.session.safetensors", *model[:2], "-o", "again.mp4"],
):
    assert main(words) == 0, words
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    new = json.loads(run(code, tmp_path).splitlines()[-1])
    packages = {name.split(".")[0] for name in new} - sys.stdlib_module_names
    assert {"reelm", "av"} <= packages
    used = {"reelm", "av", "safetensors", "sentencepiece", "numpy", "torch"}
    used |= {"openvino", "openvino_telemetry", "packaging"}  # where the extra `cpu` is installed
    assert not {name for name in packages - used if "cython" not in name}
    assert not {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes"} & set(new)


def test_kernels_do_not_shadow_another_package(root):
    """A working directory at the root puts our folders on the path: `kernels` must not be found there as a package."""
    code = "import importlib.util as u; s = u.find_spec('kernels'); print(bool(s and s.origin))"
    assert run(code, root).strip() == "False"
    assert not (root / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("folder", ["lm.transformer", "kernels.attention", "world.render"])
def test_folders_import_as_reelm_alone(root, folder):
    code = f"""
try:
    import {folder}
except ImportError:
    print("refused")
"""
    assert run(code, root).strip() == "refused"
