"""Feature columns: right, cached under a fingerprint that repeats, searchable by faiss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest

from fungi_hf import FungiExtractor
from fungi_hf.errors import ConfigError, InputTypeError, NotFittedError
from fungi_hf.integrations.datasets import extract_dataset
from tests.integrations.conftest import FITTED, TEXTS
from tests.tiny import ROUNDING

if TYPE_CHECKING:
    from pathlib import Path

datasets.disable_progress_bars()


@pytest.fixture
def table(tmp_path: Path) -> datasets.Dataset:
    """On disk, so that `map` caches."""
    data = datasets.Dataset.from_dict({"text": TEXTS, "other": TEXTS[::-1]})
    data.to_parquet(tmp_path / "data.parquet")
    return datasets.Dataset.from_parquet(
        str(tmp_path / "data.parquet"), cache_dir=str(tmp_path / "cache")
    )


def test_columns_hold_the_extractors_vectors(
    table: datasets.Dataset, extractor: FungiExtractor, expected: Any
) -> None:
    one = extract_dataset(table, extractor, batch_size=3)
    two = extract_dataset(table, extractor, {"text": "a", "other": "b"})

    assert one.column_names == ["text", "other", "text_fungi"]
    assert one.features["text_fungi"] == datasets.List(
        datasets.Value("float32"), length=expected.shape[1]
    )
    np.testing.assert_allclose(one["text_fungi"], expected, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(two["b"], expected[::-1], rtol=0, atol=ROUNDING)


def test_a_second_run_is_a_cache_hit(
    table: datasets.Dataset,
    extractor: FungiExtractor,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = extract_dataset(table, extractor)
    other = FungiExtractor.from_pretrained(folder, extractor.config)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("extracted again")

    monkeypatch.setattr(FungiExtractor, "__call__", forbidden)
    second = extract_dataset(table, other)

    assert second._fingerprint == first._fingerprint
    assert second["text_fungi"][0] == first["text_fungi"][0]
    changed = FungiExtractor.from_pretrained(folder, extractor.config.replace(seed=1))
    with pytest.raises(AssertionError, match="extracted again"):
        extract_dataset(table, changed)


def test_streaming_and_splits(
    table: datasets.Dataset, extractor: FungiExtractor, expected: Any
) -> None:
    streamed = extract_dataset(table.to_iterable_dataset(), extractor, batch_size=3)
    rows = [row["text_fungi"] for row in streamed]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=ROUNDING)
    splits = extract_dataset(datasets.DatasetDict({"train": table}), extractor)
    np.testing.assert_allclose(splits["train"]["text_fungi"], expected, rtol=0, atol=ROUNDING)
    with pytest.raises(ConfigError, match="num_proc is not for streaming"):
        extract_dataset(table.to_iterable_dataset(), extractor, num_proc=2)


@pytest.mark.slow
def test_processes_change_nothing(table: datasets.Dataset, fitted: FungiExtractor) -> None:
    rows = extract_dataset(table, fitted, num_proc=2)["text_fungi"]
    np.testing.assert_allclose(rows, fitted(TEXTS).array, rtol=0, atol=ROUNDING)


def test_faiss_by_the_data_sets_own_methods(
    table: datasets.Dataset, extractor: FungiExtractor, expected: Any, tmp_path: Path
) -> None:
    data = extract_dataset(table, extractor)
    data.add_faiss_index("text_fungi")
    _, found = data.get_nearest_examples("text_fungi", expected[3], k=1)
    assert found["text"] == [TEXTS[3]]
    data.save_faiss_index("text_fungi", str(tmp_path / "index"))
    data.drop_index("text_fungi")
    data.load_faiss_index("text_fungi", str(tmp_path / "index"))
    assert data.get_nearest_examples("text_fungi", expected[5], k=1)[1]["text"] == [TEXTS[5]]


def test_wrong_arguments(table: datasets.Dataset, extractor: FungiExtractor, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'txt'; choose one of 'text'"):
        extract_dataset(table, extractor, "txt")
    with pytest.raises(ConfigError, match="has a column 'other' already"):
        extract_dataset(table, extractor, {"text": "other"})
    with pytest.raises(ConfigError, match="columns is empty"):
        extract_dataset(table, extractor, [])
    with pytest.raises(InputTypeError, match=r"must be a datasets\.Dataset; got list"):
        extract_dataset(TEXTS, extractor)
    for name in ("batch_size", "num_proc"):
        with pytest.raises(ConfigError, match=f"{name} must be an integer >= 1; got 0"):
            extract_dataset(table, extractor, **{name: 0})
    with pytest.raises(NotFittedError, match="fit the extractor first"):
        extract_dataset(table, FungiExtractor.from_pretrained(folder, FITTED))


def test_an_unusable_input_is_named_by_its_row(extractor: FungiExtractor) -> None:
    broken = datasets.Dataset.from_dict({"text": [*TEXTS[:5], None]})
    for data in (broken, broken.to_iterable_dataset()):
        with pytest.raises(InputTypeError, match=r"input 5 must be a text .* got NoneType"):
            list(extract_dataset(data, extractor, batch_size=2))
