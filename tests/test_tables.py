"""Feature files are read alike with and without torch; tables say where they are wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fungi_hf.errors import FeatureError, InputError, StorageError
from fungi_hf.features import FungiFeatures
from fungi_hf.tables import Vectors, load_vectors, read_features, read_rows
from tests.feature_files import write_parquet

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def features() -> FungiFeatures:
    array = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    layout = {"embedding": slice(0, 2), "kl": slice(2, 7)}
    return FungiFeatures(array=array, layout=layout, fingerprint="f", factors={"kl": (2, 3)})


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_every_reader_gives_what_was_written(
    features: FungiFeatures, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"features{suffix}"
    if suffix == ".parquet":
        write_parquet(path, features, range(5))
    else:
        features.save(path)
    for read in (read_features, load_vectors, FungiFeatures.load):
        found = read(path)
        np.testing.assert_array_equal(found.array, features.array)
        assert (found.layout, list(found.layout)) == (features.layout, ["embedding", "kl"])
        assert (found.fingerprint, found.factors) == ("f", {"kl": (2, 3)})
    chosen, wanted = load_vectors(path, ["kl", "embedding"]), features.select(["kl", "embedding"])
    np.testing.assert_array_equal(chosen.array, wanted.array)
    assert (chosen.fingerprint, wanted.fingerprint) == ("f:kl+embedding", "f:kl+embedding")
    assert (chosen.layout, chosen.factors) == (wanted.layout, wanted.factors)
    with pytest.raises(FeatureError, match=rf"features\{suffix}: select needs .* distinct"):
        load_vectors(path, ["kl", "kl"])


def test_a_table_without_features_is_no_feature_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for columns, missing in (({"text": ["a"]}, "features"), ({"features": [[1.0]]}, "layout")):
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        with pytest.raises(
            StorageError, match=f"not a feature file: .*{missing}.*fungi-hf extract"
        ):
            read_features(tmp_path / "rows.parquet")


def test_a_selection_keeps_what_is_known(features: FungiFeatures) -> None:
    noted = FungiFeatures(array=features.array, layout=features.layout, fingerprint="f",
                          notes=("a PCA was skipped",))  # fmt: skip
    chosen = noted.select(["kl"])
    assert isinstance(chosen, FungiFeatures)
    assert chosen.notes == noted.notes
    assert Vectors(features.array, "g", features.layout).select(["kl"]).fingerprint == "g:kl"


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    files = {
        "a.jsonl": ('{"text": "a"}\n\n[1]\n', StorageError, r"a\.jsonl: line 3 is not an object"),
        "b.jsonl": ('{"text": "a"}\n{', StorageError, r"b\.jsonl: line 2 is not JSON"),
        "c.csv": ("text\na,b\n", StorageError, r"c\.csv: row 0 has more fields than the header"),
        "d.parquet": ("text", StorageError, r"d\.parquet is not a Parquet file"),
        "e.csv": ("text\n", InputError, r"e\.csv holds no rows"),
        "f.tsv": ("text\n", InputError, r"'\.tsv'; choose one of .*'\.csv'.*'\.txt'"),
    }
    for name, (content, error, words) in files.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(error, match=words):
            read_rows(tmp_path / name, also=[".txt"])
    with pytest.raises(StorageError, match="there is no file"):
        read_rows(tmp_path / "g.csv")


def test_reading_needs_no_torch() -> None:
    code = "import sys, fungi_hf.tables; sys.exit('torch' in sys.modules)"
    # The package's own front door imports nothing heavy before a name of it is used.
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
