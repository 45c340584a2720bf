"""All prompts of a run, built and checked before anything is sent.

A plan is a function of its inputs: built again, it is the same, which is what lets a run resume.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.checks import check_integer
from fungi_hf.errors import ConfigError, InputError, InputTypeError
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.model import LLM
from fungi_hf.icl.prompt import PromptBuilder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.icl.prompt import Prompt
    from fungi_hf.icl.selector import DemoSelector
    from fungi_hf.icl.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPrompt:
    """One prompt with what its outcome is measured by."""

    row: int  # query row
    prompt: Prompt  # what is sent; `prompt.draw` is the repetition, from 0
    covered: bool  # the gold answer is shown
    # id of the majority label shown, ties to the nearest, or the nearest answer; None without
    # demonstrations
    vote: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPlan:
    """Everything that is known before the first request."""

    llm: LLM  # the model
    prompts: tuple[PlannedPrompt, ...]  # prompts by repetition, then in query order
    labels: Task  # the label space, or `FreeAnswers`
    queries: Examples  # the queries
    gold: list[Any] | None  # [n] label ids or accepted texts; None if the queries have no targets
    # what the run's record counts: "n_rows" (queries), "repeats", "n_leaks" (queries with copies of
    # themselves in the pool), "unreachable" (queries whose gold answer is not in the pool)
    sizes: dict[str, int]
    config: dict[str, Any]  # everything that rows depend on


def make_plan(
    selector: DemoSelector | None,
    builder: PromptBuilder,
    llm: LLM,
    queries: Examples,
    *,
    repeats: int = 1,
    needs_gold: bool = True,
) -> RunPlan:
    """Select demonstrations and build every prompt of what `evaluate` takes.

    Without `needs_gold`, queries without targets are taken too: enough for a dry run.

    Raises:
        InputError: If queries lack contents or targets, or the pool targets.
        ConfigError: If the model only chooses among labels, and there are none.
    """
    repeats = check_integer("repeats", repeats)
    contents = _contents(builder, llm, queries)
    if needs_gold and queries.targets is None:
        raise InputError("queries need targets to be evaluated against; they have none")
    labels = builder.labels
    if llm.scores_labels and not labels.surfaces:
        raise ConfigError(
            f"{llm.name} chooses among labels, and free answers have none; use a model that "
            "writes: a ChatLLM, or an own LLM"
        )
    gold = None if queries.targets is None else labels.golds(queries.targets)
    wanted = [labels.wanted(one) for one in gold or ()]
    if gold:
        labels.check(gold[0])
    output = llm.prompt_output(labels)
    reserve = builder.longest_label_tokens(output) if llm.scores_labels else 0
    prompts: list[PlannedPrompt] = []
    digests: list[str] = []
    sizes = {"n_rows": len(contents), "repeats": repeats, "n_leaks": 0, "unreachable": 0}
    for repeat in range(repeats):
        demos, pool, keys = None, list[Any](), list[Any]()
        if selector is not None:
            own = selector.reseeded(selector.seed + repeat) if repeat else selector
            demos = own.select(queries)
            pool = labels.golds(demos.targets)
            keys = [labels.shown(one) for one in pool]
            digest = hashlib.sha256(np.ascontiguousarray(demos.indices, "<i8").tobytes())
            digest.update(np.ascontiguousarray(demos.positions, "<i8").tobytes())
            demos.pool.feed(digest, np.unique(demos.indices).tolist(), demos.pool.targets)
            digests.append(digest.hexdigest())
            sizes["n_leaks"] = len(demos.copies)
            if repeat == 0 and gold is not None:
                held = set(keys)
                missing = [
                    one for one, own in zip(gold, wanted, strict=True) if held.isdisjoint(own)
                ]
                sizes["unreachable"] = len(missing)
                _warn_of(missing, labels)
        for row, content in enumerate(contents):
            shown = () if demos is None else demos[row]
            prompt = builder.build(content, shown, output=output, row=row, reserve_tokens=reserve)
            nearest = sorted(shown, key=lambda demonstration: demonstration.rank)
            kept = [demo.row for demo in nearest if demo.row in prompt.kept]
            prompts.append(
                PlannedPrompt(
                    row=row,
                    prompt=replace(prompt, draw=repeat),
                    covered=bool(wanted) and any(keys[one] in wanted[row] for one in kept),
                    vote=labels.vote([pool[one] for one in kept]),
                )
            )
    digest = hashlib.sha256()
    queries.feed(digest, range(len(contents)), queries.targets, queries.ids)
    config = {
        "selector": None if selector is None else selector.describe(),
        "demonstrations": digests,
        "prompts": builder.describe(),
        "output": output,
        "llm": llm.describe(),
        "queries": digest.hexdigest(),
        "repeats": repeats,
    }
    if labels.metric_name is not None:
        config["metric"] = labels.metric_name
    return RunPlan(
        llm=llm,
        prompts=tuple(prompts),
        labels=labels,
        queries=queries,
        gold=gold,
        sizes=sizes,
        config=config,
    )


def _contents(builder: object, llm: object, queries: object) -> Sequence[Any]:
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
    return queries.contents


def _warn_of(missing: list[Any], labels: Task) -> None:
    """Say which labels no demonstration has; most free answers occur but once."""
    if missing and labels.surfaces:
        names = ", ".join(
            repr(labels.outcome(label, None, None)["gold"]) for label in sorted(set(missing))[:10]
        )
        warnings.warn(
            f"{len(missing)} queries have a gold label without demonstrations in the pool: {names}",
            stacklevel=4,
        )
