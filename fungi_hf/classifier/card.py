"""The card of a classifier: how to use it, what was measured on which rows, what the files hold.

Invariant: it says nothing that is not in the record, the config or the tuning report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fungi_hf.classifier.evidence import THIS, TRAINING
from fungi_hf.classifier.labels import plain

if TYPE_CHECKING:
    from fungi_hf.classifier.folders import Record
    from fungi_hf.extractor import FungiExtractor

CARD: Final = "README.md"
MARK: Final = "<!-- written by fungi_hf; a card without this line is not written over -->"
_MOST_LABELS: Final = 50
_KINDS: Final = {
    "text": ("text-classification", "a text", '"my card was lost"'),
    "vision": ("image-classification", "a picture", '"photo.jpg"'),
    "audio": ("audio-classification", "a sound", '"clip.wav"'),
}


def render(extractor: FungiExtractor, record: Record, place: str) -> str:
    """Give the card's text: YAML head for the Hub, then Markdown; its snippet loads `place`."""
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Environment, PackageLoader, StrictUndefined

    task, thing, sample = _KINDS.get(extractor.encoder.modality, _KINDS["text"])
    name = extractor.source.name
    base = "" if not name or Path(name).is_dir() else name
    title = place.rpartition("/")[2] or "FUNGI classifier"
    held_out = [one for one in record.results if one.who == THIS and one.rows != TRAINING]
    data = ModelCardData(
        library_name="fungi-hf",
        base_model=base or None,
        tags=["fungi", "gradient-features", task],
        pipeline_tag=task,
        model_name=title if held_out else None,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=one.rows.lower(),
                dataset_name=one.rows,
                metric_type="accuracy",
                metric_name=f"accuracy ({one.protocol})",
                metric_value=round(one.accuracy, 6),
            )
            for one in held_out
        ]
        or None,
        ignore_metadata_errors=True,
    )
    environment = Environment(  # noqa: S701  (Markdown, not HTML)
        loader=PackageLoader("fungi_hf.classifier", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    ranked = sorted(
        zip(map(_cell, plain(record.classes)), record.counts, strict=True), key=lambda one: -one[1]
    )
    hidden = ranked[_MOST_LABELS:]
    config, encoder = extractor.config, extractor.encoder
    return environment.get_template("card.md.jinja").render(
        head=data.to_yaml(),
        mark=MARK,
        title=title,
        n_classes=len(record.classes),
        thing=thing,
        how=_how(record),
        base_model=base,
        place=json.dumps(place or "folder-or-hub-id"),
        shell_place=place or "FOLDER",
        sample=sample,
        results=record.results,
        this=THIS,
        remarks=_remarks(extractor, record),
        n_rows=record.n_rows,
        n_groups=record.n_groups,
        shown=ranked[:_MOST_LABELS],
        n_hidden=len(hidden),
        rows_hidden=sum(count for _, count in hidden),
        blocks=[f"`{name}`" for name in extractor.layout],
        pooling=encoder.pooling,
        layer=encoder.layer_path,
        computed=_computed(extractor, record),
        config_fingerprint=config.fingerprint(),
        fingerprint=record.fingerprint,
        privacy=_privacy(extractor, record),
    )


def is_ours(text: str) -> bool:
    """Whether a card was written here, so that a newer one may replace it."""
    return MARK in text


def _how(record: Record) -> str:
    if record.head == "linear":
        return "multinomial logistic regression"
    return f"a vote of the {record.voters} nearest training rows"


def _remarks(extractor: FungiExtractor, record: Record) -> list[str]:
    # What a reader must know before believing a figure.
    names = {one.rows for one in record.results}
    lines = []
    if TRAINING in names:
        seen = ["the features were chosen by these rows' labels"] if extractor.tuning else []
        if extractor.state.to_tensors():
            seen.append("what the features learn without labels, they learned from these rows")
        but = f", but {' and '.join(seen)}" if seen else ""
        lines.append(f"{TRAINING}: each row was judged by others{but}: expect less on new rows")
    if names - {TRAINING}:
        lines.append("other rows: whoever made the classifier gave them as rows held out of `fit`")
    else:
        lines.append("nothing was measured on rows held out of `fit`")
    lines.append("baselines are the plain embedding of the same encoder, on the same terms")
    behind = [
        f"{one.who} on {one.rows}"
        for one in record.results
        for ours in record.results
        if ours.who == THIS and one.rows == ours.rows and one.accuracy > ours.accuracy
    ]
    if behind:
        lines.append(f"behind {', '.join(behind)}")
    return [*lines, *record.notes]


def _computed(extractor: FungiExtractor, record: Record) -> list[str]:
    config = extractor.config
    lines = ["each block is L2-normalised"]
    if config.whitening > 0:
        lines = [f"each block is whitened (power {config.whitening:g}), then L2-normalised"]
    elif config.center:
        lines = ["each block is centred, then L2-normalised"]
    if config.reduction is not None:
        lines.append(f"PCA to {config.reduction.n_components} components")
    if record.head == "linear":
        strength = f"mean cross-entropy + {record.strength:g} / 2 |w|^2"
        lines.append(f"the head minimises {strength} (scikit-learn's LogisticRegression)")
    else:
        lines.append(f"{record.voters} neighbours by cosine, {record.weights} votes")
    if extractor.tuning is not None:
        lines.append(f"chosen by tuning: {extractor.tuning.reason}")
    return lines


def _privacy(extractor: FungiExtractor, record: Record) -> list[str]:
    n = record.n_rows
    if record.head == "linear":
        lines = [
            "`classifier.safetensors` holds coefficients, no row of training; no text, picture or "
            "sound is in any file"
        ]
    else:
        lines = [
            f"`classifier.safetensors` holds a vector and a label for each of the {n} training "
            "rows; no text, picture or sound is in any file",
            "vectors are no anonymous data: whoever has the files can see which rows are alike, "
            "and can test whether a given input was among them; a linear head holds no rows",
        ]
    if extractor.state.to_tensors():
        lines.append(
            "`fungi_state.safetensors` holds what was learned without labels: means and matrices "
            "of all rows, and embeddings of drawn rows where an objective needs negatives"
        )
    return [*lines, "the labels and how many rows each has are written in plain words"]


def _cell(label: object) -> str:
    words = " ".join(str(label).split())
    return words.replace("|", "\\|") or '""'
