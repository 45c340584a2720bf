"""Sweeps over layers and objectives' options; variants share their forward passes.

Every row is a kNN accuracy on the test rows with its interval and the paired test against the
embedding. Test labels judge here and choose nothing: pick a variant on training data.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.checks import check_choice, check_integer
from fungi_hf.errors import ConfigError, InputError, choices
from fungi_hf.evaluation.inputs import listed
from fungi_hf.evaluation.knn import evaluate_knn, knn_protocol
from fungi_hf.evaluation.protocols import AS_INPUT
from fungi_hf.evaluation.sweeps.records import SweepResult
from fungi_hf.extraction.variants import VariantExtractor
from fungi_hf.features import FungiFeatures, make_layout
from fungi_hf.gradients.layers import block_number, linear_layers
from fungi_hf.neighbors.labels import read_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.config import FungiConfig
    from fungi_hf.evaluation.knn import KNNProtocol
    from fungi_hf.evaluation.sweeps.records import Cell
    from fungi_hf.extraction.variants import VariantBlocks
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.types import Float32Array

OBJECTIVE_FIELDS: Final = ("n_views", "temperature", "latent_dim", "n_negatives")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SweepData:
    """Labelled inputs that every variant is judged on.

    Attributes:
        train: Raw training inputs.
        train_labels: One a training input.
        test: Raw test inputs.
        test_labels: One a test input.
        protocol: A `KNNProtocol` or its name.
        progress: Show bars.
    """

    train: Sequence[Any]
    train_labels: Labels
    test: Sequence[Any]
    test_labels: Labels
    protocol: KNNProtocol | str = "fungi"
    progress: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked before the first forward pass."""
        read_labels(self.train_labels, "train labels", len(self.train))
        read_labels(self.test_labels, "test labels", len(self.test))
        knn_protocol(self.protocol)


def sweep_layers(
    extractor: FungiExtractor,
    data: SweepData,
    *,
    layers: Sequence[str] | None = None,
    memory_mb: int = 2048,
) -> SweepResult:
    """Judge every objective's gradient at every Linear layer, and the layers' inputs.

    One forward and one backward pass serve as many layers as fit into memory.

    Args:
        extractor: Gives encoder, objectives, sketch and seed; it need not be fitted.
        data: What to judge on.
        layers: Dotted paths; None takes all that have per-sample gradients.
        memory_mb: Of the features held at a time; fewer layers a pass where more are needed.

    Returns:
        A row for the embedding, then for each layer, lowest first, its `activation` and every
        objective's block, alone and beside the embedding. `block` is the number of the
        transformer block, `part` the layer's name within it.

    Raises:
        ConfigError: If `layers` is empty or no list.
    """
    check_integer("memory_mb", memory_mb, **AS_INPUT)
    encoder, config = extractor.encoder, extractor.config
    names = [spec.name for spec in config.objectives if spec.has_gradient]
    paths = list(linear_layers(encoder.model))
    if layers is not None:
        paths = listed("layers are", layers, "dotted paths, or None for all", ConfigError)
    if not paths:
        raise ConfigError("layers are empty; None takes all")
    rows: list[dict[str, Cell]] = []
    unusable: dict[str, str] = {}
    passes = _passes(extractor, paths, len(data.train) + len(data.test), len(names), memory_mb)
    for some in passes:
        variants = VariantExtractor(encoder, config, layers=some).fit(data.train)
        sides = [
            variants(side, activations=True, progress=data.progress)
            for side in (data.train, data.test)
        ]
        unusable |= sides[0].unusable
        for path in variants.layers:
            blocks = [_blocks(side, path, names) for side in sides]
            if not blocks[0] or path in unusable:
                continue
            place = {"layer": path, "block": block_number(path), "part": _part(path)}
            rows += _judge(place, sides, blocks, data)[len(rows) > 0 :]
    settings = sweep_settings(extractor, data) | {"passes": len(passes)}
    notes = (*(f"layer {path} is left out: it {why}" for path, why in unusable.items()),)
    notes += unused_fields(config)
    return SweepResult(kind="layers", rows=tuple(rows), settings=settings, notes=notes)


def sweep_objective(
    extractor: FungiExtractor,
    data: SweepData,
    field: str,
    values: Sequence[float],
    *,
    objective: str | None = None,
) -> SweepResult:
    """Vary one option of one objective; all variants share forward passes, head and sketch.

    Heads of different widths are different draws.

    Args:
        extractor: Gives encoder, layer, sketch, seed and the objective's other options.
        data: What to judge on.
        field: One of `OBJECTIVE_FIELDS`.
        values: Of the field.
        objective: The block's name; None takes the first objective with that field.

    Returns:
        A row for the embedding, then two for each value: the block alone, and beside the
        embedding.

    Raises:
        ConfigError: If the field is unknown, or no objective of the config has it.
        InputError: If there are no values.
    """
    check_choice("field", field, OBJECTIVE_FIELDS)
    wanted = listed("values are", values, "numbers", ConfigError)
    if not wanted:
        raise InputError("values are empty; a sweep needs at least one")
    spec = _spec(extractor, field, objective)
    changes: list[dict[str, Any]] = [{field: value} for value in wanted]
    variants: dict[str, ObjectiveSpec] = {
        f"v{place}": dataclasses.replace(spec, **change) for place, change in enumerate(changes)
    }
    extract = VariantExtractor(extractor.encoder, extractor.config, objectives=variants)
    extract.fit(data.train)
    path = extractor.encoder.layer_path
    sides = [extract(side, progress=data.progress) for side in (data.train, data.test)]
    rows: list[dict[str, Cell]] = []
    for label, change in zip(variants, changes, strict=True):
        blocks = [{spec.name: side.gradients[path, label, "config"]} for side in sides]
        rows += _judge(change, sides, blocks, data)[len(rows) > 0 :]
    settings = sweep_settings(extractor, data) | {"objective": spec.to_dict()}
    notes = unused_fields(extractor.config)
    return SweepResult(kind=field, rows=tuple(rows), settings=settings, notes=notes)


def _passes(
    extractor: FungiExtractor, paths: list[str], n_rows: int, n_objectives: int, memory_mb: int
) -> list[list[str]]:
    """Cut the layers into as few passes as the memory of their features allows."""
    width = extractor.config.sketch_dim or extractor.encoder.width
    usable = linear_layers(extractor.encoder.model)
    passes: list[list[str]] = [[]]
    used = 0
    for path in paths:
        inputs = usable[path].in_features if path in usable else 0
        need = 4 * n_rows * (n_objectives * width + inputs)
        if passes[-1] and used + need > memory_mb << 20:
            passes.append([])
            used = 0
        passes[-1].append(path)
        used += need
    return passes


def _blocks(side: VariantBlocks, path: str, names: list[str]) -> dict[str, Float32Array]:
    """Give the blocks that a layer has, its activation first."""
    found = {"activation": side.activations.get(path)}
    found |= {name: side.gradients.get((path, name, "config")) for name in names}
    return {name: block for name, block in found.items() if block is not None}


def _judge(
    place: Mapping[str, Cell],
    sides: list[VariantBlocks],
    blocks: list[dict[str, Float32Array]],
    data: SweepData,
) -> list[dict[str, Cell]]:
    """Give rows of accuracy, interval and paired test.

    Args:
        place: Columns of the variant.
        sides: Blocks of the training and of the test inputs.
        blocks: The variant's own blocks of both.
        data: Labels and protocol.

    Returns:
        The embedding, whose place is blank, then each block alone, then beside the embedding.
    """
    features = []
    for side, own in zip(sides, blocks, strict=True):
        parts = {"embedding": side.embedding, **own}
        layout = make_layout({name: part.shape[1] for name, part in parts.items()})
        array = np.concatenate(list(parts.values()), axis=1)
        features.append(FungiFeatures(array=array, layout=layout, fingerprint=""))
    results = evaluate_knn(
        features[0],
        data.train_labels,
        features[1],
        data.test_labels,
        protocol=data.protocol,
        combinations=[
            ("embedding",),
            *((name,) for name in blocks[0]),
            *(("embedding", name) for name in blocks[0]),
        ],
    )
    blank: dict[str, Cell] = {n: "" if isinstance(v, str) else None for n, v in place.items()}
    return [
        {
            **(place if number else blank),
            "features": one.name,
            "accuracy": one.metrics["accuracy"],
            "accuracy_low": one.intervals["accuracy"][0],
            "accuracy_high": one.intervals["accuracy"][1],
            "difference": one.against_baseline.get("difference"),
            "difference_low": one.against_baseline.get("low"),
            "difference_high": one.against_baseline.get("high"),
            "p": one.against_baseline.get("p"),
        }
        for number, one in enumerate(results)
    ]


def _part(path: str) -> str:
    """Give what follows the block's number: the same layer has one name in all blocks."""
    number = block_number(path)
    return path if number is None else re.split(rf"(?:^|\.){number}\.", path, maxsplit=1)[-1]


def _spec(extractor: FungiExtractor, field: str, objective: str | None) -> ObjectiveSpec:
    """Find the objective that has the field.

    Raises:
        ConfigError: If there is none.
    """
    specs = {spec.name: spec for spec in extractor.config.objectives}
    if objective is not None and objective not in specs:
        raise ConfigError(f"no objective {choices(objective, specs)}")
    named = [specs[objective]] if objective is not None else list(specs.values())
    having = [s for s in named if field in {one.name for one in dataclasses.fields(s)}]
    # Every objective has the field n_views, which allows some of them 1 alone.
    having = [s for s in having if field != "n_views" or s.takes_views]
    if not having:
        raise ConfigError(
            f"none of the objectives {', '.join(s.name for s in named)} can vary {field}; "
            "n_views and n_negatives are options of simclr"
        )
    return having[0]


def unused_fields(config: FungiConfig) -> tuple[str, ...]:
    """Say which of a config's fields a sweep does not apply, where they are set."""
    named = {
        "center": config.center,
        "whitening": config.whitening > 0,
        "weights": config.embedding_weight != 1 or any(s.weight != 1 for s in config.objectives),
        "reduction": config.reduction is not None,
    }
    unused = [name for name, is_set in named.items() if is_set]
    return (f"the config's {', '.join(unused)} are not applied in a sweep",) if unused else ()


def sweep_settings(extractor: FungiExtractor, data: SweepData) -> dict[str, Any]:
    """Give what all rows of a sweep share."""
    rule = knn_protocol(data.protocol)
    return {
        "target_layer": extractor.encoder.layer_path,
        "pooling": extractor.encoder.pooling,
        "config": extractor.config.to_dict(),
        "protocol": rule.name,
        "n_neighbors": rule.n_neighbors,
        "n_train": len(data.train),
        "n_test": len(data.test),
    }
