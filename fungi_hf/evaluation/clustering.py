"""k-means on the concatenated blocks, against the labels."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.checks import check_fields, check_integer
from fungi_hf.evaluation.inputs import choose_combinations, read_labelled
from fungi_hf.evaluation.protocols import AS_INPUT, MOST_SEED, converge, expect, need
from fungi_hf.evaluation.records import Draw, summarise
from fungi_hf.neighbors.labels import encode_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.inputs import FeatureInput
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.types import Float32Array, Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteringProtocol:
    """How to cluster.

    Attributes:
        n_clusters: None takes the number of classes.
        n_restarts: Of each k-means; the one of least inertia counts.
        n_seeds: Independent runs, for the spread.
        seed: Of the first run; the next ones count on.
    """

    name: str = "fungi"
    n_clusters: int | None = None
    n_restarts: int = 10
    n_seeds: int = 5
    seed: int = 42

    def __post_init__(self) -> None:
        check_fields(self, ("n_clusters",), check_integer, optional=True, **AS_INPUT)
        check_fields(self, ("n_restarts", "n_seeds"), check_integer, **AS_INPUT)
        last = MOST_SEED + 1 - self.n_seeds
        check_fields(self, ("seed",), check_integer, 0, last, **AS_INPUT)


def evaluate_clustering(
    features: FeatureInput,
    labels: Labels,
    *,
    protocol: ClusteringProtocol | None = None,
    combinations: Sequence[Sequence[str]] | None = None,
) -> list[EvaluationResult]:
    """Cluster every combination of blocks and compare the clusters with the classes.

    Rows [N, F] are L2-normalised after concatenation. `accuracy` counts rows under the best
    one-to-one matching of clusters and classes (Hungarian), `nmi` is normalised by the arithmetic
    mean. Records, one a combination, hold mean and spread over seeds; see `evaluate_knn`. More
    clusters than rows are an `InputError`.
    """
    rule = ClusteringProtocol() if protocol is None else protocol
    expect(rule, ClusteringProtocol, "protocol")
    judged = read_labelled(features, labels, "features")
    classes, codes = encode_labels(judged.labels, "labels")
    n_clusters = rule.n_clusters or len(classes)
    check_integer(f"n_clusters (rows: {len(judged)})", n_clusters, 1, len(judged), **AS_INPUT)
    kmeans = functools.partial(need("sklearn.cluster").KMeans, n_clusters, n_init=rule.n_restarts)
    seeds = [rule.seed + i for i in range(rule.n_seeds)]
    draws = {}
    for some in choose_combinations(judged.layout, combinations):
        rows = judged.take(some)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= np.where(norms > 0, norms, 1)
        draws[some] = [_cluster(rows, codes, kmeans(random_state=seed)) for seed in seeds]
    return summarise("clustering", rule, draws, judged, seeds=seeds)


def match_clusters(clusters: Int64Array, codes: Int64Array) -> Int64Array:
    """Match clusters [N] and classes [N], both from 0, one to one, so that most rows are right.

    Each row is given the class that its cluster is matched with, or -1.
    """
    table = np.zeros((int(clusters.max()) + 1, int(codes.max()) + 1), np.int64)
    np.add.at(table, (clusters, codes), 1)
    rows, columns = need("scipy.optimize").linear_sum_assignment(-table)
    partner = np.full(len(table), -1, np.int64)
    partner[rows] = columns
    return partner[clusters]


def _cluster(rows: Float32Array, codes: Int64Array, model: Any) -> Draw:
    found, distinct = converge(lambda: model.fit_predict(rows))
    clusters = found.astype(np.int64)
    right = match_clusters(clusters, codes) == codes
    metrics = need("sklearn.metrics")
    return Draw(
        metrics={
            "accuracy": float(right.mean()),
            "nmi": float(metrics.normalized_mutual_info_score(codes, clusters)),
            "ari": float(metrics.adjusted_rand_score(codes, clusters)),
        },
        scores=right.astype(float),
        notes=() if distinct else ("fewer distinct rows than clusters",),
        n_train=len(rows),
    )
