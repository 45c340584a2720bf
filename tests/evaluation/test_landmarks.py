"""Landmark retrieval: values worked by hand, a slow reference, ground truths, the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.cli import main
from fungi_hf.errors import InputError
from fungi_hf.evaluation import RetrievalProtocol, evaluate_retrieval
from fungi_hf.evaluation.landmarks import Landmarks, read_landmarks
from fungi_hf.features import FungiFeatures

NAMES = tuple("abcdefgh")
# One query, which ranks the database a b c d e f g h: each row has a smaller product with it.
POOL = np.stack([np.linspace(1, 0.3, 8), np.ones(8)], axis=1).astype(np.float32)
QUERY = np.array([[1.0, 0.0]], np.float32)
TRUTH = Landmarks(
    images=NAMES, queries=("q",), easy=((0, 4),), hard=((2, 6),), junk=((1,),)
)  # fmt: skip
RULE = RetrievalProtocol(name="dot", metric="dot", formula="trapezoid")


def features(array):
    return FungiFeatures(array, "f", {"embedding": slice(0, array.shape[1])})


def judged(level, truth=TRUTH, pool=POOL, queries=QUERY, rule=RULE):
    (record,) = evaluate_retrieval(
        features(pool), features(queries), truth.relevance(level), protocol=rule
    )
    return record.metrics


@pytest.mark.parametrize(
    ("level", "ap", "precisions"),
    [
        # Positives a e, junk b c g: a d e f h, ranks 0 and 2.
        # AP = ((1 + 1) + (1/2 + 2/3)) / 4; P@1 = 1, P@5 and P@10 are of the first 3: 2/3.
        ("easy", (2 + 1 / 2 + 2 / 3) / 4, (1, 2 / 3, 2 / 3)),
        # Positives a c e g, junk b: a c d e f g h, ranks 0 1 3 5.
        # AP = ((1 + 1) + (1 + 1) + (2/3 + 3/4) + (3/5 + 4/6)) / 8; P@5 = 3/5, P@10 is of 6: 4/6.
        ("medium", (4 + 2 / 3 + 3 / 4 + 3 / 5 + 4 / 6) / 8, (1, 3 / 5, 4 / 6)),
        # Positives c g, junk b a e: c d f g h, ranks 0 and 3.
        # AP = ((1 + 1) + (1/3 + 2/4)) / 4; P@5 and P@10 are of the first 4: 2/4.
        ("hard", (2 + 1 / 3 + 2 / 4) / 4, (1, 2 / 4, 2 / 4)),
    ],
)
def test_each_level_by_hand(level, ap, precisions) -> None:
    metrics = judged(level)
    assert metrics["map"] == pytest.approx(ap, abs=1e-12)
    found = [metrics[f"mp@{k}"] for k in (1, 5, 10)]
    assert found == pytest.approx(precisions, abs=1e-12)


def slow_scores(products, positive, junk):
    """AP and mP@{1, 5, 10} of one query, walking down its ranking."""
    order = sorted(range(len(products)), key=lambda row: (-products[row], row))
    kept = [row for row in order if row not in junk]
    ap, seen, last = 0.0, 0, 0
    for rank, row in enumerate(kept):
        if row in positive:
            before = 1.0 if rank == 0 else seen / rank
            seen += 1
            ap += (before + seen / (rank + 1)) / 2
            last = rank + 1
    values = [ap / len(positive)]
    for k in (1, 5, 10):
        depth = min(last, k)
        values.append(sum(row in positive for row in kept[:depth]) / depth)
    return values


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 30), q=st.integers(1, 5), seed=st.integers(0, 999))
def test_all_levels_equal_a_walk_down_the_ranking(n, q, seed) -> None:
    generator = np.random.default_rng(seed)
    pool = generator.standard_normal((n, 4)).astype(np.float32)
    queries = generator.standard_normal((q, 4)).astype(np.float32)
    kinds = generator.integers(0, 4, (q, n))  # easy, hard, junk, none
    easy, hard, junk = (
        tuple(tuple(np.flatnonzero(row == kind).tolist()) for row in kinds) for kind in range(3)
    )
    names = tuple(map(str, range(n)))
    truth = Landmarks(
        images=names, queries=tuple(map(str, range(q))), easy=easy, hard=hard, junk=junk
    )
    products = queries @ pool.T
    for level in ("easy", "medium", "hard"):
        rows = []
        for i in range(q):
            positive = {"easy": easy[i], "medium": easy[i] + hard[i], "hard": hard[i]}[level]
            ignored = {"easy": junk[i] + hard[i], "medium": junk[i], "hard": junk[i] + easy[i]}
            if positive:
                rows.append(slow_scores(products[i].tolist(), set(positive), set(ignored[level])))
        if not rows:
            with pytest.raises(InputError, match="none of the"):
                judged(level, truth, pool, queries)
            continue
        metrics = judged(level, truth, pool, queries)
        expected = np.mean(rows, axis=0)
        found = [metrics["map"], *(metrics[f"mp@{k}"] for k in (1, 5, 10))]
        assert found == pytest.approx(expected, abs=1e-6)


def test_vectors_of_the_pca_keep_their_lengths() -> None:
    """A long vector wins by its dot product, and would lose by its cosine."""
    pool = np.array([[3, 2, 0], [1, 0, 0], [-4, -2, 0], [0, 3, 0.01], [0, -3, -0.01]], np.float32)
    query = np.array([[5, 0.1, 0]], np.float32)
    truth = Landmarks(
        images=tuple("abcde"), queries=("q",), easy=((0,),), hard=((),), junk=((),)
    )  # fmt: skip
    dot = RetrievalProtocol(name="x", metric="dot", formula="trapezoid", pca=2)
    cosine = RetrievalProtocol(name="x", metric="cosine", formula="trapezoid", pca=2)
    assert judged("easy", truth, pool, query, dot)["map"] == 1
    assert judged("easy", truth, pool, query, cosine)["map"] < 1


GIVEN = {
    "images": ["a", "b", "c", "d", "e", "f", "g", "h"],
    "queries": [{"image": "q", "easy": ["a", 4], "hard": [2, "g"], "junk": ["b"]}],
}


def written(tmp_path, given, name="gnd.json"):
    path = tmp_path / name
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    return path


def test_both_forms_of_a_ground_truth(tmp_path) -> None:
    assert read_landmarks(written(tmp_path, GIVEN)) == TRUTH
    published = {
        "imlist": GIVEN["images"],
        "qimlist": ["q"],
        "gnd": [{"easy": [0, 4], "hard": [2, 6], "junk": [1], "bbx": [1.0, 2.0, 3.0, 4.0]}],
    }
    assert read_landmarks(written(tmp_path, published)) == TRUTH


def test_rows_in_another_order(tmp_path) -> None:
    given = GIVEN | {"queries": [*GIVEN["queries"], {"image": "r", "easy": ["h"]}]}
    truth = read_landmarks(written(tmp_path, given))
    images = [f"/photos/{name}.jpg" for name in "hgfedcbaz"]
    moved = truth.ordered(images, ["r.png", "q.png"])
    assert moved.queries == ("r", "q")
    assert moved.easy == ((0,), (7, 3))
    assert moved.hard == ((), (5, 1))
    assert moved.junk == ((), (6,))
    with pytest.raises(InputError, match=r"database: 1 of 8 images of the ground truth lack.* h"):
        truth.ordered(list("abcdefg"), ["q", "r"])
    with pytest.raises(InputError, match=r"queries: 1 of 2 images"):
        truth.ordered(list("abcdefgh"), ["q", "x"])
    with pytest.raises(InputError, match=r"there are 3 queries, the ground truth has 2"):
        truth.ordered(list("abcdefgh"), ["q", "r", "x"])
    with pytest.raises(InputError, match=r"database: the name a stands there twice"):
        truth.ordered(["1/a.jpg", "2/a.jpg"], ["q", "r"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold images and queries, or imlist"),
        ({"images": []}, "lists that are not empty"),
        ({"queries": []}, "lists that are not empty"),
        ({"queries": [["q"]]}, "every query an object"),
        ({"queries": [{"easy": ["a"]}]}, "number 0 is None; it must be a name"),
        ({"images": ["a", 3]}, "images: number 1 is 3; it must be a name"),
        ({"images": ["a", "a"]}, "the name a stands there twice"),
        ({"queries": [{"image": "q", "easy": "a"}]}, "easy is 'a'; it must be a list"),
        ({"queries": [{"image": "q", "easy": ["x"]}]}, "'x' is no image"),
        ({"queries": [{"image": "q", "easy": [8]}]}, "8 is no image; .* from 0 to 7"),
        ({"queries": [{"image": "q", "easy": [-1]}]}, "-1 is no image"),
        ({"queries": [{"image": "q", "easy": [True]}]}, "True is no image"),
        ({"queries": [{"image": "q", "easy": [1.0]}]}, "1.0 is no image"),
        ({"queries": [{"image": "q", "easy": ["a"], "junk": [0]}]}, "has image a twice among"),
    ],
)
def test_a_wrong_ground_truth_is_named(tmp_path, change, message) -> None:
    given = change if isinstance(change, str) else GIVEN | change
    with pytest.raises(InputError, match=message):
        read_landmarks(written(tmp_path, given))


def test_a_missing_ground_truth(tmp_path) -> None:
    with pytest.raises(InputError, match=r"gnd.json cannot be read: No such file"):
        read_landmarks(tmp_path / "gnd.json")


def run(capsys, tmp_path, *words):
    features(POOL).save(tmp_path / "pool.safetensors")
    features(QUERY).save(tmp_path / "queries.safetensors")
    sides = ("--train", tmp_path / "pool.safetensors", "--test", tmp_path / "queries.safetensors")
    status = main(["evaluate", *map(str, (*sides, *words))])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_program_judges_each_level(capsys, tmp_path) -> None:
    words = ("--task", "retrieval", "--judgements", written(tmp_path, GIVEN))
    out = tmp_path / "results.json"
    status, said, err = run(capsys, tmp_path, *words, "--out", out)
    assert status == 0, err
    names = [f"paper-landmarks, {level}" for level in ("easy", "medium", "hard")]
    assert [record["protocol"] for record in json.loads(out.read_text())["results"]] == names
    assert all(name in said for name in names)
    status, said, _ = run(capsys, tmp_path, *words, "--level", "hard", "--json")
    (record,) = json.loads(said)["results"]
    assert record["protocol"] == "paper-landmarks, hard"
    assert record["metrics"]["map"] == pytest.approx((2 + 1 / 3 + 2 / 4) / 4)
    page = tmp_path / "report.html"
    assert main(["report", str(out), "--out", str(page)]) == 0
    assert "paper-landmarks, medium" in page.read_text()


def test_levels_without_positives(capsys, tmp_path) -> None:
    given = GIVEN | {"queries": [{"image": "q", "hard": ["a"]}]}
    words = ("--task", "retrieval", "--judgements", written(tmp_path, given))
    status, said, err = run(capsys, tmp_path, *words, "--json")
    assert status == 0, err
    assert "no query has an image of level easy" in err
    assert len(json.loads(said)["results"]) == 2
    status, _, err = run(capsys, tmp_path, *words, "--level", "easy")
    assert status == 1
    assert "none of the 1 queries has a relevant row" in err


def test_wrong_use_of_the_program(capsys, tmp_path) -> None:
    status, _, err = run(capsys, tmp_path, "--task", "retrieval", "--level", "easy")
    assert status == 1
    assert "--level is of landmarks; add --judgements FILE.json" in err
    wrong = written(tmp_path, {"images": ["a"], "queries": [{"image": "q", "easy": ["b"]}]})
    status, _, err = run(capsys, tmp_path, "--task", "retrieval", "--judgements", wrong)
    assert status == 1
    assert "'b' is no image" in err
