"""What runs in a process of its own, whose Hub is the loopback one: HF_ENDPOINT is read at import.

python -m tests.recipes.paper_child CASES OUT
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.encoders.vision.pictures import decode
from recipes.paper.__main__ import main
from recipes.paper.access import Places, find
from recipes.paper.loading import load
from recipes.paper.registry import SETS

if TYPE_CHECKING:
    from recipes.paper.registry import DataSet


def facts(one: DataSet) -> dict[str, Any]:
    """Give what was read of a set."""
    place = find(one, Places(hub_only=True))
    loaded = load(one, place)
    found = {
        "place": place.record(),
        "megabytes": place.megabytes,
        "rows": [len(loaded.train), len(loaded.test)],
        "names": loaded.names,
        "n_classes": loaded.n_classes,
        "labels": [side.labels.tolist() for side in (loaded.train, loaded.test)],
        "inputs": [_kind(list(side.inputs)[-1], one) for side in (loaded.train, loaded.test)],
    }
    if one.task == "segmentation":
        found["masks"] = [np.asarray(mask).tolist() for mask in list(loaded.test.masks)[:2]]
    if loaded.truth is not None:
        found["easy"] = [list(own) for own in loaded.truth.easy[:2]]
    return found


def _kind(given: Any, one: DataSet) -> Any:
    if one.modality == "text":
        return given
    if one.modality == "audio":
        return given["bytes"][:4].decode()
    return list(decode(given).pixels().shape)


def called(words: list[str]) -> dict[str, Any]:
    """Give the status of the command and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def run() -> None:
    """Read the named sets of the registry, then run the commands."""
    warnings.simplefilter("ignore")  # tiny banks, empty filters
    cases = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    os.environ["HF_TOKEN"] = cases["token"]  # some sets are gated
    sets = {name: facts(SETS[name]) for name in cases["sets"]}
    del os.environ["HF_TOKEN"]
    found = {
        "sets": sets,
        "commands": {name: called(words) for name, words in cases["commands"].items()},
    }
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    run()
