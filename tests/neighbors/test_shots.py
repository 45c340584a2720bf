"""One few-shot draw for all: the rows of a seed, whoever asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fungi_hf.evaluation import knn
from fungi_hf.neighbors import KNNClassifier
from fungi_hf.neighbors.shots import draw_few
from fungi_hf.seeding import numpy_generator
from fungi_hf.tuning import stages
from recipes import protocol
from recipes.audio import run

RNG = np.random.default_rng(0)
NAMES = np.array(["b", "a", "c"])[np.arange(60) % 3]
CODES = np.unique(NAMES, return_inverse=True)[1]
ROWS = RNG.normal(size=(60, 3)) + np.eye(3)[CODES]


def test_a_draw_has_so_many_of_every_class_ascending_and_all_of_a_small_class() -> None:
    codes = np.append(CODES, 3)
    rows = draw_few(codes, 5, 0)
    assert np.bincount(codes[rows]).tolist() == [5, 5, 5, 1]
    assert (np.diff(rows) > 0).all()
    assert not np.array_equal(rows, draw_few(codes, 5, 1))


def test_seeds_0_to_4_are_the_draws_of_the_recorded_tables() -> None:
    for draw in range(5):
        generator = numpy_generator(0, "few-shot", str(draw))
        picks = [generator.choice(np.flatnonzero(one == NAMES), 5, replace=False) for one in "abc"]
        np.testing.assert_array_equal(draw_few(CODES, 5, draw), np.sort(np.concatenate(picks)))


@pytest.mark.parametrize("module", [knn, stages, protocol, run])
def test_evaluation_tuning_and_recipes_share_the_draw(module: Any) -> None:
    assert module.draw_few is draw_few


def test_recipes_number_their_draws_from_the_seed() -> None:
    few = protocol.accuracies(
        {"a": ROWS}, {"a": ROWS}, NAMES, NAMES, [["a"]], shots=7, draws=3, seed=4
    )["a"]["few"]
    for seed, share in enumerate(few, 4):
        rows = knn.draw_shots(NAMES, 7, "balanced", seed)
        judge = KNNClassifier(metric="dot").fit(ROWS[rows], NAMES[rows])
        assert share == judge.score(ROWS, NAMES)
    assert len(set(few)) > 1
