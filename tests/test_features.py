"""From raw blocks to vectors: norms, zeros, weights, centring, PCA; slicing, saving."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fungi_hf import KL, FungiConfig, SimCLR
from fungi_hf.config import PCA
from fungi_hf.errors import FeatureError, FingerprintMismatchError, StateError, StorageError
from fungi_hf.extraction.finish import Finisher
from fungi_hf.extraction.reduction import PrincipalComponents
from fungi_hf.extraction.state import FittedState
from fungi_hf.features import FungiFeatures
from fungi_hf.gradients.factors import unit_rows
from fungi_hf.storage.files import tensor_digest
from tests.tiny import TEXTS, TRAIN, fitted

WIDTHS = {"embedding": 6, "kl": 4, "simclr": 5}


def blocks_of(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 3 * torch.randn(n, w, generator=generator) + 1 for name, w in WIDTHS.items()}


def finisher_of(**changes) -> Finisher:
    return Finisher(FungiConfig(objectives=("kl", "simclr"), **changes), WIDTHS, {})


def test_each_block_has_unit_norm_and_a_row_the_root_of_the_live_blocks() -> None:
    blocks = blocks_of(5)
    blocks["kl"][1] = 0
    blocks["simclr"][1] = 0
    blocks["simclr"][2] = 0
    rows = finisher_of().finish(blocks)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.sqrt([3, 1, 2, 3, 3]), rel=1e-6)
    assert (rows[1, 6:] == 0).all()
    assert np.isfinite(rows).all()
    assert rows.dtype == np.float32
    expected = blocks["kl"][0] / blocks["kl"][0].norm()
    np.testing.assert_allclose(rows[0, 6:10], expected, rtol=1e-6)


def test_euclidean_and_cosine_neighbours_coincide() -> None:
    rows = finisher_of().finish(blocks_of(20))
    squared = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared, 2 * (3 - rows @ rows.T), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-8, 1e18, 3e37])
def test_direction_does_not_depend_on_size(scale: float) -> None:
    rows = blocks_of(4)["kl"] / 10
    np.testing.assert_allclose(unit_rows(rows * scale), unit_rows(rows), rtol=2e-6, atol=1e-9)


def test_subnormal_rows_are_finite() -> None:
    rows = torch.tensor([[1e-44, 0.0], [0.0, 0.0]])
    assert unit_rows(rows).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_weights_scale_blocks_and_zero_drops_the_embedding() -> None:
    config = FungiConfig(objectives=(KL(weight=2.0), SimCLR(weight=0.5)), embedding_weight=3)
    rows = Finisher(config, WIDTHS, {}).finish(blocks_of(3))
    norms = [np.linalg.norm(rows[:, s], axis=1) for s in (slice(6), slice(6, 10), slice(10, 15))]
    np.testing.assert_allclose(norms, [[3.0] * 3, [2.0] * 3, [0.5] * 3], rtol=1e-6)
    without = Finisher(config.replace(embedding_weight=0), WIDTHS, {})
    assert list(without.layout) == ["kl", "simclr"]
    assert without.finish(blocks_of(3)).shape == (3, 9)


def test_centring_subtracts_the_mean_direction_of_the_training_rows() -> None:
    train, test = blocks_of(30), blocks_of(4, seed=1)
    test["kl"][2] = 0
    finisher = finisher_of(center=True)
    state = finisher.fit(train)
    means = state.means
    assert state.components is None
    assert not state.whitening
    directions = {n: b / b.norm(dim=1, keepdim=True) for n, b in train.items()}
    for name, mean in means.items():
        np.testing.assert_allclose(mean, directions[name].double().mean(0), atol=1e-7)
    rows = finisher.finish(test)
    centred = unit_rows(test["kl"][0]) - means["kl"]
    np.testing.assert_allclose(rows[0, 6:10], centred / centred.norm(), atol=1e-6)
    assert (rows[2, 6:10] == 0).all()  # a zero gradient stays zero, centred or not


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_whitening_equals_scikit_learns_ledoit_wolf_covariance(power: float) -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    train, test = blocks_of(30), blocks_of(4, seed=1)
    test["kl"][2] = 0
    state = (finisher := finisher_of(whitening=power)).fit(train)
    rows = finisher.finish(test)
    for name, columns in finisher.layout.items():
        directions = unit_rows(train[name]).double().numpy()
        shrunk, _ = covariance.ledoit_wolf(directions)
        values, vectors = np.linalg.eigh(shrunk)
        moved = unit_rows(test[name]).double().numpy() - directions.mean(0)
        expected = moved @ (vectors * values ** (-power / 2)) @ vectors.T
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        seen = [0, 1, 3]
        np.testing.assert_allclose(rows[seen, columns], expected[seen], atol=1e-5)
        assert state.whitening[name].shape == (directions.shape[1],) * 2
    assert (rows[2, finisher.layout["kl"]] == 0).all()  # a zero gradient stays zero


@pytest.mark.parametrize("n", [1, 2, 5])
def test_whitening_of_few_or_equal_rows_is_finite_and_of_unit_length(n: int) -> None:
    train = blocks_of(n)
    train["simclr"][:] = train["simclr"][0]
    finisher = finisher_of(whitening=1)
    finisher.fit(train)
    rows = finisher.finish(blocks_of(3, seed=2))
    for columns in finisher.layout.values():
        np.testing.assert_allclose(np.linalg.norm(rows[:, columns], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("n", "normalize"), [(40, True), (40, False), (9, False)])
def test_pca_equals_scikit_learn_up_to_sign(n: int, normalize: bool) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    train, test = blocks_of(n), blocks_of(7, seed=1)
    finisher = finisher_of(reduction=PCA(n_components=5, normalize=normalize))
    finisher.fit(train)
    plain = finisher_of()
    pca = decomposition.PCA(5, svd_solver="full").fit(plain.finish(train))
    expected = pca.transform(plain.finish(test))
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    got = finisher.finish(test)
    signs = np.sign((got * expected).sum(0))
    np.testing.assert_allclose(got * signs, expected, atol=2e-5)
    assert list(finisher.layout) == ["reduced"]
    assert finisher.notes == ()


def test_the_largest_entry_of_a_component_is_positive() -> None:
    rows = torch.cat(list(blocks_of(20).values()), dim=1)
    components = PrincipalComponents.fit(rows, 4).components
    assert (components.abs().max(1).values == components.max(1).values).all()
    other = PrincipalComponents.fit(-rows, 4).components
    np.testing.assert_allclose(other, components, atol=1e-9)


@pytest.mark.parametrize(("n", "wanted"), [(4, 5), (5, 5), (40, 15), (40, 600)])
def test_a_pca_that_would_not_reduce_is_skipped_and_said(n: int, wanted: int) -> None:
    finisher = finisher_of(reduction=wanted)
    state = finisher.fit(blocks_of(n))
    assert state.components is None
    assert state.missing(FungiConfig(reduction=wanted)) == []
    assert FittedState().missing(FungiConfig(reduction=wanted)) == ["reduction"]
    assert finisher.notes == (
        f"PCA to {wanted} components was skipped: the training features are {n} x 15",
    )
    np.testing.assert_array_equal(finisher.finish(blocks_of(3)), finisher_of().finish(blocks_of(3)))


def test_pca_errors() -> None:
    with pytest.raises(FeatureError, match="needs more rows and columns; got 5 x 4"):
        PrincipalComponents.fit(torch.zeros(5, 4), 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_errors_with_the_block_and_the_rows(bad: float) -> None:
    blocks = blocks_of(5)
    blocks["kl"][3, 1] = bad
    with pytest.raises(
        FeatureError, match=r"block 'kl' has NaN or Inf for 1 inputs, first at \[3\]"
    ):
        finisher_of().finish(blocks)


@pytest.fixture(scope="module")
def features() -> FungiFeatures:
    return fitted()(TEXTS)


def test_layout_names_the_columns_in_order(features) -> None:
    assert list(features.layout) == ["embedding", "kl", "simclr", "activation"]
    ends = [(s.start, s.stop) for s in features.layout.values()]
    assert ends == [(0, 16), (16, 32), (32, 48), (48, 64)]
    assert features.shape == features.array.shape == (len(TEXTS), 64)
    assert len(features) == len(TEXTS)
    assert np.asarray(features) is features.array or np.array_equal(features, features.array)
    assert np.array(features, dtype=np.float64).dtype == np.float64


def test_select_is_a_slice(features) -> None:
    some = features.select(["activation", "kl"])
    assert list(some.layout) == ["activation", "kl"]
    assert np.array_equal(some.block("kl"), features.block("kl"))
    assert np.array_equal(some.array[:, :16], features.block("activation"))
    assert some.fingerprint == f"{features.fingerprint}:activation+kl"
    assert np.array_equal(features.select(["embedding", "kl"]).array[:, 16:], features.block("kl"))
    for bad in ([], "kl", ["kl", "kl"]):
        with pytest.raises(FeatureError, match="list of distinct block names"):
            features.select(bad)
    with pytest.raises(FeatureError, match="no block 'simcrl'; choose one of 'simclr'"):
        features.select(["simcrl"])


def test_similarity_is_the_sum_of_cosines(features) -> None:
    np.testing.assert_allclose(
        features.similarity(features), features.array @ features.array.T, atol=1e-5
    )
    with pytest.raises(FingerprintMismatchError, match="extract both with one extractor"):
        features.similarity(features.select(["kl"]))


def test_save_and_load(features, tmp_path) -> None:
    path = tmp_path / "features.safetensors"
    features.save(path)
    loaded = FungiFeatures.load(path)
    assert np.array_equal(loaded.array, features.array)
    assert loaded.layout == features.layout
    assert list(loaded.layout) == list(features.layout)
    assert loaded.fingerprint == features.fingerprint
    exact = fitted(sketch="none")(TEXTS)
    exact.save(path)
    again = FungiFeatures.load(path)
    assert again.factors == exact.factors
    np.testing.assert_array_equal(again.similarity(again), exact.similarity(exact))


def test_loading_errors(features, tmp_path) -> None:
    with pytest.raises(StorageError, match="no feature file at"):
        FungiFeatures.load(tmp_path / "nothing")
    broken = tmp_path / "broken"
    broken.write_bytes(b"not safetensors")
    with pytest.raises(StorageError, match="is not a feature file"):
        FungiFeatures.load(broken)
    from safetensors.numpy import save_file

    save_file({"features": np.zeros((2, 3), np.float32)}, str(broken))
    with pytest.raises(StorageError, match="is not a feature file"):
        FungiFeatures.load(broken)
    with pytest.raises(StorageError, match="cannot write"):
        features.save(tmp_path / "no" / "such" / "folder")


def test_the_activation_block_is_the_pooled_layer_input() -> None:
    from tests.extraction.problems import encoder_of

    for pooling in ("mean", "first"):
        encoder = encoder_of("bert", pooling)
        seen: list[torch.Tensor] = []
        handle = encoder.layer.register_forward_hook(lambda m, args, out, s=seen: s.append(args[0]))
        rows = []
        for text in TEXTS:
            with torch.no_grad():
                encoder.model(**encoder.tokenizer([text], return_tensors="pt"))
            rows.append(seen[-1][0].mean(0) if pooling == "mean" else seen[-1][0, 0])
        handle.remove()
        expected = unit_rows(torch.stack(rows)).float()
        got = fitted(pooling=pooling)(TEXTS).block("activation")
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_state_round_trip_and_errors() -> None:
    components = PrincipalComponents(torch.zeros(3).double(), torch.ones(2, 3).double())
    state = FittedState(
        {"simclr": {"negatives": torch.ones(2, 3)}}, {"kl": torch.ones(4)}, components,
        {"mean": torch.ones(1)}, None,
    )  # fmt: skip
    flat = state.to_tensors()
    assert sorted(flat) == [
        "encoder/mean", "mean/kl", "objective/simclr/negatives", "pca/components", "pca/mean",
    ]  # fmt: skip
    assert FittedState.from_tensors(flat).digest() == state.digest()
    skipped = FittedState(skipped=(4, 15))
    assert FittedState.from_tensors(skipped.to_tensors()).skipped == (4, 15)
    flat["mean/kl"] = torch.full((4,), 1.0000001)
    assert FittedState.from_tensors(flat).digest() != state.digest()
    with pytest.raises(StateError, match="unknown tensor 'other/x'"):
        FittedState.from_tensors({"other/x": torch.ones(1)})
    with pytest.raises(StateError, match="half a PCA"):
        FittedState.from_tensors({"pca/mean": torch.ones(1)})
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    assert tensor_digest({"x": a, "y": b}) == tensor_digest({"y": b, "x": a})
    assert tensor_digest({"x": a}) != tensor_digest({"x": b}) != tensor_digest({"x": b.bfloat16()})


def test_centred_and_reduced_features_of_an_extractor() -> None:
    extractor = fitted(center=True, reduction=4)
    train = extractor(TRAIN)
    assert train.layout == {"reduced": slice(0, 4)}
    assert np.linalg.norm(train.array, axis=1) == pytest.approx(np.ones(len(TRAIN)), rel=1e-5)
    bare = fitted(center=True, reduction=PCA(n_components=4, normalize=False))(TRAIN).array
    np.testing.assert_allclose(bare.mean(0), 0, atol=1e-6)
    assert (np.diff(bare.var(0)) < 0).all()
