"""Whitening within classes: against the definition, and through every way of fitting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS

from fungi_hf import FungiClassifier, FungiConfig, FungiExtractor
from fungi_hf.errors import ConfigError, LabelError, ShapeError
from fungi_hf.extraction.classes import ClassSums, discriminant_from
from fungi_hf.extraction.finish import Finisher
from fungi_hf.extraction.moments import Moments
from fungi_hf.integrations.sklearn import FungiTransformer
from fungi_hf.testing import tiny_text_model

CONFIG = FungiConfig(whitening=1.0, discriminant=3.0)
TEXTS = [f"{first} card {last} bank" for first in ("lost", "pay") for last in "abcdefgh"]
LABELS = ["lost"] * 8 + ["pay"] * 8


def slow(rows: np.ndarray, codes: np.ndarray, power: float, stretch: float) -> np.ndarray:
    """Give the matrix step by step."""
    mean = rows.mean(0)
    own = np.stack([rows[codes == code].mean(0) for code in codes])
    left = rows - own
    free = len(rows) - len(set(codes.tolist()))
    covariance = left.T @ left / len(rows)
    level = np.trace(covariance) / len(covariance)
    squares = (covariance**2).mean()
    spread = (free + 1) * (squares - level**2 / len(covariance))
    share = 1.0 if spread <= 0 else min((squares + level**2) / spread, 1.0)
    covariance = (1 - share) * covariance + share * level * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    scales = np.maximum(values, values.max() * 1e-7) ** (-power / 2)
    within = vectors @ np.diag(scales / scales.max()) @ vectors.T
    differences = (own - mean) @ within
    basis = np.linalg.svd(differences, full_matrices=False)
    kept = basis.Vh[1e-7 * basis.S.max() < basis.S]
    along = kept.T @ kept
    return within @ (np.eye(len(along)) + (stretch - 1) * along)


@settings(max_examples=40)
@given(
    n_classes=st.integers(2, 5),
    a_class=st.integers(2, 12),
    width=st.integers(2, 9),
    power=st.sampled_from([0.5, 1.0]),
    stretch=st.sampled_from([0.5, 1.0, 3.0]),
    seed=st.integers(0, 999),
)
def test_the_matrix_is_that_of_the_definition(
    n_classes: int, a_class: int, width: int, power: float, stretch: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(n_classes), a_class))
    rows = rng.normal(size=(len(codes), width)) + 2 * rng.normal(size=(n_classes, width))[codes]
    rows = rows.astype(np.float32)
    moments, classes = Moments(width, products=True), ClassSums.empty(codes, width)
    for part in np.array_split(rows, 3):
        moments.add(torch.from_numpy(part))
        classes.add(torch.from_numpy(part))
    found = discriminant_from(moments, classes, power, stretch).numpy()
    wanted = slow(rows.astype(np.float64), codes, power, stretch)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * max(1, np.abs(wanted).max()))


def test_the_shrinkage_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 6)) * np.arange(1, 7)
    rows = np.concatenate([rows, -rows]).astype(np.float32)  # both classes have mean 0
    codes = np.tile([0, 1], 40)
    rows -= np.stack([rows[codes == code].mean(0) for code in codes])
    moments, classes = Moments.of(torch.from_numpy(rows), products=True), ClassSums.empty(codes, 6)
    classes.add(torch.from_numpy(rows))
    found = discriminant_from(moments, classes, 2.0, 1.0).numpy()
    wanted = np.linalg.inv(OAS(assume_centered=True).fit(rows).covariance_)
    np.testing.assert_allclose(found / found[5, 5], wanted / wanted[5, 5], rtol=0.02, atol=0.02)


def _extractor(config: FungiConfig = CONFIG) -> FungiExtractor:
    model, tokenizer = tiny_text_model("bert")
    return FungiExtractor.from_pretrained(model.float(), config, tokenizer)


def test_classes_come_apart_and_all_ways_of_fitting_agree(tmp_path: Any) -> None:
    extractor = _extractor().fit((text for text in TEXTS), LABELS)
    features = extractor(TEXTS)
    plain = _extractor(CONFIG.replace(discriminant=0.0)).fit(TEXTS)(TEXTS)
    same = np.equal.outer(LABELS, LABELS)
    gaps = []
    for one in (features, plain):
        cosine = one.array @ one.array.T
        gaps.append(cosine[same].mean() - cosine[~same].mean())
    assert gaps[0] > gaps[1] + 0.1
    again = _extractor().fit_transform(TEXTS, LABELS)
    np.testing.assert_allclose(again.array, features.array, atol=1e-5)
    transformer = FungiTransformer(_extractor()).fit(TEXTS, LABELS)
    np.testing.assert_allclose(transformer.transform(TEXTS), features.array, atol=1e-5)
    extractor.save_pretrained(tmp_path)
    model, tokenizer = tiny_text_model("bert")
    loaded = FungiExtractor.from_pretrained(tmp_path, processor=tokenizer, model=model.float())
    assert loaded.config == CONFIG
    assert loaded(TEXTS).fingerprint == features.fingerprint


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(LabelError, match=r"fit\(inputs, labels\)"):
        _extractor().fit(TEXTS)
    with pytest.raises(LabelError, match="at least 2 classes"):
        _extractor().fit(TEXTS, ["one"] * 16)
    with pytest.raises(LabelError, match="every class has one row"):
        _extractor().fit(TEXTS, range(16))
    for labels in (LABELS[1:], [*LABELS, "pay"]):
        with pytest.raises(ShapeError, match="labels"):
            _extractor().fit(TEXTS, labels)
    with pytest.raises(ConfigError, match="not fitted in parts"):
        _extractor().fit_part(TEXTS, "moments")
    with pytest.raises(ConfigError, match="dense=False; got whitening=0 and"):
        FungiConfig(discriminant=3.0)
    with pytest.raises(ConfigError, match="and dense=True"):
        FungiConfig(objectives=(), dense=True, whitening=1.0, discriminant=3.0)
    finisher = Finisher(CONFIG.replace(objectives=()), {"embedding": 4}, {})
    with pytest.raises(LabelError, match="learns from labels; got none"):
        finisher.fit({"embedding": torch.eye(4)})
    with pytest.raises(ConfigError, match="set discriminant=0"):
        FungiClassifier(_extractor()).fit(TEXTS, LABELS)


def test_fingerprints_without_it_stay() -> None:
    assert FungiConfig().fingerprint() == FungiConfig(discriminant=0.0).fingerprint()
    assert CONFIG.fingerprint() != CONFIG.replace(discriminant=2.0).fingerprint()
    assert FungiConfig.from_json(CONFIG.to_json()) == CONFIG
