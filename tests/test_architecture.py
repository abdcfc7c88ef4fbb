"""The house rules that a reader relies on: who may import whom, and what never appears in the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


def where(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def entry(path: Path) -> str:
    """First name below the package: ``losses/mind.py`` and ``losses/__init__.py`` are ``losses``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_of(path: Path) -> list[str]:
    return ["deformgan", *path.relative_to(PACKAGE).parent.parts]


def imported_names(path: Path) -> Iterator[str]:
    """Every dotted name a file imports, also inside functions and for type checking, relative ones resolved.

    ``from a.b import c`` yields ``a.b.c``: whether ``c`` is a module or a name in one is all the same to the layers.
    """
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package_of(path)[: len(package_of(path)) + 1 - node.level] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


@cache
def known_entries() -> set[str]:
    """Entries of this package that have a layer, or are on disk."""
    return {name for layer in LAYERS for name in layer} | {entry(path) for path in MODULES}


@cache
def own_entries(path: Path) -> set[str]:
    """Entries of this package that a file imports; names of the package's front page (``__version__``) are not one."""
    found = {name.split(".")[1] for name in imported_names(path) if name.startswith("deformgan.")}
    return found & known_entries()


def layer_of(name: str) -> int:
    for number, layer in enumerate(LAYERS):
        if name in layer:
            return number
    pytest.fail(f"deformgan.{name} has no layer: give it one in LAYERS of {Path(__file__).name}")


@cache
def calls(path: Path) -> list[tuple[str, int]]:
    """Every call as dotted text with its line."""
    return [(ast.unparse(node.func), node.lineno) for node in nodes(path) if isinstance(node, ast.Call)]


def test_imports_point_one_way() -> None:
    modules = [path for path in MODULES if entry(path) != "__init__"]  # the front page re-exports from everywhere
    wrong = {
        where(path): names
        for path in modules
        if (names := sorted(name for name in own_entries(path) if layer_of(name) > layer_of(entry(path))))
    }
    assert not wrong, f"these come after the modules that import them: {wrong}"


def test_only_the_command_uses_the_workshop() -> None:
    product = [path for path in MODULES if entry(path) not in MAY_USE_WORKSHOP]
    assert not [where(path) for path in product if own_entries(path) & WORKSHOP]


def test_imports_inside_the_workshop_point_one_way() -> None:
    order = {name: number for number, layer in enumerate(WORKSHOP_LAYERS) for name in layer}
    wrong = {}
    for path in MODULES:
        if entry(path) == "workshop" and path.parent.name != "workshop":
            own = path.relative_to(PACKAGE).parts[1]
            found = {name.split(".")[2] for name in imported_names(path) if name.startswith("deformgan.workshop.")}
            wrong[where(path)] = {name for name in found if order[name] > order[own]}
    assert wrong, "the workshop has modules"
    assert not any(wrong.values()), f"these come after the modules that import them: {wrong}"


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


def test_modules_are_documented_and_short() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in MODULES}
    long = [where(path) for path, text in texts.items() if len(text.splitlines()) > 300]
    assert not long, f"a module does one job in at most 300 lines: {long}"
    bare = [where(path) for path, text in texts.items() if text.strip() and not ast.get_docstring(tree(path))]
    assert not bare, f"a module starts by saying what it is for: {bare}"


# what is longer than a reader can hold in mind, and why it stays whole
LONG = {
    "sample_deformation": "one draw after the other from a seeded generator: their order is the result",
}


def lines_of_code(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the first statement to the last; the signature and the docstring do not count."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1


def test_functions_are_short() -> None:
    """At most 40 lines of code: what a function does fits a screen."""
    long = [
        f"{where(path)}: {node.name} has {lines_of_code(node)} lines"
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and lines_of_code(node) > 40
        and node.name not in LONG
    ]
    assert not long, f"give parts of them a name: {long}"


def test_the_long_functions_are_long() -> None:
    long = {
        node.name
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and lines_of_code(node) > 40
    }
    assert long == LONG.keys(), "one that is gone, or short now, leaves this list"


def undocumented(path: Path) -> list[str]:
    """Public classes, functions and methods without a docstring."""
    body = [(node, "") for node in tree(path).body]
    body += [(node, f"{cls.name}.") for cls, _ in body if isinstance(cls, ast.ClassDef) for node in cls.body]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        f"{where(path)}: {prefix}{node.name}"
        for node, prefix in body
        if isinstance(node, kinds)
        and not node.name.startswith("_")
        and not prefix.startswith("_")
        and not ast.get_docstring(node)
        and not (prefix and node.name in {"forward", "backward"})  # documented by their class
    ]


def test_public_things_are_documented() -> None:
    bare = [name for path in MODULES for name in undocumented(path)]
    assert not bare, f"no docstring: {bare}"


def test_nothing_is_printed() -> None:
    lines = [f"{where(path)}:{line}" for path in MODULES for name, line in calls(path) if name == "print"]
    assert not lines, f"print at {lines}: results go through the command's own output, the rest to its log"


def test_no_pickles() -> None:
    for path in MODULES:
        roots = {name.split(".")[0] for name in imported_names(path)}
        assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}, where(path)
        called = dict(calls(path)).keys() & {"torch.load", "torch.save", "eval", "exec"}
        assert not called, f"{where(path)}: {called}"
        loads = [n for n in nodes(path) if isinstance(n, ast.keyword) and n.arg == "allow_pickle"]
        assert all(isinstance(k.value, ast.Constant) and k.value.value is False for k in loads), where(path)


def lines_with(found: Callable[[ast.AST], bool]) -> list[str]:
    """``file:line`` of every node of the package's modules for which ``found`` is true."""
    return [f"{where(path)}:{node.lineno}" for path in MODULES for node in nodes(path) if found(node)]


def test_errors_are_not_swallowed() -> None:
    lines = lines_with(lambda node: isinstance(node, ast.ExceptHandler) and node.type is None)
    assert not lines, f"bare except at {lines}"


def test_no_global_state() -> None:
    lines = lines_with(lambda node: isinstance(node, ast.Global))
    assert not lines, f"global statement at {lines}"


def test_no_device_is_chosen_at_import() -> None:
    forbidden = ("torch.device", "torch.cuda", "torch.backends", "torch.set_", "torch.manual_seed")
    lines = [
        f"{where(path)}:{node.lineno}"
        for path in MODULES
        for statement in tree(path).body
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(forbidden)
    ]
    assert not lines, f"chosen at import: {lines}"


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``code``; what the code prints is thrown away."""
    script = f"import sys\n{code}\nsys.stderr.write('LOADED ' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stderr.split("LOADED ")[-1].split()}


def test_help_imports_nothing_heavy() -> None:
    """Neither that of all commands nor that of any, one after the other in one process."""
    loaded = loaded_after(
        "from deformgan.commands.main import main\n"
        f"for name in [[], *([name] for name in {list(COMMANDS)!r})]:\n"
        "    assert main([*name, '--help']) == 0, name\n"
        f"    assert not (heavy := set({HEAVY!r}) & {{one.split('.')[0] for one in sys.modules}}), (name, heavy)"
    )
    assert "deformgan" in loaded


def test_the_front_page_imports_nothing_heavy() -> None:
    assert not loaded_after("import deformgan") & set(HEAVY)


def test_every_public_name_is_there() -> None:
    import deformgan

    for name in deformgan.__all__:
        assert getattr(deformgan, name) is not None
