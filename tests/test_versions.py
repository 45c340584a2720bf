"""The pinned environments are what the package says that it supports."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SEARCHED = ("transformers", "sentence-transformers", "datasets", "huggingface-hub")


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text(encoding="utf-8").split()
    pairs = (line.split("==") for line in lines)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def bounds() -> dict[str, Version]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    found = {}
    for line in (*project["dependencies"], *itertools.chain(*extras)):
        wanted = Requirement(line)
        for specifier in wanted.specifier:
            if specifier.operator == ">=":
                found[canonicalize_name(wanted.name)] = Version(specifier.version)
    return found


@pytest.mark.parametrize("name", SEARCHED)
def test_the_lower_bound_is_what_the_lowest_environment_holds(name: str) -> None:
    lowest, newest = pins("constraints-lowest.txt"), pins("constraints.txt")
    assert lowest[name] == bounds()[name]
    assert lowest[name] < newest[name]


def test_both_environments_satisfy_every_bound() -> None:
    for file in ("constraints-lowest.txt", "constraints.txt"):
        pinned = pins(file)
        for name, bound in bounds().items():
            assert name not in pinned or pinned[name] >= bound, (file, name)
        assert pinned["torch"] == Version("2.13.0")


def test_the_readme_names_both_ends() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lowest, newest = pins("constraints-lowest.txt"), pins("constraints.txt")
    for name in SEARCHED:
        shown = name.replace("huggingface-hub", "huggingface_hub")
        assert f"{shown} {lowest[name]} to {newest[name]}" in readme
