"""The house rules that a reader relies on: who may import whom, and what never appears in the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "deformgan"

# A folder counts as one entry: its files may import each other. An entry may import those above it, never one below.
LAYERS = [
    {"errors"},
    {"spatial"},
    {"io"},
    {"losses"},
    {"preprocess"},
    {"transforms"},
    {"align", "networks"},
    {"models", "refine"},
    {"quality"},
    {"output"},
    {"pipeline"},
    {"cohort"},
    {"workshop"},
    {"commands"},
    {"__main__"},
]
# what the product is built and judged with; the product itself does without
WORKSHOP = {"workshop"}
MAY_USE_WORKSHOP = WORKSHOP | {"commands", "__main__"}
# inside the workshop the folders have an order of their own
WORKSHOP_LAYERS = [{"simulation"}, {"datasets"}, {"evaluation"}, {"training", "demo"}]

MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
each_module = pytest.mark.parametrize("path", MODULES, ids=NAMES)

COMMANDS = [
    "register",
    "report",
    "apply",
    "convert",
    "cohort",
    "demo",
    "train",
    "simulate",
    "evaluate",
    "export",
    "info",
    "completion",
]
HEAVY = ["torch", "nibabel", "matplotlib", "scipy", "accelerate", "safetensors", "dask", "distributed"]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def entry(path: Path) -> str:
    """First name below the package: ``losses/mind.py`` and ``losses/__init__.py`` are ``losses``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_of(path: Path) -> list[str]:
    return ["deformgan", *path.relative_to(PACKAGE).parent.parts]


def imported_names(path: Path) -> Iterator[str]:
    """Every dotted name a file imports, also inside functions and for type checking, relative ones resolved.

    ``from a.b import c`` yields ``a.b.c``: whether ``c`` is a module or a name in one is all the same to the layers.
    """
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package_of(path)[: len(package_of(path)) + 1 - node.level] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def own_entries(path: Path) -> set[str]:
    """Entries of this package that a file imports; names of the package's front page (``__version__``) are not one."""
    entries = {name for layer in LAYERS for name in layer}
    found = {name.split(".")[1] for name in imported_names(path) if name.startswith("deformgan.")}
    on_disk = {entry(p) for p in MODULES}
    return found & (entries | on_disk)


def layer_of(name: str) -> int:
    for number, layer in enumerate(LAYERS):
        if name in layer:
            return number
    pytest.fail(f"deformgan.{name} has no layer: give it one in LAYERS of {Path(__file__).name}")


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Every call as dotted text with its line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


@each_module
def test_imports_point_one_way(path: Path) -> None:
    if entry(path) == "__init__":
        pytest.skip("the front page re-exports from everywhere, on first use")
    own = layer_of(entry(path))
    wrong = {name for name in own_entries(path) if layer_of(name) > own}
    assert not wrong, f"{entry(path)} may not import {sorted(wrong)}: they come after it"


@each_module
def test_only_the_command_uses_the_workshop(path: Path) -> None:
    if entry(path) not in MAY_USE_WORKSHOP:
        assert not own_entries(path) & WORKSHOP


@pytest.mark.parametrize(
    "path", [p for p in MODULES if entry(p) == "workshop" and p.parent.name != "workshop"], ids=str
)
def test_imports_inside_the_workshop_point_one_way(path: Path) -> None:
    order = {name: number for number, layer in enumerate(WORKSHOP_LAYERS) for name in layer}
    own = path.relative_to(PACKAGE).parts[1]
    found = {name.split(".")[2] for name in imported_names(path) if name.startswith("deformgan.workshop.")}
    wrong = {name for name in found if order[name] > order[own]}
    assert not wrong, f"{own} may not import {sorted(wrong)}: they come after it"


def test_the_root_is_seen_at_a_glance() -> None:
    entries = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert len(entries) < 20, "a new module goes into the folder of its stage"


def test_no_import_cycles() -> None:
    graph = {}
    for path in MODULES:
        if path != PACKAGE / "__init__.py":
            graph.setdefault(entry(path), set()).update(own_entries(path) - {entry(path)})
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' → '.join([*trail, name])}"
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@each_module
def test_module_is_documented_and_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300, "a module does one job in at most 300 lines"
    assert not text.strip() or ast.get_docstring(tree(path)), "a module starts by saying what it is for"


# what is longer than a reader can hold in mind, and why it stays whole
LONG = {
    "render": "the report's values for its template, one line each",
    "_cell": "the layers of one picture of the report, one over the other",
    "sample_deformation": "one draw after the other from a seeded generator: their order is the result",
}


@each_module
def test_functions_are_short(path: Path) -> None:
    """At most 40 lines of code: what a function does fits a screen. Its signature and docstring do not count."""
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1
            assert lines <= 40 or node.name in LONG, f"{node.name} has {lines} lines: give parts of it a name"


def test_the_long_functions_are_there() -> None:
    names = {node.name for path in MODULES for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)}
    assert names >= LONG.keys(), "one that is gone, or short now, leaves this list"


@each_module
def test_public_things_are_documented(path: Path) -> None:
    body = [(node, "") for node in tree(path).body]
    body += [(node, f"{cls.name}.") for cls, _ in body if isinstance(cls, ast.ClassDef) for node in cls.body]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bare = [
        prefix + node.name
        for node, prefix in body
        if isinstance(node, kinds)
        and not node.name.startswith("_")
        and not prefix.startswith("_")
        and not ast.get_docstring(node)
        and not (prefix and node.name in {"forward", "backward"})  # documented by their class
    ]
    assert not bare, f"no docstring: {bare}"


@each_module
def test_nothing_is_printed(path: Path) -> None:
    lines = [line for name, line in calls(path) if name == "print"]
    assert not lines, f"print at {lines}: results go through the command's own output, the rest to its log"


@each_module
def test_no_pickles(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_names(path)}
    assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    called = dict(calls(path))
    assert not called.keys() & {"torch.load", "torch.save", "eval", "exec"}, called
    loads = [n for n in ast.walk(tree(path)) if isinstance(n, ast.keyword) and n.arg == "allow_pickle"]
    assert all(isinstance(k.value, ast.Constant) and k.value.value is False for k in loads)


@each_module
def test_errors_are_not_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"


@each_module
def test_no_global_state(path: Path) -> None:
    lines = [n.lineno for n in ast.walk(tree(path)) if isinstance(n, ast.Global)]
    assert not lines, f"global statement at {lines}"


@each_module
def test_no_device_is_chosen_at_import(path: Path) -> None:
    forbidden = ("torch.device", "torch.cuda", "torch.backends", "torch.set_", "torch.manual_seed")
    statements = [n for n in tree(path).body if not isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                assert not ast.unparse(node.func).startswith(forbidden), f"line {node.lineno}"


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``code``; what the code prints is thrown away."""
    script = f"import sys\n{code}\nsys.stderr.write('LOADED ' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stderr.split("LOADED ")[-1].split()}


def help_code(*arguments: str) -> str:
    return (
        f"sys.argv = {['deformgan', *arguments, '--help']!r}\n"
        "from deformgan.commands.main import main\n"
        "try:\n    code = main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "assert not code, code"
    )


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command: str | None) -> None:
    loaded = loaded_after(help_code(*([command] if command else [])))
    assert "deformgan" in loaded
    assert not loaded & set(HEAVY)


def test_the_front_page_imports_nothing_heavy() -> None:
    assert not loaded_after("import deformgan") & set(HEAVY)


def test_every_public_name_is_there() -> None:
    import deformgan

    for name in deformgan.__all__:
        assert getattr(deformgan, name) is not None
