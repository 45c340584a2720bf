"""What came out of a run: one record per row, and totals that hide nothing.

Every row that has no readable answer is wrong, and is counted under its own status.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fungi_hf.icl.journal import read_journal, read_record
from fungi_hf.icl.reply import Usage
from fungi_hf.statistics import bootstrap_interval, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STATUSES = (
    "ok", "invalid", "ambiguous", "empty", "refused", "length", "overflow", "failed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One query's outcome."""

    id: int | str  # the query's id; its row number if it has none
    gold: str  # name of the right label
    # "ok", or why there is no label: "invalid" (off the list), "ambiguous", "empty", "refused",
    # "length" (cut off), "overflow" (prompt too long), "failed" (not answered)
    status: str
    label: str | None = None  # name of the label that was read; None unless the status is "ok"
    answer: str | None = None  # the model's words
    demonstrations: tuple[int, ...] = ()  # pool rows shown, in prompt order
    dropped: tuple[int, ...] = ()  # pool rows that did not fit
    input_tokens: int = 0  # tokens of the prompt, as counted before sending
    covered: bool = False  # the gold label is among the demonstrations shown
    vote: str | None = None  # the majority label of the demonstrations shown; ties to the nearest
    repeat: int = 0  # which repetition, from 0
    # [C] log probabilities by label id, if they were computed
    label_scores: tuple[float, ...] | None = None

    @property
    def correct(self) -> bool:
        """The label was read and is the right one."""
        return self.status == "ok" and self.label == self.gold

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values; the same row always gives the same ones, in the same order."""
        record: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            record[name] = list(value) if isinstance(value, tuple) else value
            if name == "label":
                record["correct"] = self.correct
        if not self.repeat:
            del record["repeat"]
        if self.label_scores is None:
            del record["label_scores"]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild a row from `to_dict`."""
        fields = {key: value for key, value in record.items() if key != "correct"}
        for name in ("demonstrations", "dropped", "label_scores"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalResult:
    """The outcome of a run, complete or not.

    Attributes:
        all_rows: Finished rows, by repetition, then in query order.
        n_rows: Queries of the run, finished or not.
        repeats: Repetitions of the run.
        usage: Tokens billed for the whole run, all processes that worked on it together.
        requests: Requests sent by this call.
        n_leaks: Queries whose own copies the leak guard removed.
        unreachable: Queries whose gold label does not occur in the pool.
        config: What was run, as recorded.
        folder: The run folder, if there is one.
    """

    all_rows: tuple[RowResult, ...]
    n_rows: int
    repeats: int = 1
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    n_leaks: int = 0
    unreachable: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def load(cls, out: str | Path) -> EvalResult:
        """Read a run folder; `complete` says whether its rows are all."""
        folder = Path(out)
        record = read_record(folder)
        finished, usage = read_rows(folder)
        return cls(
            all_rows=tuple(finished[place] for place in sorted(finished)),
            usage=usage,
            config=record["config"],
            folder=folder,
            **record["sizes"],
        )

    @property
    def rows(self) -> tuple[RowResult, ...]:
        """The rows of the first repetition, in query order: what `compare` pairs."""
        return tuple(row for row in self.all_rows if row.repeat == 0)

    @property
    def complete(self) -> bool:
        """Every row of every repetition is there, and none failed."""
        n_failed = self.statuses.get("failed", 0)
        return len(self.all_rows) == self.n_rows * self.repeats and not n_failed

    @property
    def statuses(self) -> dict[str, int]:
        """How many rows have each status that occurs."""
        counts = Counter(row.status for row in self.all_rows)
        return {status: counts[status] for status in STATUSES if counts[status]}

    @property
    def accuracy(self) -> float:
        """Share of right rows among all finished ones."""
        return _mean(row.correct for row in self.all_rows)

    @property
    def accuracy_answered(self) -> float:
        """Share of right rows among those with status "ok"."""
        return _mean(row.correct for row in self.all_rows if row.status == "ok")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, Wilson's for one repetition.

        For several, rows are resampled (10,000 times, seeded) with all their repetitions together.
        """
        if not self.all_rows:
            return 0.0, 1.0
        if self.repeats == 1:
            return wilson_interval(sum(row.correct for row in self.all_rows), len(self.all_rows))
        means = [_mean(outcomes) for outcomes in self._correct_by("id").values()]
        stream = ("accuracy interval",)
        return bootstrap_interval(means, n_samples=10_000, seed=0, stream=stream)

    @property
    def by_repeat(self) -> tuple[float, ...]:
        """The accuracy of each repetition."""
        return tuple(
            _mean(row.correct for row in self.all_rows if row.repeat == repeat)
            for repeat in range(self.repeats)
        )

    @property
    def coverage(self) -> float:
        """Share of rows whose gold label is among their demonstrations."""
        return _mean(row.covered for row in self.all_rows)

    @property
    def accuracy_covered(self) -> float:
        """Accuracy where the gold label is among the demonstrations."""
        return _mean(row.correct for row in self.all_rows if row.covered)

    @property
    def accuracy_uncovered(self) -> float:
        """Accuracy where it is not."""
        return _mean(row.correct for row in self.all_rows if not row.covered)

    @property
    def vote_accuracy(self) -> float:
        """Accuracy of the demonstrations' own majority vote: k-NN without a model."""
        return _mean(row.vote == row.gold for row in self.all_rows)

    @property
    def agreement(self) -> float:
        """Share of rows in which the model says what the vote says."""
        return _mean(row.status == "ok" and row.vote == row.label for row in self.all_rows)

    @property
    def per_label(self) -> dict[str, tuple[float, int]]:
        """Gold label -> its accuracy and its number of rows."""
        groups = self._correct_by("gold")
        return {name: (_mean(groups[name]), len(groups[name])) for name in sorted(groups)}

    @property
    def macro_accuracy(self) -> float:
        """Mean of the labels' accuracies."""
        return _mean(accuracy for accuracy, _ in self.per_label.values())

    @property
    def mean_kept(self) -> float:
        """Mean number of demonstrations shown."""
        return _mean(len(row.demonstrations) for row in self.all_rows)

    def _correct_by(self, field_name: str) -> dict[Any, list[bool]]:
        groups: dict[Any, list[bool]] = {}
        for row in self.all_rows:
            groups.setdefault(getattr(row, field_name), []).append(row.correct)
        return groups

    def summary(self) -> dict[str, Any]:
        """Give the totals as JSON values; an undefined share is None."""
        shares = {
            name: _known(getattr(self, name))
            for name in (
                "accuracy", "accuracy_answered", "macro_accuracy", "coverage",
                "accuracy_covered", "accuracy_uncovered", "vote_accuracy", "agreement",
                "mean_kept",
            )
        }  # fmt: skip
        return {
            "complete": self.complete,
            "rows": self.n_rows,
            "finished": len(self.all_rows),
            "repeats": self.repeats,
            **shares,
            "interval": list(self.interval),
            "by_repeat": [_known(value) for value in self.by_repeat],
            "statuses": self.statuses,
            "n_leaks": self.n_leaks,
            "unreachable": self.unreachable,
            "usage": self.usage.to_dict(),
        }

    @property
    def _tokens(self) -> str:
        if self.requests and not self.usage.input_tokens:
            return "not reported by the server"
        cached = f"({self.usage.cached_input_tokens} cached)"
        return f"{self.usage.input_tokens} in {cached}, {self.usage.output_tokens} out"

    def __str__(self) -> str:
        low, high = self.interval
        n_failed = self.statuses.get("failed", 0)
        lines = []
        if not self.complete:
            open_rows = self.n_rows * self.repeats - len(self.all_rows)
            lines.append(f"INCOMPLETE: {n_failed} rows failed, {open_rows} not asked")
        lines += [
            f"accuracy        {self.accuracy:.4f}  95 % [{low:.4f}, {high:.4f}]  "
            f"{len(self.all_rows)} rows",
            f"coverage        {self.coverage:.4f}  accuracy {self.accuracy_covered:.4f} covered, "
            f"{self.accuracy_uncovered:.4f} not",
            f"vote alone      {self.vote_accuracy:.4f}  agreement {self.agreement:.4f}",
            "statuses        " + ", ".join(f"{k} {v}" for k, v in self.statuses.items()),
            f"tokens          {self._tokens}",
        ]
        if self.repeats > 1:
            low, high = min(self.by_repeat), max(self.by_repeat)
            lines.append(f"repeats         {self.repeats}, from {low:.4f} to {high:.4f}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would send."""

    rows: int  # rows in all, repetitions included
    cached: int  # rows that need no request: answered in the run folder or in the cache
    requests: int  # requests to be sent, if none has to be repeated
    input_tokens: int  # their input tokens
    exact_count: bool  # the tokens were counted with the user's function, not estimated
    max_output_tokens: int  # the most output tokens that they may bill
    dropped_demos: int  # demonstrations that do not fit
    overflow_rows: int  # queries that do not fit even alone; nothing is sent for them
    n_leaks: int  # queries whose own copies the leak guard removed
    coverage: float | None  # share of rows whose gold label is shown; None without gold labels
    audio_s: float = 0.0  # seconds of audio, whose tokens no text count includes

    def cost(
        self,
        *,
        input: float,  # noqa: A002 - the word on every price list
        output: float,
        cached_input: float | None = None,
    ) -> float:
        """Give the most that the run can cost, retries aside; prices are per million tokens."""
        usage = Usage(input_tokens=self.input_tokens, output_tokens=self.max_output_tokens)
        return usage.cost(input=input, output=output, cached_input=cached_input)

    def __str__(self) -> str:
        kind = "counted" if self.exact_count else "estimated"
        coverage = "" if self.coverage is None else f"coverage        {self.coverage:.4f}\n"
        audio = f"audio           {self.audio_s:.1f} s, not in the tokens\n" if self.audio_s else ""
        return (
            f"rows            {self.rows}, {self.cached} answered already\n"
            f"requests        {self.requests}\n"
            f"input tokens    {self.input_tokens} ({kind})\n"
            f"output tokens   at most {self.max_output_tokens}\n"
            f"{audio}{coverage}"
            f"demonstrations  {self.dropped_demos} dropped; {self.overflow_rows} queries too long\n"
            f"leaks           {self.n_leaks} queries"
        )


def read_rows(folder: Path) -> tuple[dict[tuple[int, int], RowResult], Usage]:
    """Give the last outcome by repetition and query row, and the tokens that all lines billed."""
    finished, usage = {}, Usage()
    for line in read_journal(folder):
        try:
            result = RowResult.from_dict(line["result"])
            place, billed = (result.repeat, int(line["row"])), Usage(**line["usage"])
        except (ValueError, KeyError, TypeError):
            continue
        finished[place] = result
        usage += billed
    return finished, usage


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
