"""A fit on a cluster is the fit of one process."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import ConfigError, InputError, InputTypeError
from fungi_hf.integrations.ray import fit
from tests.tiny import TEXTS, TRAIN, extractor_of

CONFIG = {"center": True, "whitening": 0.5, "dtype": "float32"}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("fungi_hf.integrations.ray.fitting.ROWS", 5)


@pytest.mark.parametrize("kind", ["file", "data set"])
def test_a_cluster_learns_what_one_process_learns(cluster, tmp_path, small_parts, kind):
    texts = [f"{text} {i}" for i in range(4) for text in TRAIN]
    wanted = extractor_of(**CONFIG).fit(texts)
    path = tmp_path / "train.txt"
    path.write_text("\n".join(texts) + "\n")
    inputs = str(path)
    if kind == "data set":
        inputs = cluster.data.from_items([{"text": text} for text in texts]).repartition(3)
    found = fit(inputs, extractor_of(**CONFIG), workers=2)
    assert found.is_fitted
    mine, theirs = found.state, wanted.state
    for name, tensors in theirs.objectives.items():
        for key, tensor in tensors.items():
            assert np.allclose(tensor, mine.objectives[name][key], rtol=0, atol=1e-5)
    for name, mean in theirs.means.items():
        assert np.allclose(mean, mine.means[name], rtol=0, atol=1e-6)
    assert np.abs(found(TEXTS).array - wanted(TEXTS).array).max() < 1e-3


def test_more_rows_than_wanted_are_a_sample(cluster, tmp_path, small_parts):
    texts = [f"pay {i} card" for i in range(60)]
    path = tmp_path / "train.txt"
    path.write_text("\n".join(texts) + "\n")
    extractor = extractor_of(objectives=("kl",), center=True)
    seen = []
    merge = extractor.fit_merge
    extractor.fit_merge = lambda parts, stage: seen.extend(parts) or merge(parts, stage)
    fit(path, extractor, max_rows=20, workers=1)
    n = sum(part.n_inputs for part in seen if part.stage == "moments")
    assert 8 <= n <= 35  # 20 in the mean
    first = extractor.state.means["kl"]
    path.write_text("\n".join(texts[::-1]) + "\n")
    again = fit(path, extractor_of(objectives=("kl",), center=True), max_rows=20, workers=1)
    assert np.allclose(first, again.state.means["kl"], atol=1e-9)
    # The same plan gives the same extractor, whoever computes what.
    same = fit(path, extractor_of(objectives=("kl",), center=True), max_rows=20, workers=2)
    assert same.fingerprint == again.fingerprint


def test_wrong_input(cluster, tmp_path, small_parts):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "money"}\n' * 6 + '{"text": 3}\n')
    extractor = extractor_of(objectives=("kl",), center=True)
    with pytest.raises(InputTypeError, match="input 6 must be a text"):
        fit(path, extractor, workers=1)
    assert not extractor.is_fitted
    assert fit(path, extractor, workers=1, on_error="skip").is_fitted
    with pytest.raises(ConfigError, match="learns nothing"):
        fit(path, extractor_of(objectives=("kl",)), workers=1)
    with pytest.raises(ConfigError, match="nothing is left to read"):
        fit(path, extractor, workers=4)
    with pytest.raises(ConfigError, match="max_rows"):
        fit(path, extractor, max_rows=0)
    with pytest.raises(InputError, match="there is no file"):
        fit(tmp_path / "none.txt", extractor)
