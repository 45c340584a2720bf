"""Each calibration takes a planted preference for labels out of the scores."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import InputError, InputTypeError, ShapeError
from fungi_hf.icl.scoring import batch, contextual, probabilities

N, C = 4_000, 6


@pytest.fixture(scope="module")
def planted():
    """Balanced gold labels, scores that find 80 % of them, and a bias per label in nats."""
    rng = np.random.default_rng(0)
    gold = np.tile(np.arange(C), N // C + 1)[:N]
    clean = rng.normal(0, 1, (N, C))
    clean[np.arange(N), gold] += 2.6
    bias = np.array([2.5, -1.5, 0.5, -2.0, 1.0, 0.0])
    return gold, clean, bias, rng


def accuracy(scores, gold) -> float:
    return float((scores.argmax(axis=1) == gold).mean())


def test_contextual_undoes_the_bias(planted):
    gold, clean, bias, _ = planted
    assert accuracy(clean + bias, gold) < accuracy(clean, gold) - 0.2
    content_free = np.tile(bias, (N, 3, 1)) + np.array([0.0, 4.0, -3.0])[None, :, None]
    found = contextual(clean + bias, content_free)
    assert accuracy(found, gold) == pytest.approx(accuracy(clean, gold), abs=0.01)
    np.testing.assert_allclose(contextual(clean + bias, content_free[0]), found)


def test_contextual_takes_each_querys_own_demonstrations(planted):
    gold, clean, _, rng = planted
    biases = rng.normal(0, 2, (N, C))
    found = contextual(clean + biases, biases[:, None, :])
    assert accuracy(found, gold) == pytest.approx(accuracy(clean, gold), abs=1e-12)


def test_contextual_averages_probabilities_not_scores():
    free = np.log([[0.9, 0.1], [0.3, 0.7]])
    expected = np.log([0.5, 0.5]) - np.log([0.6, 0.4])
    np.testing.assert_allclose(contextual(np.log([[0.5, 0.5]]), free)[0], expected)


def test_batch_undoes_the_bias_with_itself_or_with_training_scores(planted):
    # The mean prediction shows a bias in full where single predictions are not extreme.
    gold, clean, bias, rng = planted
    clean = clean * 0.3
    assert accuracy(clean + bias, gold) < accuracy(clean, gold) - 0.5
    assert accuracy(batch(clean + bias), gold) >= accuracy(clean, gold) - 0.01
    reference = rng.normal(0, 1, (N, C))
    reference[np.arange(N), rng.integers(0, C, N)] += 2.6
    found = batch(clean + bias, reference * 0.3 + bias)
    assert accuracy(found, gold) >= accuracy(clean, gold) - 0.01


def test_batch_follows_its_formula():
    scores = np.log([[0.8, 0.2], [0.6, 0.4]])
    np.testing.assert_allclose(batch(scores), scores - np.log([0.7, 0.3]))


def test_normalised_lengths_undo_a_preference_for_short_names(planted):
    gold, _, _, rng = planted
    lengths = np.array([1, 2, 3, 5, 8, 4])
    per_token = rng.normal(-2, 0.3, (N, C))
    per_token[np.arange(N), gold] += 0.9
    sums = per_token * lengths
    assert accuracy(sums, gold) < 0.4
    means = sums / lengths
    # What a label's name is worth per token is a bias of its own, for calibration to undo.
    tilted = means + np.array([0.0, 0.4, -0.3, 0.8, 0.2, -0.5])
    assert accuracy(tilted, gold) < accuracy(means, gold) - 0.05
    assert accuracy(batch(tilted), gold) >= accuracy(means, gold) - 0.01


def test_constants_per_row_and_tiny_probabilities_do_no_harm():
    scores = np.array([[0.0, -1.0], [-5000.0, -5001.0], [0.0, -np.inf]])
    np.testing.assert_allclose(probabilities(scores).sum(axis=1), 1)
    shifted = scores + np.array([[7.0], [-3.0], [100.0]])
    np.testing.assert_allclose(probabilities(shifted), probabilities(scores))
    assert np.isfinite(batch(scores[:2])).all()
    clipped = contextual(np.array([[0.0, 0.0]]), np.array([[0.0, -np.inf]]))
    np.testing.assert_allclose(clipped, [[0.0, -np.log(1e-12)]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: batch(None), InputTypeError, r"scores are missing.*output='score'"),
        (lambda: contextual([[0.0, 1]], None), InputTypeError, "content_free are missing"),
        (lambda: batch([[0.0, None]]), InputError, "NaN"),
        (lambda: batch([["a", "b"]]), InputTypeError, "not numbers"),
        (lambda: batch([0.0, 1.0]), ShapeError, r"shape \(2,\); \[n, C\]"),
        (lambda: batch(np.zeros((0, 3))), ShapeError, r"\(0, 3\)"),
        (lambda: batch([[np.inf, 0]]), InputError, r"\+Inf"),
        (lambda: batch([[-np.inf, -np.inf]]), InputError, "every label is at -Inf"),
        (
            lambda: batch(np.zeros((2, 3)), np.zeros((2, 4))),
            ShapeError,
            r"reference has shape \(2, 4\)",
        ),
        (
            lambda: contextual(np.zeros((2, 3)), np.zeros((3, 1, 3))),
            ShapeError,
            r"shape \(3, 1, 3\)",
        ),
        (lambda: contextual(np.zeros((2, 3)), np.zeros((1, 4))), ShapeError, r"shape \(1, 4\)"),
        (lambda: contextual(np.zeros((2, 3)), np.zeros(3)), ShapeError, r"shape \(3,\)"),
    ],
)
def test_bad_inputs(call, error, message):
    with pytest.raises(error, match=message):
        call()
