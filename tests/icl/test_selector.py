"""Settings and inputs of the selector: what is refused, and with which words; what is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fungi_hf.errors import (
    DemoConfigError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    LabelError,
    NotFittedError,
    ShapeError,
)
from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.icl.strategies import BM25, DPP, KNN, MMR, Hybrid, Random, Stratified

RNG = np.random.default_rng(0)
POOL = Examples(
    features=RNG.normal(size=(12, 3)),
    contents=[f"w{i % 4} text {i}" for i in range(12)],
    targets=[0, 1, 2] * 4,
)
ASKED = Examples(features=RNG.normal(size=(4, 3)), contents=[f"w{i} query {i}" for i in range(4)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("knn", 0), "k must be an integer >= 1; got 0"),
        (("knn", -3), "k must be .* got -3"),
        (("knn", 2.0), r"k must be .* got 2\.0"),
        (("knn", True), "k must be .* got True"),
        (("knn", "5"), "k must be .* got '5'"),
        (("knn", None), "k must be .* got None"),
        (("nkn", 5), "strategy is 'nkn'; choose one of 'knn', 'bm25'"),
        ((KNN, 5), "pass an instance"),
        ((None, 5), "strategy is None"),
    ],
)
def test_bad_k_and_strategy(arguments, message):
    with pytest.raises(DemoConfigError, match=message):
        DemoSelector(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "nearest"}, "order is 'nearest'; choose one of 'nearest_.*'alternate'"),
        ({"max_per_class": 0}, "max_per_class must be an integer >= 1; got 0"),
        ({"max_per_class": 1.5}, r"max_per_class must be .* got 1\.5"),
        ({"n_shared": -1}, "n_shared must be an integer >= 0; got -1"),
        ({"n_shared": 5}, "n_shared is 5, k is 5"),
        ({"seed": "a"}, "seed must be an integer >= 0; got 'a'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(DemoConfigError, match=message):
        DemoSelector("knn", 5, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNN("l2"), "metric is 'l2'; choose one of 'cosine', 'dot', 'euclidean'"),
        (lambda: BM25(k1=0), r"BM25\.k1 must be a number > 0; got 0"),
        (lambda: BM25(b=1.5), r"BM25\.b must be a number from 0 to 1; got 1\.5"),
        (lambda: BM25(k1=float("nan")), "k1 must be .* got nan"),
        (lambda: MMR(lam=1.1), r"MMR\.lam must be a number from 0 to 1; got 1\.1"),
        (lambda: MMR(lam=-0.1), r"lam must be .* got -0\.1"),
        (lambda: MMR(lam="x"), "lam must be .* got 'x'"),
        (lambda: MMR(candidates=0), "candidates must be an integer >= 1; got 0"),
        (lambda: DPP(scale=0), r"DPP\.scale must be a number > 0; got 0"),
        (lambda: DPP(scale=-1), "scale must be .* got -1"),
        (lambda: DPP(scale=float("inf")), "scale must be .* got inf"),
        (lambda: DPP(scale=True), "scale must be .* got True"),
        (lambda: Hybrid(fusion="sum"), "fusion is 'sum'; choose one of 'convex', 'rrf'"),
        (lambda: Hybrid(rankers=(KNN(),)), "two or more of KNN and BM25"),
        (lambda: Hybrid(rankers=(KNN(), "bm25")), "two or more"),
        (lambda: Hybrid(weights=(1.0,)), "1 weights for 2"),
        (lambda: Hybrid(weights=(1.0, -1.0)), r"a weight must be a number > 0; got -1\.0"),
        (lambda: Hybrid(depth=0), "depth must be an integer >= 1; got 0"),
        (lambda: Hybrid(alpha=2), "alpha must be a number from 0 to 1; got 2"),
        (lambda: Hybrid(fusion="convex", weights=(1, 1)), "takes two rankers and alpha"),
        (lambda: Stratified(ranker="knn"), "choose KNN, BM25 or Hybrid"),
        (lambda: Stratified(per_label=0), "per_label must be None or an integer >= 1; got 0"),
        (
            lambda: DemoSelector(MMR(candidates=20), 20),
            "candidates is 20, k is 20; candidates must exceed k",
        ),
        (lambda: DemoSelector("dpp", 100), "candidates is 100, k is 100"),
        (lambda: DemoSelector(Stratified(per_label=2), n_shared=1), "per_label=2 fixes the rows"),
    ],
)
def test_bad_strategy_options(make, message):
    with pytest.raises(DemoConfigError, match=message):
        make()


def test_tokens_must_be_a_function_that_gives_tokens():
    with pytest.raises(InputTypeError, match="tokens is str"):
        BM25(tokens="word")
    with pytest.raises(InputTypeError, match="tokens gave one string"):
        DemoSelector(BM25(tokens=str.lower), 2).fit(POOL)
    own = DemoSelector(BM25(tokens=str.split), 2).fit(POOL).select(ASKED)
    assert own.indices.shape == (4, 2)


def test_a_k_that_can_never_be_filled_is_refused_at_fit():
    with pytest.raises(DemoConfigError, match="k is 13, the pool has 12 rows"):
        DemoSelector("knn", 13).fit(POOL)
    with pytest.raises(
        DemoConfigError, match="k is 7, but max_per_class=2 leaves 6 rows of the pool's 3 labels"
    ):
        DemoSelector("knn", 7, max_per_class=2).fit(POOL)
    with pytest.raises(DemoConfigError, match="k is 5, but per_label=2 of 3 labels makes 6"):
        DemoSelector(Stratified(per_label=2), 5).fit(POOL)
    with pytest.raises(DemoConfigError, match="k is 15, the pool has 12 rows"):
        DemoSelector(Stratified(per_label=5)).fit(POOL)
    uneven = Examples(features=np.eye(4), targets=[0, 0, 0, 1])
    with pytest.raises(
        DemoConfigError, match="max_per_class=2 leaves 3 rows of the pool's 2 labels"
    ):
        DemoSelector(Stratified(per_label=2)).fit(uneven)


def test_missing_parts_are_named_with_the_strategy():
    texts, vectors = Examples(contents=["a", "b"]), Examples(features=np.eye(2))
    for strategy in ("knn", "mmr", "dpp", "hybrid", "stratified"):
        with pytest.raises(
            InputError, match=f"strategy '{strategy}' needs features; the pool have none"
        ):
            DemoSelector(strategy, 1).fit(texts)
        with pytest.raises(
            InputError, match=f"strategy '{strategy}' needs features; the queries have none"
        ):
            DemoSelector(strategy, 1).fit(POOL).select(texts)
    for strategy in ("bm25", "hybrid", Stratified(BM25())):
        with pytest.raises(InputError, match="needs texts; the pool have none"):
            DemoSelector(strategy, 1).fit(vectors)
    with pytest.raises(InputError, match="max_per_class needs targets"):
        DemoSelector("knn", 1, max_per_class=1).fit(vectors)
    with pytest.raises(InputError, match="strategy 'stratified' needs targets"):
        DemoSelector("stratified", 1).fit(vectors)
    with pytest.raises(InputTypeError, match="pool is list"):
        DemoSelector("knn", 1).fit([[1.0]])
    with pytest.raises(InputTypeError, match="queries is ndarray"):
        DemoSelector("knn", 1).fit(POOL).select(np.eye(3))
    with pytest.raises(NotFittedError, match="call fit"):
        DemoSelector("knn", 1).select(ASKED)


def test_widths_and_fingerprints_must_agree():
    class Stamped:
        def __init__(self, fingerprint):
            self.array, self.fingerprint = np.eye(3, dtype=np.float32), fingerprint

    with pytest.raises(ShapeError, match="queries have 2 columns, the index holds vectors of 3"):
        DemoSelector("knn", 1).fit(POOL).select(Examples(features=[[1.0, 2.0]]))
    selector = DemoSelector("knn", 1, leaks="keep").fit(Examples(features=Stamped("one")))
    with pytest.raises(
        FingerprintMismatchError,
        match="queries come from 'two', the index holds vectors from 'one'",
    ):
        selector.select(Examples(features=Stamped("two")))
    assert selector.select(Examples(features=Stamped("one"))).indices.tolist() == [[0], [1], [2]]
    assert selector.select(Examples(features=np.eye(3))).indices.tolist() == [[0], [1], [2]]


@pytest.mark.parametrize("strategy", ["bm25", Stratified(BM25())])
def test_queries_without_a_known_token_get_the_lowest_rows_and_one_warning(strategy):
    asked = Examples(contents=["zzz", "text", "???"])
    with pytest.warns(UserWarning, match="2 of 3 queries share no token with the pool") as caught:
        demos = DemoSelector(strategy, 3).fit(POOL).select(asked)
    assert len(caught) == 1
    assert demos.indices[0].tolist() == demos.indices[2].tolist() == [0, 1, 2]


def test_free_form_targets_and_votes():
    pool = Examples(
        features=[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]], targets=["x", "y", "y", "x"]
    )
    demos = (
        DemoSelector("knn", 3, leaks="keep")
        .fit(pool)
        .select(Examples(features=[[1.0, 0.0], [0.0, 1.0]]))
    )
    assert demos.indices.tolist() == [[0, 1, 3], [2, 3, 1]]
    assert demos.vote().tolist() == ["x", "y"]
    assert demos.coverage(["x", "z"]) == 0.5
    assert demos.covered(["y", "x"]).tolist() == [True, True]
    assert [d.target for d in demos[0]] == ["x", "y", "x"]
    assert [d.row for d in demos[-1]] == [1, 3, 2]


def test_votes_break_ties_as_promised():
    rows = [[10.0, 0.0], [8.0, 2.0], [7.0, 3.0], [6.0, 4.0]]
    pool = Examples(features=rows, targets=[3, 1, 1, 3])
    demos = (
        DemoSelector(KNN("dot"), 4, leaks="keep")
        .fit(pool)
        .select(Examples(features=[[1.0, 0.0], [0.5, 0.5]]))
    )
    assert demos.vote("majority").tolist() == [3, 3]  # the tied label whose row ranks first
    assert demos.vote("weighted").tolist() == [3, 1]  # 16 against 15; then 10 against 10
    assert demos.vote("reciprocal_rank").tolist() == [3, 3]


def test_votes_are_refused_where_scores_are_no_weights():
    far = DemoSelector(KNN("euclidean"), 2).fit(POOL).select(ASKED)
    with pytest.raises(
        DemoConfigError, match="vote 'weighted' needs similarities, the scores are 'distance'"
    ):
        far.vote("weighted")
    texts = Examples(contents=["a", "b", "c"], targets=[0, 1, 0])
    drawn = DemoSelector(Random(), 2).fit(texts).select(Examples(contents=["d"]))
    assert np.isnan(drawn.scores).all()
    with pytest.raises(DemoConfigError, match="the scores are 'none'"):
        drawn.vote("weighted")
    assert drawn.vote().shape == (1,)
    with pytest.raises(DemoConfigError, match="vote is 'most'; choose one of"):
        drawn.vote("most")
    unlabelled = (
        DemoSelector("knn", 1)
        .fit(Examples(features=np.eye(2)))
        .select(Examples(features=[[1.0, 2.0]]))
    )
    with pytest.raises(InputError, match="the pool has no targets"):
        unlabelled.vote()
    with pytest.raises(InputError, match="2 gold labels for 1 queries"):
        drawn.coverage([0, 1])
    with pytest.raises(LabelError, match="gold have 1 missing labels"):
        drawn.coverage([None])


def test_rows_of_a_demo_set():
    demos = DemoSelector("knn", 3).fit(POOL).select(ASKED)
    assert (demos.indices.dtype, demos.scores.dtype) == (np.int64, np.float32)
    assert len(demos) == len(list(demos)) == 4
    with pytest.raises(IndexError, match="query row 4 is outside the 4 queries"):
        demos[4]
    with pytest.raises(TypeError, match="not slice"):
        demos[1:2]


def test_gold_labels_of_queries_change_nothing():
    labelled = Examples(features=ASKED.features, contents=ASKED.contents, targets=[2, 2, 2, 2])
    for strategy in ("knn", "bm25", "hybrid", "mmr", "dpp", "stratified", "random"):
        selector = DemoSelector(strategy, 5, max_per_class=3).fit(POOL)
        np.testing.assert_array_equal(
            selector.select(ASKED).indices, selector.select(labelled).indices
        )


def test_batches_and_order_of_queries_change_nothing():
    for strategy in ("knn", "bm25", "hybrid", "mmr", "dpp", "stratified", "random"):
        selector = DemoSelector(strategy, 5, order="shuffled", n_shared=1).fit(POOL)
        whole = selector.select(ASKED)
        for row in (3, 0):
            alone = selector.select(ASKED.take([row]))
            assert alone[0] == whole[row], strategy


def test_settings_are_recorded_as_json():
    for strategy in ("bm25", Hybrid(), Stratified(BM25(), per_label=1), MMR(), Random(shared=True)):
        k = None if isinstance(strategy, Stratified) else np.int64(3)
        described = DemoSelector(strategy, k, leaks="keep").fit(POOL).describe()
        assert json.loads(json.dumps(described)) == described
        assert described["k"] == 3
    assert DemoSelector(MMR(lam=0.5), 3).describe()["options"] == {
        "name": "MMR",
        "lam": 0.5,
        "candidates": 100,
    }


def test_the_room_loads_no_client_and_no_model_library():
    program = (
        "import sys, bare, fungi_hf.icl as icl\n"
        "names = ('openai', 'httpx', 'torch', 'transformers')\n"
        "assert not [n for n in names if n in sys.modules], 'at import'\n"
        "assert len(icl.__all__) == 12 and set(icl.__all__) <= set(dir(icl))\n"
        "own = set(icl.__all__) - {'ChatLLM', 'LocalLLM', 'evaluate', 'FakeOpenAIServer'}\n"
        "from fungi_hf.icl.comparison import Comparison\n"
        "from fungi_hf.icl import compare\n"
        "for name in own: assert callable(getattr(icl, name)), name\n"
        "assert callable(compare)\n"
        "assert not [n for n in names if n in sys.modules], 'after use'\n"
        "try: icl.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", program], check=True, env=env)
