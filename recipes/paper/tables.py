"""The tables: their sets, the encoders of the paper, configs and protocols.

Presets: "paper" is the published choice, "fungi" the toolkit's own for any encoder of the modality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.config import KL, Activation, FungiConfig, SimCLR
from fungi_hf.errors import ConfigError, choices
from fungi_hf.evaluation.knn import knn_protocol
from fungi_hf.evaluation.linear import LINEAR_PROTOCOLS
from fungi_hf.evaluation.segmentation import SEGMENTATION_PROTOCOLS
from fungi_hf.specs.dense import DenseInfoNCE
from fungi_hf.specs.targets import DINO, DeepCluster
from recipes.paper.registry import SETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.knn import KNNProtocol
    from fungi_hf.evaluation.linear import LinearProtocol
    from fungi_hf.evaluation.segmentation import SegmentationProtocol
    from fungi_hf.specs import ObjectiveSpec
    from recipes.paper.registry import DataSet

PRESETS: Final = ("paper", "fungi")
JUDGES: Final = ("full", "few-shot", "linear")
_MOST: Final = 512  # principal components of the paper; no more than the embedding has columns
# Five rows a class: the first in the file for images, in proportion to the classes for texts. The
# published sounds have none; they take the rule of the images.
_FEW: Final = {"vision": "paper-vision", "audio": "paper-vision", "text": "paper-text"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        name: On the command line.
        kind: Of `FungiConfig.paper`.
        sets: Its rows.
        models: Encoders of the paper: what they are there -> id on the Hub, or why there is none.
    """

    name: str
    title: str
    modality: str
    kind: str
    models: dict[str, str]
    sets: tuple[DataSet, ...]

    @property
    def task(self) -> str:
        """What its sets are judged by."""
        return self.sets[0].task

    def some(self, names: Sequence[str] | None) -> list[DataSet]:
        """Give the named sets in the table's order, all without names.

        Raises:
            ConfigError: If a name is none of the table's.
        """
        known = {one.name: one for one in self.sets}
        for name in names or ():
            if name not in known:
                raise ConfigError(f"table {self.name!r} has no set {choices(name, known)}")
        return [one for one in self.sets if not names or one.name in names]


_VISION: Final = {
    "ViT-S/16 AugReg": "WinKawaks/vit-small-patch16-224",
    "ViT-B/16 AugReg, ImageNet-21k": "google/vit-base-patch16-224-in21k",
    "ViT-B/16 AugReg, ImageNet-1k": "google/vit-base-patch16-224",
    "DINO ViT-B/16": "facebook/dino-vitb16",
    "DINOv2 ViT-B/14": "facebook/dinov2-base",
    "CLIP ViT-B/16": "openai/clip-vit-base-patch16",
    "MAE ViT-B/16": "facebook/vit-mae-base",
    "torchvision ViT-B/16, B/32; EVA-CLIP; MoCo v3": "not in transformers",
}


def _sets(modality: str, task: str) -> tuple[DataSet, ...]:
    return tuple(one for one in SETS.values() if one.modality == modality and one.task == task)


TABLES: Final = {
    one.name: one
    for one in (
        Table(name="vision", title="Images: neighbours and linear probe", modality="vision",
              kind="vision", models=_VISION, sets=_sets("vision", "classification")),
        Table(name="text", title="Texts: neighbours and linear probe", modality="text",
              kind="text", sets=_sets("text", "classification"),
              models={"BERT base": "google-bert/bert-base-uncased",
                      "T5 small": "google-t5/t5-small"}),
        Table(name="audio", title="Sounds: neighbours and linear probe", modality="audio",
              kind="audio", sets=_sets("audio", "classification"),
              models={"SSAST-Base-Patch-400": "a folder that `fungi-hf convert-ssast` made"}),
        Table(name="segmentation", title="In-context segmentation", modality="vision",
              kind="segmentation", sets=_sets("vision", "segmentation"),
              models={"DINO ViT-S/16": "facebook/dino-vits16",
                      "DINO ViT-B/16": "facebook/dino-vitb16"}),
        Table(name="landmarks", title="Landmark retrieval", modality="vision", kind="vision",
              sets=_sets("vision", "landmarks"), models={"DINO ViT-B/16": "facebook/dino-vitb16"}),
    )
}  # fmt: skip


def table_named(name: str) -> Table:
    """Give a table.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in TABLES:
        raise ConfigError(f"no table {choices(name, TABLES)}")
    return TABLES[name]


def config(
    table: Table,
    one: DataSet,
    *,
    preset: str = "paper",
    objectives: Sequence[str] | None = None,
    seed: int = 42,
    **changes: Any,
) -> FungiConfig:
    """Give the config of a set: the preset's objectives, all or the named ones, and the control.

    For images "deepcluster" may be named, too.

    The protocols reduce each combination of blocks, so the config reduces nothing.

    Raises:
        ConfigError: If a name is none of the choices.
    """
    base = _preset(table, one, preset)
    further = _further(table, preset)
    known = {spec.name: spec for spec in (*base.objectives, *further)}
    for name in objectives or ():
        if name not in known:
            raise ConfigError(f"preset {preset!r} of table {table.name!r} has no objective "
                              f"{choices(name, known)}")  # fmt: skip
    kept = base.objectives
    if objectives is not None:
        kept = tuple(spec for name, spec in known.items() if name in objectives)
    return base.replace(
        objectives=(*kept, Activation()),
        reduction=None,
        seed=seed,
        modality=table.modality,
        **{name: value for name, value in changes.items() if value is not None},
    )


def _preset(table: Table, one: DataSet, preset: str) -> FungiConfig:
    if preset == "paper":
        return FungiConfig.paper(table.kind).replace(**one.changes)
    if preset != "fungi":
        raise ConfigError(f"no preset {choices(preset, PRESETS)}")
    if table.task == "segmentation":
        return FungiConfig(objectives=(DenseInfoNCE(),))
    dino = (DINO(),) if table.modality == "vision" else ()
    return FungiConfig(objectives=(KL(), *dino, SimCLR()))


def _further(table: Table, preset: str) -> tuple[ObjectiveSpec, ...]:
    # DeepCluster has a run of its own in the published jobs and is in no concatenation.
    if table.kind != "vision":
        return ()
    if preset == "fungi":
        return (DeepCluster(),)
    return (DeepCluster(views="deepcluster", view_options={"statistics": "deepcluster"}),)


def neighbours(
    table: Table, preset: str, width: int, seed: int, shots: int | None = None
) -> KNNProtocol:
    """Give the protocol of all training rows, or of a few a class, for an embedding's width."""
    if preset == "fungi":
        name = f"fungi-{shots}-shot" if shots else "fungi"
        return replace(knn_protocol(name), seed=seed)
    name = f"{_FEW[table.modality]}-{shots}-shot" if shots else "paper"
    return replace(knn_protocol(name), pca=min(_MOST, width), seed=seed)


def probe(preset: str, width: int, seed: int) -> LinearProtocol:
    """Give the protocol of the linear probe."""
    rule = LINEAR_PROTOCOLS[preset]
    pca = rule.pca and min(rule.pca, width)
    return replace(rule, pca=pca, seed=seed)


def segmentation(
    preset: str, seed: int, ignore: tuple[int, ...], *, few: bool
) -> SegmentationProtocol:
    """Give the protocol of all training images, or of a few."""
    rule = SEGMENTATION_PROTOCOLS[f"{preset}-few-shot" if few else preset]
    return replace(rule, ignore=ignore, seed=seed)
