"""The import table, the file-length cap, and the names and habits that the package does without."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fungi_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
CORE = {"errors", "types"}
BASE = CORE | {"config", "specs", "seeding"}
# What feeds the extractor; these rooms may know each other where the table below says so.
ENGINE = {"layers", "gradients", "sketches", "features", "reduction", "factors", "batching",
          "activations", "engine", "taps", "finishing", "state", "buffering", "late",
          "training"}  # fmt: skip
SOURCES = {"views", "objectives", "encoders"}
BELOW_EXTRACTOR = BASE | ENGINE | SOURCES | {"reading", "hub.store"}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(CORE, CORE),
    "seeding": CORE,
    "specs": CORE,
    "config": CORE | {"specs", "hub.configs"},
    **dict.fromkeys(ENGINE, BASE | ENGINE | {"encoders.base", "objectives.base"}),
    "views": BASE,
    "objectives": BASE,
    "encoders": BASE | ENGINE | {"views", "hub.store"},
    "hub.configs": CORE | {"hub.store", "hub.upload"},
    "hub.upload": CORE | {"hub.store"},
    "hub.store": BASE | {"reduction", "features"},
    "reading": BASE | ENGINE | SOURCES,
    "computation": BASE | ENGINE | SOURCES | {"reading"},
    "tuning": CORE,
    # `FungiExtractor.tune` asks for the tuner when it is called.
    "extractor": BELOW_EXTRACTOR
    | {"computation", "hub.sharing", "tuning", "evaluation.tuning", "neighbors.labels"},
    "neighbors": CORE | {"seeding"},
    "icl": CORE | {"neighbors", "seeding"},
    "variants": BASE | ENGINE | SOURCES | {"reading", "computation"},
    "evaluation": BASE
    | {"neighbors", "features", "reduction", "layers", "computation", "variants", "extractor"},
    "evaluation.tuning": BELOW_EXTRACTOR | {"neighbors", "extractor", "evaluation", "tuning"},
    "hub": BELOW_EXTRACTOR | {"extractor", "tuning"},
}
ANYTHING = {"integrations", "cli", "testing", "__init__", "__main__", "hub.card"}
BANNED = {"utils", "util", "helpers", "misc", "common", "tools"}
LINE_CAP = 400


def room_of(module: str) -> str:
    """`encoders.text` lives in `encoders`; a few modules have rules of their own."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in ALLOWED or name in ANYTHING:
            return name
    return parts[0]


def modules(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (
                [node.module]
                if node.module != "fungi_hf"
                else [f"fungi_hf.{alias.name}" for alias in node.names]
            )
    return [name.removeprefix("fungi_hf.") for name in found if name.startswith("fungi_hf.")]


def is_allowed(target: str, room: str) -> bool:
    allowed = ALLOWED[room] | {room}
    return any(target == name or target.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("file", FILES, ids=modules)
def test_imports_go_down_only(file: Path) -> None:
    room = room_of(modules(file))
    if room in ANYTHING:
        return
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED what it may import"
    wrong = [name for name in imports(ast.parse(file.read_text())) if not is_allowed(name, room)]
    assert not wrong, f"{modules(file)} must not import {wrong}"


def test_nothing_imports_the_top_but_the_front_door() -> None:
    for file in FILES:
        room = room_of(modules(file))
        if room not in ANYTHING:
            tree = ast.parse(file.read_text())
            wrong = [
                n for n in imports(tree) if n.split(".")[0] in ("integrations", "cli", "testing")
            ]
            assert not wrong, f"{modules(file)} imports {wrong}"


def test_objectives_and_views_know_no_modality_library() -> None:
    for folder, banned in (("objectives", "transformers"), ("views", "transformers")):
        for file in (PACKAGE / folder).glob("*.py"):
            assert banned not in file.read_text(), file


def test_config_needs_the_standard_library_only() -> None:
    for name in ("config", "specs", "errors"):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        roots = {
            (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert not roots & {"torch", "numpy", "transformers"}, name


@pytest.mark.parametrize("file", FILES, ids=modules)
def test_files_are_short_and_have_no_asserts_prints_or_pickles(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= LINE_CAP
    assert file.stem not in BANNED
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and "cli" not in file.stem
        ):
            assert node.func.id != "print", f"print in line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr[:4]) not in {("pickle", "load"), ("pickle", "dump")}
