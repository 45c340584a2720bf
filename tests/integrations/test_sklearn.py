"""The transformer inside scikit-learn: names, clones, pickles, searches that extract once."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_checks

from fungi_hf import KL, FungiExtractor
from fungi_hf.errors import ConfigError, InputTypeError, StateError
from fungi_hf.integrations import sklearn as adapter
from fungi_hf.integrations.sklearn import FungiTransformer
from fungi_hf.testing import tiny_text_model
from tests.integrations.conftest import CONFIG, FITTED, TEXTS
from tests.tiny import ROUNDING

if TYPE_CHECKING:
    from pathlib import Path

# What scikit-learn's own suite asks and a transformer of texts cannot be asked, with the reason.
_NUMBERS = "passes a table of numbers; inputs here are one column of texts"
_UNNAMED = "fits an estimator without arguments; an encoder must be named"
EXCEPTIONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "check_complex_data",
            "check_dict_unchanged",
            "check_dont_overwrite_parameters",
            "check_dtype_object",
            "check_estimator_sparse_array",
            "check_estimator_sparse_matrix",
            "check_estimator_sparse_tag",
            "check_estimators_dtypes",
            "check_estimators_empty_data_messages",
            "check_estimators_nan_inf",
            "check_f_contiguous_array_estimator",
            "check_fit2d_1feature",
            "check_fit2d_1sample",
            "check_fit2d_predict1d",
            "check_methods_sample_order_invariance",
            "check_methods_subset_invariance",
            "check_n_features_in",
            "check_positive_only_tag_during_fit",
            "check_readonly_memmap_input",
            "check_transformer_data_not_an_array",
            "check_transformer_general",
            "check_transformer_preserve_dtypes",
        ),
        _NUMBERS,
    ),
    **dict.fromkeys(
        (
            "check_estimators_fit_returns_self",
            "check_estimators_overwrite_params",
            "check_estimators_pickle",
            "check_fit_check_is_fitted",
            "check_fit_idempotent",
            "check_fit_score_takes_y",
            "check_pipeline_consistency",
        ),
        _UNNAMED,
    ),
    "check_array_api_input": "needs SciPy's array API switch; inputs here are texts",
}


@pytest.fixture
def transformer(folder: Path) -> FungiTransformer:
    return FungiTransformer(str(folder), config=CONFIG)


def test_transform_gives_the_extractors_vectors(
    transformer: FungiTransformer, expected: Any
) -> None:
    for inputs in (TEXTS, np.array(TEXTS), pd.Series(TEXTS), tuple(TEXTS)):
        rows = transformer.fit_transform(inputs)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=ROUNDING)
    mixed = transformer.transform([TEXTS[5], "new", TEXTS[0], TEXTS[5]])
    np.testing.assert_allclose(mixed[[0, 2, 3]], expected[[5, 0, 5]], rtol=0, atol=ROUNDING)
    assert transformer.transform([]).shape == (0, expected.shape[1])


def test_names_blocks_weights_and_pandas(transformer: FungiTransformer, expected: Any) -> None:
    width = expected.shape[1] // 2
    names = transformer.fit(TEXTS).get_feature_names_out()
    assert list(names[:2]) == ["embedding_0", "embedding_1"]
    assert names[-1] == f"kl_{width - 1}"
    table = transformer.set_output(transform="pandas").transform(TEXTS)
    assert list(table.columns) == list(names)
    half = clone(transformer).set_params(blocks=("kl",), weights={"kl": 0.5}).fit(TEXTS)
    half.set_output(transform="default")
    np.testing.assert_allclose(
        half.transform(TEXTS), expected[:, width:] / 2, rtol=0, atol=ROUNDING
    )
    assert half.get_feature_names_out()[0] == "kl_0"


def test_a_search_extracts_each_text_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter._ROWS.clear()
    seen: list[str] = []
    call = FungiExtractor.__call__

    def counted(self: FungiExtractor, inputs: Any, **options: Any) -> Any:
        seen.extend(inputs)
        return call(self, inputs, **options)

    monkeypatch.setattr(FungiExtractor, "__call__", counted)
    steps = Pipeline(
        [
            ("features", FungiTransformer(str(folder), config=CONFIG)),
            ("model", LogisticRegression()),
        ]
    )
    grid = [
        {"features__weights": [None, {"kl": 0.5}, {"kl": 0.0}]},
        {"features__blocks": [("embedding",), ("kl", "embedding")]},
    ]
    search = GridSearchCV(steps, grid, cv=2).fit(TEXTS, [0, 1] * 4)

    assert sorted(seen) == sorted(TEXTS)
    assert len(search.predict(TEXTS)) == len(TEXTS)
    seen.clear()
    more = {"features__objectives": [("kl",), (KL(latent_dim=8),)]}
    GridSearchCV(steps, more, cv=2).fit(TEXTS, [0, 1] * 4)
    assert len(seen) == 2 * len(TEXTS)


def test_fitted_state_belongs_to_its_fold(folder: Path) -> None:
    first = FungiTransformer(str(folder), config=FITTED).fit(TEXTS[:5])
    wanted = first.transform(TEXTS)
    second = clone(first).fit(TEXTS[3:])

    assert first.extractor_.fingerprint != second.extractor_.fingerprint
    np.testing.assert_array_equal(first.transform(TEXTS), wanted)
    assert not np.allclose(second.transform(TEXTS), wanted)


def test_pickles_hold_no_weights_of_a_named_encoder(folder: Path, tmp_path: Path) -> None:
    fitted = FungiTransformer(str(folder), config=FITTED).fit(TEXTS)
    data = pickle.dumps(fitted)
    weights = (folder / "model.safetensors").stat().st_size

    again = pickle.loads(data)  # noqa: S301

    assert len(data) < weights / 2
    np.testing.assert_array_equal(again.transform(TEXTS), fitted.transform(TEXTS))
    model, _ = tiny_text_model("bert", seed=9)
    adapter._load.cache_clear()
    kept = (folder / "model.safetensors").read_bytes()
    try:
        model.float().save_pretrained(folder)
        with pytest.raises(StateError, match="has other weights than when"):
            pickle.loads(data)  # noqa: S301
    finally:
        (folder / "model.safetensors").write_bytes(kept)
        adapter._load.cache_clear()


def test_clones_share_a_model_object(extractor: FungiExtractor) -> None:
    transformer = FungiTransformer(extractor).fit(TEXTS)
    assert clone(transformer).fit(TEXTS).extractor_.encoder.model is extractor.encoder.model


def test_one_column_of_a_table(folder: Path, expected: Any) -> None:
    table = pd.DataFrame({"text": TEXTS, "n": range(len(TEXTS))})
    columns = ColumnTransformer(
        [("f", FungiTransformer(str(folder), config=CONFIG), "text")], remainder="drop"
    )
    np.testing.assert_allclose(columns.fit_transform(table), expected, rtol=0, atol=ROUNDING)


def test_wrong_arguments(folder: Path, extractor: FungiExtractor) -> None:
    with pytest.raises(InputTypeError, match=r"one column of inputs; got shape \(2, 2\)"):
        FungiTransformer(str(folder)).fit(np.array([["a", "b"], ["c", "d"]]))
    with pytest.raises(InputTypeError, match="got one str"):
        FungiTransformer(str(folder)).fit("a")
    with pytest.raises(InputTypeError, match="input 1 must be a text"):
        FungiTransformer(str(folder)).fit(["a", 3])
    with pytest.raises(ConfigError, match="model is None"):
        FungiTransformer().fit(["a"])
    with pytest.raises(ConfigError, match="no block 'simclr'; choose one of 'embedding', 'kl'"):
        FungiTransformer(str(folder), config=CONFIG, blocks=("simclr",)).fit(["a"])
    with pytest.raises(ConfigError, match="brings its config"):
        FungiTransformer(extractor, config=CONFIG).fit(["a"])
    with pytest.raises(NotFittedError, match="not fitted"):
        FungiTransformer(str(folder)).transform(["a"])


class _Plain(TransformerMixin, BaseEstimator):
    """Gets the whole list of checks from scikit-learn, which has none for texts."""

    def fit(self, X: Any, y: Any = None) -> _Plain:
        return self

    def transform(self, X: Any) -> Any:
        return X


def _all_checks() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = list(estimator_checks._yield_all_checks(_Plain(), legacy=True))
    return {getattr(check, "func", check).__name__: check for check in checks}


CHECKS = _all_checks()


def test_every_check_is_run_or_excepted_with_a_reason() -> None:
    assert set(EXCEPTIONS) <= set(CHECKS)
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize("name", sorted(set(CHECKS) - set(EXCEPTIONS)))
def test_scikit_learns_own_checks(name: str) -> None:
    CHECKS[name]("FungiTransformer", FungiTransformer())


def test_rows_do_not_depend_on_subset_order_or_a_second_fit(transformer: FungiTransformer) -> None:
    """The excepted checks of invariance and idempotence, with texts."""
    before = transformer.get_params()
    rows = transformer.set_params(cache_rows=0).fit(TEXTS).transform(TEXTS)
    backwards = transformer.transform(TEXTS[::-1])[::-1]
    alone = np.concatenate([transformer.transform([text]) for text in TEXTS])
    again = transformer.fit(TEXTS).transform(TEXTS)

    np.testing.assert_allclose(backwards, rows, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(alone, rows, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(again, rows)
    assert {**transformer.get_params(), "cache_rows": 20_000} == before
