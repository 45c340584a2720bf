"""Whole runs whose answers are texts: scores, statuses, controls, resuming, comparing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from fungi_hf.errors import ConfigError, InputError, LLMError, RunMismatchError
from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    FakeOpenAIServer,
    FreeAnswers,
    PromptBuilder,
    aevaluate,
    evaluate,
)
from fungi_hf.icl.limits import Limits
from fungi_hf.icl.llm import LLM, Reply, RequestFailedError, Sampling
from fungi_hf.icl.results import EvalResult
from fungi_hf.icl.server.policies import FakeReply
from fungi_hf.statistics import wilson_interval
from tests.icl.chat_kit import LABELS, NAMES, task
from tests.icl.evaluate_kit import results_bytes
from tests.icl.kill_program import as_texts

TRAIN, TEST = map(as_texts, task(n_test=12))
SELECTOR = DemoSelector("bm25", k=3).fit(TRAIN)
RANDOM = DemoSelector("random", k=3, seed=4).fit(TRAIN)


class Script(LLM):
    """Says what a function of the query says."""

    name = "script"

    def __init__(self, say):
        self.say = say

    async def answer(self, prompt, labels):
        said = self.say(prompt.messages[-1]["content"])
        return said if isinstance(said, Reply) else Reply(content=said)


def run(policy="nearest", metric="f1", out=None, selector=SELECTOR, queries=TEST, **settings):
    with FakeOpenAIServer(policy) as server:
        llm = ChatLLM("fake", base_url=server.url, **settings)
        builder = PromptBuilder(FreeAnswers(metric))
        return evaluate(selector, builder, llm, queries, out=out)


def scripted(say, metric="f1", out=None, queries=TEST, **settings):
    builder = PromptBuilder(FreeAnswers(metric), **settings)
    return evaluate(SELECTOR, builder, Script(say), queries, out=out)


@pytest.mark.parametrize("style", ["multiturn", "block", "completion"])
@pytest.mark.parametrize("output", ["enum", "text", "json"])
def test_the_server_gives_the_nearest_answer(style, output, tmp_path):
    builder = PromptBuilder(FreeAnswers("exact"), style=style)
    with FakeOpenAIServer("nearest") as server:
        llm = ChatLLM("fake", base_url=server.url, output=output)
        result = evaluate(RANDOM, builder, llm, TEST, out=tmp_path / "run")
    nearest = RANDOM.select(TEST).indices[:, 0]
    pairs = zip(nearest, TEST.targets, strict=True)
    expected = [TRAIN.targets[row][0] in gold for row, gold in pairs]
    assert [row.score for row in result.rows] == expected
    assert result.score == result.accuracy == result.vote_accuracy == np.mean(expected)
    assert result.agreement == 1
    assert [row.vote for row in result.rows] == [TRAIN.targets[row][0] for row in nearest]
    assert EvalResult.load(tmp_path / "run").all_rows == result.all_rows


def test_results_hold_scores(tmp_path):
    result = scripted(lambda text: f"<think>?</think>Answer: card {text.split()[-1]}", out=tmp_path)
    first = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert first["gold"] == ["the card arrival", "card arrival"]
    assert first["label"] == "card 0"
    assert first["answer"] == "<think>?</think>Answer: card 0"
    assert (first["score"], first["vote_score"], first["correct"]) == (0.5, 1.0, False)
    # "card" is one of two words in two of the four answers.
    assert result.score == pytest.approx(0.25)
    low, high = result.interval
    assert 0 < low < 0.25 < high < 0.5
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["metric"], summary["score"]) == ("f1", 0.25)
    assert summary["vote_score"] == 1
    assert not [name for name in summary if "accuracy" in name]
    assert str(result).startswith("f1              0.2500  95 % [0.")
    assert "nearest alone   1.0000  agreement 0.0000" in str(result)


def test_shares_have_wilson_intervals():
    result = run(metric="exact", selector=RANDOM)
    assert {row.score for row in result.rows} == {0.0, 1.0}
    assert result.interval == wilson_interval(round(12 * result.score), 12)


def test_what_is_no_answer_scores_nothing():
    replies = {
        "0": Reply(refusal="no"),
        "1": Reply(content="top", finish_reason="length"),
        "2": Reply(content=" "),
        "3": Reply(content="<think>lost card</think>"),
        "4": Reply(content="<think>card arrival"),
        "5": Reply(finish_reason="overflow"),
    }

    def say(text):
        if text.endswith(" 6"):
            raise RequestFailedError("no answer", 1)
        return replies.get(text.split()[-1], "card arrival")

    result = scripted(say)
    statuses = [row.status for row in result.rows[:7]]
    assert statuses == ["refused", "length", "empty", "empty", "length", "overflow", "failed"]
    assert [row.score for row in result.rows[:7]] == [0.0] * 7
    assert all(row.label is None and row.vote_score == 1 for row in result.rows[:7])
    assert result.score == pytest.approx(sum(row.score for row in result.rows) / 12)
    assert not any(row.agrees for row in result.rows[:7])


def test_a_query_over_the_budget_scores_nothing():
    settings = {"max_input_tokens": 5, "count_tokens": len, "on_overflow": "skip"}
    result = scripted(lambda _: "top up", **settings)
    assert result.statuses == {"overflow": 12}
    assert result.score == result.vote_accuracy == result.coverage == 0


def test_controls_fall_to_the_floor():
    order = np.random.default_rng(0).permutation(len(TRAIN))
    shuffled = replace(TRAIN, targets=tuple(TRAIN.targets[row] for row in order))
    results = {
        "retrieved": run(metric="normalised"),
        "none": run(metric="normalised", selector=None),
        "random": run(metric="normalised", selector=RANDOM),
        "shuffled": run(metric="normalised", selector=DemoSelector("bm25", k=3).fit(shuffled)),
    }
    scores = {name: result.score for name, result in results.items()}
    assert scores["retrieved"] == 1
    assert scores["none"] == 0
    assert max(scores["random"], scores["shuffled"]) <= 0.5
    assert results["none"].coverage == results["none"].vote_accuracy == 0
    for result in results.values():
        assert result.score == result.vote_accuracy
        # The nearest answer cannot be right where no answer shown is.
        assert result.score <= result.coverage


def test_coverage_counts_shown_answers():
    result = run(selector=DemoSelector("random", k=3, seed=4).fit(TRAIN))
    demos = DemoSelector("random", k=3, seed=4).fit(TRAIN).select(TEST)
    assert [row.covered for row in result.rows] == demos.covered(
        TEST.targets, FreeAnswers()
    ).tolist()
    assert 0 < result.coverage < 1
    gone = replace(TRAIN, targets=tuple("another" for _ in TRAIN.targets))
    missing = run(selector=DemoSelector("bm25", k=3).fit(gone))
    assert (missing.coverage, missing.unreachable) == (0, 12)


def test_repetitions_are_resampled_together():
    with FakeOpenAIServer("nearest") as server:
        llm = ChatLLM("fake", base_url=server.url)
        result = evaluate(RANDOM, PromptBuilder(FreeAnswers("f1")), llm, TEST, repeats=3)
    assert len(result.all_rows) == 36
    assert result.score == pytest.approx(np.mean(result.by_repeat))
    low, high = result.interval
    assert low < result.score < high


def test_a_folder_belongs_to_a_metric_and_a_cache_does_not(tmp_path):
    with FakeOpenAIServer("nearest") as server:

        def ask(metric, out):
            llm = ChatLLM("fake", base_url=server.url, cache=tmp_path / "answers.sqlite")
            builder = PromptBuilder(FreeAnswers(metric))
            try:
                return evaluate(SELECTOR, builder, llm, TEST, out=tmp_path / out)
            finally:
                llm.close()

        assert ask("f1", "a").requests == 12
        assert ask("f1", "a").requests == 0
        with pytest.raises(RunMismatchError, match=r'metric \("f1" there, "exact" here\)'):
            ask("exact", "a")
        exact = ask("exact", "b")
        assert exact.requests == 0
    again = EvalResult.load(tmp_path / "a").rescored(FreeAnswers("exact"))
    assert again.all_rows == exact.all_rows
    assert again.metric == "exact"
    with pytest.raises(InputError, match="labels"):
        EvalResult(all_rows=(), n_rows=1).rescored(FreeAnswers())


def test_an_own_metric_that_fails_stops_the_run_and_can_be_mended(tmp_path):
    mended = False

    def length(answer, targets):
        if answer.endswith("7") and not mended:
            raise KeyError("seven")
        return min(1.0, len(answer) / 100)

    def say(text):
        return text.split()[-1]

    with pytest.raises(KeyError) as caught:
        scripted(say, length, tmp_path)
    assert caught.value.__notes__ == ["in metric 'length', of the answer '7'"]
    assert 0 < len(EvalResult.load(tmp_path).rows) < 12
    mended = True
    result = scripted(say, length, tmp_path)
    assert result.metric == "length"
    assert [row.score for row in result.rows] == [0.01] * 10 + [0.02] * 2
    assert results_bytes(tmp_path).count(b'"score":0.01') == 10


def test_a_metric_that_cannot_work_asks_nothing():
    def percent(answer, targets):
        return 100.0

    asked = []
    with pytest.raises(InputError, match="'percent' gave 100"):
        scripted(asked.append, percent)
    assert asked == []


def test_dry_runs_and_running_loops():
    builder, llm = PromptBuilder(FreeAnswers("f1")), Script(lambda _: "top up")
    dry = evaluate(SELECTOR, builder, llm, TEST, dry_run=True)
    assert (dry.rows, dry.requests, dry.coverage) == (12, 12, 1.0)
    blind = replace(TEST, targets=None)
    assert evaluate(SELECTOR, builder, llm, blind, dry_run=True).coverage is None
    there = asyncio.run(aevaluate(SELECTOR, builder, llm, TEST))
    assert there.all_rows == evaluate(SELECTOR, builder, llm, TEST).all_rows


def test_scores_of_labels_are_refused():
    builder = PromptBuilder(FreeAnswers())
    with pytest.raises(ConfigError, match="top_logprobs gives scores of labels"):
        evaluate(SELECTOR, builder, ChatLLM("m", sampling=Sampling(top_logprobs=5)), TEST)
    chooser = Script(str)
    chooser.scores_labels = True
    with pytest.raises(ConfigError, match="script chooses among labels"):
        evaluate(SELECTOR, builder, chooser, TEST)


def test_an_empty_answer_is_sent_back():
    asked = []

    def policy(body):
        asked.append(body["messages"][-1]["content"])
        return FakeReply(content="top up" if "empty" in asked[-1] else "<think>hm</think>")

    result = run(policy, queries=TEST.take([1]), limits=Limits(repair=1))
    assert asked[1] == "The answer is empty. Write the answer alone."
    assert result.rows[0].score == 1


def test_a_run_without_answers_stops():
    with pytest.raises(LLMError, match="none of the first 2 rows gave an answer"):
        run("empty", limits=Limits(stop_after=1, concurrency=1))


def test_labels_have_no_scores():
    train, test = task(n_test=4)
    selector = DemoSelector("bm25", k=3).fit(train)
    result = evaluate(selector, PromptBuilder(LABELS), Script(lambda _: NAMES[0]), test)
    assert result.metric is None
    assert not {"score", "vote_score"} & result.rows[0].to_dict().keys()
    assert "metric" not in result.config
    assert result.score == result.accuracy == 0.25
