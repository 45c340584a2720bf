"""An adapter without its library names the extra that brings it; lm-eval's writes files alone."""

from __future__ import annotations

import importlib
import sys

import pytest

from fungi_hf.errors import InputError, OptionalDependencyError
from fungi_hf.icl import DemoSelector, Examples, LabelSpace
from fungi_hf.integrations.lm_eval import export_task


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("dspy", "dspy", "dspy"),
    ],
)
def test_a_missing_library_names_the_extra(module, library, extra, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"fungi_hf.integrations.{module}", raising=False)
    with pytest.raises(OptionalDependencyError, match=rf"pip install 'fungi-hf\[{extra}\]'"):
        importlib.import_module(f"fungi_hf.integrations.{module}")


def test_a_task_is_written_without_the_harness(tmp_path) -> None:
    pool = Examples([[1.0, 0.0], [0.0, 1.0]], ['a: "quoted"', "b"], ["yes", "no"])
    queries = Examples([[1.0, 0.2]], ["c"], ["yes"])
    demos = DemoSelector("knn", 2).fit(pool).select(queries)
    task = export_task(tmp_path / "new", "one", demos, queries, LabelSpace(["yes", "no"]))
    assert "task: one" in task.read_text()
    assert len(task.with_suffix(".jsonl").read_text().splitlines()) == 1
    bare = Examples([[1.0, 0.0], [0.0, 1.0]], ["a", "b"])
    demos = DemoSelector("knn", 1).fit(bare).select(queries)
    with pytest.raises(InputError, match="lm-eval needs a pool with targets"):
        export_task(tmp_path, "one", demos, queries, LabelSpace(["yes", "no"]))
