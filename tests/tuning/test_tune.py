"""Tuning end to end on tiny encoders: what it reads, what it chooses, what it gives back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import fungi_hf
from fungi_hf import Custom, FungiConfig, FungiExtractor
from fungi_hf.cli import main
from fungi_hf.config import KL, Activation, SimCLR
from fungi_hf.errors import ConfigError, FeatureError, InputTypeError, ShapeError, StateError
from fungi_hf.specs import REGISTERED_OBJECTIVES
from fungi_hf.testing import tiny_text_model
from fungi_hf.tuning import TuningReport, TuningSearch, tune
from fungi_hf.tuning.candidates import Candidate, Transform
from fungi_hf.tuning.ridge import ridge_leave_out
from fungi_hf.tuning.scan import scan, sibling_layers
from fungi_hf.tuning.votes import leave_one_out
from tests.encoders.audio_models import build, clips
from tests.tiny import TRAIN, extractor_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*distinct training inputs:UserWarning")

WORDS = sorted({word for text in TRAIN for word in text.replace(",", "").split()})
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(3, 9))) for _ in range(60)]
TEST = [" ".join(RNG.choice(WORDS, 5)) for _ in range(12)]
SMALL = (KL(latent_dim=24), SimCLR(n_views=2, latent_dim=8, n_negatives=6))
QUICK = TuningSearch(objectives=SMALL[:1], n_neighbors=3, whitenings=(1.0,), components=())


def labels_of(extractor: FungiExtractor, texts: list[str] = TEXTS) -> np.ndarray:
    """Two classes that the embedding separates cleanly: the sides of its first component."""
    array = extractor(texts).block("embedding")
    centred = array - array.mean(0)
    return (centred @ np.linalg.svd(centred)[2][0] > 0).astype(int)


@pytest.fixture(scope="module")
def plain() -> FungiExtractor:
    return extractor_of(objectives=())


def test_the_tuned_extractor_is_its_config_fitted_on_all_inputs(plain) -> None:
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(60) < 0.8, labels_of(plain), 2)
    search = TuningSearch(objectives=SMALL, n_neighbors=3, components=(4,), max_rows=40)
    tuned = plain.tune(TEXTS, labels, search=search)
    report = tuned.tuning
    assert report.config == tuned.config.to_dict()
    assert (report.n_rows, report.n_groups) == (60, 0)
    assert report.n_used == sum(report.classes.values()) <= 42
    assert report.notes[0] == f"{report.n_used} of 60 rows voted, drawn within each class"
    assert {one.cost for one in report.candidates} >= {0, 2, 4, 6, 8, 10}
    assert {one.pooling for one in report.candidates} == {"mean", "cls"}
    assert {one.transform for one in report.candidates} == {
        "plain", "centred", "whitened 0.5", "whitened 1"
    }  # fmt: skip
    accuracies = [one.accuracy for one in report.candidates]
    assert accuracies == sorted(accuracies, reverse=True)
    again = FungiExtractor.from_pretrained(
        plain.encoder.model, tuned.config, plain.encoder.tokenizer
    ).fit(TEXTS)
    assert again.fingerprint == tuned.fingerprint
    np.testing.assert_array_equal(again(TEST).array, tuned(TEST).array)


def test_tuning_reads_nothing_but_the_training_rows(plain, monkeypatch) -> None:
    """Two tasks that differ in test inputs and permuted test labels are tuned alike."""
    labels = labels_of(plain)
    seen: set[str] = set()
    check = type(plain.encoder).check

    def watched(self, raw, index):
        seen.add(raw)
        return check(self, raw, index)

    monkeypatch.setattr(type(plain.encoder), "check", watched)
    configs = []
    for seed in (0, 1):
        test_labels = np.random.default_rng(seed).permutation(labels_of(plain, TEST))
        seen.clear()
        tuned = plain.tune(iter(TEXTS), list(labels), search=QUICK)
        assert seen == set(TEXTS)  # a test text never reaches the encoder
        assert len(test_labels) == len(tuned(TEST))
        configs.append((tuned.config, tuned.fingerprint, tuned.tuning.candidates))
    assert configs[0] == configs[1]


def test_the_model_and_the_extractor_stay_as_they_were(plain) -> None:
    before = (plain.fingerprint, plain.encoder.layer_path, plain.encoder.pooling)
    plain.tune(TEXTS, labels_of(plain), search=QUICK)
    assert before == (plain.fingerprint, plain.encoder.layer_path, plain.encoder.pooling)
    assert plain.tuning is None
    hooks = [m for m in plain.encoder.model.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert not hooks


class Side:
    """Half the squared distance to a plane: its gradient tells the side, whatever the distance."""

    def __init__(self, *, width: int, seed: int, normal: list[float], offset: float) -> None:
        del width, seed
        self.normal, self.offset = torch.tensor(normal, dtype=torch.float64), offset
        self.n_views = 1

    def loss(self, embeddings: torch.Tensor) -> torch.Tensor:
        return ((embeddings[:, 0].double() @ self.normal) - self.offset).square() / 2


@pytest.fixture
def sides(plain):
    """A task whose classes lie on the two sides of a plane through the middle of all texts."""
    raw = scan(plain.encoder, TEXTS, [], plain.budget)["embedding"].astype(np.float64)
    # Texts differ little in this direction; in the last one not at all, after a layer norm.
    normal = np.linalg.svd(raw - raw.mean(0))[2][-3]
    offset = float(np.median(raw @ normal))
    fungi_hf.register_objective("side", Side)
    yield (
        Custom(objective="side", options={"normal": normal.tolist(), "offset": offset}),
        (raw @ normal > offset).astype(int),
    )
    REGISTERED_OBJECTIVES.pop("side")


def test_a_gradient_that_helps_is_chosen(plain, sides) -> None:
    spec, labels = sides
    fixed = {"free_layer": False, "free_pooling": False, "components": (), "whitenings": ()}
    search = TuningSearch(objectives=(spec,), n_neighbors=5, **fixed)
    report = plain.tune(TEXTS, labels, search=search).tuning
    assert "side" in report.chosen.name
    assert report.chosen.cost == 8
    assert report.chosen.accuracy > report.embedding.accuracy + 0.1
    assert report.chosen.p < 0.05
    assert "points against the plain embedding" in report.reason


def test_a_gradient_that_does_not_help_is_not_chosen(plain, sides) -> None:
    spec, _ = sides
    search = TuningSearch(objectives=(spec, "kl"), n_neighbors=5)
    tuned = plain.tune(TEXTS, labels_of(plain), search=search)
    assert tuned.tuning.chosen.name == "embedding"
    assert tuned.config.objectives == ()


def test_groups_do_not_vote_for_themselves(plain) -> None:
    """Labels that only copies of a text share can be told by copies, and not without them."""
    texts, labels = TEXTS[:20] * 3, np.tile(RNG.integers(0, 4, 20), 3)
    search = TuningSearch(objectives=(), n_neighbors=2, components=())
    assert plain.tune(texts, labels, search=search).tuning.embedding.accuracy == 1
    grouped = plain.tune(texts, labels, groups=np.tile(np.arange(20), 3), search=search).tuning
    assert grouped.n_groups == 20
    assert grouped.embedding.accuracy < 0.7


def test_layers_and_poolings_can_be_kept(plain) -> None:
    search = TuningSearch(objectives=(), free_layer=False, free_pooling=False, n_neighbors=3)
    report = plain.tune(TEXTS, labels_of(plain), search=search).tuning
    assert {one.layer for one in report.candidates} == {plain.encoder.layer_path}
    assert {one.pooling for one in report.candidates} == {"mean"}
    layers = sibling_layers(plain.encoder, 12)
    assert layers == [f"encoder.layer.{i}.attention.output.dense" for i in range(len(layers))]
    assert len(layers) > 1
    assert sibling_layers(plain.encoder, 1) == layers[-1:]


def test_layers_are_tried_alone_and_together(plain) -> None:
    labels = labels_of(plain)
    search = TuningSearch(objectives=SMALL[:1], n_neighbors=3, layer_counts=(2,), components=())
    names = {one.name for one in plain.tune(TEXTS, labels, search=search).tuning.candidates}
    one, two, all_ = "activation", "activation_1+activation", "activation_0+activation_1+activation"
    for cheap in ("activation_0", one, two, all_):
        assert {cheap, f"embedding+{cheap}"} <= names
    assert {f"embedding+kl+{some}" for some in (one, two, all_)} <= names
    assert f"kl+{two}" not in names


def test_a_stack_of_layers_is_scored_as_its_config_computes_it(plain) -> None:
    labels, layers = labels_of(plain), sibling_layers(plain.encoder, 12)
    labels[::3] += 2  # so that not all rows are right
    search = TuningSearch(objectives=(), n_neighbors=3, components=(), free_pooling=False)
    report = plain.tune(TEXTS, labels, search=search).tuning
    name = "embedding+activation_1+activation"
    for transform in search.transforms:
        scored = next(
            one for one in report.candidates if (one.name, one.transform) == (name, transform.name)
        )
        candidate = Candidate(
            pooling="mean",
            layer=layers[-1],
            transform=transform,
            weights=tuple((block, 1.0) for block in name.split("+")),
        )
        specs = search.specs(plain.config, layers, layers[-1])
        config = candidate.config(plain.config, specs)
        extractor = FungiExtractor(plain.encoder, config)
        array = extractor.fit(TEXTS)(TEXTS).array.astype(np.float64)
        cosines = array @ array.T
        np.fill_diagonal(cosines, -np.inf)
        near = np.argsort(-cosines, axis=1)[:, :3]
        votes = np.array([np.bincount(labels[some], minlength=4).argmax() for some in near])
        assert 0 < (votes == labels).mean() < 1
        assert (votes == labels).mean() == pytest.approx(scored.accuracy)


def test_few_rows_vote_where_nearly_all_are_right(plain) -> None:
    texts, labels = TEXTS[:20] * 3, np.arange(60) % 20 % 4
    search = TuningSearch(objectives=(), n_neighbors=2, components=())
    report = plain.tune(texts, labels, search=search).tuning  # copies tell every label
    assert report.embedding.accuracy == 1
    assert report.embedding.share < 1
    assert any("3 draws of 10 voting rows a class" in note for note in report.notes)
    assert any("pass groups" in note for note in report.notes)
    fields = {"objectives": (), "n_neighbors": 2, "components": (), "paper_rows": 0}
    never = TuningSearch(**fields, ceiling=1.0)
    labels[0] = 3 - labels[0]  # one wrong row, below this ceiling
    report = plain.tune(texts, labels, search=never).tuning
    assert report.embedding.share == report.embedding.accuracy < 1
    assert not report.notes


def test_a_scan_equals_extractions_layer_by_layer(plain) -> None:
    layers = sibling_layers(plain.encoder, 12)
    found = scan(plain.encoder, TEXTS, layers, plain.budget)
    for layer in layers:
        one = extractor_of(objectives=("activation",), target_layer=layer)(TEXTS)
        rows = found[layer] / np.linalg.norm(found[layer], axis=1, keepdims=True)
        np.testing.assert_allclose(rows, one.block("activation"), atol=1e-6)


def test_evidence_is_saved_and_loaded(plain, tmp_path: Path) -> None:
    tuned = plain.tune(TEXTS, labels_of(plain), search=QUICK)
    tuned.save_pretrained(tmp_path)
    report = TuningReport.from_json((tmp_path / "fungi_tuning.json").read_text())
    assert json.loads(report.to_json()) == json.loads(tuned.tuning.to_json())
    assert FungiConfig.from_dict(dict(report.config)) == tuned.config
    assert tuned.tuning.chosen.name in tuned.tuning.table(3)
    loaded = FungiExtractor.from_pretrained(
        tmp_path, model=plain.encoder.model, processor=plain.encoder.tokenizer
    )
    assert loaded.fingerprint == tuned.fingerprint
    assert json.loads(loaded.tuning.to_json()) == json.loads(report.to_json())
    plain.save_pretrained(tmp_path)  # an untuned one: the evidence is not its own
    assert not (tmp_path / "fungi_tuning.json").exists()
    for text in ("{", "{}", '{"record": "fungi-hf-tuning"}'):
        with pytest.raises(StateError, match="tuning report"):
            TuningReport.from_json(text)


def test_unusable_input(plain) -> None:
    labels = labels_of(plain)
    with pytest.raises(ShapeError, match="labels has 3 labels for 60 rows"):
        plain.tune(TEXTS, labels[:3])
    with pytest.raises(InputTypeError, match="input 1 must be a text"):
        tune(plain, ["a", 3, "b", "c"], [0, 0, 1, 1], search=QUICK)
    with pytest.raises(ConfigError, match="search must be a TuningSearch or None; got dict"):
        plain.tune(TEXTS, labels, search={})
    with pytest.raises(ConfigError, match="sketch='none' keeps exact factors"):
        extractor_of(objectives=("kl",), sketch="none").tune(TEXTS, labels)
    broken = extractor_of(objectives=(), fresh=True)
    with torch.no_grad():
        broken.encoder.layer.weight[0, 0] = float("nan")
    with pytest.raises(FeatureError, match="NaN or Inf"):
        broken.tune(TEXTS, labels, search=QUICK)


def test_a_class_of_one_row_is_noted(plain) -> None:
    labels = labels_of(plain)
    labels[0] = 7
    notes = plain.tune(TEXTS, labels, search=QUICK).tuning.notes
    assert any(note.startswith("1 classes have one row") for note in notes)


def test_the_program_writes_config_and_evidence(plain, tmp_path: Path, capsys) -> None:
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    table = tmp_path / "train.jsonl"
    rows = zip(TEXTS, labels_of(plain).tolist(), strict=True)
    table.write_text("\n".join(json.dumps({"text": t, "intent": y}) for t, y in rows))
    arguments = ["tune", str(tmp_path / "model"), str(table), "--label", "intent", "-k", "3"]
    out = tmp_path / "tuned"
    assert main([*arguments, "--no-gradients", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("| features | pooling |")
    assert f"saved in {out}" in printed.err
    assert FungiExtractor.from_pretrained(out).tuning.n_rows == 60
    assert main([*arguments, "--out", str(out), "--max-rows", "0"]) == 1
    assert "max_rows" in capsys.readouterr().err


@pytest.mark.parametrize("judge", ["neighbors", "linear"])
def test_gradients_of_inner_layers_are_tried(plain, judge) -> None:
    labels = labels_of(plain)
    labels[::5] = 2
    search = TuningSearch(n_neighbors=3, whitenings=(1.0,), components=(), free_pooling=False)
    tuned = plain.tune(TEXTS, labels, search=search, judge=judge)
    report = tuned.tuning
    names = {one.name for one in report.candidates}
    every = "embedding+kl_1_attention_output+kl+activation_0+activation_1+activation"
    wanted = {
        "neighbors": {"kl_1_attention_output", "embedding+kl_1_attention_output", "kl+activation"},
        "linear": {"embedding+kl", "embedding+kl_1_attention_output+kl", every},
    }
    assert wanted[judge] <= names
    assert report.judge == report.search["judge"] == judge
    transforms = {one.transform for one in report.candidates}
    assert ("centred" in transforms) == (judge == "neighbors")
    none = TuningSearch(gradient_layers=0, n_neighbors=3, whitenings=(), components=())
    found = plain.tune(TEXTS, labels, search=none, judge=judge).tuning
    assert not any("kl_1" in one.name for one in found.candidates)


@pytest.mark.parametrize("judge", ["neighbors", "linear"])
def test_a_chosen_inner_gradient_is_what_its_config_computes(plain, judge) -> None:
    """The candidates' scores are those of the extractor that each config makes."""
    labels = np.arange(60) % 3
    search = TuningSearch(n_neighbors=3, whitenings=(1.0,), components=(), free_pooling=False,
                          judge=judge)  # fmt: skip
    report = plain.tune(TEXTS, labels, search=search).tuning
    layers = sibling_layers(plain.encoder, 12)
    specs = search.specs(plain.config, layers, layers[-1])
    name = "embedding+kl_1_attention_output+kl"
    scored = next(o for o in report.candidates if (o.name, o.transform) == (name, "whitened 1"))
    weights = tuple((block, 1.0) for block in name.split("+"))
    candidate = Candidate(
        pooling="mean", layer=layers[-1], transform=Transform(whitening=1.0), weights=weights
    )
    config = candidate.config(plain.config, specs)
    assert [spec.kind for spec in config.objectives] == ["kl"]
    features = FungiExtractor(plain.encoder, config).fit(TEXTS)(TEXTS)
    rows, one = {"all": features.array}, [[("all", 1.0)]]
    if judge == "linear":
        (right,) = ridge_leave_out(rows, one, labels, np.arange(60))
    else:
        (right,) = leave_one_out(rows, one, labels, np.arange(60), 3)
    assert right.mean() == pytest.approx(scored.accuracy, abs=1.5 / 60)


def test_gradients_of_views_wait_for_a_pilot(plain) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 60)  # noise: nothing leads
    fields = {"n_neighbors": 3, "whitenings": (), "components": (), "free_pooling": False}
    search = TuningSearch(objectives=SMALL, pilot_rows=20, min_gain=0.5, **fields)
    report = plain.tune(TEXTS, labels, search=search).tuning
    assert not any("simclr" in one.name for one in report.candidates)
    (note,) = [one for one in report.notes if "gradients of views" in one]
    assert note.startswith("gradients of views (simclr) were tried on 20 rows")
    whole = TuningSearch(objectives=SMALL, pilot_rows=60, **fields)
    report = plain.tune(TEXTS, labels, search=whole).tuning
    assert any("simclr" in one.name for one in report.candidates)
    eager = TuningSearch(objectives=SMALL, pilot_rows=20, min_gain=0.0, **fields)
    report = plain.tune(TEXTS, labels, search=eager).tuning
    leads = any("simclr" in one.name for one in report.candidates)
    assert leads != any("gradients of views" in one for one in report.notes)


def test_the_baselines_and_an_advice_stand_beside_the_choice(plain) -> None:
    labels = labels_of(plain)
    fields = {"n_neighbors": 3, "paper_rows": 0, "components": (), "evidence": 1e-6}
    search = TuningSearch(objectives=SMALL[:1], **fields)
    report = plain.tune(TEXTS, labels, search=search).tuning
    assert [(one.features, one.head) for one in report.baselines] == [
        ("embedding", "neighbors"),
        ("embedding", "linear"),
        ("activation", "neighbors"),
        ("activation", "linear"),
    ]
    assert report.baselines[0].accuracy == report.embedding.accuracy
    assert report.chosen.name == "embedding"
    assert report.advice.startswith(("use the plain embedding", "use a linear probe on the plain"))
    assert "you need no gradients" in report.advice
    assert "| embedding | linear |" in report.table()
    linear = plain.tune(TEXTS, labels, search=search, judge="linear").tuning
    (probe,) = [
        one for one in linear.baselines if (one.features, one.head) == ("embedding", "linear")
    ]
    assert probe.accuracy == linear.embedding.accuracy
    assert "a linear probe on the plain embedding" in linear.advice


def test_the_paper_preset_is_judged_where_it_is_affordable(plain, monkeypatch) -> None:
    texts, labels = TEXTS * 2, np.tile(labels_of(plain), 2)
    fields = {"objectives": (), "n_neighbors": 3, "components": (), "whitenings": ()}
    few = plain.tune(texts, labels, search=TuningSearch(**fields)).tuning
    assert any("the paper preset was not judged" in note for note in few.notes)
    assert not any("paper" in one.features for one in few.baselines)
    monkeypatch.setattr("fungi_hf.tuning.paper.affordable_rows", lambda *_: 70)
    report = plain.tune(texts, labels, search=TuningSearch(**fields, paper_rows=60)).tuning
    shown = {(one.features, one.n_rows) for one in report.baselines if "paper" in one.features}
    assert {name for name, _ in shown} >= {"paper preset"}
    assert {n for _, n in shown} == {60}
    silent = plain.tune(texts, labels, search=TuningSearch(**fields, paper_rows=0)).tuning
    assert not any("paper" in note for note in silent.notes)


def test_the_cost_is_said_before(plain, capsys) -> None:
    search = TuningSearch(objectives=("kl",), n_neighbors=3, components=(), whitenings=())
    plain.tune(TEXTS, labels_of(plain), search=search, progress=True)
    said = capsys.readouterr().err
    assert "tuning takes about 4.0 forward passes of the rows" in said
    assert said.index("tuning takes about") < said.index("pooling")
    with pytest.raises(ConfigError, match="judge is 'forest'"):
        plain.tune(TEXTS, labels_of(plain), judge="forest")


def test_own_activations_of_other_layers_are_tried() -> None:
    own = Activation(layer="encoder.layer.1.output.dense", name="mlp")
    extractor = extractor_of(objectives=(own,))
    search = TuningSearch(n_neighbors=3, whitenings=(), components=())
    report = extractor.tune(TEXTS, labels_of(extractor), search=search).tuning
    assert {"mlp", "embedding+mlp"} <= {one.name for one in report.candidates}


def test_few_rows_lower_the_number_of_neighbours(plain) -> None:
    """With all others voting in two even classes, the other class always has one row more."""
    labels = np.arange(20) % 2
    search = TuningSearch(objectives=(), components=())
    report = plain.tune([f"{'card' if y else 'money'} {i}" for i, y in enumerate(labels)], labels,
                        search=search).tuning  # fmt: skip
    assert report.best.accuracy > 0.5
    assert report.notes[0].startswith("10 neighbours voted, not 20")


def test_an_unusable_row_is_named_as_given_before_any_work(plain, monkeypatch) -> None:
    texts: list[object] = list(TEXTS)
    texts[50] = 5
    monkeypatch.setattr(type(plain.encoder), "embed", None)  # nothing is encoded
    for seed in (1, 2):
        search = TuningSearch(objectives=(), max_rows=20, seed=seed)
        with pytest.raises(InputTypeError, match="input 50 must be a text"):
            plain.tune(texts, labels_of_length(60), search=search)


def labels_of_length(n: int) -> list[int]:
    return [i % 2 for i in range(n)]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_layers_that_a_short_last_block_does_not_call(pooling: str, part: str) -> None:
    layer = f"encoder.layer.1.attention.self.{part}"
    extractor = extractor_of(objectives=(), pooling=pooling, target_layer=layer)
    report = extractor.tune(TEXTS, labels_of_length(60), search=QUICK).tuning
    assert "activation_2" in {one.name for one in report.candidates}


def test_a_layer_above_the_blocks_has_gradients_under_its_own_pooling_alone() -> None:
    extractor = extractor_of(objectives=(), pooling="model", target_layer="pooler.dense")
    search = TuningSearch(objectives=SMALL[:1], n_neighbors=3, components=(), whitenings=())
    labels = labels_of(extractor_of(objectives=(), pooling="mean"))
    report = extractor.tune(TEXTS, labels, search=search).tuning
    assert report.best.pooling == "mean"  # which tells these labels
    assert not any("kl" in one.name for one in report.candidates)
    assert any("no gradients were tried with pooling 'mean'" in note for note in report.notes)


def test_layers_stay_in_the_order_of_the_model() -> None:
    for place in range(3):
        path = f"encoder.layer.{place}.attention.output.dense"
        encoder = extractor_of(objectives=(), target_layer=path).encoder
        for most in (1, 2, 3):
            found = sibling_layers(encoder, most)
            assert path in found
            assert len(found) == most
            assert found == sorted(found)


def test_fitted_statistics_of_the_callers_encoder_stay() -> None:
    model, processor = build("ast")
    config = FungiConfig(audio_statistics="fit", objectives=())
    extractor = FungiExtractor.from_pretrained(model, config, processor)
    loud, quiet = (clips(*[6000] * 8, seed=seed) for seed in (0, 1))
    extractor.fit(loud)
    before = (extractor.fingerprint, extractor(loud).array)
    quiet = [clip | {"array": clip["array"] / 100} for clip in quiet]
    search = TuningSearch(objectives=(), n_neighbors=1, components=(), whitenings=())
    extractor.tune(quiet, labels_of_length(8), search=search)
    np.testing.assert_array_equal(extractor(loud).array, before[1])
    assert extractor.fingerprint == before[0]
