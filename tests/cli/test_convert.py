"""`fungi-hf convert-ssast` in a shell: an official checkpoint in, a transformers folder out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

from fungi_hf import FungiExtractor
from tests.encoders.test_ssast import exact, official_forward, synthetic

PROGRAM = Path(sys.executable).with_name("fungi-hf")


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )


# One of 128 mel filters is empty in training as well.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_a_checkpoint_becomes_a_folder_and_a_frame_based_one_is_refused(tmp_path: Path) -> None:
    state = synthetic(192, depth=2, frames=128)
    torch.save(state, tmp_path / "SSAST-Tiny-Patch.pth")
    torch.save(synthetic(192, patch=(128, 2)), tmp_path / "SSAST-Tiny-Frame.pth")

    done = shell(f"{PROGRAM} convert-ssast SSAST-Tiny-Patch.pth tiny --stats esc50", tmp_path)

    assert (done.returncode, done.stdout) == (0, "tiny\n"), done.stderr
    assert (tmp_path / "tiny" / "README.md").read_text().startswith("---\n")
    model = AutoModel.from_pretrained(tmp_path / "tiny").eval()
    processor = AutoFeatureExtractor.from_pretrained(tmp_path / "tiny")
    assert processor.mean == -6.6268077
    values = torch.randn(2, model.config.max_length, 128, generator=torch.Generator()).double()
    with torch.no_grad():
        found = model.double()(values).last_hidden_state
    assert (found - official_forward(exact(state), values, heads=3)).abs().max() <= 1e-10
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    features = FungiExtractor.from_pretrained(tmp_path / "tiny")([(wave, 16000)])
    assert features.shape == (1, 2 * 192)

    refused = shell(f"{PROGRAM} convert-ssast SSAST-Tiny-Frame.pth frame", tmp_path)

    assert refused.returncode != 0
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert "frame-based" in refused.stderr
    assert not (tmp_path / "frame").exists()
