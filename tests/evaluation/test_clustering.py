from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from fungi_hf.errors import FeatureError, InputError, InputTypeError, LabelError
from fungi_hf.evaluation import ClusteringProtocol, evaluate_clustering
from fungi_hf.evaluation.clustering import match_clusters
from tests.evaluation.blocks import labelled

WIDTHS = {"embedding": 6, "kl": 4}


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_best_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    clusters, codes = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    clusters[:4], codes[:4] = range(4), range(4)
    best = max(
        int((np.array(order)[clusters] == codes).sum())
        for order in itertools.permutations(range(4))
    )
    assert int((match_clusters(clusters, codes) == codes).sum()) == best


def test_matching_by_hand_with_more_clusters_than_classes():
    clusters, codes = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 1, 0])
    np.testing.assert_array_equal(match_clusters(clusters, codes), [1, 1, 0, 0, -1])


def test_separate_classes_are_found_and_seeds_are_kept():
    features, labels = labelled(120, WIDTHS, noise=0.1)
    results = evaluate_clustering(features, labels)
    assert [one.name for one in results] == ["embedding", "kl", "embedding+kl"]
    for one in results:
        assert one.metrics == pytest.approx({"accuracy": 1, "nmi": 1, "ari": 1})
        assert one.seeds == (42, 43, 44, 45, 46)
        assert one.scores.shape == (5, 120)


def test_hard_classes_have_the_scores_of_scikit_learn_on_normalised_rows():
    from sklearn.cluster import KMeans

    features, labels = labelled(100, WIDTHS, noise=2)
    rule = ClusteringProtocol(n_seeds=2, n_restarts=3)
    one = evaluate_clustering(features, labels, protocol=rule, combinations=[["embedding", "kl"]])[
        0
    ]
    rows = features.array / np.linalg.norm(features.array, axis=1, keepdims=True)
    runs = [KMeans(4, n_init=3, random_state=seed).fit_predict(rows) for seed in (42, 43)]
    nmi = [normalized_mutual_info_score(labels, run) for run in runs]
    ari = [adjusted_rand_score(labels, run) for run in runs]
    assert one.metrics["nmi"] == pytest.approx(np.mean(nmi))
    assert one.metrics["ari"] == pytest.approx(np.mean(ari))
    assert one.spread["nmi"] == pytest.approx(np.std(nmi, ddof=1))


def test_fewer_distinct_rows_than_clusters_are_noted():
    rows = np.repeat(np.eye(2), 10, axis=0)
    one = evaluate_clustering(rows, np.arange(20) % 3)[0]
    assert one.notes == ("fewer distinct rows than clusters",)


def test_bad_input_says_what_is_wrong():
    features, labels = labelled(20, WIDTHS)
    with pytest.raises(LabelError, match="only the class"):
        evaluate_clustering(features, labels * 0)
    with pytest.raises(InputError, match=r"rows: 20.*an integer from 1 to 20; got 21"):
        evaluate_clustering(features, labels, protocol=ClusteringProtocol(n_clusters=21))
    with pytest.raises(FeatureError, match="NaN"):
        evaluate_clustering(np.full((4, 2), np.nan), [0, 1, 0, 1])
    with pytest.raises(InputError, match="n_seeds must be an integer >= 1; got 0"):
        ClusteringProtocol(n_seeds=0)
    with pytest.raises(InputError, match=r"seed must be an integer from 0 to 4294967291; got -1"):
        ClusteringProtocol(seed=-1)
    with pytest.raises(
        InputError, match="seed must be an integer from 0 to 4294967291; got 4294967295"
    ):
        ClusteringProtocol(seed=2**32 - 1)
    with pytest.raises(InputTypeError, match="protocol is a str; it must be a ClusteringProtocol"):
        evaluate_clustering(features, labels, protocol="fungi")
