"""What came out of a run: one record per row, and totals that hide nothing.

Every row that has no readable answer is wrong, and is counted under its own status.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fungi_hf.errors import InputError
from fungi_hf.icl.journal import read_journal, read_record
from fungi_hf.icl.metrics import normalise
from fungi_hf.icl.reply import Usage
from fungi_hf.icl.task import Answer
from fungi_hf.statistics import bootstrap_interval, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fungi_hf.icl.answers import FreeAnswers

STATUSES = (
    "ok", "invalid", "ambiguous", "empty", "refused", "length", "overflow", "failed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One query's outcome."""

    id: int | str  # the query's id; its row number if it has none
    gold: str | tuple[str, ...]  # name of the right label, or the accepted texts
    # "ok", or why there is no label: "invalid" (off the list), "ambiguous", "empty", "refused",
    # "length" (cut off), "overflow" (prompt too long), "failed" (not answered)
    status: str
    # name of the label that was read, or the free answer without thoughts and lead-in; None unless
    # the status is "ok"
    label: str | None = None
    answer: str | None = None  # the model's words
    demonstrations: tuple[int, ...] = ()  # pool rows shown, in prompt order
    dropped: tuple[int, ...] = ()  # pool rows that did not fit
    input_tokens: int = 0  # tokens of the prompt, as counted before sending
    covered: bool = False  # the gold answer is among the demonstrations shown
    # the majority label of the demonstrations shown, ties to the nearest; or the nearest answer
    vote: str | None = None
    repeat: int = 0  # which repetition, from 0
    # [C] log probabilities by label id, if they were computed
    label_scores: tuple[float, ...] | None = None
    score: float | None = None  # of a free answer, by the run's metric; None of a label
    vote_score: float | None = None  # of the nearest answer

    @property
    def correct(self) -> bool:
        """The label was read and is the right one; or the answer has the full score."""
        return self.status == "ok" and (self.label == self.gold or self.score == 1)

    @property
    def points(self) -> float:
        """The score; 1 or 0 of a label."""
        return float(self.correct) if self.score is None else self.score

    @property
    def vote_points(self) -> float:
        """What `vote` alone would get."""
        return float(self.vote == self.gold) if self.vote_score is None else self.vote_score

    @property
    def agrees(self) -> bool:
        """The model says what the vote says; of free answers after `metrics.normalise`."""
        if self.status != "ok" or self.vote is None or self.label is None or self.score is None:
            return self.status == "ok" and self.vote == self.label
        return normalise(self.vote) == normalise(self.label)

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
        for name in ("label_scores", "score", "vote_score"):
            if record[name] is None:
                del record[name]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild a row from `to_dict`."""
        fields = {key: value for key, value in record.items() if key != "correct"}
        for name in ("gold", "demonstrations", "dropped", "label_scores"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalResult:
    """The outcome of a run, complete or not.

    Of free answers, each accuracy is the mean score by `metric`; `vote` is the nearest answer.

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

    def rescored(self, answers: FreeAnswers) -> EvalResult:
        """Score the same free answers by another metric; nothing is asked or written.

        Raises:
            InputError: If the answers of the run are labels.
        """
        if self.metric is None:
            raise InputError("the answers of this run are labels, which no metric scores")
        rows = []
        for row in self.all_rows:
            read = None if row.label is None else Answer("ok", text=row.label)
            rows.append(replace(row, **answers.outcome(row.gold, read, row.vote)))
        config = {**self.config, "metric": answers.metric_name}
        return replace(self, all_rows=tuple(rows), config=config, folder=None)

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
    def metric(self) -> str | None:
        """What gave the scores of free answers; None of labels."""
        return self.config.get("metric")

    @property
    def score(self) -> float:
        """The mean score of free answers; `accuracy` under another name."""
        return self.accuracy

    @property
    def accuracy(self) -> float:
        """Share of right rows among all finished ones."""
        return _mean(row.points for row in self.all_rows)

    @property
    def accuracy_answered(self) -> float:
        """Share of right rows among those with status "ok"."""
        return _mean(row.points for row in self.all_rows if row.status == "ok")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, Wilson's for one repetition.

        For several, and for scores between 0 and 1, rows are resampled (10,000 times, seeded) with
        all their repetitions together.
        """
        if not self.all_rows:
            return 0.0, 1.0
        points = [row.points for row in self.all_rows]
        if self.repeats == 1 and {*points} <= {0.0, 1.0}:
            return wilson_interval(int(sum(points)), len(points))
        means = [_mean(outcomes) for outcomes in self._points_by("id").values()]
        stream = ("accuracy interval",)
        return bootstrap_interval(means, n_samples=10_000, seed=0, stream=stream)

    @property
    def by_repeat(self) -> tuple[float, ...]:
        """The accuracy of each repetition."""
        return tuple(
            _mean(row.points for row in self.all_rows if row.repeat == repeat)
            for repeat in range(self.repeats)
        )

    @property
    def coverage(self) -> float:
        """Share of rows whose gold label is among their demonstrations."""
        return _mean(row.covered for row in self.all_rows)

    @property
    def accuracy_covered(self) -> float:
        """Accuracy where the gold label is among the demonstrations."""
        return _mean(row.points for row in self.all_rows if row.covered)

    @property
    def accuracy_uncovered(self) -> float:
        """Accuracy where it is not."""
        return _mean(row.points for row in self.all_rows if not row.covered)

    @property
    def vote_accuracy(self) -> float:
        """Accuracy of the demonstrations' own majority vote: k-NN without a model."""
        return _mean(row.vote_points for row in self.all_rows)

    @property
    def agreement(self) -> float:
        """Share of rows in which the model says what the vote says."""
        return _mean(row.agrees for row in self.all_rows)

    @property
    def per_label(self) -> dict[str, tuple[float, int]]:
        """Gold label -> its accuracy and its number of rows."""
        groups = self._points_by("gold")
        return {name: (_mean(groups[name]), len(groups[name])) for name in sorted(groups)}

    @property
    def macro_accuracy(self) -> float:
        """Mean of the labels' accuracies."""
        return _mean(accuracy for accuracy, _ in self.per_label.values())

    @property
    def mean_kept(self) -> float:
        """Mean number of demonstrations shown."""
        return _mean(len(row.demonstrations) for row in self.all_rows)

    def _points_by(self, field_name: str) -> dict[Any, list[float]]:
        groups: dict[Any, list[float]] = {}
        for row in self.all_rows:
            groups.setdefault(getattr(row, field_name), []).append(row.points)
        return groups

    def summary(self) -> dict[str, Any]:
        """Give the totals as JSON values; an undefined share is None.

        Of free answers, names have "score" in place of "accuracy".
        """
        shares = {
            name: _known(getattr(self, name))
            for name in (
                "accuracy", "accuracy_answered", "macro_accuracy", "coverage",
                "accuracy_covered", "accuracy_uncovered", "vote_accuracy", "agreement",
                "mean_kept",
            )
        }  # fmt: skip
        metric = {} if self.metric is None else {"metric": self.metric}
        if metric:
            del shares["macro_accuracy"]
            shares = {name.replace("accuracy", "score"): one for name, one in shares.items()}
        return {
            **metric,
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
        name, vote = (self.metric, "nearest alone") if self.metric else ("accuracy", "vote alone")
        n_failed = self.statuses.get("failed", 0)
        lines = []
        if not self.complete:
            open_rows = self.n_rows * self.repeats - len(self.all_rows)
            lines.append(f"INCOMPLETE: {n_failed} rows failed, {open_rows} not asked")
        lines += [
            f"{name:<15} {self.accuracy:.4f}  95 % [{low:.4f}, {high:.4f}]  "
            f"{len(self.all_rows)} rows",
            f"coverage        {self.coverage:.4f}  {name} {self.accuracy_covered:.4f} covered, "
            f"{self.accuracy_uncovered:.4f} not",
            f"{vote:<15} {self.vote_accuracy:.4f}  agreement {self.agreement:.4f}",
            "statuses        " + ", ".join(f"{k} {v}" for k, v in self.statuses.items()),
            f"tokens          {self._tokens}",
        ]
        if self.repeats > 1:
            low, high = min(self.by_repeat), max(self.by_repeat)
            lines.append(f"repeats         {self.repeats}, from {low:.4f} to {high:.4f}")
        return "\n".join(lines)


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
