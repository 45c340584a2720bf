"""End to end on Banking-77: the server reads the demonstrations that the selector chose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    Examples,
    FakeOpenAIServer,
    LabelSpace,
    PromptBuilder,
    evaluate,
)
from fungi_hf.icl.llm import Limits

FOLDER = Path(__file__).parents[2] / "recipes" / "data" / "banking77"


@pytest.fixture(scope="module")
def data():
    labels = LabelSpace(json.loads((FOLDER / "labels.json").read_text()))
    sides = []
    for side in ("train", "test"):
        table = pq.read_table(FOLDER / f"{side}.parquet")
        sides.append(Examples(contents=table["text"], targets=table["label"]))
    return labels, *sides


@pytest.fixture(scope="module")
def selector(data):
    return DemoSelector("bm25", k=20).fit(data[1])


def run(data, selector, queries, policy="majority", style="multiturn", output="enum"):
    with FakeOpenAIServer(policy) as server:
        llm = ChatLLM("fake", base_url=server.url, output=output, limits=Limits(concurrency=16))
        result = evaluate(selector, PromptBuilder(data[0], style=style), llm, queries)
        assert result.statuses == {"ok": len(queries)}
        assert result.usage.input_tokens == server.prompt_tokens
        assert server.max_in_flight <= 16
    return result


def labels_of(data, result):
    return data[0].ids_of([row.label for row in result.rows])


@pytest.mark.parametrize(("style", "output"), [("multiturn", "enum"), ("block", "text")])
def test_200_rows_reproduce_the_vote(data, selector, style, output):
    queries = data[2].take(np.linspace(0, 3079, 200).astype(int))
    result = run(data, selector, queries, style=style, output=output)
    assert np.array_equal(labels_of(data, result), selector.select(queries).vote("majority"))
    assert result.agreement == 1.0


def test_controls_fall_to_the_floor_on_200_rows(data):
    queries = data[2].take(np.linspace(0, 3079, 200).astype(int))
    random = DemoSelector("random", k=20).fit(data[1])
    assert run(data, random, queries).accuracy <= 0.04
    assert run(data, shuffled(data), queries).accuracy <= 0.06


def shuffled(data):
    train = data[1]
    targets = np.random.default_rng(0).permutation(np.array(train.targets))
    return DemoSelector("bm25", k=20).fit(Examples(contents=train.contents, targets=targets))


@pytest.mark.slow
@pytest.mark.parametrize("output", ["enum", "text"])
@pytest.mark.parametrize("style", ["multiturn", "block"])
def test_all_3080_rows_reproduce_the_vote(data, selector, style, output):
    result = run(data, selector, data[2], style=style, output=output)
    votes = selector.select(data[2]).vote("majority")
    assert int((labels_of(data, result) == votes).sum()) == 3080
    assert sum(row.correct for row in result.rows) == 2559
    assert sum(row.covered for row in result.rows) == 3037
    assert result.n_leaks == 7


@pytest.mark.slow
def test_the_guard_changes_nothing_here_and_ranks_vote_as_measured(data):
    kept = DemoSelector("bm25", k=20, leaks="keep", repeats="keep").fit(data[1])
    assert sum(row.correct for row in run(data, kept, data[2]).rows) == 2559
    votes = run(data, kept, data[2], policy="reciprocal_rank")
    assert sum(row.correct for row in votes.rows) == 2579


@pytest.mark.slow
def test_controls_fall_to_the_floor_on_all_rows(data):
    random = DemoSelector("random", k=20).fit(data[1])
    assert run(data, random, data[2]).accuracy <= 0.03
    permuted = run(data, shuffled(data), data[2])
    assert permuted.accuracy <= 0.05
