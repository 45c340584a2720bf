"""The evidence of a tuning: every candidate's score, the choice and its reason, as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import StateError
from fungi_hf.tuning.evidence import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RECORD: Final = "fungi-hf-tuning"
TUNING_NAME: Final = "fungi_tuning.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """What one candidate reached on the training rows.

    Attributes:
        name: The combination, e.g. `embedding+kl`, weights of cosines written as factors.
        pooling: Of the encoder.
        layer: The target layer, of gradients and of the block "activation".
        transform: "plain", "centred" or "whitened POWER".
        components: Of a PCA; None for none.
        cost: Rank of what it takes (`fungi_hf.tuning.candidates.costs`).
        accuracy: Leave-one-out share of right rows.
        low: Of its 95 % interval (Wilson).
        high: Of its 95 % interval.
        against_embedding: Accuracy less the plain embedding's.
        p: Exact McNemar test of that difference; not corrected for the number of candidates.
        share: What candidates are compared by: the accuracy, or, where nearly all rows are right,
            the accuracy with few rows voting.
        behind_best: The best candidate's share less this one's.
        error: Standard error of that difference over rows.
    """

    name: str
    pooling: str
    layer: str
    transform: str
    components: int | None
    cost: int
    accuracy: float
    low: float
    high: float
    against_embedding: float
    p: float
    share: float
    behind_best: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One simple way, judged by leaving rows out.

    Attributes:
        features: "embedding", "activation", "paper preset", or the tuned features' name.
        head: "neighbors" or "linear".
        accuracy: Share of right rows.
        n_rows: Rows that judged: fewer for a linear head.
    """

    features: str
    head: str
    accuracy: float
    n_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningReport:
    """How a config was chosen; no row but the training rows is in it.

    Attributes:
        config: The chosen config, as `FungiConfig.to_dict` gives it.
        chosen: Its score.
        embedding: The score of the plain embedding with the extractor's own pooling.
        best: The best score by `share`, which need not be the chosen one's.
        reason: Why, in one sentence.
        judge: "neighbors" or "linear".
        evidence: What the choice gains on rows that did not choose.
        baselines: What users would do without tuning, and the tuned features, by both heads.
        advice: What to use, in one sentence.
        candidates: All scores, best first.
        n_rows: Labelled training rows given.
        n_used: Rows that voted; fewer than `n_rows` for a draw.
        n_groups: Groups that were left out together; 0 for plain leave-one-out.
        classes: Class -> rows used.
        search: What could be chosen, as data.
        seconds: Stage -> seconds.
        notes: Facts that a reader needs.
    """

    config: Mapping[str, Any]
    chosen: CandidateScore
    embedding: CandidateScore
    best: CandidateScore
    reason: str
    candidates: tuple[CandidateScore, ...]
    n_rows: int
    n_used: int
    n_groups: int
    classes: Mapping[str, int]
    search: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    judge: str = "neighbors"
    evidence: Evidence | None = None
    baselines: tuple[Baseline, ...] = ()
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give plain, JSON-able values."""
        return {"record": RECORD, "version": 1, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Give `to_dict` as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TuningReport:
        """Read what `to_json` gave.

        Raises:
            StateError: If it is not JSON or no such record.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StateError(f"the tuning report is not JSON: {error}") from None
        if not isinstance(values, dict) or values.get("record") != RECORD:
            raise StateError("not a tuning report of fungi-hf")
        known = {one.name for one in dataclasses.fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        try:
            for name in ("chosen", "embedding", "best"):
                kept[name] = CandidateScore(**kept[name])
            kept["candidates"] = tuple(CandidateScore(**one) for one in kept["candidates"])
            kept["notes"] = tuple(kept.get("notes", ()))
            kept["baselines"] = tuple(Baseline(**one) for one in kept.get("baselines", ()))
            if kept.get("evidence") is not None:
                kept["evidence"] = Evidence(**kept["evidence"])
            return cls(**kept)
        except (KeyError, TypeError) as error:
            raise StateError(f"the tuning report lacks or misnames a field: {error}") from None

    @classmethod
    def read(cls, path: Path) -> TuningReport:
        """Read a `fungi_tuning.json`.

        Raises:
            StateError: If the file is damaged.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 ({error.reason} at byte {error.start})"
        except (StateError, OSError) as error:
            reason = str(error)
        raise StateError(
            f"{path} is damaged: {reason}; no feature depends on it: remove it to load without it"
        )

    def table(self, n: int = 10) -> str:
        """Give the chosen candidate, the embedding and the n best as a Markdown table."""
        lines = [
            "| features | pooling | target layer | blocks | leave-one-out | 95 % | vs embedding |",
            "| --- | --- | --- | --- | ---: | ---: | ---: |",
        ]
        shown = [self.chosen, self.embedding, *self.candidates[:n]]
        for place, one in enumerate(shown):
            if one in shown[:place]:
                continue
            role = {0: " (chosen)", 1: " (baseline)"}.get(place, "")
            pca = f", PCA {one.components}" if one.components else ""
            lines.append(
                f"| {one.name}{role} | {one.pooling} | {one.layer} | {one.transform}{pca} "
                f"| {100 * one.accuracy:.1f} | {100 * one.low:.1f} to {100 * one.high:.1f} "
                f"| {100 * one.against_embedding:+.1f} |"
            )
        if self.baselines:
            lines += [
                "",
                "| baseline | head | leave-one-out | rows |",
                "| --- | --- | ---: | ---: |",
            ]
            lines += [
                f"| {one.features} | {one.head} | {100 * one.accuracy:.1f} | {one.n_rows} |"
                for one in self.baselines
            ]
        return "\n".join(lines)
