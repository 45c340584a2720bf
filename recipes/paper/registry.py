"""Every data set of the paper: where it is on the Hub, its columns, splits, metric and licence.

Ids, columns and licences are those that the repositories are known to have; `loading` checks the
columns and splits against what it gets. Repositories that hold a script are read from the branch
to which the Hub converts them, whose folders are the configurations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Modality = Literal["vision", "text", "audio"]
Task = Literal["classification", "segmentation", "landmarks"]
CONVERTED: Final = "refs/convert/parquet"
_IMAGENET: Final = "terms of ImageNet: non-commercial research"
_SPEECH: Final = {"audio_statistics": "speech_commands", "max_length": 128}
VOC_CLASSES: Final = 21
FOLDS: Final = ("fold", 1)  # test fold of ESC-50 in the published code; the others train


@dataclass(frozen=True, kw_only=True)
class LocalSet:
    """Files of this project that stand for a set: see `loading.read_local` for their form.

    Attributes:
        folder: Under FUNGI_DATA or `--data`, or in recipes/data.
        title: What the table calls them.
        is_part: Whether they are rows of the set itself; else another set in its place.
        fold: As of `DataSet`.
        n_classes: Of masks.
        ignore: Labels of masks that are not scored.
        image_size: Height and width for segmentation.
    """

    folder: str
    title: str
    licence: str
    is_part: bool = True
    fold: tuple[str, int] | None = None
    n_classes: int = 0
    ignore: tuple[int, ...] = ()
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One row of a table.

    Attributes:
        name: On the command line.
        hub: Repository; `revision` is a branch, tag or commit of it.
        config: Configuration; on the converted branch it is a folder.
        inputs: Column of texts, pictures or sounds.
        labels: Column of classes or masks; of landmarks the columns easy, hard and junk are read.
        splits: To learn from and to judge by; for landmarks database and queries.
        metric: The table's main number.
        rows: Of both splits as published.
        fold: Column and value of the rows to judge by, where there is one split.
        bins: Equal parts of [0, 1] that make classes of a score.
        left_out: Labels whose rows are not used.
        n_classes: Of masks, `ignore` among their labels.
        ignore: Labels of masks that are neither taught nor scored.
        megabytes: About what is downloaded, where it is known.
        gated: Whether terms have to be accepted on its page first.
        changes: Fields of the paper preset that differ for this set.
        local: Files that stand for it.
        differs: How it differs from the set of the paper.
    """

    name: str
    title: str
    modality: Modality
    hub: str
    inputs: str
    labels: str
    splits: tuple[str, str]
    licence: str
    rows: tuple[int, int]
    task: Task = "classification"
    metric: str = "accuracy"
    config: str | None = None
    revision: str = "main"
    fold: tuple[str, int] | None = None
    bins: int | None = None
    left_out: tuple[int, ...] = ()
    n_classes: int = 0
    ignore: tuple[int, ...] = ()
    megabytes: int | None = None
    gated: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    local: LocalSet | None = None
    differs: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        more = ("easy", "hard", "junk") if self.task == "landmarks" else (self.labels,)
        return (self.inputs, *more, *((self.fold[0],) if self.fold else ()))


def _vision(name: str, title: str, hub: str, rows: tuple[int, int], **more: Any) -> DataSet:
    common: dict[str, Any] = {"inputs": "image", "labels": "label", "splits": ("train", "test")}
    return DataSet(name=name, title=title, modality="vision", hub=hub, rows=rows, **common | more)


def _text(name: str, title: str, hub: str, rows: tuple[int, int], **more: Any) -> DataSet:
    common: dict[str, Any] = {"inputs": "text", "labels": "label", "splits": ("train", "test")}
    return DataSet(name=name, title=title, modality="text", hub=hub, rows=rows, **common | more)


_NETTE = LocalSet(
    folder="vision/imagenette128",
    title="Imagenette (for ImageNet-100)",
    licence=_IMAGENET,
    is_part=False,
)
_CAMVID = LocalSet(
    folder="segmentation/camvid200",
    title="CamVid, 200 frames (for Pascal VOC)",
    licence="CC BY-NC 4.0",
    is_part=False,
    n_classes=11,
    ignore=(11,),
    image_size=(168, 224),
)
_REVISITED: Final[dict[str, Any]] = {
    "labels": "",
    "splits": ("imlist", "qimlist"),
    "task": "landmarks",
    "metric": "map",
    "revision": CONVERTED,
    "licence": "none stated; photographs of Flickr users",
}
_ALL: Final = (
    _vision("imagenet-1k", "ImageNet-1k", "ILSVRC/imagenet-1k", (1_281_167, 50_000),
            splits=("train", "validation"), licence=_IMAGENET, gated=True, megabytes=155_000),
    _vision("imagenet-100", "ImageNet-100", "clane9/imagenet-100", (126_689, 5_000),
            splits=("train", "validation"), licence=_IMAGENET, local=_NETTE,
            differs="the hundred classes may be others than the paper's"),
    _vision("cifar10", "CIFAR-10", "uoft-cs/cifar10", (50_000, 10_000), inputs="img",
            licence="none stated", megabytes=144,
            local=LocalSet(folder="vision/cifar10_3k", title="CIFAR-10 (3,000 images, JPEG)",
                           licence="none stated")),
    _vision("cifar100", "CIFAR-100", "uoft-cs/cifar100", (50_000, 10_000), inputs="img",
            labels="fine_label", licence="none stated", megabytes=142),
    _vision("flowers102", "Flowers-102", "dpdl-benchmark/oxford_flowers102", (1_020, 6_149),
            licence="none stated", megabytes=347),
    _vision("food101", "Food-101", "ethz/food101", (75_750, 25_250),
            splits=("train", "validation"), licence="none stated; photographs of Foodspotting",
            megabytes=5_060),
    _vision("aircraft", "FGVC Aircraft", "HuggingFaceM4/FGVC-Aircraft", (3_334, 3_333),
            labels="variant", licence="non-commercial research", megabytes=2_761),
    _vision("cars", "Stanford Cars", "tanganke/stanford_cars", (8_144, 8_041),
            licence="none stated; non-commercial research by its authors"),
    _vision("cub200", "CUB-200", "Donghyun99/CUB-200-2011", (5_994, 5_794),
            licence="non-commercial research and education", megabytes=1_145),
    _vision("textures", "Textures", "tanganke/dtd", (3_760, 1_880),
            licence="none stated; research by its authors",
            differs="train holds the training and validation images of the first partition"),
    _vision("pets", "Pets", "timm/oxford-iiit-pet", (3_680, 3_669), licence="CC BY-SA 4.0",
            megabytes=791),
    _vision("eurosat", "EuroSAT", "tanganke/eurosat", (21_600, 2_700), licence="MIT",
            differs="EuroSAT has no official split; this is the repository's"),
    _text("trec", "TREC", "CogComp/trec", (5_452, 500), labels="coarse_label",
          config="default", revision=CONVERTED, licence="none stated", megabytes=1,
          local=LocalSet(folder="text/trec6", title="TREC", licence="none stated")),
    _text("ag-news", "AG News", "fancyzhx/ag_news", (120_000, 7_600),
          licence="none stated; non-commercial use by its author", megabytes=20),
    _text("banking77", "Banking-77", "mteb/banking77", (10_003, 3_080), licence="CC BY 4.0",
          megabytes=2,
          local=LocalSet(folder="text/banking77", title="Banking-77", licence="CC BY 4.0")),
    _text("tweet-eval", "TweetEval (emoji)", "cardiffnlp/tweet_eval", (45_000, 50_000),
          config="emoji", licence="none stated; terms of Twitter", megabytes=8),
    _text("sst", "SST", "stanfordnlp/sst", (8_544, 2_210), inputs="sentence", config="default",
          revision=CONVERTED, bins=5, licence="none stated", megabytes=5,
          local=LocalSet(folder="text/sst5", title="SST (SST-5 labels)", licence="none stated"),
          differs="a score of 1 is in the fifth of five bins, not in a sixth"),
    DataSet(name="esc50", title="ESC-50", modality="audio", hub="ashraq/esc50", inputs="audio",
            labels="target", splits=("train", "train"), fold=FOLDS, rows=(1_600, 400),
            licence="CC BY-NC 3.0", megabytes=773,
            local=LocalSet(folder="audio/esc10", title="ESC-10 (10 of the 50 classes)",
                           licence="CC BY 3.0", fold=FOLDS)),
    DataSet(name="speech-commands", title="Speech Commands v2", modality="audio",
            hub="google/speech_commands", inputs="audio", labels="label", config="v0.02",
            splits=("train", "test"), revision=CONVERTED, left_out=(35,), rows=(84_843, 4_482),
            licence="CC BY 4.0", changes=_SPEECH, megabytes=2_500,
            local=LocalSet(folder="audio/fsdd", title="spoken digits (for Speech Commands)",
                           licence="CC BY-SA 4.0", is_part=False),
            differs="the repository's test split is the smaller archive; silence is left out"),
    DataSet(name="voc", title="Pascal VOC 2012", modality="vision", task="segmentation",
            hub="nateraw/pascal-voc-2012", inputs="image", labels="mask",
            splits=("train", "val"), metric="miou", n_classes=VOC_CLASSES, ignore=(255,),
            rows=(1_464, 1_449), licence="none stated; photographs of Flickr users", local=_CAMVID,
            differs="train, not trainaug with its 10,582 images"),
    DataSet(name="ade20k", title="ADE20K", modality="vision", task="segmentation",
            hub="zhoubolei/scene_parse_150", config="scene_parsing", revision=CONVERTED,
            inputs="image", labels="annotation", splits=("train", "validation"), metric="miou",
            n_classes=151, ignore=(0,), rows=(20_210, 2_000), licence="BSD-3-Clause",
            megabytes=950, differs="the 150 classes of the scene parsing benchmark"),
    DataSet(name="oxford", title="Oxford (revisited)", modality="vision",
            hub="randall-lab/revisitop", config="roxford5k", inputs="image", rows=(4_993, 70),
            megabytes=2_000, **_REVISITED),
    DataSet(name="paris", title="Paris (revisited)", modality="vision",
            hub="randall-lab/revisitop", config="rparis6k", inputs="image", rows=(6_322, 70),
            megabytes=2_500, **_REVISITED),
)  # fmt: skip
SETS: Final = {one.name: one for one in _ALL}
"""Name on the command line -> data set, in the order of the tables."""
