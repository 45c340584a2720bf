import numpy as np
import pytest

from fungi_hf.errors import FeatureError, FingerprintMismatchError, NotFittedError
from fungi_hf.features import FungiFeatures, make_layout
from fungi_hf.neighbors import ExactIndex, KernelIndex, KNNClassifier

M, N1, RANK, D = 5, 4, 2, 3


def exact_features(n, seed, fingerprint="one"):
    """Give features with one plain block and one of exact rank-2 gradients, and the gradients."""
    rng = np.random.default_rng(seed)
    e = rng.standard_normal((n, D))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    deltas, inputs = rng.standard_normal((n, RANK, M)), rng.standard_normal((n, RANK, N1))
    G = np.einsum("nrm,nri->nmi", deltas, inputs)
    scale = np.linalg.norm(G.reshape(n, -1), axis=1)[:, None, None]
    array = np.concatenate([e, (deltas / scale).reshape(n, -1), inputs.reshape(n, -1)], axis=1)
    features = FungiFeatures(
        array=array.astype(np.float32),
        layout=make_layout({"embedding": D, "kl": RANK * (M + N1)}),
        fingerprint=fingerprint,
        factors={"kl": (M, N1)},
    )
    return features, np.concatenate([e, (G / scale).reshape(n, -1)], axis=1)


def test_search_equals_the_dot_product_of_materialised_gradients():
    pool, plain_pool = exact_features(60, 0)
    queries, plain_queries = exact_features(17, 1)
    found = KernelIndex().fit(pool).search(queries, 7)
    truth = plain_queries @ plain_pool.T
    np.testing.assert_array_equal(found.indices, np.argsort(-truth, axis=1)[:, :7])
    np.testing.assert_allclose(found.scores, -np.sort(-truth, axis=1)[:, :7], atol=1e-5)


def test_added_rows_are_numbered_on_and_exclusions_hold():
    pool, _ = exact_features(30, 0)
    more, _ = exact_features(10, 2)
    index = KernelIndex().fit(pool).add(more)
    found = index.search(more, 1)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(30, 40))
    other = index.search(more, 1, exclude={0: [30]})
    assert len(index) == 40
    assert other.indices[0, 0] != 30


def test_classifier_uses_the_kernel_for_exact_factors():
    pool, plain_pool = exact_features(40, 0)
    queries, plain_queries = exact_features(9, 3)
    y = np.arange(40) % 3
    predicted = KNNClassifier(n_neighbors=1).fit(pool, y).predict(queries)
    np.testing.assert_array_equal(predicted, y[(plain_queries @ plain_pool.T).argmax(1)])


def test_factors_are_refused_by_a_column_index():
    pool, _ = exact_features(10, 0)
    with pytest.raises(FeatureError, match="exact gradient factors"):
        ExactIndex().fit(pool)


def test_wrong_use_is_said():
    pool, _ = exact_features(10, 0)
    other, _ = exact_features(3, 1, fingerprint="two")
    with pytest.raises(NotFittedError, match="empty"):
        KernelIndex().search(pool, 1)
    with pytest.raises(
        FingerprintMismatchError, match="from 'two', the index holds vectors from 'one'"
    ):
        KernelIndex().fit(pool).search(other, 1)
    with pytest.raises(FeatureError, match="ndarray without a similarity"):
        KernelIndex().fit(np.eye(3))
