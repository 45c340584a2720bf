"""Collections of no row, of one row, of another type; folders with files that nobody put there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
import soundfile

from fungi_hf.cli.rows import read_inputs
from fungi_hf.errors import ConfigError, InputError, InputTypeError
from fungi_hf.integrations.datasets import extract_dataset
from fungi_hf.integrations.sklearn import FungiTransformer
from tests.integrations.conftest import CONFIG, TEXTS

if TYPE_CHECKING:
    from pathlib import Path

    from fungi_hf import FungiExtractor

TEXT = datasets.Features({"text": datasets.Value("string")})
ONE = datasets.Dataset.from_dict({"text": TEXTS[:1]}, split="train")


@pytest.mark.parametrize("num_proc", [None, 2])
@pytest.mark.parametrize("how", ["made", "untyped", "selected", "filtered"])
def test_no_rows_give_the_column_with_no_rows(
    extractor: FungiExtractor, how: str, num_proc: int | None
) -> None:
    data = {
        "made": lambda: datasets.Dataset.from_dict({"text": []}, features=TEXT),
        "untyped": lambda: datasets.Dataset.from_dict({"text": []}),
        "selected": lambda: ONE.select([]),
        "filtered": lambda: ONE.filter(lambda _: False),
    }[how]()
    made = extract_dataset(data, extractor, num_proc=num_proc)
    assert made.column_names == ["text", "text_fungi"]
    assert len(made) == 0
    whole = extract_dataset(ONE, extractor)
    assert made.features["text_fungi"] == whole.features["text_fungi"]
    if how == "selected":
        assert made.split == "train"
    assert len(datasets.concatenate_datasets([made.cast(whole.features), whole])) == 1


def test_a_dictionary_of_splits_may_hold_an_empty_one(extractor: FungiExtractor) -> None:
    splits = datasets.DatasetDict({"train": ONE, "test": ONE.select([])})
    made = extract_dataset(splits, extractor)
    assert {name: part.column_names for name, part in made.items()} == {
        "train": ["text", "text_fungi"],
        "test": ["text", "text_fungi"],
    }


@pytest.mark.parametrize("typed", [True, False])
def test_a_stream_that_ends_at_once(extractor: FungiExtractor, typed: bool) -> None:
    stream = datasets.IterableDataset.from_generator(
        lambda: iter(()), features=TEXT if typed else None
    )
    made = extract_dataset(stream, extractor)
    assert list(made) == []
    assert (made.column_names == ["text", "text_fungi"]) == typed
    more = datasets.IterableDataset.from_generator(lambda: iter([{"text": TEXTS[0]}]))
    (row,) = extract_dataset(more, extractor)
    assert np.abs(row["text_fungi"] - extractor(TEXTS[:1]).array[0]).max() < 1e-6


def test_sound_columns_without_rows_stay_sound(extractor: FungiExtractor) -> None:
    features = datasets.Features({"clip": datasets.Audio(sampling_rate=16000)})
    data = datasets.Dataset.from_dict({"clip": []}, features=features)
    made = extract_dataset(data, extractor, "clip")
    assert isinstance(made.features["clip"], datasets.Audio)
    assert made.features["clip"].decode
    assert made.column_names == ["clip", "clip_fungi"]


ODD: dict[str, tuple[list[Any], str]] = {
    "numbers": ([1, 2], r"input 0 must be a text \(str\); got int"),
    "none": (["a", None], r"input 1 must be a text \(str\); got NoneType"),
    "lists": ([["a"], ["b"]], r"input 0 must be a text \(str\); got list"),
    "records": ([{"a": "x"}], r"input 0 must be a text \(str\); got dict"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_column_of_another_type_names_its_row(extractor: FungiExtractor, kind: str) -> None:
    values, words = ODD[kind]
    data = datasets.Dataset.from_dict({"text": values})
    with pytest.raises(InputTypeError, match=words):
        extract_dataset(data, extractor)


def test_a_nested_column_is_flattened_first(extractor: FungiExtractor) -> None:
    data = datasets.Dataset.from_dict({"meta": [{"body": "my card"}]})
    with pytest.raises(ConfigError, match=r"no column 'meta.body'; choose one of 'meta'"):
        extract_dataset(data, extractor, "meta.body")
    assert "meta.body_fungi" in extract_dataset(data.flatten(), extractor, "meta.body").column_names


@pytest.mark.parametrize("form", ["numpy", "torch", "pandas", "arrow", None])
def test_a_format_changes_nothing(extractor: FungiExtractor, form: str | None) -> None:
    data = datasets.Dataset.from_dict({"text": TEXTS[:2]})
    made = extract_dataset(data.with_format(form), extractor)
    assert made.format["type"] == form
    made = made.with_format(None)
    assert np.abs(np.array(made["text_fungi"]) - extractor(TEXTS[:2]).array).max() < 1e-6


def test_no_inputs_elsewhere(extractor: FungiExtractor, folder: Path, tmp_path: Path) -> None:
    for none in ([], (), iter(()), np.array([], dtype=str)):
        assert extractor(none).shape == (0, extractor.width)
    for fit in (extractor.fit, extractor.fit_transform):
        with pytest.raises(InputError, match="at least one input"):
            fit([])
    made = FungiTransformer(str(folder), config=CONFIG).fit(TEXTS).transform([])
    assert made.shape == (0, extractor.width)
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(InputError, match="holds no inputs"):
        read_inputs(str(tmp_path / "none.txt"), None)


def test_hidden_files_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["b.wav", "a.wav", "deep/c.WAV"]
    hidden = ["._a.wav", ".b.wav", ".cache/x.wav", "__MACOSX/._a.wav", "deep/._c.wav"]
    for name in [*names, *hidden]:
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in names:
            soundfile.write(path, np.zeros(100), 16000, format="WAV")
        else:
            path.write_bytes(b"\x00\x05\x16\x07 no sound")
    (tmp_path / "clips" / "folder.wav").mkdir()
    found = read_inputs(str(tmp_path / "clips"), None)
    assert [path.removeprefix(str(tmp_path / "clips") + "/") for path in found] == sorted(names)
    assert "5 hidden files" in capsys.readouterr().err
    inside = tmp_path / ".hidden"
    inside.mkdir()
    soundfile.write(inside / "a.wav", np.zeros(100), 16000)
    assert len(read_inputs(str(inside), None)) == 1  # the folder itself was asked for
