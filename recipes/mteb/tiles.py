"""Retrieval and classification of images on the committed tiles, without a download."""

from __future__ import annotations

from typing import Any, Final

from datasets import Dataset, DatasetDict, Image
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from recipes.vision.data import load


def _metadata(name: str, kind: Any, category: Any, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="Tiles of ten photographs, read from the repository.",
        type=kind,
        category=category,
        modalities=["image"],
        dataset={"path": "recipes/data/vision/tiles", "revision": "committed"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        license="cc0-1.0",
    )


def _pictures(split: str, limit: int | None) -> tuple[list[dict[str, Any]], list[int]]:
    found = load("tiles", split).spread(limit)
    return [{"bytes": file, "path": None} for file in found.files], found.labels.tolist()


class LocalTilesClassification(AbsTaskClassification):
    """Logistic regression on 8 tiles a photograph, 10 draws."""

    metadata = _metadata("LocalTilesClassification", "ImageClassification", "i2c", "accuracy")
    input_column_name = "image"
    limit: int | None = None

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read both halves of the photographs."""
        splits = {}
        for split in ("train", "test"):
            files, labels = _pictures(split, self.limit)
            rows = Dataset.from_dict({"image": files, "label": labels})
            splits[split] = rows.cast_column("image", Image())
        self.dataset, self.data_loaded = DatasetDict(splits), True


class LocalTilesRetrieval(AbsTaskRetrieval):
    """Tiles of right halves as queries; those of the same photograph's left half are relevant."""

    metadata = _metadata("LocalTilesRetrieval", "Any2AnyRetrieval", "i2i", "ndcg_at_10")
    limit: int | None = None

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read both halves and derive relevance from the labels."""
        sides = {}
        for name, split in (("d", "train"), ("q", "test")):
            files, labels = _pictures(split, self.limit)
            ids = [f"{name}{row}" for row in range(len(files))]
            columns = {"id": ids, "image": files, "modality": ["image"] * len(files)}
            sides[name] = Dataset.from_dict(columns).cast_column("image", Image()), labels
        pool, labels = sides["d"][1], sides["q"][1]
        relevant = {
            f"q{row}": {f"d{place}": 1 for place, other in enumerate(pool) if other == label}
            for row, label in enumerate(labels)
        }
        split_data = RetrievalSplitData(
            corpus=sides["d"][0],
            queries=sides["q"][0],
            relevant_docs=relevant,
            top_ranked=None,
        )
        self.dataset, self.data_loaded = {"default": {"test": split_data}}, True


TASKS: Final = (LocalTilesClassification, LocalTilesRetrieval)
