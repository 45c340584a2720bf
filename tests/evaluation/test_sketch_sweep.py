"""Sketch sweeps: their accuracy is that of `evaluate_knn`, and what they cannot do is refused."""

from __future__ import annotations

import pytest

from fungi_hf.errors import ConfigError, InputError, LabelError
from fungi_hf.evaluation import KNNProtocol, evaluate_knn
from fungi_hf.evaluation.sweeps.layers import SweepData
from fungi_hf.evaluation.sweeps.sketches import sweep_sketches
from tests.tiny import TEXTS, TRAIN, extractor_of

LABELS = ["pay" if "pa" in text else "card" for text in TRAIN]
TRUTH = ["pay" if "pa" in text else "card" for text in TEXTS]


def data_of(protocol, truth=TRUTH):
    return SweepData(
        train=TRAIN, train_labels=LABELS, test=TEXTS, test_labels=truth, protocol=protocol
    )


def extractor(**changes):
    return extractor_of(objectives=("kl",), **changes)


@pytest.mark.parametrize(
    "protocol",
    [
        KNNProtocol(n_neighbors=3),
        KNNProtocol(n_neighbors=4, weights="similarity", tie="nearest", metric="dot"),
        "fungi-2-shot",
        KNNProtocol(n_neighbors=1, n_shots=2, sampling="proportional", n_draws=2),
    ],
)
def test_the_accuracy_is_that_of_the_protocol(protocol):
    found = sweep_sketches(
        extractor(), data_of(protocol), kinds=["gaussian"], widths=[16], n_seeds=1
    )
    plain = extractor(sketch="gaussian", sketch_dim=16).fit(TRAIN)
    (wanted,) = evaluate_knn(
        plain(TRAIN), LABELS, plain(TEXTS), TRUTH, protocol=protocol, combinations=[["kl"]]
    )
    assert found.rows[-1]["accuracy"] == pytest.approx(wanted.metrics["accuracy"])
    assert found.settings["protocol"] == wanted.protocol
    assert set(found.notes) == set(wanted.notes)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": data_of("paper")}, ConfigError, "'paper' has metric euclidean and pca 512"),
        ({"data": data_of("fungi")}, InputError, "n_neighbors is 20, but there are 12 training"),
        ({"data": data_of("fungi", [0] * len(TEXTS))}, LabelError, "labels must be of one kind"),
        ({"widths": [0]}, ConfigError, "widths: each must be an integer >= 1; got 0"),
        ({"widths": 96}, ConfigError, "widths are 96"),
        ({"ranks": [0]}, ConfigError, "ranks: each must be an integer >= 1; got 0"),
        ({"ranks": [1.5]}, ConfigError, r"ranks: each must be an integer >= 1; got 1\.5"),
        ({"kinds": ["gausian"]}, ConfigError, "'gausian'; choose one of 'gaussian'"),
        ({"kinds": "gaussian"}, ConfigError, r"kinds are 'gaussian' \(str\); give a sequence"),
        ({"kinds": []}, ConfigError, "must each name at least one value"),
    ],
)
def test_what_it_cannot_do_is_refused(changes, error, words):
    given = {"data": data_of("fungi-2-shot")} | changes
    with pytest.raises(error, match=words):
        sweep_sketches(extractor(), given.pop("data"), **given)


def test_unseen_labels_are_noted():
    odd = ["other", *TRUTH[1:]]
    data = data_of("fungi-2-shot", odd)
    found = sweep_sketches(extractor(), data, kinds=["gaussian"], widths=[8], n_seeds=1)
    assert found.notes[0].startswith("1 test rows have labels unseen in training")
