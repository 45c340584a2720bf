"""What is asked of a model: how answers are shown, how they are read, and when they count.

A task is a `LabelSpace` (answers are labels) or `FreeAnswers` (answers are texts).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from fungi_hf.icl.examples import Target


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says."""

    status: Literal["ok", "empty", "ambiguous", "invalid"]  # invalid: no label, or a denied one
    label: int | None = None  # the label id if the status is "ok", else None
    reason: str = ""  # what a model should be told about an answer that is not ok; "" if it is
    text: str | None = None  # the words of a free answer whose status is "ok"


class Task(ABC):
    """What a prompt asks for. A gold answer is a label id, or the tuple of accepted texts."""

    __slots__ = ()
    word: ClassVar[str] = "label"  # what a prompt calls an answer
    reminder: ClassVar[str]  # what a model is told after an answer that could not be read
    surfaces: tuple[str, ...]  # the answers as they are shown, by label id; none for free answers

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Give what a run folder records of the prompts' task."""

    @property
    def metric_name(self) -> str | None:
        """The name of what gives a score to an answer; None where it is a right label."""
        return None

    @abstractmethod
    def surfaces_of(self, targets: Iterable[Target]) -> list[str]:
        """Give targets as they are shown in prompts."""

    @abstractmethod
    def golds(self, targets: Iterable[Target]) -> list[Any]:
        """Give the gold answers of targets, checked."""

    def check(self, gold: Any) -> None:  # noqa: B027 - labels have nothing to refuse
        """Raise what would fail for each answer, before the first is asked for."""

    @abstractmethod
    def wanted(self, gold: Any) -> frozenset[Hashable]:
        """Give the keys of shown answers that say what the gold answer says."""

    @abstractmethod
    def shown(self, gold: Any) -> Hashable:
        """Give the key of a demonstration's answer."""

    @abstractmethod
    def vote(self, golds: Sequence[Any]) -> Any:
        """Give what demonstrations elect without a model, the nearest first; None for none."""

    @abstractmethod
    def parse(self, answer: str | None) -> Answer:
        """Read what a model said; None stands for nothing."""

    @abstractmethod
    def outcome(self, gold: Any, read: Answer | None, vote: Any) -> dict[str, Any]:
        """Give the fields of a row's result that depend on the gold answer, what was read, vote."""
