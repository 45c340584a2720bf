"""The import table, the file-length cap, and the names and habits that the package does without."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fungi_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
BASE = {"errors", "types", "checks", "seeding", "devices"}
# One row a folder, or a file of the first level; a row names what it may import. Rows go down.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "checks": {"errors"},
    "seeding": {"errors"},
    "devices": set(),
    "statistics": BASE,
    "tables": BASE,
    "storage": BASE,
    "specs": BASE,
    "config": BASE | {"specs", "storage"},
    "features": BASE | {"tables"},
    "dense": BASE | {"features"},
    "views": BASE,
    "objectives": BASE | {"specs"},
    "gradients": BASE | {"specs"},
    "encoders": BASE | {"config", "gradients", "storage", "views"},
    "neighbors": BASE | {"storage"},
    "extraction": BASE
    | {
        "specs",
        "config",
        "features",
        "dense",
        "views",
        "objectives",
        "gradients",
        "encoders",
        "storage",
    },
}
ALLOWED["shards"] = BASE | {"tables", "features", "storage"}
CORE = set(ALLOWED)
ALLOWED |= {
    "tuning": CORE,
    "hub": CORE | {"tuning"},
    "extractor": CORE | {"tuning", "hub"},
    "evaluation": CORE | {"tuning", "extractor"},
    "icl": BASE | {"statistics", "tables", "neighbors", "storage"},
    "integrations": CORE | {"tuning", "hub", "extractor", "icl"},
    "classifier": CORE | {"tuning", "hub", "extractor", "evaluation"},
    "testing": CORE,
    "__init__": CORE | {"extractor", "integrations", "classifier"},
}
ALLOWED["cli"] = set(ALLOWED)
# One line each: paths of modules that moved; they go with the next release.
MOVED = {"late", "sketches", "variants"}
ALLOWED |= dict.fromkeys(MOVED, CORE)
BANNED = {"utils", "util", "helpers", "misc", "common", "tools"}
LINE_CAP = 400


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(file): file for file in FILES}


def imports(file: Path) -> set[str]:
    """Give every module of the package that a file imports, also for types or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module_of(file)} has a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix("fungi_hf.") in MODULES else node.module for n in whole]
        for name in names:
            if name == "fungi_hf":
                found.add("__init__")
            elif name.startswith("fungi_hf."):
                found.add(name.removeprefix("fungi_hf."))
    return found - {module_of(file)}


GRAPH = {module: imports(file) for module, file in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Give the groups of two or more that reach each other (Kosaraju)."""
    order: list[str] = []
    seen: set[str] = set()

    def walk(start: str, edges: dict[str, set[str]], out: list[str]) -> None:
        stack = [(start, iter(sorted(edges.get(start, ()))))]
        seen.add(start)
        while stack:
            node, rest = stack[-1]
            follower = next((name for name in rest if name not in seen), None)
            if follower is None:
                stack.pop()
                out.append(node)
            else:
                seen.add(follower)
                stack.append((follower, iter(sorted(edges.get(follower, ())))))

    for node in sorted(graph):
        if node not in seen:
            walk(node, graph, order)
    back: dict[str, set[str]] = {}
    for node, targets in graph.items():
        for target in targets:
            back.setdefault(target, set()).add(node)
    seen.clear()
    found = []
    for node in reversed(order):
        if node not in seen:
            walk(node, back, group := [])
            found.append(sorted(group))
    return [group for group in found if len(group) > 1]


def test_the_search_for_circles_finds_them() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_file_and_no_folder_is_in_an_import_circle() -> None:
    assert circles(GRAPH) == []
    folders: dict[str, set[str]] = {}
    for module, targets in GRAPH.items():
        room = module.split(".")[0]
        folders.setdefault(room, set()).update({t.split(".")[0] for t in targets} - {room})
    assert circles(folders) == []


@pytest.mark.parametrize("room", sorted({module.split(".")[0] for module in MODULES}))
def test_imports_go_down_only(room: str) -> None:
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED what it may import"
    wrong = {
        f"{module} -> {target}"
        for module, targets in GRAPH.items()
        if module.split(".")[0] == room
        for target in targets
        if target.split(".")[0] not in ALLOWED[room] | {room}
    }
    assert not wrong


def test_the_table_itself_goes_down_only() -> None:
    assert circles({room: targets - {room} for room, targets in ALLOWED.items()}) == []


def test_objectives_and_views_know_no_modality_library() -> None:
    for folder in ("objectives", "views"):
        for file in (PACKAGE / folder).glob("*.py"):
            assert "transformers" not in file.read_text(), file


def test_config_needs_the_standard_library_only() -> None:
    names = ["config", "errors", "checks", *(n for n in MODULES if n.split(".")[0] == "specs")]
    assert len(names) > 4
    for name in names:
        tree = ast.parse(MODULES[name].read_text())
        roots = {
            (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert not roots & {"torch", "numpy", "transformers"}, name


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_files_are_short_and_have_no_asserts_prints_or_pickles(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= LINE_CAP
    assert file.stem not in BANNED
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"print in line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr[:4]) not in {("pickle", "load"), ("pickle", "dump")}
