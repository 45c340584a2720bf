"""Answers that are texts: what is accepted, how an answer is read, and its score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError, InputError, InputTypeError, LabelError
from fungi_hf.icl.metrics import METRICS, normalise
from fungi_hf.icl.peeling import plain
from fungi_hf.icl.task import Answer, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fungi_hf.icl.examples import Target
    from fungi_hf.icl.metrics import Metric


@dataclass(frozen=True, slots=True)
class FreeAnswers(Task):
    """A task without a list of labels: targets are texts, each row's one or several accepted ones.

    It takes the place of a `LabelSpace` in a `PromptBuilder`. Prompts show the first accepted text.

    Attributes:
        metric: "exact", "normalised" or "f1" (SQuAD's, the best over the accepted texts; see
            `fungi_hf.icl.metrics`), or a function (answer, accepted texts) -> a number from 0 to 1.
        name: What results call an own function; None takes the function's name. A run folder knows
            the function by this alone, so a changed one needs another.

    An unknown metric and a function without a name are a `ConfigError`.

    Example:
        >>> FreeAnswers("f1").score("in the Louvre", ["the Louvre", "Paris"])
        0.6666666666666666
    """

    word: ClassVar[str] = "answer"
    reminder: ClassVar[str] = "Write the answer alone."

    metric: str | Metric = "normalised"
    name: str | None = None
    surfaces: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if not callable(self.metric):
            check_choice("metric", self.metric, METRICS)
            if self.name not in (None, self.metric):
                raise ConfigError(f"name is {self.name!r}; only an own function takes one")
            return
        name = self.name or getattr(self.metric, "__name__", "<none>")
        if not isinstance(name, str) or name.startswith("<") or name in METRICS:
            raise ConfigError(
                f"the metric's name is {name!r}; give it one of its own: FreeAnswers(f, name='...')"
            )
        object.__setattr__(self, "name", name)

    @property
    def metric_name(self) -> str:
        """The name of the metric, as results have it."""
        return self.name if callable(self.metric) and self.name else str(self.metric)

    def describe(self) -> dict[str, object]:
        """Say that answers are texts; the metric is no part of a prompt."""
        return {"answers": "text"}

    def surfaces_of(self, targets: Iterable[Target]) -> list[str]:
        """Return the first accepted text of each target."""
        return [accepted[0] for accepted in self.golds(targets)]

    def golds(self, targets: Iterable[Target]) -> list[tuple[str, ...]]:
        """Return the accepted texts of each target; whole numbers are texts, too.

        Raises:
            InputTypeError: If a target is no text.
            LabelError: If a text is blank.
        """
        golds = []
        for row, target in enumerate(targets):
            if isinstance(target, (bool, float)):
                raise InputTypeError(
                    f"targets[{row}] is {type(target).__name__}: {target!r}; an answer is a text: "
                    "write it in the form in which it is to be given"
                )
            accepted = target if isinstance(target, tuple) else (str(target),)
            if not all(text.strip() for text in accepted):
                raise LabelError(
                    f"targets[{row}] has a blank text, which no answer can be; leave the row out, "
                    "or give it a text as 'unanswerable'"
                )
            golds.append(accepted)
        return golds

    def check(self, gold: tuple[str, ...]) -> None:
        """Refuse an own function that cannot score an answer."""
        self.score(gold[0], gold)

    def wanted(self, gold: tuple[str, ...]) -> frozenset[str]:
        """Return the normalised accepted texts."""
        return frozenset(map(normalise, gold))

    def shown(self, gold: tuple[str, ...]) -> str:
        """Return the normalised text that a prompt shows."""
        return normalise(gold[0])

    def vote(self, golds: Sequence[tuple[str, ...]]) -> str | None:
        """Return the answer of the nearest demonstration, as it is shown."""
        return golds[0][0] if golds else None

    def parse(self, answer: str | None) -> Answer:
        """Take off what stands around an answer, as thoughts and "Answer:".

        Raises:
            InputTypeError: If the answer is neither a text nor None.
        """
        if answer is not None and not isinstance(answer, str):
            raise InputTypeError(f"answer is {type(answer).__name__}; a text or None is needed")
        text = plain(answer or "")
        return Answer("ok", text=text) if text else Answer("empty", reason="The answer is empty.")

    def score(self, answer: str, accepted: Sequence[str]) -> float:
        """Return what an answer that was read is worth, from 0 to 1.

        Raises:
            InputError: If an own function gives anything but a number from 0 to 1. An error of
                its own is handed on, with the answer as a note.
        """
        if not callable(self.metric):
            # Accepted texts may themselves have quotes or a lead-in, which are off the answer.
            return METRICS[self.metric](answer, [*accepted, *map(plain, accepted)])
        try:
            value: Any = self.metric(answer, tuple(accepted))
            value = value.item() if hasattr(value, "item") else value
            number = float(value) if isinstance(value, (int, float)) else -1.0
        except Exception as error:
            error.add_note(f"in metric {self.name!r}, of the answer {answer[:80]!r}")
            raise
        if not 0 <= number <= 1:
            raise InputError(
                f"metric {self.name!r} gave {value!r} for the answer {answer[:80]!r}; "
                "a number from 0 to 1 is needed"
            )
        return number

    def outcome(self, gold: Sequence[str], read: Answer | None, vote: str | None) -> dict[str, Any]:
        """Return the accepted texts, the answer, the nearest answer, and the scores of both."""
        text = None if read is None else read.text
        return {
            "gold": gold,
            "label": text,
            "vote": vote,
            "score": 0.0 if text is None else self.score(text, gold),
            "vote_score": 0.0 if vote is None else self.score(vote, gold),
        }
