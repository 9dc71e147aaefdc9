"""Every op in kernels/ is a full set: op, reference, Triton, tests, bench entry. Only *_triton.py imports triton."""

import ast
from pathlib import Path

import pytest

from reelm.bench.kernel_cases import ENTRIES

ROOT = Path(__file__).parent.parent.parent
MODULES = {path.stem: path for path in (ROOT / "kernels").glob("*.py")}
# `cached_attention` is two ops behind one door; files in `_cpu` are faster paths of an op on a CPU.
SHARED = {
    *("backend", "cached_attention", "cached_attention_cpu", "check", "fusion", "noise", "norm", "quantize", "rotary"),
    *("large_cache_cpu", "sample_cpu"),
}
OPS = sorted({name.removesuffix("_reference").removesuffix("_triton") for name in MODULES} - SHARED)


def parameters(module, function):
    """The names of the arguments of a function, read without importing it."""
    for node in ast.parse(MODULES[module].read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    raise AssertionError(f"{module}.py has no function {function}")


def test_there_are_ops():
    assert {"attention", "decode_attention"} <= set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_a_full_set_with_one_signature(op):
    expected = parameters(op, op)
    assert expected[-1] == "backend"
    for kind in ("reference", "triton"):
        assert f"{op}_{kind}" in MODULES
        assert parameters(f"{op}_{kind}", f"{op}_{kind}") == expected[:-1]
    assert (ROOT / "tests" / "kernels" / f"test_{op}.py").is_file()


def test_every_op_has_a_bench_entry():
    assert sorted(ENTRIES) == OPS


@pytest.mark.parametrize("folder", ["interpreted", "compiled"])
@pytest.mark.parametrize("op", OPS)
def test_the_triton_path_of_an_op_is_interpreted_and_compiled(op, folder):
    tree = ast.parse((ROOT / "tests" / "kernels" / folder / f"{op}_cases.py").read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body)
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert f"reelm.kernels.{op}{'_triton' if folder == 'compiled' else ''}" in imported


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_triton_modules_import_triton(module):
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        )
    }  # fmt: skip
    assert ("triton" in imported) == module.endswith("_triton")


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.endswith("_triton")))
def test_every_launch_states_its_fusion(module):
    # The default of Triton differs between versions; kernels/fusion.py is the one place that spells the option.
    text = MODULES[module].read_text()
    launches = [
        {keyword.value.id for keyword in node.keywords if keyword.arg is None and isinstance(keyword.value, ast.Name)}
        for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
    ]  # fmt: skip
    assert launches and all(len(names & {"FUSED", "SEPARATE"}) == 1 for names in launches)
    assert "fp_fusion" not in text


def test_the_folder_is_no_package_of_its_own():
    # Other libraries probe for a package named `kernels`; with an __init__.py this folder would be taken for it.
    assert not (ROOT / "kernels" / "__init__.py").exists()
