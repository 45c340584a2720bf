"""Classification, clustering and retrieval on the committed Banking-77, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskClustering, AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

DATA: Final = Path(__file__).parents[1] / "data" / "banking77"


def read(split: str, limit: int | None = None) -> tuple[list[str], list[int]]:
    """Give texts and labels; `limit` takes that many rows spread evenly over the split."""
    table = pq.read_table(DATA / f"{split}.parquet")
    step = 1 if limit is None else max(1, table.num_rows // limit)
    rows = table.to_pydict()
    names = list(rows)
    return rows["text"][::step][:limit], rows[next(n for n in names if n != "text")][::step][:limit]


def _metadata(name: str, kind: Any, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="Banking-77, read from the repository.",
        type=kind,
        dataset={"path": "recipes/data/banking77", "revision": "committed"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        license="cc-by-4.0",
    )


class LocalBanking77Classification(AbsTaskClassification):
    """Logistic regression on 8 texts per intent, 10 draws."""

    metadata = _metadata("LocalBanking77Classification", "Classification", "accuracy")
    limit: int | None = None

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read both splits."""
        splits = {}
        for split in ("train", "test"):
            texts, labels = read(split, self.limit)
            splits[split] = Dataset.from_dict({"text": texts, "label": labels})
        self.dataset, self.data_loaded = DatasetDict(splits), True


class LocalBanking77Clustering(AbsTaskClustering):
    """k-means on the test texts against their intents."""

    metadata = _metadata("LocalBanking77Clustering", "Clustering", "v_measure")
    max_fraction_of_documents_to_embed = None
    limit: int | None = None

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the test split."""
        texts, labels = read("test", self.limit)
        data = Dataset.from_dict({"sentences": texts, "labels": labels})
        self.dataset, self.data_loaded = DatasetDict({"test": data}), True


class LocalBanking77Retrieval(AbsTaskRetrieval):
    """Test texts as queries; training texts of the same intent are relevant."""

    metadata = _metadata("LocalBanking77Retrieval", "Retrieval", "ndcg_at_10")
    limit: int | None = None

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read both splits and derive relevance from the labels."""
        pool, pool_labels = read("train", self.limit)
        queries, labels = read("test", self.limit)
        by_label: dict[int, dict[str, int]] = {}
        for row, label in enumerate(pool_labels):
            by_label.setdefault(label, {})[f"d{row}"] = 1
        kept = [row for row, label in enumerate(labels) if label in by_label]
        split = RetrievalSplitData(
            corpus=Dataset.from_dict(
                {
                    "id": [f"d{row}" for row in range(len(pool))],
                    "text": pool,
                    "title": [""] * len(pool),
                }
            ),
            queries=Dataset.from_dict(
                {"id": [f"q{row}" for row in kept], "text": [queries[row] for row in kept]}
            ),
            relevant_docs={f"q{row}": by_label[labels[row]] for row in kept},
            top_ranked=None,
        )
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


TASKS: Final = (
    LocalBanking77Classification,
    LocalBanking77Clustering,
    LocalBanking77Retrieval,
)
