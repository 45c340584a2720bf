"""What a search holds, and how a choice is put into words."""

from __future__ import annotations

import re

from fungi_hf import FungiConfig
from fungi_hf.config import KL, Activation, SimCLR
from fungi_hf.tuning import CandidateScore, TuningSearch
from fungi_hf.tuning.evidence import Evidence
from fungi_hf.tuning.words import reason_of

HELD = Evidence(gain=0.02, error=0.01, p=0.02, n_candidates=3)


def test_specs_vary_the_temper_alone() -> None:
    config = FungiConfig(objectives=(SimCLR(n_views=3, views="crop"),))
    specs = TuningSearch().specs(config)
    assert [spec.name for spec in specs] == ["simclr", "kl", "simclr_untempered", "activation"]
    assert specs[2] == SimCLR(
        n_views=3, views="crop", logsumexp_temperature=1.0, name="simclr_untempered"
    )
    assert [type(spec) for spec in TuningSearch(objectives=()).specs(config)] == [Activation]


def test_layers_that_a_config_names_are_kept() -> None:
    layers = [f"encoder.layer.{i}.attention.output.dense" for i in range(6)]
    bare = TuningSearch().specs(FungiConfig(), layers, layers[-1])
    assert list(bare[0].blocks) == [*(f"kl_{i}_attention_output" for i in (2, 3, 4)), "kl"]
    own = (KL(), KL(layer=layers[4]))  # one loss: no further layers, which would come twice
    specs = TuningSearch().specs(FungiConfig(objectives=own), layers, layers[-1])
    assert specs[:2] == own
    assert list(FungiConfig(objectives=specs).blocks)[:2] == ["kl", "kl_4_attention_output"]


def test_both_tempers_are_tried_whatever_the_config_has() -> None:
    untempered = SimCLR(n_views=3, logsumexp_temperature=1.0)
    specs = TuningSearch().specs(FungiConfig(objectives=(untempered,)))
    assert [spec.name for spec in specs] == ["simclr", "kl", "simclr_tempered", "activation"]
    assert specs[2] == SimCLR(n_views=3, name="simclr_tempered")
    taken = SimCLR(name="simclr_untempered")  # a tempered one, by a confusing name
    names = [spec.name for spec in TuningSearch().specs(FungiConfig(objectives=(taken,)))]
    assert len(set(names)) == len(names) == 4


def test_a_reason_names_what_leads() -> None:
    values = {"pooling": "mean", "layer": "l", "low": 0.0, "high": 1.0, "p": 1.0, "error": 0.01}

    def score(name: str, share: float, cost: int, **fields: object) -> CandidateScore:
        known = {"transform": "plain", "components": None, "accuracy": share, **values}
        gain = {"against_embedding": share - 0.5, "behind_best": 0.9 - share}
        return CandidateScore(
            **{**known, **gain, "name": name, "share": share, "cost": cost, **fields}
        )

    plain, chosen = score("embedding", 0.5, 0), score("activation", 0.8, 4)
    words = [
        (score("activation", 0.9, 5, components=64), r"PCA 64\) leads by 10.0 points .*for a PCA"),
        (score("kl", 0.9, 8), "too little for the gradients in it"),
        (score("activation_1", 0.9, 4), "features like it do worse"),
        (score("activation_1", 0.9, 4, accuracy=1.0), "where few rows vote"),
        (score("activation_1", 0.8, 4), "nothing has a higher share"),
    ]
    for best, pattern in words:
        assert re.search(pattern, reason_of([plain, chosen, best], 1, 2, HELD))
    assert "to leave the plain embedding for" in reason_of([plain, chosen], 0, 1, HELD)
