"""The house rules that a machine can hold: layers, imports, sizes, names and docstrings."""

import ast
import functools
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("core", "media", "kernels", "tokenizer", "lm", "sampling", "generation", "training", "data", "evaluation",
           "bench", "serving", "world", "commands", "checkpoints")  # fmt: skip
MODULES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
MAY_IMPORT = {
    "core": set(),
    "media": {"core"},
    "kernels": {"core"},
    "world": {"core"},
    "tokenizer": {"core", "kernels"},
    "lm": {"core", "kernels"},
    "data": {"core", "media", "tokenizer", "world"},
    "sampling": {"core", "kernels", "lm"},
    "generation": {"core", "media", "tokenizer", "lm", "sampling"},
    "bench": {"core", "kernels", "tokenizer", "lm", "sampling", "generation"},
    "evaluation": {"core", "media", "tokenizer", "data", "generation", "bench", "world"},
    "training": {"core", "media", "tokenizer", "lm", "sampling", "data", "generation", "evaluation", "world"},
    "serving": {"core", "media", "sampling", "generation"},
    "commands": {"core", "media", "kernels", "lm", "tokenizer", "sampling", "generation", "training", "data",
                 "evaluation", "bench", "serving", "world"},
    "cli": {"core", "commands"},
    "__main__": {"cli"},
    "": {"bench", "core", "generation"},  # the package's own __init__
}  # fmt: skip
TRAINING_DATA = {"training/tokenizer_training.py", "data/rendered.py", "evaluation/world_clips.py"}
MOST_ANY = 3  # per cent of the public signatures that may name `Any`
LIBRARIES = {  # who may know it
    "triton": lambda name: name.endswith("_triton.py"),
    "av": lambda name: name.startswith("media/"),
    "imageio": lambda name: name.startswith("media/"),
    "sentencepiece": lambda name: name == "lm/text.py",
    "vector_quantize_pytorch": lambda name: name == "tokenizer/quantizer.py",
    "huggingface_hub": lambda name: name == "core/checkpoint.py",
    "tokenizers": lambda name: name == "lm/emu3_text.py",
    "ray": lambda name: name == "core/ray_pool.py",
    "pickle": lambda name: name == "core/torch_archive.py",  # by names that it knows, and no others
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def folder_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ("" if parts[0] == "__init__.py" else path.stem)


@functools.cache  # most tests look at every file
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def is_late(node, tree):
    """Whether an import stands inside a function."""
    return any(
        node in ast.walk(function)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def own_imports(path):
    """(node, folder, module path without suffix) of every import of reelm's own modules."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parent if node.level == 1 else ROOT
            target = base.joinpath(*(node.module or "").split("."))
            yield node, folder_of(target.with_suffix(".py")) if target != ROOT else "", target


def test_there_are_modules_to_look_at():
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_layers(path):
    own = folder_of(path)
    for node, folder, _ in own_imports(path):
        allowed = {own} | MAY_IMPORT.get(own, set())
        assert folder in allowed or folder == "", f"{name_of(path)}:{node.lineno} imports {folder}"
        if folder == "world" and own not in ("world", "commands"):
            assert name_of(path) in TRAINING_DATA, f"{name_of(path)}:{node.lineno} imports the world"
    for node in ast.walk(tree_of(path)):
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        for name in names:
            top = name.split(".")[0]
            assert top != "reelm" and top not in FOLDERS, (
                f"{name_of(path)}:{node.lineno}: imports of our own are relative"
            )
            if top in LIBRARIES:
                assert LIBRARIES[top](name_of(path)), f"{name_of(path)}:{node.lineno} imports {top}"


def test_there_are_no_cycles():
    graph = {path.with_suffix(""): set() for path in MODULES}
    for path in MODULES:
        typing_only = {
            node
            for block in ast.walk(tree_of(path))
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in map(ast.dump, block.body)
        }
        for node, _, target in own_imports(path):
            if ast.dump(node) in typing_only:
                continue
            for candidate in (target, *(target / alias.name for alias in node.names)):
                if candidate in graph:
                    graph[path.with_suffix("")].add(candidate)
    state = {}

    def visit(module, trail):
        if state.get(module) == "done":
            return
        assert state.get(module) != "open", " -> ".join(str(m.relative_to(ROOT)) for m in [*trail, module])
        state[module] = "open"
        for target in sorted(graph[module]):
            visit(target, [*trail, module])
        state[module] = "done"

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_our_own_modules_are_imported_at_the_top(path):
    if path.parent.name == "commands" or path.name == "cli.py":  # help and parsing stay quick
        return
    tree = tree_of(path)
    for node, _, target in own_imports(path):
        if target.name.endswith("_triton"):
            continue  # importing reelm must not import triton
        assert not is_late(node, tree), f"{name_of(path)}:{node.lineno} imports late"


def code_lines(path):
    """Lines with code on them: no blanks, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(tree_of(path)):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            docstrings |= set(range(body[0].lineno, body[0].end_lineno + 1))
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_modules_and_functions_are_small():
    for path in MODULES:
        limit = 600 if path.name.endswith("_triton.py") else 400
        assert code_lines(path) <= limit, f"{name_of(path)}: {code_lines(path)} lines"
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno
                assert length < (150 if path.name.endswith("_triton.py") else 80), (
                    f"{name_of(path)}:{node.lineno} {node.name}: {length}"
                )


def test_the_readers_path_is_short():
    """clip -> tokens -> language model -> tokens -> clip, in at most 8 files and 1,200 lines."""
    way = ["media/reader.py", "generation/source.py", "tokenizer/video_tokenizer.py", "lm/transformer.py",
           "lm/cache.py", "sampling/engine.py", "generation/generator.py", "media/writer.py"]  # fmt: skip
    assert len(way) <= 8
    assert sum(code_lines(ROOT / name) for name in way) <= 1200


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_public_is_documented_typed_and_little(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert len({n.name for n in public}) <= 8, f"{name_of(path)}: {[n.name for n in public]}"
    methods = [
        m
        for c in public
        if isinstance(c, ast.ClassDef)
        for m in c.body
        if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")
    ]
    for node in (*public, *methods):
        jitted = isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list)
        if any(ast.unparse(d) == "overload" for d in node.decorator_list):
            continue  # its docstring is that of what it overloads
        # A command's class says what its run does.
        told = jitted or (node.name == "run" and path.parent.name == "commands")
        assert told or ast.get_docstring(node), f"{name_of(path)}:{node.lineno} {node.name} has no docstring"
        if isinstance(node, ast.FunctionDef) and not jitted:
            arguments = [
                a
                for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                if a.arg not in ("self", "cls")
            ]
            assert node.returns is not None and all(a.annotation for a in arguments), (
                f"{name_of(path)}:{node.lineno} {node.name} is not typed"
            )
            positional = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
            assert len(positional) <= 6, (
                f"{name_of(path)}:{node.lineno} {node.name}: {len(positional)} positional arguments"
            )


def test_commands_parse_call_and_print():
    """What a command does is a function of the library, so that Python can do it too."""
    for path in (ROOT / "commands").glob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and node.name == "run":
                length = node.end_lineno - node.lineno + 1
                assert length <= 25, f"{name_of(path)}:{node.lineno} run: {length} lines"


def test_no_file_name_stands_twice():
    names = [path.name for path in MODULES if path.name != "__init__.py"]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice


def signatures(path):
    """Of every public function and method, with its overloads: (name, whether one of its annotations names Any)."""

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                name = prefix + node.name
                found[name] = found.get(name, False) or names_any(node)

    def names_any(function):
        given = function.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        annotations = [function.returns, *(argument.annotation for argument in arguments if argument is not None)]
        nodes = [node for annotation in annotations if annotation is not None for node in ast.walk(annotation)]
        quoted = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        named = {node.id for node in nodes if isinstance(node, ast.Name)}
        named |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        return "Any" in named or any(re.search(r"\bAny\b", text) for text in quoted)

    found = {}
    visit(tree_of(path).body, "")
    return found.items()


def test_few_public_signatures_name_any():
    every = [(f"{name_of(path)}:{name}", vague) for path in MODULES for name, vague in signatures(path)]
    vague = [name for name, named in every if named]
    assert len(every) > 500
    assert 100 * len(vague) / len(every) <= MOST_ANY, "\n".join(vague)


def test_folders_are_one_level_deep():
    for path in MODULES:
        depth = len(path.relative_to(ROOT).parts)
        assert depth <= 2 or name_of(path).startswith("checkpoints/")


def test_tests_mirror_the_folders():
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests").as_posix()
        assert folder in (".", "golden", "proofs", *FOLDERS), f"{name_of(path)} belongs to no folder"


def always_true(test):
    """Whether an asserted expression holds whatever the code does: a constant, a filled literal, or one beside `or`."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Tuple | ast.List | ast.Set):
        return any(not isinstance(element, ast.Starred) for element in test.elts)
    if isinstance(test, ast.Dict):
        return any(key is not None for key in test.keys)
    if isinstance(test, ast.JoinedStr):
        return any(isinstance(part, ast.Constant) and part.value for part in test.values)
    if isinstance(test, ast.BoolOp):
        return (any if isinstance(test.op, ast.Or) else all)(map(always_true, test.values))
    if isinstance(test, ast.NamedExpr):
        return always_true(test.value)
    return isinstance(test, ast.Lambda | ast.GeneratorExp)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=name_of)
def test_every_assertion_can_fail(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Assert):
            inside = [part for part in ast.walk(node.test) if isinstance(part, ast.BoolOp) and always_true(part)]
            assert not always_true(node.test) and not inside, f"{name_of(path)}:{node.lineno} cannot fail"


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("True", True), ("f() or True", True), ("f() or 1", True), ("f() and (g() or 'told')", False),
        ("(f(), g())", True), ("f() and True", False), ("f() or False", False), ("f() or 0 or None", False),
        ("(x for x in y)", True), ("[*f()]", False), ("{}", False), ("{1: f()}", True), ("f'{x}'", False),
        ("f'x{x}'", True), ("f() == 1", False),
    ],
)  # fmt: skip
def test_what_cannot_fail_is_told_from_what_can(test, expected):
    assert always_true(ast.parse(test, mode="eval").body) == expected


def test_the_public_face_is_small():
    import reelm

    assert len(reelm.__all__) <= 10
    assert all(hasattr(reelm, name) for name in reelm.__all__)


SHAPE = re.compile(r"_?[a-z0-9]+(?:_[a-z0-9]+)*_((?=[A-Z0-9thw]*[A-Z])[A-Z0-9thw]+|thw|hw)")


def test_every_letter_of_a_shape_is_in_the_legend_once():
    legend = ast.get_docstring(tree_of(ROOT / "core" / "__init__.py")).split("\n\n")[2]
    letters = re.findall(r"(?:^|  )([A-Zthw]) [a-z]", legend, re.M)
    assert len(set(letters)) == len(letters) >= 25, "a letter has one meaning"
    used = set()
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None)
            found = SHAPE.fullmatch(name) if isinstance(name, str) else None
            for letter in found[1] if found else "":
                assert letter.isdigit() or letter in letters, f"{name_of(path)}:{node.lineno} {name}"
                used.add(letter)
    assert {letter for letter in used if not letter.isdigit()} == set(letters), "a letter of the legend is not used"
