"""Model cards: what a config computes, how to use it, what was measured, where it loses.

Invariant: a card says nothing that is not in the config or in the results that it is given.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.config import FungiConfig
from fungi_hf.errors import InputError, StorageError, choices

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_TAGS: Final = ("fungi", "feature-extraction", "retrieval")
_GRADIENT_TAG: Final = "gradient-features"
_LINE: Final = 96
_NO_SIGN: Final = "it helps least where the embedding was itself trained contrastively"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One measured number.

    Attributes:
        dataset: Name of the data, e.g. "Banking-77".
        dataset_id: Its identifier on the Hub; the name in lower case if empty.
        metric: E.g. "accuracy".
        value: The number with the features of this config, in [0, 1] or a percentage.
        baseline: The same with the embedding alone.
        protocol: How it was measured, e.g. "20-NN, full training set".
        seeds: Of the draws behind the number; empty where nothing is drawn.
        task: Task type of the Hub.
        split: Of the data.
        licence: Of the data.
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
        known = [field.name for field in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                raise InputError(f"a result has no field {choices(key, known)}")
        for key in ("dataset", "metric", "value", "protocol"):
            if key not in data:
                raise InputError(f"a result needs {key!r}; got {sorted(data)}")
        if isinstance(data["value"], bool) or not isinstance(data["value"], (int, float)):
            raise InputError(f"a result's value must be a number; got {data['value']!r}")
        return cls(**{**data, "seeds": tuple(data.get("seeds", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a card is about.

    Attributes:
        title: Heading.
        config: What is computed.
        base_model: Repository of the encoder; empty for a local one.
        place: What the snippet loads: a repository or folder; empty takes the base model with
            the config.
        modality: "text", "audio" or "vision".
        target_layer: As it was found.
        pooling: As it was found.
        fingerprint: Of the extractor.
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

    Args:
        subject: What it is about.
        results: What was measured.

    Raises:
        InputError: If a result is of another type.
    """
    from huggingface_hub import EvalResult, ModelCardData

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
    data = ModelCardData(
        library_name="fungi-hf",
        base_model=subject.base_model or None,
        tags=_tags(subject.config),
        pipeline_tag="feature-extraction",
        datasets=sorted({row.dataset_id for row in rows if row.dataset_id}) or None,
        license=subject.licence or None,
        model_name=subject.title if rows else None,
        eval_results=evaluations or None,
        ignore_metadata_errors=True,
    )
    text = resources.files("fungi_hf.hub").joinpath("card_template.md").read_text("utf-8")
    parts = {
        "card_data": data.to_yaml(),
        "title": subject.title,
        "opening": _open(subject.config),
        "snippet": _snippet(subject),
        "description": _describe(subject),
        "results": _table(rows),
        "limits": _limits(rows),
        "licences": _licences(subject, rows),
    }
    return Template(text).substitute(parts)


def _tags(config: FungiConfig) -> list[str]:
    has_gradients = any(spec.has_gradient for spec in config.objectives)
    return [_TAGS[0], *([_GRADIENT_TAG] if has_gradients else []), *_TAGS[1:]]


def _open(config: FungiConfig) -> str:
    """Say in one sentence what the vectors hold, and what they do not."""
    n_inputs = sum(not spec.has_gradient for spec in config.objectives)
    has_gradients = n_inputs < len(config.objectives)
    parts = []
    if n_inputs:
        several = n_inputs > 1
        parts.append("pooled inputs of its layers" if several else "the pooled input of a layer")
    if has_gradients:
        how = "kept as exact factors" if config.sketch == "none" else "sketched to a short vector"
        parts.append(f"gradients of self-supervised losses, each {how}")
    held = ", and ".join(parts)
    kind = "FUNGI features" if has_gradients else "Features"
    if config.embedding_weight > 0:
        without = "" if has_gradients else " without gradients"
        beside = f"next to {held}" if held else "alone"
        first = f"{kind}{without}: the embedding of a frozen encoder {beside}."
    else:
        without = "its embedding" if has_gradients else "its embedding or gradients"
        first = f"{kind} of a frozen encoder, without {without}: {held}."
    unchanged = "Nothing was trained; the encoder's weights are untouched."
    return textwrap.fill(f"{first} {unchanged}", _LINE)


def _snippet(subject: Subject) -> str:
    sample = '"my card was lost"' if subject.modality == "text" else '"clip.wav"'
    place = subject.place or subject.base_model or "folder-or-hub-id"
    lines = ["from fungi_hf import FungiExtractor", ""]
    if subject.place:
        lines.append(f"extractor = FungiExtractor.from_pretrained({json.dumps(place)})")
    else:
        lines[0] = "from fungi_hf import FungiConfig, FungiExtractor"
        fields = {
            key: value
            for key, value in subject.config.to_dict().items()
            if value != FungiConfig().to_dict()[key]
        }
        lines.append('config = FungiConfig.from_json("""')
        lines.append(json.dumps(fields, indent=2))
        lines.append('""")')
        lines.append(f"extractor = FungiExtractor.from_pretrained({json.dumps(place)}, config)")
    if subject.config.needs_fit and not subject.place:
        lines.append(f"extractor.fit([{sample}])  # your training inputs")
    lines.append(f"features = extractor([{sample}])")
    lines.append("features.array.shape, list(features.layout)")
    return "\n".join(lines)


def _describe(subject: Subject) -> str:
    config = subject.config
    lines = []
    if config.embedding_weight > 0:
        pooling = subject.pooling or config.pooling
        lines.append(f"- **embedding** ({pooling} pooling), weight {config.embedding_weight:g}")
    layer = subject.target_layer or config.target_layer
    lines += [
        f"- **{spec.name}**: {spec.title(layer)}, weight {spec.weight:g}"
        for spec in config.objectives
    ]
    if any(spec.has_gradient for spec in config.objectives):
        width = config.sketch_dim or "as many numbers as the embedding has"
        sketch = "kept as exact factors" if config.sketch == "none" else f"sketched to {width}"
        lines.append(f"- gradients of `{layer}`, {sketch} ({config.sketch})")
    if config.whitening > 0:
        lines.append(
            f"- each block is whitened by its training covariance (power {config.whitening:g}), "
            "then L2-normalised"
        )
    elif config.center:
        lines.append("- each block is centred by its training mean, then L2-normalised")
    else:
        lines.append("- each block is L2-normalised")
    if config.reduction is not None:
        lines.append(f"- PCA to {config.reduction.n_components} components")
    lines.append(f"- {config.dtype} forward pass, seed {config.seed}")
    lines.append(f"- config fingerprint `{config.fingerprint()}`")
    if subject.fingerprint:
        lines.append(f"- extractor fingerprint `{subject.fingerprint}`")
    return "\n".join(lines)


def _table(rows: Sequence[Result]) -> str:
    if not rows:
        return "None were recorded."
    lines = [
        "| data | protocol | metric | embedding | this config | difference | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = "" if row.baseline is None else f"{row.baseline:.4g}"
        gain = "" if row.baseline is None else f"{row.value - row.baseline:+.3g}"
        seeds = ", ".join(map(str, row.seeds)) or "none drawn"
        lines.append(
            f"| {row.dataset} ({row.split}) | {row.protocol} | {row.metric} | {base} | "
            f"{row.value:.4g} | {gain} | {seeds} |"
        )
    return "\n".join(lines)


def _limits(rows: Sequence[Result]) -> str:
    losing = [row for row in rows if row.baseline is not None and row.value < row.baseline]
    lines = [
        f"- loses to the embedding alone on {row.dataset}, {row.protocol}: "
        f"{row.metric} {row.value:.4g} against {row.baseline:.4g}"
        for row in losing
    ]
    if rows and not losing:
        lines.append("- loses nowhere in the table above, which is all that was measured")
    lines.append(f"- measure on your own data first: {_NO_SIGN}")
    lines.append("- vectors of different fingerprints cannot be compared")
    return "\n".join(lines)


def _licences(subject: Subject, rows: Sequence[Result]) -> str:
    base = f"`{subject.base_model}`" if subject.base_model else "the encoder"
    lines = [f"- weights of {base}: {subject.licence or 'see its own card'}"]
    for name in dict.fromkeys(row.dataset for row in rows):
        licence = next((row.licence for row in rows if row.dataset == name and row.licence), "")
        lines.append(f"- {name}: {licence or 'see its own card'}")
    lines.append("- config and fitted state: Apache-2.0 like fungi-hf, as far as the data allow")
    return "\n".join(lines)
