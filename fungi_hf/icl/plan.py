"""All prompts of a run, built and checked before anything is sent.

A plan is a function of its inputs: built again, it is the same, which is what lets a run resume.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import ConfigError, InputError, InputTypeError
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.model import LLM
from fungi_hf.icl.prompt import PromptBuilder
from fungi_hf.icl.results import RowResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fungi_hf.icl.demos import Demonstration, DemoSet
    from fungi_hf.icl.labels import LabelSpace
    from fungi_hf.icl.prompt import Prompt
    from fungi_hf.icl.reply import Reply
    from fungi_hf.icl.selector import DemoSelector


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt with what its outcome is measured by.

    Attributes:
        repeat: Repetition, from 0.
        row: Query row.
        prompt: What is sent.
        covered: The gold label is shown.
        vote: Id of the majority label shown, ties to the nearest; None without demonstrations.
    """

    repeat: int
    row: int
    prompt: Prompt
    covered: bool
    vote: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Everything that is known before the first request.

    Attributes:
        asked: Prompts by repetition, then in query order.
        labels: The label space.
        queries: The queries.
        gold: [n] label ids; None if the queries have no targets.
        n_leaks: Queries whose own copies were removed.
        unreachable: Queries whose gold label is not in the pool.
        repeats: Repetitions.
        config: Everything that rows depend on.
    """

    asked: tuple[Asked, ...]
    labels: LabelSpace
    queries: Examples
    gold: npt.NDArray[np.int64] | None
    n_leaks: int
    unreachable: int
    repeats: int
    config: dict[str, Any]

    def result(self, asked: Asked, reply: Reply | None, status: str | None = None) -> RowResult:
        """Give the outcome of a prompt.

        Args:
            asked: The prompt.
            reply: The answer, if there is one.
            status: The status if it does not follow from the answer.

        Returns:
            The row.

        Raises:
            InputError: If the queries have no targets.
        """
        if self.gold is None:
            raise InputError("queries have no targets, so answers cannot be scored")
        label = None
        if status is None and reply is not None:
            status = reply.failure
            if status is None:
                answer = self.labels.parse(reply.content)
                status, label = answer.status, answer.label
        names, ids = self.labels.names, self.queries.ids
        return RowResult(
            id=asked.row if ids is None else ids[asked.row],
            gold=names[self.gold[asked.row]],
            status=status or "failed",
            label=None if label is None else names[label],
            answer=None if reply is None else reply.content,
            demonstrations=asked.prompt.kept,
            dropped=tuple(drop.row for drop in asked.prompt.dropped),
            input_tokens=asked.prompt.input_tokens,
            covered=asked.covered,
            vote=None if asked.vote is None else names[asked.vote],
            repeat=asked.repeat,
            label_scores=None if reply is None else reply.label_scores,
        )


def make_plan(
    selector: DemoSelector | None,
    builder: PromptBuilder,
    llm: LLM,
    queries: Examples,
    *,
    repeats: int = 1,
    needs_gold: bool = True,
) -> Plan:
    """Select demonstrations and build every prompt.

    Args:
        selector: A fitted selector; None shows no demonstrations.
        builder: Builds prompts.
        llm: Says in which form it wants answers.
        queries: What to classify.
        repeats: Repetitions; each takes the selector's next seed.
        needs_gold: Refuse queries without targets.

    Returns:
        The plan.

    Raises:
        InputError: If queries lack contents or targets.
    """
    _check(builder, llm, queries, repeats)
    if needs_gold and queries.targets is None:
        raise InputError("queries need targets to be evaluated against; they have none")
    labels = builder.labels
    gold = None if queries.targets is None else labels.ids_of(queries.targets)
    output = llm.prompt_output(labels)
    reserve = builder.longest_label_tokens(output) if llm.scores_labels else 0
    asked: list[Asked] = []
    n_leaks, unreachable, digests = 0, 0, []
    for repeat in range(repeats):
        demos = _reseeded(selector, repeat).select(queries) if selector is not None else None
        pool = None
        if demos is not None:
            pool = _pool_ids(demos, labels)
            n_leaks = demos.n_leaks
            digests.append(_digest(demos))
        if repeat == 0 and gold is not None and pool is not None:
            unreachable = _unreachable(gold, pool, labels)
        for row in range(len(queries)):
            shown = () if demos is None else demos[row]
            content = queries.contents[row] if queries.contents is not None else ""
            prompt = builder.build(content, shown, output=output, row=row, reserve_tokens=reserve)
            prompt = replace(prompt, draw=repeat)
            kept = _kept_labels(shown, prompt, pool)
            covered = gold is not None and int(gold[row]) in kept
            asked.append(
                Asked(repeat=repeat, row=row, prompt=prompt, covered=covered, vote=_vote(kept))
            )
    config = {
        "selector": None if selector is None else _described(selector),
        "demonstrations": digests,
        "prompts": builder.describe(),
        "output": output,
        "llm": llm.describe(),
        "queries": _queries_digest(queries),
        "repeats": repeats,
    }
    return Plan(
        asked=tuple(asked),
        labels=labels,
        queries=queries,
        gold=gold,
        n_leaks=n_leaks,
        unreachable=unreachable,
        repeats=repeats,
        config=config,
    )


def _check(builder: object, llm: object, queries: object, repeats: object) -> None:
    if not isinstance(builder, PromptBuilder):
        raise InputTypeError(f"builder is {type(builder).__name__}; a PromptBuilder is needed")
    if not isinstance(llm, LLM):
        raise InputTypeError(
            f"llm is {type(llm).__name__}; a ChatLLM, a LocalLLM or an own class derived from "
            "fungi_hf.icl.llm.LLM is needed"
        )
    if not isinstance(queries, Examples):
        raise InputTypeError(f"queries is {type(queries).__name__}; an Examples is needed")
    if queries.contents is None:
        raise InputError("queries have no contents, so there is nothing to ask")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"repeats must be an integer of at least 1, got {repeats!r}")


def _reseeded(selector: DemoSelector, repeat: int) -> DemoSelector:
    """Give the selector with the seed of a repetition; what it was fitted on is shared."""
    if repeat == 0 or not hasattr(selector, "seed"):
        return selector
    other = copy.copy(selector)
    other.seed = selector.seed + repeat
    return other


def _pool_ids(demos: DemoSet, labels: LabelSpace) -> npt.NDArray[np.int64]:
    if demos.pool.targets is None:
        raise InputError("the pool has no targets; fit the selector on Examples with targets")
    return labels.ids_of(demos.pool.targets)


def _kept_labels(
    shown: Sequence[Demonstration], prompt: Prompt, pool: npt.NDArray[np.int64] | None
) -> list[int]:
    """Give the label ids of the demonstrations that the prompt kept, nearest first."""
    if pool is None:
        return []
    kept = set(prompt.kept)
    nearest = sorted(shown, key=lambda demonstration: demonstration.rank)
    return [int(pool[demo.row]) for demo in nearest if demo.row in kept]


def _vote(labels: list[int]) -> int | None:
    if not labels:
        return None
    counts = {label: labels.count(label) for label in labels}
    return max(counts, key=lambda label: counts[label])  # the first, i.e. nearest, of the tied


def _unreachable(
    gold: npt.NDArray[np.int64], pool: npt.NDArray[np.int64], labels: LabelSpace
) -> int:
    missing = np.setdiff1d(gold, pool)
    rows = int(np.isin(gold, missing).sum())
    if rows:
        names = ", ".join(repr(labels.names[label]) for label in missing[:10])
        warnings.warn(
            f"{rows} queries have a gold label without demonstrations in the pool: {names}",
            stacklevel=4,
        )
    return rows


def _described(part: object) -> object:
    describe = getattr(part, "describe", None)
    return (
        describe() if describe is not None else {"name": getattr(part, "name", type(part).__name__)}
    )


def _digest(demos: DemoSet) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(demos.indices, "<i8").tobytes())
    digest.update(np.ascontiguousarray(demos.positions, "<i8").tobytes())
    used = np.unique(demos.indices)
    for row in used:
        digest.update(demos.pool.key(int(row)))
        digest.update(repr(demos.pool.targets[row] if demos.pool.targets else None).encode())
    return digest.hexdigest()


def _queries_digest(queries: Examples) -> str:
    digest = hashlib.sha256()
    for row in range(len(queries)):
        digest.update(queries.key(row))
        for part in (queries.targets, queries.ids):
            digest.update(
                repr(None if part is None else part[row]).encode("utf-8", "backslashreplace")
            )
    return digest.hexdigest()
