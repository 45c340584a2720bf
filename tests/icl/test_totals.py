"""Totals, intervals, repeats and comparisons of runs, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    Examples,
    FakeOpenAIServer,
    PromptBuilder,
    compare,
    evaluate,
)
from fungi_hf.icl.llm import Limits
from fungi_hf.icl.results import RowResult
from fungi_hf.icl.run import EvalResult
from tests.icl.chat_kit import LABELS, NAMES, task
from tests.icl.evaluate_kit import run


def test_every_total_is_the_count_done_by_hand():
    train = Examples(contents=["aa x", "aa y", "bb x", "bb y"], targets=[0, 0, 1, 1])
    test = Examples(
        contents=["aa q", "bb q", "aa r", "bb r"], targets=[0, 1, 1, 2], ids=list("abcd")
    )
    selector = DemoSelector("bm25", k=2).fit(train)
    with FakeOpenAIServer(["card arrival", "nonsense", "top up", "top up"]) as server:
        llm = ChatLLM("fake", base_url=server.url, output="text", limits=Limits(concurrency=1))
        with pytest.warns(UserWarning, match="1 queries have a gold label .* 'exchange rate'"):
            result = evaluate(selector, PromptBuilder(LABELS), llm, test)
    assert [row.id for row in result.rows] == ["a", "b", "c", "d"]
    assert [row.status for row in result.rows] == ["ok", "invalid", "ok", "ok"]
    assert [row.correct for row in result.rows] == [True, False, True, False]
    assert (result.accuracy, result.accuracy_answered) == (0.5, 2 / 3)
    assert [row.covered for row in result.rows] == [True, True, False, False]
    assert (result.coverage, result.accuracy_covered, result.accuracy_uncovered) == (0.5, 0.5, 0.5)
    assert [row.vote for row in result.rows] == [NAMES[0], NAMES[1], NAMES[0], NAMES[1]]
    assert (result.vote_accuracy, result.agreement) == (0.5, 0.5)
    assert result.per_label == {
        "card arrival": (1.0, 1), "top up": (0.5, 2), "exchange rate": (0.0, 1),
    }  # fmt: skip
    assert result.macro_accuracy == 0.5
    assert (result.unreachable, result.mean_kept) == (1, 2.0)
    assert "INCOMPLETE" not in str(result)


def test_the_interval_is_wilsons():
    rows = tuple(
        RowResult(id=i, gold="a", status="ok", label="a" if i < 2772 else "b") for i in range(3080)
    )
    result = EvalResult(all_rows=rows, n_rows=3080)
    assert result.interval == pytest.approx((0.8889, 0.9101), abs=5e-5)
    assert EvalResult(all_rows=(), n_rows=4).interval == (0.0, 1.0)


def test_repeats_take_new_seeds_and_are_reported_together():
    train, test = task()
    selector = DemoSelector("random", k=3, seed=5).fit(train)
    with FakeOpenAIServer() as server:
        llm = ChatLLM("fake", base_url=server.url)
        three = evaluate(selector, PromptBuilder(LABELS), llm, test, repeats=3)
        singles = [
            evaluate(
                DemoSelector("random", k=3, seed=s).fit(train), PromptBuilder(LABELS), llm, test
            )
            for s in (5, 6, 7)
        ]
    assert three.by_repeat == tuple(single.accuracy for single in singles)
    assert three.accuracy == pytest.approx(np.mean(three.by_repeat))
    assert three.rows == singles[0].rows
    low, high = three.interval
    assert low < three.accuracy < high
    assert f"from {min(three.by_repeat):.4f} to {max(three.by_repeat):.4f}" in str(three)


def test_a_repeated_prompt_that_stays_the_same_is_asked_anew(tmp_path):
    with FakeOpenAIServer() as server:
        result = run(server, repeats=2, cache=tmp_path / "a.sqlite", out=tmp_path / "run")
        assert (result.requests, len(result.all_rows), len(result.rows)) == (40, 40, 20)
        assert result.complete
        again = run(server, repeats=2, cache=tmp_path / "a.sqlite", out=tmp_path / "run")
        assert (again.requests, again.all_rows) == (0, result.all_rows)


def test_results_can_be_compared_row_by_row(tmp_path):
    train, test = task()
    with FakeOpenAIServer() as server:
        llm = ChatLLM("fake", base_url=server.url)
        good = run(server, out=tmp_path / "good")
        builder = PromptBuilder(LABELS)
        bad = evaluate(DemoSelector("random", k=1).fit(train), builder, llm, test)
    difference = compare(good, bad)
    assert difference.delta == pytest.approx(good.accuracy - bad.accuracy)
    assert compare(EvalResult.load(tmp_path / "good"), bad) == difference
