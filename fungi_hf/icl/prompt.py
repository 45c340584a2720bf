"""Prompts: instruction and labels, demonstrations in their order, the query.

Texts are inserted, never formatted, and never cut. The prompt is this project's own. Under a
budget demonstrations are kept whole or dropped whole; the nearest are asked first.

Styles, with answers written as they are asked for (`a`, or `{"label": "a"}` if output is JSON):
- "multiturn": system, then a user and an assistant message per demonstration, then the query.
- "block": system, then one user message. Each demonstration is the line `Text: <JSON string>` and
  the line `Label: <answer>`, then an empty line; the last line is the query's `Text:` line.
- "completion": system text, empty line, block text and a last line `Label:`, as one text.

Of free answers the word is `Answer` in place of `Label`; one of several lines is a JSON string
there.
"""

from __future__ import annotations

import base64
import io
import json
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from fungi_hf.checks import check_choice, check_integer
from fungi_hf.errors import DemoConfigError, InputError, InputTypeError, PromptOverflowError
from fungi_hf.icl.audio import AudioClip
from fungi_hf.icl.task import Task
from fungi_hf.icl.tokens import ESTIMATE, TokenCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.icl.demos import Demonstration
    from fungi_hf.icl.examples import Content

PROMPT_VERSION = 1  # raised with any change of wording; part of cache keys and run records

Style = Literal["multiturn", "block", "completion"]
Output = Literal["text", "enum", "json"]
Overflow = Literal["error", "skip"]
Message: TypeAlias = dict[str, object]

DEFAULT_INSTRUCTION = (
    "Classify the text into exactly one of the labels listed below. "
    "Answer with the label alone, spelled exactly as listed."
)
ANSWER_INSTRUCTION = "Give the answer to the text. Write the answer alone, without an explanation."
JSON_REQUEST = 'Write the answer as a JSON object: {"label": "<the label>"}'


@dataclass(frozen=True, slots=True)
class Dropped:
    """A demonstration that did not fit: its pool row, and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is sent for one query."""

    messages: tuple[Message, ...]  # of a chat; empty if the query alone exceeds the budget
    kept: tuple[int, ...] = ()  # pool rows of the demonstrations shown, in prompt order
    dropped: tuple[Dropped, ...] = ()  # demonstrations that did not fit, nearest first
    input_tokens: int = 0  # tokens of the messages, chat overhead included
    exact_count: bool = False  # the user's function counted the tokens; else an estimate
    budget: int | None = None  # the budget in tokens, None if there is none
    style: Style = "multiturn"  # the style that made the messages
    audio_s: float = 0.0  # seconds of audio in the messages
    draw: int = 0  # number of the repetition; equal prompts with other numbers are asked anew

    @property
    def is_overflow(self) -> bool:
        """Whether the query did not fit even without demonstrations."""
        return not self.messages

    @property
    def text(self) -> str:
        """The whole prompt as one text, for a model without a chat template.

        Raises:
            InputError: If a message holds audio.
        """
        contents = [message["content"] for message in self.messages]
        texts = [content for content in contents if isinstance(content, str)]
        if len(texts) < len(contents):
            raise InputError("a prompt with audio has no text form; send its messages")
        return "\n\n".join(texts)

    def preview(self) -> str:
        """Return the messages, what was kept and dropped, and the tokens, for people to read."""
        budget = "no budget" if self.budget is None else f"budget {self.budget}"
        kind = "counted" if self.exact_count else "estimated"
        tokens = f"tokens: {self.input_tokens} {kind}, {budget}"
        if self.is_overflow:
            return f"(no messages: the query alone is over the budget)\n{tokens}"
        blocks = [f"[{m['role']}]\n{_readable(m['content'])}" for m in self.messages]
        rows = ", ".join(map(str, self.kept)) or "none"
        lines = [f"demonstrations: {len(self.kept)} kept, pool rows in prompt order: {rows}"]
        if self.dropped:
            drops = ", ".join(f"{drop.row} ({drop.reason})" for drop in self.dropped)
            lines.append(f"dropped: {len(self.dropped)}, nearest first: {drops}")
        if self.audio_s:
            lines.append(f"audio: {self.audio_s:.1f} s")
        return "\n".join([*blocks, "", *lines, tokens])


class PromptBuilder:
    """Builds prompts; the same settings and demonstrations give the same bytes."""

    def __init__(
        self,
        labels: Task,
        *,
        style: Style = "multiturn",
        instruction: str | None = None,
        show_labels: bool = True,
        max_input_tokens: int | None = None,
        count_tokens: Callable[..., int] | TokenCounter | None = ESTIMATE,
        on_overflow: Overflow = "error",
    ) -> None:
        """Check the settings.

        Args:
            labels: The `LabelSpace`; or `FreeAnswers`, for answers that are texts.
            style: "multiturn", "block" or "completion".
            instruction: First words of the system text; None takes the default.
            show_labels: List all surfaces, in id order.
            max_input_tokens: Budget per prompt; None sets no limit.
            count_tokens: Text -> tokens, or a `TokenCounter`; the default, as None, estimates.
            on_overflow: What happens if a query alone is over the budget: "error" raises, "skip"
                gives a prompt without messages.

        Raises:
            InputTypeError: If labels, instruction or count_tokens have a wrong type. An unknown
                choice and a budget below 1 are a `DemoConfigError`.
        """
        if not isinstance(labels, Task):
            raise InputTypeError(
                f"labels is {type(labels).__name__}; a LabelSpace is needed, or FreeAnswers for "
                "answers that are texts"
            )
        if instruction is not None and not isinstance(instruction, str):
            raise InputTypeError(f"instruction is {type(instruction).__name__}; a text is needed")
        check_choice("style", style, get_args(Style), error=DemoConfigError)
        check_choice("on_overflow", on_overflow, get_args(Overflow), error=DemoConfigError)
        if max_input_tokens is not None:
            name = "max_input_tokens"
            check_integer(name, max_input_tokens, also="None", error=DemoConfigError)
        if not isinstance(count_tokens, TokenCounter):
            count_tokens = TokenCounter(count_tokens)
        self.labels = labels
        self.style: Style = style
        self.instruction = instruction
        self.show_labels = bool(show_labels)
        self.max_input_tokens = max_input_tokens
        self.counter = count_tokens
        self.on_overflow: Overflow = on_overflow

    def build(
        self,
        query: Content,
        demonstrations: Sequence[Demonstration] = (),
        *,
        output: Output = "text",
        row: int | None = None,
        reserve_tokens: int = 0,
    ) -> Prompt:
        """Build the prompt of one query, a text or a clip, which is inserted verbatim.

        Demonstrations come in prompt order, e.g. `demos[i]`. `output` is the form of the answers:
        "text", or a JSON object for "enum" and "json". `reserve_tokens` of the budget are kept
        free, e.g. for a label to be scored. Errors name the `row`.

        Raises:
            InputTypeError: If the query is neither a text nor a clip.
            PromptOverflowError: If the query is over the budget and `on_overflow="error"`.
        """
        check_choice("output", output, get_args(Output), error=DemoConfigError)
        where = "" if row is None else f" (query row {row})"
        if not isinstance(query, (str, AudioClip)):
            raise InputTypeError(
                f"query is {type(query).__name__}{where}; texts and AudioClips are allowed"
            )
        pairs = self._pairs(query, demonstrations, output, where)
        nearest = sorted(range(len(pairs)), key=lambda i: demonstrations[i].rank)

        def turns(items: Sequence[int]) -> list[tuple[str, Content]]:
            places = sorted(nearest[item] for item in items)  # back to prompt order
            return self._turns(query, [pairs[place] for place in places], output)

        def cost(items: Sequence[int]) -> int:
            return self.counter.prompt([content for _, content in turns(items)])[0] + reserve_tokens

        budget = self.max_input_tokens
        if budget is not None and (alone := cost([])) > budget:
            if self.on_overflow == "error":
                raise PromptOverflowError(
                    f"the query alone takes {alone} tokens{where}, the budget is {budget}; "
                    "raise max_input_tokens or pass on_overflow='skip'"
                )
            return Prompt(
                messages=(),
                input_tokens=alone,
                exact_count=self.counter.count is not None,
                budget=budget,
                style=self.style,
            )
        kept, over = _choose_that_fit(len(pairs), cost, budget)
        chosen = turns(kept)
        contents = [content for _, content in chosen]
        input_tokens, exact_count = self.counter.prompt(contents)
        return Prompt(
            messages=tuple(
                {"role": role, "content": [c.part()] if isinstance(c, AudioClip) else c}
                for role, c in chosen
            ),
            kept=tuple(demonstrations[place].row for place in sorted(nearest[i] for i in kept)),
            dropped=tuple(
                Dropped(demonstrations[nearest[item]].row, f"{excess} tokens over the budget")
                for item, excess in over.items()
            ),
            input_tokens=input_tokens,
            exact_count=exact_count,
            budget=budget,
            style=self.style,
            audio_s=sum(c.seconds for c in contents if isinstance(c, AudioClip)),
        )

    def longest_label_tokens(self, output: Output = "text") -> int:
        """Return the tokens of the longest label, to be reserved when every label is scored."""
        surfaces, word = self.labels.surfaces, self.labels.word
        written = [self.counter.tokens(_written(name, output, word)) for name in surfaces]
        return max(written, default=0)

    def system(self, output: Output = "text", *, audio: bool = False) -> str:
        """Return the system text: instruction, list of labels, form of the answer."""
        surfaces, word = self.labels.surfaces, self.labels.word
        default = DEFAULT_INSTRUCTION if surfaces else ANSWER_INSTRUCTION
        default = default.replace("the text", "the audio clip") if audio else default
        parts = [default if self.instruction is None else self.instruction]
        if self.show_labels and surfaces:
            parts.append("\n".join(["Labels:", *surfaces]))
        if output != "text":
            parts.append(JSON_REQUEST.replace("label", word))
        return "\n\n".join(part for part in parts if part)

    def describe(self) -> dict[str, object]:
        """Return what a run folder records about the prompts."""
        return {
            "prompt_version": PROMPT_VERSION,
            "style": self.style,
            "instruction": self.instruction,
            "show_labels": self.show_labels,
            "max_input_tokens": self.max_input_tokens,
            "counts_tokens": self.counter.count is not None,
            "on_overflow": self.on_overflow,
            **self.labels.describe(),
        }

    def _pairs(
        self, query: Content, demonstrations: Sequence[Demonstration], output: Output, where: str
    ) -> list[tuple[Content, str]]:
        # Contents with their answers as they are shown, in prompt order.
        if self.style != "multiturn":
            held = [(f"pool row {shown.row}", shown.content) for shown in demonstrations]
            held.append(("the query", query))
            clips = [name for name, content in held if isinstance(content, AudioClip)]
            if clips:
                raise InputError(
                    f"{clips[0]} is audio{where}, which style {self.style!r} cannot hold; "
                    "use style='multiturn'"
                )
        contents, targets = [], []
        for shown in demonstrations:
            if shown.target is None or shown.content is None:
                missing = self.labels.word if shown.target is None else "content"
                raise InputError(
                    f"the demonstration in pool row {shown.row} has no {missing}; "
                    "fit the selector on Examples with contents and targets"
                )
            contents.append(shown.content)
            targets.append(shown.target)
        surfaces = self.labels.surfaces_of(targets)
        answers = [_written(surface, output, self.labels.word) for surface in surfaces]
        return list(zip(contents, answers, strict=True))

    def _turns(
        self, query: Content, pairs: Sequence[tuple[Content, str]], output: Output
    ) -> list[tuple[str, Content]]:
        system = self.system(output, audio=isinstance(query, AudioClip))
        before: list[tuple[str, Content]] = [("system", system)] if system else []
        if self.style == "multiturn":
            for content, answer in pairs:
                before += [("user", content), ("assistant", answer)]
            return [*before, ("user", query)]
        word = self.labels.word.capitalize()
        shown = [f"{_text_line(c)}\n{word}: {_one_line(answer)}\n\n" for c, answer in pairs]
        block = "".join(shown) + _text_line(query)
        if self.style == "block":
            return [*before, ("user", block)]
        return [("user", "\n\n".join(part for part in (system, f"{block}\n{word}:") if part))]


def _choose_that_fit(
    n: int, cost: Callable[[Sequence[int]], int], budget: int | None
) -> tuple[list[int], dict[int, int]]:
    """Choose among n items, nearest first, those that fit; skip one that does not, and go on.

    `cost` gives the tokens of the prompt that holds some items, in ascending order. Returns the
    kept items, ascending, and the tokens over budget of each other item: it is dropped only if the
    kept nearer items and it cost more than the budget.
    """
    kept, over = list(range(n)), dict[int, int]()
    if budget is None or cost(kept) <= budget:
        return kept, over
    kept = []
    for item in range(n):
        excess = cost([*kept, item]) - budget
        if excess > 0:
            over[item] = excess
        else:
            kept.append(item)
    return kept, over


def _text_line(content: Content) -> str:
    return f"Text: {json.dumps(str(content), ensure_ascii=False)}"


def _one_line(answer: str) -> str:
    return json.dumps(answer, ensure_ascii=False) if len(answer.splitlines()) > 1 else answer


def _written(surface: str, output: Output, word: str) -> str:
    """Return an answer in the form in which answers are asked for."""
    return surface if output == "text" else json.dumps({word: surface}, ensure_ascii=False)


def _readable(content: object) -> str:
    """Return a message's content as text; a clip as its length and rate."""
    if not isinstance(content, list):
        return str(content)
    lines = []
    for part in content:
        data = base64.b64decode(part["input_audio"]["data"])
        with wave.open(io.BytesIO(data)) as file:
            seconds = file.getnframes() / file.getframerate()
            lines.append(f"<audio {seconds:.2f} s at {file.getframerate()} Hz>")
    return "\n".join(lines)
