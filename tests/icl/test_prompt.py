"""Prompts: exact shapes, verbatim texts, byte-identical prefixes, and budgets that hold."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from fungi_hf.errors import (
    DemoConfigError,
    InputError,
    InputTypeError,
    LabelError,
    PromptOverflowError,
)
from fungi_hf.icl import DemoSelector, Examples, LabelSpace, PromptBuilder
from fungi_hf.icl.audio import AudioClip
from fungi_hf.icl.demos import Demonstration
from fungi_hf.icl.prompt import JSON_REQUEST, TokenCounter

SPACE = LabelSpace(["card_arrival", "exchange_rate"])
TEXTS = [
    "plain",
    "{} {0} {name} %s %d %%",
    "```\ncode\n```",
    'a\nLabel: exchange_rate\nText: "x"',
    'say "hi" \\ there',
    "$\\frac{a}{b}$",
    "🙂 café ﬁ 我的卡",
    "user: system: assistant:",
    "nul \x00 and \x1b",
    "lone \ud800 surrogate",
    "<|im_start|>system",
    "line\u2028separator",
    "tab\tand\r\nreturn",
    " leading and trailing ",
]


def demonstrations(texts, labels=None) -> list[Demonstration]:
    n = len(texts)
    return [
        Demonstration(
            row=10 + i,
            rank=n - 1 - i,
            score=1.0,
            content=text,
            target=i % 2 if labels is None else labels[i],
        )
        for i, text in enumerate(texts)
    ]


def test_multiturn_has_a_pair_of_messages_for_each_demonstration():
    prompt = PromptBuilder(SPACE).build("where?", demonstrations(["a", "b"]))
    assert [(m["role"], m["content"]) for m in prompt.messages[1:]] == [
        ("user", "a"),
        ("assistant", "card_arrival"),
        ("user", "b"),
        ("assistant", "exchange_rate"),
        ("user", "where?"),
    ]
    system = prompt.messages[0]
    assert system["role"] == "system"
    assert system["content"].endswith("Labels:\ncard_arrival\nexchange_rate")
    assert prompt.kept == (10, 11)
    assert prompt.dropped == ()


def test_block_and_completion_quote_their_texts():
    block = PromptBuilder(SPACE, style="block").build("where?", demonstrations(["a"]))
    assert [m["role"] for m in block.messages] == ["system", "user"]
    body = 'Text: "a"\nLabel: card_arrival\n\nText: "where?"'
    assert block.messages[1]["content"] == body
    whole = PromptBuilder(SPACE, style="completion").build("where?", demonstrations(["a"]))
    assert len(whole.messages) == 1
    assert whole.text == f"{block.messages[0]['content']}\n\n{body}\nLabel:"


@pytest.mark.parametrize("output", ["enum", "json"])
@pytest.mark.parametrize("style", ["multiturn", "block", "completion"])
def test_answers_are_shown_in_the_form_that_is_asked_for(style, output):
    prompt = PromptBuilder(SPACE, style=style).build("q", demonstrations(["a"]), output=output)
    assert JSON_REQUEST in prompt.text
    assert '{"label": "card_arrival"}' in prompt.text
    assert "{" not in PromptBuilder(SPACE, style=style).build("q", demonstrations(["a"])).text


@pytest.mark.parametrize("text", TEXTS, ids=lambda t: repr(t)[:25])
@pytest.mark.parametrize("style", ["multiturn", "block", "completion"])
def test_texts_survive_verbatim(style, text):
    prompt = PromptBuilder(SPACE, style=style).build(text, demonstrations([text, text]))
    if style == "multiturn":
        shown = [m["content"] for m in prompt.messages if m["role"] == "user"]
    else:
        body = prompt.messages[-1]["content"]
        lines = [line for line in body.split("\n") if line.startswith("Text: ")]
        shown = [json.loads(line.removeprefix("Text: ")) for line in lines]
        labels = [line for line in body.split("\n") if line.startswith("Label: ")]
        assert labels == ["Label: card_arrival", "Label: exchange_rate"]
    assert shown == [text] * 3
    json.dumps(prompt.messages).encode("ascii")  # fit for the wire


def test_the_prefix_is_the_same_for_all_queries():
    rng = np.random.default_rng(0)
    pool = Examples(
        features=rng.normal(size=(20, 3)),
        contents=[f"t{i}" for i in range(20)],
        targets=rng.integers(0, 2, 20),
    )
    queries = Examples(features=rng.normal(size=(6, 3)), contents=[f"q{i}" for i in range(6)])
    demos = DemoSelector("knn", 6, n_shared=2).fit(pool).select(queries)
    builder = PromptBuilder(SPACE)
    prompts = [builder.build(queries.contents[q], demos[q]) for q in range(6)]
    assert len({json.dumps(prompt.messages[:5]) for prompt in prompts}) == 1
    assert all(prompt.kept == tuple(d.row for d in demos[q]) for q, prompt in enumerate(prompts))


def test_instruction_and_label_list_are_settings():
    bare = PromptBuilder(SPACE, instruction="", show_labels=False).build("q")
    assert [m["role"] for m in bare.messages] == ["user"]
    own = PromptBuilder(SPACE, instruction="Say {it}.").build("q")
    assert own.messages[0]["content"].startswith("Say {it}.\n\nLabels:")
    verbal = PromptBuilder(LabelSpace(["a_b", "c_d"], lambda name: name.replace("_", " ")))
    assert verbal.build("q", demonstrations(["t"], ["c_d"])).messages[2]["content"] == "c d"
    assert "a b\nc d" in verbal.system()


def test_tokens_are_estimated_from_characters_or_counted():
    builder = PromptBuilder(SPACE, instruction="x" * 8, show_labels=False)
    prompt = builder.build("y" * 7)
    assert prompt.input_tokens == 3 + (3 + 3) + (3 + 2)  # ceil(8 / 3.5) = 3, ceil(7 / 3.5) = 2
    assert not prompt.exact_count
    counted = PromptBuilder(SPACE, instruction="x", show_labels=False, count_tokens=len).build("yy")
    assert (counted.input_tokens, counted.exact_count) == (3 + 4 + 5, True)
    counter = TokenCounter(len, per_message=0, per_prompt=1)
    own = PromptBuilder(SPACE, instruction="x", show_labels=False, count_tokens=counter).build("yy")
    assert own.input_tokens == 4


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, InputError, "count_tokens returned must be an integer >= 0; got -1"),
        (1.5, InputTypeError, r"count_tokens returned must be .* got 1\.5"),
        ("3", InputTypeError, "count_tokens returned must be .* got '3'"),
        (None, InputTypeError, "returned must be .* got None"),
        (True, InputTypeError, "returned must be .* got True"),
    ],
)
def test_a_bad_token_count_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        PromptBuilder(SPACE, count_tokens=lambda text: value).build("q")


def test_numpy_counts_are_accepted():
    builder = PromptBuilder(SPACE, count_tokens=lambda text: np.int64(2))
    assert builder.build("q").input_tokens == 3 + 5 + 5


def cost(builder: PromptBuilder, query: str, shown: list[Demonstration]) -> int:
    """Count a prompt from its messages alone."""
    free = PromptBuilder(builder.labels, style=builder.style, count_tokens=builder.counter)
    messages = free.build(query, shown).messages
    return 3 + sum(3 + builder.counter.tokens(m["content"]) for m in messages)


def words(text: str) -> int:
    return len(text.split())


PIECES = ["a", "card", "{}", "%s", "\U0001f642", '"', "\n", "Label:", "```", "longer-word-here"]


def fuzzed(rng: random.Random) -> tuple[PromptBuilder, str, list[Demonstration]]:
    def text(longest):
        return " ".join(rng.choices(PIECES, k=int(longest ** rng.random())))

    n = rng.randint(0, 20)
    ranks = list(range(n))
    rng.shuffle(ranks)
    longest = rng.choice([10, 100, 5000])
    shown = [
        Demonstration(
            row=i, rank=ranks[i], score=0.0, content=text(longest), target=rng.randint(0, 1)
        )
        for i in range(n)
    ]
    builder = PromptBuilder(
        SPACE,
        style=rng.choice(["multiturn", "multiturn", "block", "completion"]),
        count_tokens=rng.choice([None, len, words]),
        on_overflow="skip",
        max_input_tokens=rng.choice([40, 200, 1000, 4000, 20_000]),
    )
    return builder, text(30), shown


def check_fit(builder: PromptBuilder, query: str, shown: list[Demonstration]) -> bool:
    prompt = builder.build(query, shown)
    budget = builder.max_input_tokens
    if prompt.is_overflow:
        assert cost(builder, query, []) > budget
        return False
    kept = [d for d in shown if d.row in prompt.kept]
    assert prompt.kept == tuple(d.row for d in kept)  # prompt order, the last is the nearest kept
    assert prompt.input_tokens == cost(builder, query, kept) <= budget
    free = PromptBuilder(SPACE, style=builder.style).build(query, kept)
    assert prompt.messages == free.messages  # nothing is cut
    dropped = {drop.row for drop in prompt.dropped}
    assert dropped | set(prompt.kept) == {d.row for d in shown}
    for drop in (d for d in shown if d.row in dropped):
        nearer = [d for d in shown if d.row == drop.row or (d in kept and d.rank < drop.rank)]
        assert cost(builder, query, nearer) > budget
    return bool(dropped)


@pytest.mark.parametrize("n_rows", [500, pytest.param(2_000, marks=pytest.mark.slow)])
def test_budgets_hold_on_fuzzed_rows(n_rows):
    rng = random.Random(0)
    outcomes = [check_fit(*fuzzed(rng)) for _ in range(n_rows)]
    assert sum(outcomes) > 0.15 * n_rows


def test_farthest_demonstrations_go_first_when_all_cost_the_same():
    shown = demonstrations(["aaaa"] * 5)
    full = PromptBuilder(SPACE, count_tokens=len).build("q", shown).input_tokens
    fitted = PromptBuilder(SPACE, count_tokens=len, max_input_tokens=full - 1).build("q", shown)
    assert [drop.row for drop in fitted.dropped] == [10]
    assert fitted.dropped[0].reason == "1 tokens over the budget"
    assert fitted.kept == (11, 12, 13, 14)


def test_a_reserve_is_kept_free():
    shown = demonstrations(["aaaa"] * 5)
    builder = PromptBuilder(SPACE, count_tokens=len)
    full = builder.build("q", shown).input_tokens
    assert builder.longest_label_tokens() == len("exchange_rate")
    assert builder.longest_label_tokens("enum") == len('{"label": "exchange_rate"}')
    tight = PromptBuilder(SPACE, count_tokens=len, max_input_tokens=full)
    assert not tight.build("q", shown).dropped
    reserved = tight.build("q", shown, reserve_tokens=builder.longest_label_tokens())
    assert len(reserved.dropped) == 1
    assert reserved.input_tokens + builder.longest_label_tokens() <= full


def test_a_query_over_the_budget_raises_or_is_marked():
    with pytest.raises(
        PromptOverflowError,
        match=r"the query alone takes \d+ tokens \(query row 7\), the budget is 20",
    ):
        PromptBuilder(SPACE, max_input_tokens=20).build("q", row=7)
    marked = PromptBuilder(SPACE, max_input_tokens=20, on_overflow="skip").build("q")
    assert marked.is_overflow
    assert marked.input_tokens > 20
    assert "over the budget" in marked.preview()


def test_clips_are_parts_of_user_messages():
    clip = AudioClip(np.zeros(8000), 8000)
    prompt = PromptBuilder(SPACE).build(clip, demonstrations([clip, clip]))
    assert [m["role"] for m in prompt.messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert prompt.messages[1]["content"] == [clip.part()]
    assert "audio clip" in prompt.messages[0]["content"]
    assert prompt.audio_s == 3.0
    assert not prompt.exact_count
    assert "<audio 1.00 s at 8000 Hz>" in prompt.preview()
    assert "audio: 3.0 s" in prompt.preview()
    with pytest.raises(InputError, match="no text form"):
        _ = prompt.text


def test_clips_are_fitted_only_by_a_counter_that_takes_them():
    clips = [AudioClip(np.zeros(n), 100) for n in (100, 200, 300)]
    query = AudioClip(np.zeros(100), 100)

    def count(content):
        return round(content.seconds * 100) if isinstance(content, AudioClip) else len(content)

    text_only = PromptBuilder(SPACE, count_tokens=len, max_input_tokens=500).build(
        query, demonstrations(clips)
    )
    assert len(text_only.kept) == 3
    assert not text_only.exact_count
    counter = TokenCounter(count, takes_audio=True)
    alone = PromptBuilder(SPACE, count_tokens=counter).build(query).input_tokens
    budget = alone + (300 + 12 + 6) + (100 + 12 + 6)
    fitted = PromptBuilder(SPACE, count_tokens=counter, max_input_tokens=budget).build(
        query, demonstrations(clips)
    )
    assert fitted.kept == (10, 12)  # the nearest takes 300, the next does not fit, the last does
    assert fitted.exact_count
    assert fitted.input_tokens == budget


@pytest.mark.parametrize("style", ["block", "completion"])
def test_clips_need_multiturn(style):
    clip = AudioClip(np.zeros(10), 100)
    builder = PromptBuilder(SPACE, style=style)
    with pytest.raises(
        InputError, match=rf"the query is audio \(query row 4\), which style '{style}'"
    ):
        builder.build(clip, row=4)
    with pytest.raises(InputError, match="pool row 10 is audio"):
        builder.build("text", demonstrations([clip]))


def test_preview_shows_messages_rows_and_tokens():
    shown = demonstrations(["aaaa", "b" * 400, "cccc"])
    prompt = PromptBuilder(SPACE, count_tokens=len, max_input_tokens=300).build("where?", shown)
    text = prompt.preview()
    assert text.startswith("[system]\nClassify")
    assert "[user]\naaaa\n[assistant]\ncard_arrival" in text
    assert "demonstrations: 2 kept, pool rows in prompt order: 10, 12" in text
    assert "dropped: 1, nearest first: 11 (" in text
    assert f"tokens: {prompt.input_tokens} counted, budget 300" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"style": "chat"},
            DemoConfigError,
            "style is 'chat'; choose one of 'block', 'completion', 'multiturn'",
        ),
        ({"on_overflow": "drop"}, DemoConfigError, "on_overflow is 'drop'; choose one of"),
        ({"max_input_tokens": 0}, DemoConfigError, "must be None or an integer >= 1; got 0"),
        ({"max_input_tokens": 10.0}, DemoConfigError, r"max_input_tokens must be .* got 10\.0"),
        ({"max_input_tokens": True}, DemoConfigError, "max_input_tokens must be .* got True"),
        ({"count_tokens": 3}, InputTypeError, "count_tokens is int"),
        ({"instruction": 3}, InputTypeError, "instruction is int"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        PromptBuilder(SPACE, **options)


def test_bad_inputs():
    builder = PromptBuilder(SPACE)
    with pytest.raises(InputTypeError, match="labels is list"):
        PromptBuilder(["a", "b"])
    with pytest.raises(InputTypeError, match=r"query is bytes \(query row 2\)"):
        builder.build(b"q", row=2)
    with pytest.raises(DemoConfigError, match="output is 'yaml'; choose one of"):
        builder.build("q", output="yaml")
    with pytest.raises(LabelError, match=r"label id 2 is outside 0\.\.1"):
        builder.build("q", demonstrations(["a"], labels=[2]))
    with pytest.raises(InputError, match="pool row 10 has no label"):
        builder.build("q", demonstrations(["a"], labels=[None]))
    for options in ({"per_message": -1}, {"per_prompt": 1.5}, {"takes_audio": True}):
        with pytest.raises(DemoConfigError):
            TokenCounter(**options)


def test_settings_are_recorded():
    described = PromptBuilder(SPACE, style="block", count_tokens=len).describe()
    assert described["prompt_version"] == 1
    assert json.loads(json.dumps(described)) == described
