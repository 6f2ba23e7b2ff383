"""The shape of the packages: layers, import cycles, who may know asyncio or print, and the public names.

Modules are parsed, never imported, so a rule holds for optional backends too. An import guarded by ``TYPE_CHECKING``
cannot make a cycle when the program runs and is left out there; every other rule counts it.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import engine
import handles

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "handles")

# From the lowest layer to the highest; a module imports from its own layer or a lower one. A dotted entry covers all
# below it, unless a longer entry says otherwise; a bare one is that package's `__init__` alone.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("handles", "handles.*"),
    ("engine.threads",),
    ("engine.base", "engine.memory"),
    ("engine.fusion",),
    ("engine.parallel",),
    ("engine.devices",),
    ("engine.settings",),
    ("engine.failures",),
    ("engine.queues",),
    ("engine.dispatch",),
    ("engine.runtime",),
    ("engine.observe",),
    ("engine.custom", "engine.graph", "engine.ops", "engine.random", "engine.scopes", "engine.sync"),
    ("engine.remote", "engine.testing"),
    ("engine.asgi",),
    ("engine",),
    ("engine.__main__", "engine.cli", "engine.demo"),
)

# Patterns of the modules that may import asyncio.
ASYNCIO_MODULES = (
    "engine.queues.*",
    "engine.base.loops",
    "engine.demo.*",
    "engine.testing.gpu.speed",  # measures how late a task wakes
    # Dask's own loop, which these run on, is asyncio's.
    *(
        "engine.devices.dask.link",
        "engine.devices.dask.loop_thread",
        "engine.devices.dask.process",
        "engine.devices.dask.pulse",
        "engine.devices.dask.session",
        "engine.devices.dask.wire",
        "engine.remote.serving",
    ),
)

# (module, what it imports inside a function): optional backends only.
LOCAL_IMPORTS: frozenset[tuple[str, str]] = frozenset(
    {
        ("engine.cli", "engine.observe.page.server"),
        ("engine.fusion.native.llvm", "llvmlite.binding"),
        ("engine.observe", "engine.observe.metrics"),
        ("engine.observe", "engine.observe.page.application"),
        ("engine.observe", "engine.observe.spans"),
        ("engine.observe.pictures", "matplotlib.patches.Patch"),
        ("engine.observe.pictures", "matplotlib.pyplot"),
        ("engine.observe.progress", "tqdm.auto.tqdm"),
        ("engine.devices.cluster.backend", "engine.devices.cluster.batches"),
        ("engine.devices.dask.backend", "engine.devices.dask.session"),
        ("engine.devices.cuda.backend", "engine.devices.cuda.cupy_runtime"),
        ("engine.devices.cuda.backend", "engine.devices.cuda.kernels"),
        ("engine.devices.cuda.backend", "engine.devices.cuda.unit"),
        ("engine.remote.pulse", "ssl"),
        ("engine.remote.pulse", "tempfile"),
        ("engine.testing.gpu.child", "engine.testing.gpu.by_hand"),
        ("engine.testing.gpu.ends", "cupy"),
    }
)

# Patterns of the modules that may print: the command line.
PRINTING_MODULES = ("engine.__main__", "engine.cli", "engine.demo", "engine.demo.*", "engine.testing.gpu.__main__")

ENGINE_NAMES = [
    "ASYNC",
    "BatchStatistics",
    "BlockingSyncError",
    "BufferStatistics",
    "CancelOutcome",
    "Config",
    "DEVICE_PLACEMENT_EXPLICIT",
    "DEVICE_PLACEMENT_SILENT",
    "DEVICE_PLACEMENT_SILENT_FOR_INT32",
    "DEVICE_PLACEMENT_WARN",
    "Device",
    "DeviceLostError",
    "DevicePlacementError",
    "DevicePolicy",
    "EagerNotEnabledError",
    "ExecutionMode",
    "Executor",
    "ExecutorClosedError",
    "FeedError",
    "FunctionStatistics",
    "FusionStatistics",
    "Graph",
    "OpCancelledError",
    "Operation",
    "QueueFullError",
    "SYNC",
    "Session",
    "ShapeDtype",
    "Statistics",
    "SymbolError",
    "UnknownDeviceError",
    "UnknownShapeError",
    "allow_sync",
    "as_completed",
    "asgi",
    "batched",
    "buffer_statistics",
    "cancel_pending",
    "clear_buffers",
    "clear_errors",
    "device",
    "device_policy",
    "devices",
    "disable_eager_execution",
    "drain",
    "enable_eager_execution",
    "executing_eagerly",
    "execution_mode",
    "function",
    "fusion_statistics",
    "gather",
    "get_config",
    "get_default_graph",
    "get_device_policy",
    "get_execution_mode",
    "list_devices",
    "observe",
    "op",
    "ops",
    "placeholder",
    "profile",
    "reset_default_graph",
    "scope",
    "synchronize",
    "testing",
    "wait",
]
HANDLES_NAMES = ["AsyncHandle", "CancelOutcome", "EagerHandle", "Handle", "Symbol"]


@dataclass(frozen=True)
class Import:
    """One module named by one import statement."""

    target: str
    line: int
    in_function: bool
    type_checking: bool


@dataclass(frozen=True, eq=False)
class Module:
    """One parsed source file. It is itself alone, as a key: what is read off it is kept."""

    name: str
    tree: ast.Module
    is_package: bool = False


def load(root: Path, packages: Iterable[str]) -> dict[str, Module]:
    """Parse every source file below `root` that belongs to one of `packages`."""
    modules = {}
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, ast.parse(path.read_text(encoding="utf-8"), str(path)), is_package)
    return modules


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _targets(module: Module, node: ast.AST) -> Iterator[str]:
    """Yield the absolute dotted names that one node imports, an ``import_module("...")`` call being an import too."""
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            parts = module.name.split(".")
            base = parts[: len(parts) - node.level + module.is_package] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            # Which of `from package import name` are modules is settled by `resolve`, which knows all modules.
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
            yield ast.unparse(node.args[0]).strip("'\"") if node.args else "?"


@cache
def imports(module: Module) -> tuple[Import, ...]:
    """Return every import of `module`, wherever it stands."""

    def visit(node: ast.AST, in_function: bool, type_checking: bool) -> Iterator[Import]:
        for target in _targets(module, node):
            yield Import(target, getattr(node, "lineno", 0), in_function, type_checking)
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = node.body if isinstance(node, ast.If) and _is_type_checking(node) else []
        for child in ast.iter_child_nodes(node):
            yield from visit(child, in_function, type_checking or child in guarded)

    return tuple(visit(module.tree, in_function=False, type_checking=False))


def resolve(target: str, modules: Mapping[str, Module]) -> str | None:
    """Return the longest prefix of `target` that is one of our modules."""
    parts = target.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in modules), None)


def edges(modules: Mapping[str, Module], *, type_checking: bool) -> dict[str, set[str]]:
    """Return which of our modules each module imports, with or without those needed by type checkers only."""
    graph: dict[str, set[str]] = {}
    for module in modules.values():
        wanted = (found.target for found in imports(module) if type_checking or not found.type_checking)
        targets = {resolve(target, modules) for target in wanted}
        graph[module.name] = {target for target in targets if target is not None and target != module.name}
    return graph


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one cycle, its first member repeated at the end, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if cycle := visit(target, [*path, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := visit(name, []))), [])


def _covers(entry: str, name: str) -> bool:
    return name == entry or ("." in entry and name.startswith(f"{entry.removesuffix('.*')}."))


def layer_of(name: str, layers: tuple[tuple[str, ...], ...]) -> int | None:
    """Return the index of the layer whose entry fits `name` best."""
    fits = [(len(entry), index) for index, layer in enumerate(layers) for entry in layer if _covers(entry, name)]
    return max(fits)[1] if fits else None


def layer_violations(graph: Mapping[str, set[str]], layers: tuple[tuple[str, ...], ...]) -> list[str]:
    """Say which modules are in no layer, and which import upwards."""
    indices = {name: layer_of(name, layers) for name in graph}
    found = [f"{name} is in no layer" for name, index in indices.items() if index is None]
    for name, targets in graph.items():
        for target in sorted(targets):
            low, high = indices[name], indices[target]
            if low is not None and high is not None and low < high:
                found.append(f"{name} imports {target}, which is {high - low} layers above it")
    return found


def local_imports(modules: Mapping[str, Module]) -> set[tuple[str, str]]:
    """Return (module, target) of every import inside a function."""
    return {(name, found.target) for name, module in modules.items() for found in imports(module) if found.in_function}


def importers(modules: Mapping[str, Module], top_level: str) -> set[str]:
    """Return the modules that import the package `top_level` or anything in it."""
    return {
        name
        for name, module in modules.items()
        if any(found.target.split(".")[0] == top_level for found in imports(module))
    }


def prints(modules: Mapping[str, Module]) -> set[str]:
    """Return the modules that call the builtin `print`."""

    def is_print(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"

    return {name for name, module in modules.items() if any(is_print(node) for node in ast.walk(module.tree))}


def undocumented(modules: Mapping[str, Module]) -> set[str]:
    """Return the modules without a docstring."""
    return {name for name, module in modules.items() if not (ast.get_docstring(module.tree) or "").strip()}


def unmatched(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Return the names that fit none of the patterns."""
    patterns = tuple(patterns)
    return {name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)}


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    """All modules of both packages."""
    loaded = load(ROOT, PACKAGES)
    assert loaded.keys() >= set(PACKAGES), "nothing found: every rule would hold"
    return loaded


def test_every_module_has_a_docstring(modules: dict[str, Module]) -> None:
    assert not undocumented(modules)


def test_imports_make_no_cycle(modules: dict[str, Module]) -> None:
    assert not find_cycle(edges(modules, type_checking=False))


def test_imports_stand_at_the_top_optional_backends_apart(modules: dict[str, Module]) -> None:
    assert local_imports(modules) == LOCAL_IMPORTS  # equal: an entry that is no longer needed goes


def test_handles_never_import_the_engine(modules: dict[str, Module]) -> None:
    assert not {name for name in importers(modules, "engine") if name.split(".")[0] == "handles"}


def rooms(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Which folder of `engine`, or module beside them, imports from which."""

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    found: dict[str, set[str]] = {}
    for name, targets in graph.items():
        found.setdefault(room(name), set()).update(map(room, targets))
    return {name: targets - {name} for name, targets in found.items()}


def test_no_import_cycle_leads_from_one_package_to_another(modules: dict[str, Module]) -> None:
    inside = {name: module for name, module in modules.items() if name.startswith("engine.")}
    assert find_cycle(rooms(edges(inside, type_checking=False))) == []


def test_a_cycle_of_packages_is_found_where_that_of_modules_is_none() -> None:
    graph = {"engine.a.x": {"engine.b.y"}, "engine.b.y": set(), "engine.b.z": {"engine.a.w"}, "engine.a.w": set()}
    assert find_cycle(graph) == []
    assert find_cycle(rooms(graph)) == ["engine.a", "engine.b", "engine.a"]


def test_a_module_imports_from_its_own_layer_or_lower_ones(modules: dict[str, Module]) -> None:
    assert not layer_violations(edges(modules, type_checking=True), LAYERS)


# ---------------------------------------------------------------------------------------------------------------------
# The figure of docs/architecture.md

ARROW = "▼"
UNDRAWN = frozenset({"engine", "engine.__main__", "engine.cli", "handles"})
"""Modules that the figure leaves out: the packages themselves, and the command line."""


def figure_of(page: str) -> str:
    """Return the first figure of a page."""
    return page.partition("```text\n")[2].partition("```")[0]


def drawn_rows(figure: str) -> list[set[str]]:
    """Return the packages (`name/`) and modules (`name.py`) of each numbered row; an arrow has to lead to each row."""
    found: list[set[str]] = []
    arrow = False
    for line in figure.splitlines():
        if re.match(r"  \d+  ", line):
            assert line.split()[0] == str(len(found) + 1), f"rows are numbered in order: {line}"
            assert arrow, f"no arrow leads to the row: {line}"
            found.append(set())
            arrow = False
        arrow = arrow or ARROW in line
        if found:
            names = re.findall(r"(?<![\w.])(\w+)(?:/|\.py)(?!\w)", line)
            assert not set(names) & set[str]().union(*found), f"drawn twice: {line}"
            found[-1].update(names)
    return found


def figure_faults(figure: str, graph: Mapping[str, set[str]], known: Iterable[str]) -> list[str]:
    """Say what is wrong with a figure: rooms left out or unknown, imports upwards, arrows without an import."""
    levels = {name: index for index, row in enumerate(drawn_rows(figure)) for name in row}

    def level(room: str) -> int | None:
        return levels.get("handles" if room.split(".")[0] == "handles" else room.removeprefix("engine."))

    wanted = {room for room in graph if room not in UNDRAWN}
    found = [f"{room} is not drawn" for room in sorted(wanted) if level(room) is None]
    found += [f"{name} is drawn, and is no package" for name in sorted(levels) if name not in known]
    steps = set()
    for room in sorted(wanted):
        for target in sorted(graph[room] - UNDRAWN):
            begin, end = level(room), level(target)
            if begin is not None and end is not None:
                steps.add((begin, end))
                if begin > end:
                    found.append(f"{room} imports {target}, which is drawn above it")
    last = max(levels.values(), default=0)
    found += [
        f"no import goes from row {row + 1} to row {row + 2}" for row in range(last) if (row, row + 1) not in steps
    ]
    return found


def test_the_figure_is_true_and_has_every_package(modules: dict[str, Module]) -> None:
    figure = figure_of((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    layers = {entry.removesuffix(".*").removeprefix("engine.") for layer in LAYERS for entry in layer}
    assert figure_faults(figure, rooms(edges(modules, type_checking=False)), layers | {"handles"}) == []


def test_what_is_wrong_with_a_figure_is_said() -> None:
    figure = "   ▼\n  1  a/  rows · b.py\n   ▼\n  2  c/  more\n   d/ and e/\n   ▼\n  3  handles/\n"
    assert drawn_rows(figure) == [{"a", "b"}, {"c", "d", "e"}, {"handles"}]
    graph = {
        "engine.a": {"engine.c", "engine.b"},
        "engine.b": set[str](),
        "engine.c": {"handles.cell"},
        "engine.d": {"engine.a"},
        "engine.f": set(),
        "handles.cell": set(),
    }
    assert figure_faults(figure, graph, {"a", "b", "c", "d", "handles"}) == [
        "engine.f is not drawn",
        "e is drawn, and is no package",
        "engine.d imports engine.a, which is drawn above it",
    ]
    del graph["engine.c"]
    assert "no import goes from row 2 to row 3" in figure_faults(figure, graph, "abcdef")
    with pytest.raises(AssertionError, match="no arrow leads to the row"):
        drawn_rows("  1  a/\n")
    with pytest.raises(AssertionError, match="drawn twice"):
        drawn_rows("   ▼\n  1  a/\n   ▼\n  2  a/\n")


def test_the_tests_mirror_the_packages() -> None:
    """A folder of tests is named after a package, apart from those of what goes through several of them."""
    packages = {"handles", *(each.name for each in (ROOT / "engine").iterdir() if (each / "__init__.py").exists())}
    folders = {each.parent.relative_to(ROOT / "tests").parts[0] for each in (ROOT / "tests").glob("*/**/test_*.py")}
    assert folders - packages == {"cluster", "service"}


def test_few_modules_know_asyncio(modules: dict[str, Module]) -> None:
    assert not unmatched(importers(modules, "asyncio"), ASYNCIO_MODULES)


def test_only_the_command_line_prints(modules: dict[str, Module]) -> None:
    assert not unmatched(prints(modules), PRINTING_MODULES)


@pytest.mark.parametrize(("package", "names"), [(engine, ENGINE_NAMES), (handles, HANDLES_NAMES)], ids=PACKAGES)
def test_public_names_are_pinned(package: ModuleType, names: list[str]) -> None:
    assert names == sorted(names)
    assert sorted(package.__all__) == names
    assert not [name for name in names if not hasattr(package, name)]


def parse(**sources: str) -> dict[str, Module]:
    """Parse synthetic modules; ``__`` in a name stands for a dot, and a module with children is a package."""
    names = {key.replace("__", "."): source for key, source in sources.items()}
    packages = {name.rpartition(".")[0] for name in names}
    return {name: Module(name, ast.parse(source), name in packages) for name, source in names.items()}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("import a.b.c", "a.b.c"),
        ("from a.b import c", "a.b.c"),
        ("from a.b.c import name", "a.b.c"),
        ("from .c import name", "a.b.c"),
        ("from . import c", "a.b.c"),
        ("from .. import top", "a.top"),
        ("class K:\n    from a import top", "a.top"),
        ("import a.b.other as c", "a.b"),
        ("import importlib\nimportlib.import_module('a.top')", "a.top"),
        ("import numpy", None),
    ],
)
def test_an_import_is_resolved_to_the_module_it_names(source: str, target: str | None) -> None:
    modules = parse(a="", a__top="", a__b="", a__b__c="", a__b__user=source)
    assert edges(modules, type_checking=False)["a.b.user"] == ({target} if target else set())


def test_a_relative_import_in_a_package_starts_at_the_package() -> None:
    assert edges(parse(a="from .b import name", a__b=""), type_checking=False)["a"] == {"a.b"}


def test_a_cycle_is_found() -> None:
    modules = parse(a="", a__x="from a import y", a__y="from a.z import name", a__z="import a.x")
    assert find_cycle(edges(modules, type_checking=False)) == ["a.x", "a.y", "a.z", "a.x"]


def test_an_import_for_type_checkers_makes_no_cycle_but_counts_for_layers() -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import y"
    modules = parse(a="", a__x=guarded, a__y="import a.x")
    assert not find_cycle(edges(modules, type_checking=False))
    assert layer_violations(edges(modules, type_checking=True), (("a",), ("a.x",), ("a.y",)))


def test_the_else_branch_of_type_checking_is_an_ordinary_import() -> None:
    guarded = "if TYPE_CHECKING:\n    pass\nelse:\n    import a.y"
    assert edges(parse(a="", a__x=guarded, a__y=""), type_checking=False)["a.x"] == {"a.y"}


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import cupy",
        "async def f():\n    if True:\n        from cupy import ndarray",
        "class K:\n    def f(self):\n        import cupy.cuda",
        "from importlib import import_module\nf = lambda: import_module('cupy')",
    ],
)
def test_an_import_inside_a_function_is_found(source: str) -> None:
    assert {target.split(".")[0] for _, target in local_imports(parse(m=source))} == {"cupy"}


def test_an_upward_import_is_found() -> None:
    layers = (("low", "low.*"), ("high.part",), ("high",))
    modules = parse(low="", low__x="import high.part", high="import high.part", high__part="import low.x")
    assert layer_violations(edges(modules, type_checking=True), layers) == [
        "low.x imports high.part, which is 1 layers above it"
    ]


def test_a_module_in_no_layer_is_found() -> None:
    assert layer_violations({"high": set(), "high.new": set()}, (("high",),)) == ["high.new is in no layer"]


def test_the_longest_entry_decides_the_layer() -> None:
    layers = (("engine.observe.events",), ("engine.observe",), ("engine",))
    assert [layer_of(name, layers) for name in ("engine.observe.events", "engine.observe.x", "engine")] == [0, 1, 2]


def test_an_importer_is_found_in_every_form() -> None:
    modules = parse(
        a="import asyncio", b="from asyncio import Queue", c="import asyncio.queues", d="def f(): import asyncio", e=""
    )
    assert importers(modules, "asyncio") == {"a", "b", "c", "d"}
    assert unmatched({"a", "b.c"}, ("b.*",)) == {"a"}


def test_a_print_and_a_missing_docstring_are_found() -> None:
    modules = parse(a="def f():\n    print(1)", b="'''Has one.'''\nx.print(1)")
    assert prints(modules) == {"a"}
    assert undocumented(modules) == {"a"}
