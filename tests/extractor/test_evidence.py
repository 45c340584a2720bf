"""The evidence of a tuning stays with the config and state that it was found for, and no others."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import pytest

from fungi_hf import KL, FungiExtractor
from fungi_hf.extraction.state import FittedState
from fungi_hf.integrations.parts import ExtractorParts
from fungi_hf.integrations.transformers.pipeline import FungiPipeline
from fungi_hf.tuning import TuningSearch
from tests.tiny import TEXTS, TRAIN, extractor_of, fitted, saved_model

if TYPE_CHECKING:
    from pathlib import Path

    from fungi_hf.tuning.report import TuningReport

SEARCH = TuningSearch(objectives=(), n_neighbors=2, whitenings=(), components=())
LABELS = [0, 1] * 6


@pytest.fixture(scope="module")
def report() -> TuningReport:
    """Any evidence; the tests below hang it on extractors as `tune` does."""
    found = extractor_of(objectives=()).tune(TRAIN, LABELS, search=SEARCH).tuning
    assert found is not None
    return found


def tuned(report: TuningReport) -> FungiExtractor:
    extractor = fitted(center=True)
    extractor.tuning = report
    return extractor


def test_the_fit_of_a_tuning_keeps_it() -> None:
    search = TuningSearch(objectives=(KL(latent_dim=24),), n_neighbors=2, components=())
    found = extractor_of(objectives=()).tune(TRAIN, LABELS, search=search)
    assert found.tuning is not None
    assert found.tuning.config == found.config.to_dict()


def test_another_fit_drops_it(report: TuningReport) -> None:
    extractor = tuned(report)
    extractor.fit(TEXTS)
    assert extractor.tuning is None
    extractor = tuned(report)
    extractor.fit_transform(TEXTS)
    assert extractor.tuning is None


def test_another_state_drops_it(report: TuningReport) -> None:
    extractor = tuned(report)
    extractor.restore(FittedState())
    assert extractor.tuning is None


def test_the_same_state_keeps_it(report: TuningReport) -> None:
    extractor = tuned(report)
    before = extractor.fingerprint
    extractor.restore(FittedState.from_tensors(extractor.state.to_tensors()))
    assert extractor.fit(TRAIN[::-1]).fingerprint == before  # nothing depends on the order
    assert extractor.tuning is report
    plain = extractor_of(objectives=())
    plain.tuning = report
    assert plain.fit(TEXTS).tuning is report  # it learns nothing: its features are the same


def test_a_fit_after_the_tuning_leaves_no_file(report: TuningReport, tmp_path: Path) -> None:
    extractor = tuned(report)
    extractor.save_pretrained(tmp_path)
    assert (tmp_path / "fungi_tuning.json").exists()
    loaded = FungiExtractor.from_pretrained(
        tmp_path, model=extractor.encoder.model, processor=extractor.encoder.tokenizer
    )
    assert json.loads(loaded.tuning.to_json()) == json.loads(report.to_json())
    loaded.fit(TEXTS).save_pretrained(tmp_path)
    assert not (tmp_path / "fungi_tuning.json").exists()


def test_hosts_carry_it(report: TuningReport, tmp_path: Path) -> None:
    extractor = FungiExtractor.from_pretrained(saved_model(tmp_path / "model"))
    extractor.tuning = report
    extractor.save_pretrained(tmp_path / "tuned")
    text = report.to_json()
    assert ExtractorParts(extractor).build().tuning is report
    pipeline = FungiPipeline(model=str(tmp_path / "tuned"))
    assert json.loads(pipeline.extractor.tuning.to_json()) == json.loads(text)
    sklearn = pytest.importorskip("fungi_hf.integrations.sklearn")
    transformer = sklearn.FungiTransformer(str(tmp_path / "tuned")).fit(TRAIN)
    again = pickle.loads(pickle.dumps(transformer))  # noqa: S301
    for one in (transformer, again):
        assert json.loads(one.extractor_.tuning.to_json()) == json.loads(text)
