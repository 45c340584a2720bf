"""Votes from cached Gram blocks equal a loop over rows; the choice follows its rule."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fungi_hf.errors import FungiError, InputError, LabelError, ShapeError
from fungi_hf.evaluation.tuning import TuningSearch, scoring
from fungi_hf.evaluation.tuning.sample import draw_rows, read_classes, read_groups
from fungi_hf.evaluation.tuning.scoring import leave_one_out
from fungi_hf.evaluation.tuning.search import Candidate, Transform
from fungi_hf.evaluation.tuning.selection import Outcome, choose, scores
from fungi_hf.specs import KL, Activation, SimCLR

SPECS = (KL(), SimCLR(), Activation())


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_loop(blocks, weights, codes, groups, k) -> list[bool]:
    right = []
    for row in range(len(codes)):
        similar = sum(w * blocks[n].astype(np.float64) @ blocks[n][row] for n, w in weights)
        others = [i for i in range(len(codes)) if groups[i] != groups[row]]
        nearest = sorted(others, key=lambda i: -similar[i])[:k]
        votes = Counter(int(codes[i]) for i in nearest)
        winner = min(votes, key=lambda c: (-votes[c], c)) if votes else -1
        right.append(winner == codes[row])
    return right


@pytest.mark.parametrize("n_groups", [0, 1, 4])
@pytest.mark.parametrize(("n", "k"), [(50, 5), (7, 20)])
def test_votes_equal_a_loop(monkeypatch, n: int, k: int, n_groups: int) -> None:
    monkeypatch.setattr(scoring, "_GRAM_NUMBERS", 3 * n)  # several chunks
    rng = np.random.default_rng(n + n_groups)
    blocks = {name: unit(rng.standard_normal((n, 6))) for name in ("embedding", "kl")}
    codes = rng.integers(0, 3, n)
    groups = rng.integers(0, n_groups, n) if n_groups else np.arange(n)
    combinations = [[("embedding", 1.0)], [("embedding", 0.5), ("kl", 2.0)]]
    found = leave_one_out(blocks, combinations, codes, groups, k)
    for weights, right in zip(combinations, found, strict=True):
        assert right.tolist() == by_loop(blocks, weights, codes, groups, k)


def outcome(n_right: int, *names: str, n: int = 1000, flip: int = 0, **fields) -> Outcome:
    """The first rows right; `flip` moves some of them to the end."""
    right = np.zeros(n, bool)
    right[flip:n_right] = True
    right[n - flip :] = True
    weights = tuple((name, 1.0) for name in names or ("embedding",))
    return Outcome(Candidate(pooling="mean", layer="l", weights=weights, **fields), right)


def test_a_costlier_candidate_must_lead_by_more_than_noise_and_margin() -> None:
    plain = outcome(800)
    assert choose([plain, outcome(804, "kl")], SPECS, 0.005) == (0, 1)  # 0.4 points: too little
    assert choose([plain, outcome(806, "kl")], SPECS, 0.005) == (1, 1)
    # The same gain with 100 rows lost and 106 won has a standard error of 1.4 points.
    assert choose([plain, outcome(806, "kl", flip=100)], SPECS, 0.005) == (0, 1)
    assert choose([plain, outcome(860, "kl", flip=100)], SPECS, 0.005) == (1, 1)


def test_of_level_candidates_the_cheapest_stays() -> None:
    found = [
        outcome(700),
        outcome(802, "embedding", "kl"),
        outcome(805, "kl", "simclr"),
        outcome(801, "activation"),
        outcome(803, "activation", transform=Transform(whitening=1.0)),
        outcome(690, transform=Transform(center=True)),
    ]
    assert choose(found, SPECS, 0.005) == (4, 2)
    assert [one.candidate.cost(SPECS) for one in found] == [0, 6, 8, 4, 4, 2]
    record = scores(found, SPECS, best=2, baseline=0)[4]
    assert (record.accuracy, record.behind_best) == (0.803, pytest.approx(0.002))
    assert record.against_embedding == pytest.approx(0.103)
    assert record.p < 1e-20
    assert record.low < 0.803 < record.high


def test_an_informative_block_is_chosen_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(400) % 4
    centres = rng.standard_normal((4, 16))
    noise, signal = rng.standard_normal((400, 16)), centres[codes]
    weak, strong = signal + 3 * noise, signal + rng.standard_normal((400, 16))
    weights = [[("embedding", 1.0)], [("kl", 1.0)], [("embedding", 1.0), ("kl", 1.0)]]
    candidates = [Candidate(pooling="mean", layer="l", weights=tuple(w)) for w in weights]

    def chosen(embedding: np.ndarray, kl: np.ndarray) -> str:
        blocks = {"embedding": unit(embedding), "kl": unit(kl)}
        right = leave_one_out(blocks, weights, codes, np.arange(400), 20)
        outcomes = [Outcome(c, r) for c, r in zip(candidates, right, strict=True)]
        return outcomes[choose(outcomes, SPECS, 0.005)[0]].candidate.name

    assert "kl" in chosen(weak, strong)
    assert chosen(strong, noise) == "embedding"
    assert chosen(strong, weak) == "embedding"


def test_the_draw_is_stratified_seeded_and_bounded() -> None:
    codes = np.repeat([0, 1, 2, 3], [6000, 3000, 998, 2])
    rows = draw_rows(codes, 1000, 0)
    assert np.bincount(codes[rows]).tolist() == [600, 300, 100, 2]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, draw_rows(codes, 1000, 0))
    assert (rows != draw_rows(codes, 1000, 1)).any()
    np.testing.assert_array_equal(draw_rows(codes[:5], 5, 0), np.arange(5))


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (["a"] * 4, LabelError, "only the class 'a'; at least 2 classes"),
        ([1, 2, 3, 4], InputError, "4 classes have one row each"),
        (["a", None, "b", "b"], LabelError, r"1 missing labels \(None or NaN\): rows 1"),
        ([0.0, float("nan"), 1.0, 1.0], LabelError, r"missing labels \(None or NaN\): rows 1"),
        (["a", 1, "b", "b"], LabelError, "mixes integers and strings"),
        ([["a"], ["b"], ["a"], ["b"]], LabelError, "multi-label data is not supported"),
        (np.eye(4, 2, dtype=int), LabelError, "multi-label data is not supported"),
        (["a", "b"], ShapeError, "labels has 2 labels for 4 rows"),
        (None, LabelError, "labels is a NoneType"),
    ],
)
def test_unusable_labels(labels, error, words: str) -> None:
    with pytest.raises(error, match=words):
        read_classes(labels, 4)


def test_groups() -> None:
    numbers, n = read_groups(["x", "y", "x"], 3)
    assert (numbers.tolist(), n) == ([0, 1, 0], 2)
    assert read_groups(None, 3)[1] == 0
    with pytest.raises(LabelError, match=r"only the class 'x'.*never vote for each other"):
        read_groups(["x", "x"], 2)
    with pytest.raises(ShapeError, match="groups has 1 labels for 2 rows"):
        read_groups(["x"], 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"max_rows": 0}, "max_rows"),
        ({"min_gain": 1.5}, "min_gain is a share"),
        ({"whitenings": (-1,)}, "whitenings must be numbers >= 0"),
        ({"whitenings": (2.0,)}, "whitening must be a number from 0 to 1"),
        ({"components": (0,)}, "components must be"),
        ({"objectives": ("nothing",)}, "unknown objective"),
        ({"objectives": ("kl", "kl")}, "objective names must be unique"),
    ],
)
def test_unusable_searches(fields, words: str) -> None:
    with pytest.raises(FungiError, match=words):
        TuningSearch(**fields)
