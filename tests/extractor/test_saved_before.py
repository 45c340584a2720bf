"""A folder that was saved before the modules moved loads and gives the features it gave then."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from fungi_hf import FungiExtractor, FungiFeatures
from fungi_hf.errors import StateError

SAVED = Path(__file__).parents[1] / "data" / "saved_before_the_move"
TEXTS = ["pay my card", "lost", "what? the bank paid me, but you paid the bank twice"]


def test_equal_features() -> None:
    extractor = FungiExtractor.from_pretrained(SAVED)
    before = FungiFeatures.load(SAVED / "features.safetensors")
    features = extractor(TEXTS)
    assert extractor.is_fitted
    assert dict(features.layout) == dict(before.layout)
    assert list(features.layout) == ["embedding", "kl", "simclr", "activation"]
    # Unit blocks of float32 passes through three blocks of width 16: another processor sums in
    # another order, which moves an entry by some 1e-6. An unfitted or wrong part moves it by 0.1.
    np.testing.assert_allclose(features.array, before.array, rtol=0, atol=2e-5)


def test_golden_fingerprint() -> None:
    """All that it digests is read from files, so it is the same on every processor.

    It names features that users have stored: a change here invalidates them all.
    """
    assert FungiExtractor.from_pretrained(SAVED).fingerprint == "7b5610af68298165"


def test_its_digests_still_tell_an_altered_file(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    shutil.copytree(SAVED, folder)
    for name, digest in (("fungi_state.safetensors", "state"), ("model.safetensors", "encoder")):
        whole = (folder / name).read_bytes()
        tensors = load_file(folder / name)
        save_file(
            {key: tensor + 1 for key, tensor in tensors.items()}, folder / name, {"format": "pt"}
        )
        with pytest.raises(StateError, match=f"the digest of '{digest}' is"):
            FungiExtractor.from_pretrained(folder)
        (folder / name).write_bytes(whole)
    FungiExtractor.from_pretrained(folder)
