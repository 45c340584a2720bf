"""Model cards: what a config computes, how to use it, what was measured, where it loses.

Invariant: a card says nothing that is not in the config or in the results that it is given.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.checks import check_known, check_number
from fungi_hf.config import FungiConfig
from fungi_hf.errors import InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One measured number.

    Attributes:
        dataset: Name of the data, e.g. "Banking-77"; its split and licence are below.
        dataset_id: Its identifier on the Hub; the name in lower case if empty.
        metric: E.g. "accuracy".
        value: The number with the features of this config, in [0, 1] or a percentage.
        baseline: The same with the embedding alone.
        protocol: How it was measured, e.g. "20-NN, full training set".
        seeds: Of the draws behind the number; empty where nothing is drawn.
        task: Task type of the Hub.
    """

    dataset: str
    metric: str
    value: float
    protocol: str
    dataset_id: str = ""
    baseline: float | None = None
    seeds: tuple[int, ...] = ()
    task: str = "text-classification"
    split: str = "test"
    licence: str = ""

    @classmethod
    def from_dict(cls, data: Any) -> Result:
        """Read a JSON object.

        Raises:
            InputError: If a field is unknown, missing or of the wrong type.
        """
        if not isinstance(data, dict):
            raise InputError(f"a result must be an object; got {data!r}")
        check_known("a result", data, cls.__dataclass_fields__, error=InputError)
        for key in ("dataset", "metric", "value", "protocol"):
            if key not in data:
                raise InputError(f"a result needs {key!r}; got {sorted(data)}")
        check_number("a result's value", data["value"], error=InputError)
        return cls(**{**data, "seeds": tuple(data.get("seeds", ()))})


_SAMPLES: Final = {"text": '"my card was lost"', "vision": '"photo.jpg"'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a card is about.

    Attributes:
        base_model: Repository of the encoder; empty for a local one.
        place: What the snippet loads: a repository or folder; empty takes the base model with
            the config.
        modality: "text", "audio" or "vision".
        target_layer, pooling: As they were found.
        licence: Of the weights; empty where unknown.
    """

    title: str
    config: FungiConfig
    base_model: str = ""
    place: str = ""
    modality: str = "text"
    target_layer: str = ""
    pooling: str = ""
    fingerprint: str = ""
    licence: str = ""


def read_results(path: Path) -> list[Result]:
    """Read a JSON list of results.

    Raises:
        StorageError: If the file is missing or not JSON.
        InputError: If it is not a list of results.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read results from {path}: {error}") from None
    if not isinstance(data, list):
        raise InputError(f"{path} must hold a JSON list of results; got {type(data).__name__}")
    return [Result.from_dict(item) for item in data]


def render_card(subject: Subject, results: Iterable[Result] = ()) -> str:
    """Give the card's text: YAML head for the Hub, then Markdown.

    Raises:
        InputError: If a result is of another type.
    """
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Environment, PackageLoader, StrictUndefined

    rows = list(results)
    for row in rows:
        if not isinstance(row, Result):
            raise InputError(f"results must be fungi_hf.hub.card.Result; got {row!r}")
    evaluations = [
        EvalResult(
            task_type=row.task,
            dataset_type=row.dataset_id or row.dataset.lower(),
            dataset_name=row.dataset,
            dataset_split=row.split,
            metric_type=row.metric,
            metric_name=f"{row.metric} ({row.protocol})",
            metric_value=row.value,
        )
        for row in rows
    ]
    has_gradients = bool(subject.config.losses)
    data = ModelCardData(
        library_name="fungi-hf",
        base_model=subject.base_model or None,
        tags=["fungi", *["gradient-features"] * has_gradients, "feature-extraction", "retrieval"],
        pipeline_tag="feature-extraction",
        datasets=sorted({row.dataset_id for row in rows if row.dataset_id}) or None,
        license=subject.licence or None,
        model_name=subject.title if rows else None,
        eval_results=evaluations or None,
        ignore_metadata_errors=True,
    )
    environment = Environment(  # noqa: S701  (Markdown, not HTML)
        loader=PackageLoader("fungi_hf.hub", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.jinja").render(
        head=data.to_yaml(),
        subject=subject,
        config=subject.config,
        opening=_open(subject.config),
        place=json.dumps(subject.place or subject.base_model or "folder-or-hub-id"),
        fields=_fields(subject.config),
        sample=_SAMPLES.get(subject.modality, '"clip.wav"'),
        has_gradients=has_gradients,
        rows=rows,
        losing=[row for row in rows if row.baseline is not None and row.value < row.baseline],
        licences=dict.fromkeys((row.dataset for row in rows), "")
        | {row.dataset: row.licence for row in reversed(rows) if row.licence},
    )


def _open(config: FungiConfig) -> str:
    """Say in one sentence what the vectors hold, and what they do not."""
    n_inputs = sum(not spec.has_gradient for spec in config.objectives)
    has_gradients = n_inputs < len(config.objectives)
    parts = []
    if n_inputs:
        several = n_inputs > 1
        pooled = "" if config.dense else "pooled "
        parts.append(
            f"{pooled}inputs of its layers" if several else f"the {pooled}input of a layer"
        )
    if has_gradients:
        how = "kept as exact factors" if config.sketch == "none" else "sketched to a short vector"
        parts.append(f"gradients of self-supervised losses, each {how}")
    held = ", and ".join(parts)
    kind = "FUNGI features" if has_gradients else "Features"
    if config.embedding_weight > 0:
        without = "" if has_gradients else " without gradients"
        beside = f"next to {held}" if held else "alone"
        what = "every patch, word or frame by" if config.dense else "the embedding of"
        first = f"{kind}{without}: {what} a frozen encoder {beside}."
    else:
        without = "its embedding" if has_gradients else "its embedding or gradients"
        first = f"{kind} of a frozen encoder, without {without}: {held}."
    unchanged = "Nothing was trained; the encoder's weights are untouched."
    return textwrap.fill(f"{first} {unchanged}", 96)


def _fields(config: FungiConfig) -> str:
    """Give the fields that differ from the default config's, as JSON."""
    default = FungiConfig().to_dict()
    fields = {key: value for key, value in config.to_dict().items() if value != default[key]}
    return json.dumps(fields, indent=2)
