"""Votes from cached Gram blocks equal a loop over rows; the choice follows its rule."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.errors import FungiError, InputError, LabelError, ShapeError
from fungi_hf.specs import KL, Activation, SimCLR
from fungi_hf.tuning import TuningSearch, votes
from fungi_hf.tuning.candidates import Candidate, Outcome, Transform, costs, scores
from fungi_hf.tuning.choice import Rule, choose
from fungi_hf.tuning.evidence import Evidence
from fungi_hf.tuning.sample import check_votes, draw_rows, read_classes, read_groups
from fungi_hf.tuning.votes import leave_one_out

SPECS = (KL(), SimCLR(), Activation())
SEARCH = TuningSearch()


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
    monkeypatch.setattr(votes, "_GRAM_NUMBERS", 3 * n)  # several chunks
    rng = np.random.default_rng(n + n_groups)
    blocks = {name: unit(rng.standard_normal((n, 6))) for name in ("embedding", "kl")}
    codes = rng.integers(0, 3, n)
    groups = rng.integers(0, n_groups, n) if n_groups else np.arange(n)
    combinations = [[("embedding", 1.0)], [("embedding", 0.5), ("kl", 2.0)]]
    found = leave_one_out(blocks, combinations, codes, groups, k)
    for weights, right in zip(combinations, found, strict=True):
        assert right.tolist() == by_loop(blocks, weights, codes, groups, k)


@pytest.mark.parametrize("n_groups", [0, 4])
def test_few_voters_equal_a_loop_over_them(n_groups: int) -> None:
    rng = np.random.default_rng(n_groups)
    n, weights = 40, [("embedding", 1.0)]
    blocks = {"embedding": unit(rng.standard_normal((n, 6)))}
    codes = rng.integers(0, 3, n)
    groups = rng.integers(0, n_groups, n) if n_groups else np.arange(n)
    voters = np.sort(rng.permutation(n)[:12])
    found = leave_one_out(blocks, [weights], codes, groups, 5, voters)[0]
    for row in range(n):
        rows = [i for i in voters if groups[i] != groups[row]]
        own = {"embedding": blocks["embedding"][[row, *rows]]}
        alone = np.arange(len(rows) + 1)
        assert found[row] == by_loop(own, weights, codes[[row, *rows]], alone, 5)[0]


def outcome(n_right: int, *names: str, n: int = 1000, flip: int = 0, **fields) -> Outcome:
    """The first rows right; `flip` moves some of them to the end."""
    right = np.zeros(n, bool)
    right[flip:n_right] = True
    right[n - flip :] = True
    weights = tuple((name, 1.0) for name in names or ("embedding",))
    candidate = Candidate(**{"pooling": "mean", "layer": "l", "weights": weights, **fields})
    return Outcome(candidate, right, right.astype(float))


SURE = Evidence(gain=0.1, error=0.01, p=1e-9, n_candidates=2)


def chosen_of(found: list[Outcome], specs=SPECS, search: TuningSearch = SEARCH, evidence=SURE):
    """The whole choice: the leader, a PCA of it, or the plain embedding."""
    whole = [i for i, one in enumerate(found) if one.candidate.components is None]
    some = [found[i] for i in whole]
    rule = Rule([one.candidate for one in some], ranks_of(some, specs), search)
    first = whole[rule(np.stack([one.share for one in some]))]
    return choose(found, first, search, evidence)


def smoothed(found: list[Outcome], search: TuningSearch) -> np.ndarray:
    rule = Rule([one.candidate for one in found], ranks_of(found), search)
    return rule.smoothed(np.stack([one.share for one in found]))


def ranks_of(found: list[Outcome], specs=SPECS) -> np.ndarray:
    return costs(found, specs)


def apart(number: int) -> dict[str, str]:
    """Another pooling, so that a candidate has no neighbours."""
    return {"pooling": f"p{number}"}


def test_gradients_must_lead_by_more_than_noise_and_margin() -> None:
    plain = outcome(800)
    for n_right, flip, chosen in ((804, 0, 0), (806, 0, 1), (806, 100, 0), (860, 100, 1)):
        # 0.4 points are too little; with 100 rows lost and won the standard error is 1.4 points.
        found = [plain, outcome(n_right, "kl", flip=flip, **apart(1))]
        assert chosen_of(found) == chosen
    views = [plain, outcome(820, "kl", **apart(1)), outcome(824, "kl", "simclr", **apart(2))]
    assert chosen_of(views) == 1
    views[2] = outcome(826, "kl", "simclr", **apart(2))
    assert chosen_of(views) == 2


def test_what_needs_no_gradient_is_compared_by_score_alone() -> None:
    found = [
        outcome(800),
        outcome(802, transform=Transform(center=True), **apart(1)),
        outcome(803, "activation", "activation_1", **apart(2)),
        outcome(801, "activation", **apart(3)),
        outcome(805, "kl", **apart(4)),
    ]
    specs = (*SPECS, Activation(layer="encoder.layer.1.dense"))
    assert chosen_of(found, specs) == 2
    assert ranks_of(found, specs).tolist() == [0, 2, 6, 4, 8]
    record = scores(found, ranks_of(found, specs))[2]
    assert (record.accuracy, record.share) == (0.803, 0.803)
    assert record.behind_best == pytest.approx(0.002)
    assert record.against_embedding == pytest.approx(0.003)
    assert record.low < 0.803 < record.high


def test_a_lonely_peak_is_not_chosen() -> None:
    """A candidate whose neighbours are bad loses to one whose neighbours are good."""
    blocks = ("activation", "activation_1", "activation_2")
    peak = [outcome(830, blocks[0], **apart(1)), outcome(790, blocks[0], blocks[1], **apart(1))]
    broad = [outcome(826, blocks[2], **apart(2)), outcome(824, blocks[2], blocks[1], **apart(2))]
    specs = (*SPECS, *(Activation(name=name, layer=name) for name in blocks[1:]))
    found = [outcome(800), *peak, *broad]
    np.testing.assert_allclose(smoothed(found, SEARCH), [0.8, 0.81, 0.81, 0.825, 0.825])
    assert chosen_of(found, specs) == 3


def test_the_plain_embedding_stays_without_evidence() -> None:
    found = [outcome(800), outcome(830, "activation", **apart(1))]
    for gain, p, chosen in ((0.03, 0.14, 1), (0.03, 0.16, 0), (-0.01, 0.01, 0), (0.0, 0.5, 0)):
        evidence = Evidence(gain=gain, error=0.01, p=p, n_candidates=2)
        assert chosen_of(found, evidence=evidence) == chosen
    bold = TuningSearch(evidence=0.5)
    unsure = Evidence(gain=0.001, error=0.01, p=0.46, n_candidates=2)
    assert chosen_of(found, search=bold, evidence=unsure) == 1


def test_a_pca_must_lead_what_it_reduces() -> None:
    for n_right, chosen in ((803, 1), (812, 2)):
        found = [outcome(780), outcome(800, "activation", **apart(1))]
        found.append(outcome(n_right, "activation", components=4, **apart(1)))
        found.append(outcome(900, "activation", components=4, **apart(2)))  # of another candidate
        assert chosen_of(found) == chosen


@settings(deadline=None)
@given(st.data())
def test_smoothed_scores_equal_a_loop_over_neighbours(data) -> None:
    names = st.sampled_from(["embedding", "activation", "kl", "simclr"])
    weights = st.dictionaries(names, st.sampled_from([1.0, 4.0]), min_size=1, max_size=3)
    drawn = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["mean", "cls"]), st.sampled_from(SEARCH.transforms), weights
            ),
            min_size=1,
            max_size=12,
            unique_by=lambda one: (one[0], one[1], tuple(sorted(one[2].items()))),
        )
    )
    found = [
        outcome(i, n=20, pooling=pooling, transform=transform)
        for i, (pooling, transform, _) in enumerate(drawn)
    ]
    found = [
        Outcome(replace(one.candidate, weights=tuple(w.items())), one.right, one.share)
        for one, (_, _, w) in zip(found, drawn, strict=True)
    ]
    for i, (pooling, transform, own) in enumerate(drawn):
        near = []
        for j, (other_pooling, other_transform, other) in enumerate(drawn):
            apart_by = sum(own.get(b) != other.get(b) for b in {*own, *other})
            places = [SEARCH.transforms.index(t) for t in (transform, other_transform)]
            steps = abs(places[0] - places[1])
            if other_pooling == pooling and (apart_by, steps) in ((0, 1), (1, 0)):
                near.append(j / 20)
        wanted = i / 20 if not near else (i / 20 + sum(near) / len(near)) / 2
        assert smoothed(found, SEARCH)[i] == pytest.approx(wanted)


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
        outcomes = [Outcome(c, r, r.astype(float)) for c, r in zip(candidates, right, strict=True)]
        return outcomes[chosen_of(outcomes)].candidate.name

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


def test_numbers_of_numpy_become_plain_ones() -> None:
    search = TuningSearch(
        n_neighbors=np.int64(5), components=[np.int64(8)], whitenings=np.array([0.5])
    )
    assert json.loads(json.dumps(asdict(search)))["n_neighbors"] == 5
    assert (search.components, search.whitenings) == ((8,), (0.5,))


def test_groups_that_hold_whole_classes_are_refused() -> None:
    check_votes(np.array([0, 0, 1]), np.array([0, 1, 1]))
    with pytest.raises(InputError, match="no class has rows of two groups"):
        check_votes(np.array([0, 0, 1]), np.array([0, 0, 1]))


def test_the_plain_embedding_stays_where_nothing_beats_it() -> None:
    """Good neighbours do not make up for a lower score than the embedding's."""
    blocks = ("activation", "activation_1")
    found = [
        outcome(905),
        outcome(700, transform=Transform(center=True)),  # a bad neighbour of the embedding
        outcome(902, blocks[0], **apart(1)),
        outcome(902, blocks[0], blocks[1], **apart(1)),
    ]
    specs = (*SPECS, Activation(name=blocks[1], layer=blocks[1]))
    assert smoothed(found, SEARCH).argmax() > 1
    assert chosen_of(found, specs) == 0
    found[3] = outcome(906, blocks[0], blocks[1], **apart(1))
    assert chosen_of(found, specs) > 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_neighbors": 0}, "TuningSearch.n_neighbors must be an integer >= 1; got 0"),
        ({"max_rows": 0}, "max_rows"),
        ({"min_gain": 1.5}, "min_gain must be a number from 0 to 1; got 1.5"),
        (
            {"whitenings": (-1,)},
            "each of TuningSearch.whitenings must be a number from 0 to 1; got -1",
        ),
        ({"whitenings": (2.0,)}, "whitenings must be a number from 0 to 1; got 2.0"),
        ({"components": (0,)}, "each of TuningSearch.components must be an integer >= 1; got 0"),
        ({"components": (8.0,)}, "components must be an integer"),
        ({"components": 64}, r"components must be a list or a tuple; got 64: write \(64,\)"),
        ({"layer_counts": (0,)}, "layer_counts must be an integer >= 1; got 0"),
        ({"layer_counts": 2}, "layer_counts must be a list"),
        ({"embedding_weights": (float("nan"),)}, "embedding_weights must be a number >= 0"),
        ({"embedding_weights": (float("inf"),)}, "embedding_weights must be a number >= 0"),
        ({"embedding_weights": 1.0}, "embedding_weights must be a list"),
        ({"whitenings": None}, "whitenings must be a list"),
        ({"free_pooling": "no"}, "free_pooling must be True or False"),
        ({"evidence": 0.6}, "evidence must be a number > 0 and <= 0.5; got 0.6"),
        ({"evidence": "small"}, "evidence must be a number > 0 and <= 0.5; got 'small'"),
        ({"judge": "forest"}, "judge is 'forest'; choose one of 'linear', 'neighbors'"),
        ({"gradient_layers": -1}, "gradient_layers must be an integer >= 0"),
        ({"linear_rows": 0}, "linear_rows must be an integer >= 1"),
        ({"pilot_rows": 1.5}, "pilot_rows must be an integer"),
        ({"ceiling": 2}, "ceiling must be a number from 0 to 1"),
        ({"objectives": "kl"}, "objectives must be a list or a tuple; got 'kl'"),
        ({"objectives": KL()}, "objectives must be a list"),
        ({"objectives": ("nothing",)}, "unknown objective"),
        ({"objectives": ("kl", "kl")}, "objective names must be unique"),
    ],
)
def test_unusable_searches(fields, words: str) -> None:
    with pytest.raises(FungiError, match=words):
        TuningSearch(**fields)
