"""A task whose answers are texts: targets, prompts, reading, own metrics, wrong input."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungi_hf.errors import ConfigError, InputError, InputTypeError, LabelError
from fungi_hf.icl import DemoSelector, Examples, FreeAnswers, LabelSpace, LocalLLM, PromptBuilder
from fungi_hf.icl.demos import Demonstration
from fungi_hf.icl.peeling import plain
from fungi_hf.icl.sources import load_examples
from tests.icl.local_kit import tiny_model, tiny_tokenizer

TASK = FreeAnswers()


def demo(row, text, target, rank):
    return Demonstration(row=row, rank=rank, score=0.5, content=text, target=target)


DEMOS = (demo(7, "two and two", "four", 1), demo(3, "one and one", ("2", "two"), 0))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_files_hold_one_or_several_texts(suffix, tmp_path):
    rows = [
        {"question": "a", "answers": ["x", "y"]},
        {"question": "b", "answers": ["z"]},
    ]
    path = tmp_path / f"qa.{suffix}"
    if suffix == "jsonl":
        rows.append({"question": "c", "answers": "w"})
        rows.append({"question": "d", "answers": {"text": ["v"], "answer_start": [3]}})
        rows.append({"question": "e", "answers": 42})
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    examples = load_examples(path, column="question", label="answers")
    golds = TASK.golds(examples.targets)
    assert golds[:2] == [("x", "y"), ("z",)]
    assert golds[2:] in ([], [("w",), ("v",), ("42",)])


def test_a_csv_holds_a_text_a_row(tmp_path):
    (tmp_path / "qa.csv").write_text('question,answer\na,"one, two"\nb,3.50\n')
    examples = load_examples(tmp_path / "qa.csv", column="question", label="answer")
    assert TASK.golds(examples.targets) == [("one, two",), ("3.50",)]


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([[]], LabelError, r"targets\[0\] is an empty list; leave out rows"),
        ([["a", 1]], InputTypeError, r"targets\[0\] is list with int"),
        ([None], LabelError, "1 missing labels"),
        (["a", " "], LabelError, r"targets\[1\] has a blank text"),
        (["a", 0.5], InputTypeError, r"targets\[1\] is float: 0\.5; an answer is a text"),
        ([True], InputTypeError, r"targets\[0\] is bool"),
    ],
)
def test_targets_that_are_no_answers(targets, error, message):
    with pytest.raises(error, match=message):
        TASK.golds(Examples(contents=["t"] * len(targets), targets=targets).targets)


def test_arrays_of_texts_are_accepted_texts():
    examples = Examples(contents=["t"], targets=[np.array(["a", "b"])])
    assert examples.targets == (("a", "b"),)
    assert examples.take([0]).targets == (("a", "b"),)


def test_labels_are_no_accepted_texts():
    with pytest.raises(LabelError, match=r"accepted texts.*FreeAnswers.*\(row 1\)"):
        LabelSpace(["a", "b"]).golds(["a", ("a", "b")])


def test_prompts_show_the_first_text():
    prompt = PromptBuilder(TASK).build("three and three", DEMOS)
    assert [(m["role"], m["content"]) for m in prompt.messages] == [
        ("system", "Give the answer to the text. Write the answer alone, without an explanation."),
        ("user", "two and two"),
        ("assistant", "four"),
        ("user", "one and one"),
        ("assistant", "2"),
        ("user", "three and three"),
    ]
    assert prompt.kept == (7, 3)


def test_lines_are_called_answers():
    builder = PromptBuilder(TASK, style="completion", instruction="Add.")
    assert builder.build("three and three", DEMOS).text == (
        'Add.\n\nText: "two and two"\nAnswer: four\n\nText: "one and one"\nAnswer: 2\n\n'
        'Text: "three and three"\nAnswer:'
    )
    lines = (demo(0, "poem", "first\nsecond", 0),)
    assert 'Answer: "first\\nsecond"\n' in builder.build("q", lines).text
    json_prompt = builder.build("q", DEMOS, output="json").text
    assert 'Write the answer as a JSON object: {"answer": "<the answer>"}' in json_prompt
    assert 'Answer: {"answer": "four"}' in json_prompt


def test_a_budget_keeps_the_nearest():
    builder = PromptBuilder(TASK, count_tokens=lambda text: len(text.split()), max_input_tokens=36)
    prompt = builder.build("three and three", DEMOS)
    assert prompt.kept == (3,)
    assert [drop.row for drop in prompt.dropped] == [7]
    assert "[assistant]\n2\n" in prompt.preview()


def test_the_prompt_knows_no_metric():
    described = [PromptBuilder(FreeAnswers(metric)).describe() for metric in ("f1", "exact")]
    assert described[0] == described[1]
    assert described[0]["answers"] == "text"
    assert "labels" not in described[0]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Paris", "Paris"),
        ("  Paris.\n", "Paris."),
        ("<think>Rome?\nAnswer: Rome</think>\n\nParis", "Paris"),
        ("<think>Rome?</think>", ""),
        ("[THINK]x[/THINK]Answer: **Paris**", "Paris"),
        ("Answer: Paris", "Paris"),
        ("**Final answer:** Paris", "Paris"),
        ("The answer is Paris", "Paris"),
        ("It lies on the Seine.\nSo:\n\nAnswer: Paris", "Paris"),
        ('"Paris"', "Paris"),
        ("“Paris”", "Paris"),
        ("```\nParis\n```", "Paris"),
        ('{"answer": "Paris"}', "Paris"),
        ('```json\n{"answer": "Paris"}\n```', "Paris"),
        ('"first\\nsecond"', "first\nsecond"),
        ('Paris\n\nText: "Where is Rome?"\nAnswer: Italy', "Paris"),
        ("first line\nsecond line", "first line\nsecond line"),
        ("[1, 2]", "[1, 2]"),
        ("(a) or (b)", "(a) or (b)"),
        ('"a" and "b"', '"a" and "b"'),
        ('{"answer": 1.50}', "1.50"),
        ('{"answer": -7, "sure": true}', "-7"),
        ('{"answer": ""}', ""),
        ('""', ""),
        ('{"answer": null}', '{"answer": null}'),
        ('I looked it up: {"answer": "Paris"}', "Paris"),
        ('{"answer": {"city": "Paris"}}', '{"answer": {"city": "Paris"}}'),
        ('{"city": "Paris"}', '{"city": "Paris"}'),
        ("Answer:", "Answer:"),
        ("", ""),
    ],
)
def test_what_stands_around_an_answer_is_taken_off(said, read):
    assert plain(said) == read
    parsed = TASK.parse(said)
    assert (parsed.status, parsed.text) == (("ok", read) if read else ("empty", None))


PIECES = [
    "Answer: ", "Text: ", "\n", '"', "'", "**", "*", "<think>", "</think>", "x", "y z", "- ",
    '{"answer": "y"}', "```", "json\n", "The answer is ", " ", "\\n",
]  # fmt: skip


@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_what_was_read_is_read_again(said):
    read = plain(said)
    assert plain(read) == read
    assert read == read.strip()


def test_nothing_is_empty_and_bytes_are_refused():
    assert TASK.parse(None).status == "empty"
    with pytest.raises(InputTypeError, match="answer is bytes"):
        TASK.parse(b"x")


def test_accepted_texts_may_have_quotes_and_lead_ins():
    strict = FreeAnswers("exact")
    for text in ('"Hamlet"', "Answer: yes", "[1]", "**bold**"):
        assert strict.score(plain(text), (text,)) == 1


def share_of_letters(answer, targets):
    return max(len({*answer} & {*one}) / len({*one}) for one in targets)


def test_an_own_metric_has_a_name_and_a_range():
    own = FreeAnswers(share_of_letters)
    assert own.metric_name == "share_of_letters"
    assert own.score("ab", ("abcd", "xy")) == 0.5
    assert FreeAnswers(lambda a, t: a in t, name="is in").score("a", ("a", "b")) == 1
    assert FreeAnswers(lambda *_: np.float32(0.25), name="quarter").score("a", ("a",)) == 0.25
    percent = FreeAnswers(lambda *_: 37.5, name="percent")
    with pytest.raises(InputError, match=r"'percent' gave 37\.5 .*from 0 to 1"):
        percent.check(("a",))
    for value in (None, "1", float("nan"), -0.1):
        with pytest.raises(InputError, match="a number from 0 to 1"):
            FreeAnswers(lambda *_, value=value: value, name="bad").score("a", ("a",))
    broken = FreeAnswers(lambda answer: 1, name="one argument")
    with pytest.raises(TypeError) as caught:
        broken.score("a", ("a",))
    assert "in metric 'one argument', of the answer 'a'" in caught.value.__notes__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bleu",), "metric is 'bleu'"),
        ((None,), "metric is None"),
        ((lambda *_: 1,), "name is '<lambda>'.*name="),
        ((functools.partial(share_of_letters),), "name is '<none>'"),
        ((share_of_letters, "f1"), "name is 'f1'"),
        (("f1", "mine"), "only an own function takes one"),
    ],
)
def test_metrics_that_are_none(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FreeAnswers(*arguments)


def test_a_builder_takes_a_task_only():
    with pytest.raises(InputTypeError, match="list; a LabelSpace is needed, or FreeAnswers"):
        PromptBuilder(["a", "b"])


def test_models_that_choose_among_labels_are_refused():
    model = LocalLLM(tiny_model(layers=1), tiny_tokenizer(["two and two"]))
    with pytest.raises(ConfigError, match="free answers have none"):
        model.encode(PromptBuilder(TASK, style="completion").build("q", DEMOS), TASK)


def test_demonstrations_know_what_they_cover_and_vote():
    pool = Examples(contents=["a b", "a c", "a d"], targets=["The Cat", ("dog", "hound"), "cow"])
    queries = Examples(contents=["a b x", "a c x", "a d x"])
    demos = DemoSelector("bm25", k=1).fit(pool).select(queries)
    gold = ["cat!", ("wolf", "dog"), "hound"]
    assert demos.covered(gold, TASK).tolist() == [True, True, False]
    assert demos.coverage(gold, TASK) == pytest.approx(2 / 3)
    assert demos.vote().tolist() == ["The Cat", ("dog", "hound"), "cow"]
    capped = DemoSelector("bm25", k=2, max_per_class=1).fit(pool).select(queries)
    assert capped.indices.shape == (3, 2)
