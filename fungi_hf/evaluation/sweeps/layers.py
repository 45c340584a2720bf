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
from fungi_hf.errors import ConfigError, InputError
from fungi_hf.evaluation.inputs import listed
from fungi_hf.evaluation.knn import evaluate_knn, knn_protocol
from fungi_hf.evaluation.protocols import AS_INPUT
from fungi_hf.evaluation.records import SweepResult
from fungi_hf.extraction.variants import VariantExtractor
from fungi_hf.features import FungiFeatures, make_layout
from fungi_hf.gradients.layers import block_number, linear_layers
from fungi_hf.neighbors.labels import read_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.knn import KNNProtocol
    from fungi_hf.evaluation.records import Cell
    from fungi_hf.extraction.variants import VariantBlocks
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.types import Float32Array

OBJECTIVE_FIELDS: Final = ("n_views", "temperature", "latent_dim", "n_negatives")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SweepData:
    """Raw inputs and their labels, one each, that every variant is judged on by a protocol."""

    train: Sequence[Any]
    train_labels: Labels
    test: Sequence[Any]
    test_labels: Labels
    protocol: KNNProtocol | str = "fungi"
    progress: bool = False

    def __post_init__(self) -> None:
        read_labels(self.train_labels, "train labels", len(self.train))
        read_labels(self.test_labels, "test labels", len(self.test))
        knn_protocol(self.protocol)

    def blocks(self, extract: VariantExtractor, **options: bool) -> list[VariantBlocks]:
        """Fit on the training inputs, then give the blocks of both sides."""
        extract.fit(self.train)
        sides = self.train, self.test
        return [extract(side, progress=self.progress, **options) for side in sides]


def sweep_layers(
    extractor: FungiExtractor,
    data: SweepData,
    *,
    layers: Sequence[str] | None = None,
    memory_mb: int = 2048,
) -> SweepResult:
    """Judge every objective's gradient at every Linear layer, and the layers' inputs.

    The extractor gives encoder, objectives, sketch and seed; it need not be fitted. Layers are
    dotted paths; None takes all that have per-sample gradients. One forward and one backward pass
    serve as many layers as hold their features in `memory_mb`.

    Returns:
        A row for the embedding, then for each layer, lowest first, its `activation` and every
        objective's block, alone and beside the embedding. `block` is the number of the
        transformer block, `part` the layer's name within it.

    Raises:
        ConfigError: If `layers` is empty or no list.
    """
    check_integer("memory_mb", memory_mb, **AS_INPUT)
    encoder, config = extractor.encoder, extractor.config
    names = list(config.losses)
    paths = list(linear_layers(encoder.model))
    if layers is not None:
        paths = listed("layers are", layers, "dotted paths, or None for all", ConfigError)
    if not paths:
        raise ConfigError("layers are empty; None takes all")
    rows: list[dict[str, Cell]] = []
    unusable: dict[str, str] = {}
    passes = _passes(extractor, paths, len(data.train) + len(data.test), len(names), memory_mb)
    for some in passes:
        variants = VariantExtractor(encoder, config, layers=some)
        sides = data.blocks(variants, activations=True)
        unusable |= sides[0].unusable
        for path in variants.layers:
            keys = {"activation": path, **{name: (path, name, "config") for name in names}}
            held = [side.activations | side.gradients for side in sides]
            blocks = [{n: one[key] for n, key in keys.items() if key in one} for one in held]
            if blocks[0] and path not in unusable:
                place = {"layer": path, "block": block_number(path), "part": _part(path)}
                rows += _judge(place, sides, blocks, data)[bool(rows) :]  # one embedding
    notes = tuple(f"layer {path} is left out: it {why}" for path, why in unusable.items())
    return sweep_result("layers", extractor, data, rows, notes, passes=len(passes))


def sweep_objective(
    extractor: FungiExtractor,
    data: SweepData,
    field: str,
    values: Sequence[float],
    *,
    objective: str | None = None,
) -> SweepResult:
    """Vary one option of one objective; all variants share forward passes, head and sketch.

    Heads of different widths are different draws. The extractor gives encoder, layer, sketch, seed
    and the objective's other options; None as its name takes the first objective with the field.

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
    variants: dict[str, ObjectiveSpec] = {
        f"v{place}": dataclasses.replace(spec, **{field: value})
        for place, value in enumerate(wanted)
    }
    target = extractor.encoder.layer_path
    paths = {block: path or target for block, path in spec.blocks.items()}
    extract = VariantExtractor(
        extractor.encoder,
        extractor.config,
        objectives=variants,
        layers=list(dict.fromkeys(paths.values())),
    )
    sides = data.blocks(extract)
    rows: list[dict[str, Cell]] = []
    for label, value in zip(variants, wanted, strict=True):
        blocks = [
            {block: side.gradients[path, label, "config"] for block, path in paths.items()}
            for side in sides
        ]
        rows += _judge({field: value}, sides, blocks, data)[bool(rows) :]  # one embedding
    return sweep_result(field, extractor, data, rows, (), objective=spec.to_dict())


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


def _judge(
    place: Mapping[str, Cell],
    sides: list[VariantBlocks],
    blocks: list[dict[str, Float32Array]],
    data: SweepData,
) -> list[dict[str, Cell]]:
    """Give rows of accuracy, interval and paired test of a variant's own blocks of both sides.

    The first row is the embedding, whose place is blank; then each block alone, then beside it.
    """
    features = []
    for side, own in zip(sides, blocks, strict=True):
        parts = {"embedding": side.embedding, **own}
        layout = make_layout({name: part.shape[1] for name, part in parts.items()})
        array = np.concatenate(list(parts.values()), axis=1)
        features.append(FungiFeatures(array=array, layout=layout, fingerprint=""))
    alone = [("embedding",), *((name,) for name in blocks[0])]
    wanted = [*alone, *(("embedding", name) for name in blocks[0])]
    known, asked = zip(features, (data.train_labels, data.test_labels), strict=True)
    results = evaluate_knn(*known, *asked, protocol=data.protocol, combinations=wanted)
    blank: dict[str, Cell] = {n: "" if isinstance(v, str) else None for n, v in place.items()}
    keys = {"difference": "difference", "difference_low": "low", "difference_high": "high"}
    return [
        {
            **(place if number else blank),
            "features": one.name,
            "accuracy": one.metrics["accuracy"],
            "accuracy_low": one.intervals["accuracy"][0],
            "accuracy_high": one.intervals["accuracy"][1],
            **{name: one.against_baseline.get(key) for name, key in keys.items()},
            "p": one.against_baseline.get("p"),
        }
        for number, one in enumerate(results)
    ]


def _part(path: str) -> str:
    """Give what follows the block's number: the same layer has one name in all blocks."""
    number = block_number(path)
    return path if number is None else re.split(rf"(?:^|\.){number}\.", path, maxsplit=1)[-1]


def _spec(extractor: FungiExtractor, field: str, objective: str | None) -> ObjectiveSpec:
    specs = {spec.name: spec for spec in extractor.config.objectives}
    if objective is not None:
        specs = {objective: specs[check_choice("objective", objective, specs)]}
    for spec in specs.values():
        # Every objective has the field n_views, which allows some of them 1 alone.
        has_field = field in {one.name for one in dataclasses.fields(spec)}
        if has_field and (field != "n_views" or spec.takes_views):
            return spec
    raise ConfigError(
        f"none of the objectives {', '.join(specs)} can vary {field}; "
        "n_views and n_negatives are options of simclr"
    )


def sweep_result(
    kind: str,
    extractor: FungiExtractor,
    data: SweepData,
    rows: Sequence[Mapping[str, Cell]],
    notes: tuple[str, ...],
    **further: Any,
) -> SweepResult:
    """Give a sweep with its settings, and a note on fields of the config that it does not apply."""
    config, rule = extractor.config, knn_protocol(data.protocol)
    named = {
        "center": config.center,
        "whitening": config.whitening > 0,
        "weights": config.embedding_weight != 1 or any(s.weight != 1 for s in config.objectives),
        "reduction": config.reduction is not None,
    }
    unused = ", ".join(name for name, is_set in named.items() if is_set)
    settings = {
        "target_layer": extractor.encoder.layer_path,
        "pooling": extractor.encoder.pooling,
        "config": config.to_dict(),
        "protocol": rule.name,
        "n_neighbors": rule.n_neighbors,
        "n_train": len(data.train),
        "n_test": len(data.test),
        **further,
    }
    if unused:
        notes = (*notes, f"the config's {unused} are not applied in a sweep")
    return SweepResult(kind=kind, settings=settings, rows=tuple(rows), notes=notes)
