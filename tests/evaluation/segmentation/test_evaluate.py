"""`evaluate_segmentation`: records, draws of training images, controls beside them."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

from fungi_hf.evaluation.segmentation import (
    SEGMENTATION_PROTOCOLS,
    MemoryBank,
    SegmentationProtocol,
    TrainingDraws,
    evaluate_segmentation,
    scores,
)
from fungi_hf.evaluation.segmentation.draws import plan_draws
from fungi_hf.evaluation.segmentation.evaluate import _learn, _Plan
from fungi_hf.evaluation.segmentation.examples import read_example
from tests.evaluation.segmentation import references, scenes

RULE = SegmentationProtocol(n_neighbors=5, ignore=(255,))
WIDTHS = {"tokens": 32, "dense_infonce": 32}
CONTROLS = [
    "coordinates", "random", "planted", "planted, transposed", "majority", "position prior",
    "true histograms",
]  # fmt: skip


def scene(seed, n, spread=0.3, fingerprint="one"):
    rng = np.random.default_rng(seed)
    masks = [scenes.detailed(rng, (4, 5)) for _ in range(n)]
    for mask in masks:
        mask[:3, :3] = 255
    ready = [np.where(mask == 255, -1, mask) for mask in masks]
    options = {"widths": WIDTHS, "fingerprint": fingerprint}
    pairs = scenes.planted(rng, ready, (4, 5), spread=spread, **options)
    return [(features, mask) for (features, _), mask in zip(pairs, masks, strict=True)]


TRAIN, TEST = scene(0, 10), scene(1, 5)


def run(train=TRAIN, test=TEST, **options):
    return evaluate_segmentation(train, test, **{"n_classes": 5, "protocol": RULE, **options})


def test_records_are_what_the_bank_and_the_slow_scores_say():
    results = run()
    names = ["tokens", "dense_infonce", "tokens+dense_infonce"]
    assert [one.name for one in results] == names + [f"control: {name}" for name in CONTROLS]
    bank = MemoryBank.build(TRAIN, n_classes=5, protocol=RULE)
    for one in results[:3]:
        tables = []
        for features, mask in TEST:
            drawn = bank.label_map(features, size=mask.shape, blocks=one.blocks)
            labels = np.where(mask == 255, -1, mask)
            tables.append(references.confusion(labels, drawn, 5))
        whole = sum(tables)
        assert one.metrics["miou"] == pytest.approx(references.miou(whole))
        assert one.metrics["miou_matched"] == pytest.approx(references.matched_miou(whole))
        assert one.metrics["pixel_accuracy"] == pytest.approx(whole.trace() / whole.sum())
        assert one.intervals["miou"] == pytest.approx(references.interval([tables]))
        own = [references.miou(table) for table in tables]
        np.testing.assert_allclose(one.scores, [own])
        each = scores.iou(scores.counts_of(whole))
        assert one.per_class == pytest.approx(dict(zip("01234", each, strict=True)))
        assert (one.task, one.main, one.protocol) == ("segmentation", "miou", "fungi")
        assert (one.n_train, one.n_test, one.fingerprint) == (10, 5, "one")
        assert (one.spread, one.seeds) == ({}, (42,))
        assert one.settings["n_neighbors"] == 5
        assert "frames of one video are not independent" in one.notes[0]
        assert not one.is_control
    base, *others = results
    assert base.against_baseline == {}
    for one in others:
        gap = one.metrics["miou"] - base.metrics["miou"]
        assert one.against_baseline["difference"] == pytest.approx(gap)
        assert one.against_baseline["low"] <= gap <= one.against_baseline["high"]
    assert all(one.is_control and one.n_train in (0, 10) for one in results[3:])


def test_wholly_ignored_images_are_left_out_and_combinations_chosen():
    blank = scenes.noise(np.random.default_rng(0), (4, 5), 64, widths=WIDTHS)
    void = blank, np.full((32, 40), 255)
    results = run([void, *TRAIN], [*TEST, void], controls=False, combinations=[["dense_infonce"]])
    (wanted,) = run(combinations=[["dense_infonce"]], controls=False)
    assert results == [wanted]
    assert [one.name for one in results] == ["dense_infonce"]


def test_the_order_of_training_images_does_not_matter():
    draws = TrainingDraws(amounts=(3, None), seeds=(0, 1))
    rule = replace(RULE, bank_rows=40)
    options = {"protocol": rule, "draws": draws, "controls": False}
    one, other = (run(train, **options) for train in (TRAIN, TRAIN[::-1]))
    assert [a.metrics for a in one] == [b.metrics for b in other]


def test_lazy_inputs_are_read_once_and_let_go():
    alive, most = weakref.WeakSet(), []

    def lazily(pairs):
        for features, mask in pairs:
            one = replace(features, array=features.array.copy())
            alive.add(one)
            most.append(len(alive))
            yield one, mask
            del one

    assert run(lazily(TRAIN), lazily(TEST)) == run()
    assert len(most) == 15
    assert max(most) == 2  # the one at hand, and the one before it


def test_images_with_equal_masks_are_noted_and_told_apart_by_pixels():
    rng = np.random.default_rng(0)
    twins = [(scenes.noise(rng, (4, 5), 64, widths=WIDTHS), TRAIN[0][1]) for _ in range(8)]
    draws = TrainingDraws(amounts=(3,), seeds=tuple(range(12)))
    note = "8 of 18 training images have the mask of another"
    assert any(note in one for one in run([*TRAIN, *twins], draws=draws, controls=False)[0].notes)

    def drawn(train):
        """How many of the images with the one mask each seed draws."""
        plan = _Plan(5, RULE, plan_draws(train, RULE, draws), None)
        rows = {row.tobytes() for one in twins for row in one[0].array}
        found = [one[""] for one in _learn(train, plan, controls=False).banks]
        return [sum(row.tobytes() in rows for row in bank.keys) for bank in found]

    together = drawn([*TRAIN, *twins])
    apart = drawn(scenes.coloured(rng, [*TRAIN, *twins]))
    assert sum(n > 0 for n in apart) > 8 > sum(n > 0 for n in together)
    colours = scenes.coloured(rng, TRAIN), scenes.coloured(rng, TEST)
    others = {"x": (TRAIN, TEST)}  # drawn as those with pixels are
    found = run(*colours, draws=draws, controls=False, others=others)
    assert found[-1].metrics == found[2].metrics
    assert len(found[0].notes) == 1


def test_few_training_images_by_several_seeds():
    draws = TrainingDraws(amounts=(1, 0.25, 2, 0.5, None), seeds=(0, 1, 2))
    options = {"combinations": [["tokens"]], "controls": False}
    own = run(draws=draws, **options)
    assert [one.protocol for one in own] == [
        "fungi, 1 image",
        "fungi, 2 images",
        "fungi, 5 images",
        "fungi",
    ]  # 0.25 of 10 images are 2
    assert [one.n_train for one in own] == [1, 2, 5, 10]
    assert [one.settings["images"] for one in own] == [1, 0.25, 0.5, None]
    for one in own:
        assert one.seeds == (0, 1, 2)
        assert one.scores.shape == (3, 5)
    few = own[1]
    single = [
        run(draws=TrainingDraws(amounts=(2,), seeds=(seed,)), **options)[0] for seed in (0, 1, 2)
    ]
    values = [one.metrics["miou"] for one in single]
    assert few.metrics["miou"] == pytest.approx(np.mean(values))
    assert few.spread["miou"] == pytest.approx(np.std(values, ddof=1))
    assert few.spread["miou"] > 0
    assert own[-1].spread["miou"] == 0  # all rows fit into the bank
    assert own[0].metrics["miou"] < own[-1].metrics["miou"]


def banks_of(monkeypatch, **options):
    """The keys of each bank that an evaluation draws."""
    held, of = [], MemoryBank.of

    def kept(builder):
        held.append(of(builder))
        return held[-1]

    monkeypatch.setattr(MemoryBank, "of", kept)
    run(controls=False, **options)
    return held


def test_whole_images_are_drawn(monkeypatch):
    draws = TrainingDraws(amounts=(3,), seeds=(0, 1, 2, 3))
    rule = replace(RULE, bank_rows=None)
    drawn = set()
    for bank in banks_of(monkeypatch, draws=draws, protocol=rule):
        rows = {row.tobytes() for row in bank.keys}
        inside = [
            place
            for place, (features, _) in enumerate(TRAIN)
            if {row.tobytes() for row in features.array} & rows
        ]
        assert len(inside) == 3
        wanted = sum(
            int(read_example(TRAIN[place], 5, rule).histograms.any(axis=1).sum())
            for place in inside
        )
        assert len(bank) == wanted  # every labelled patch of each
        drawn.add(tuple(inside))
    assert len(drawn) > 1


def test_whole_groups_are_drawn(monkeypatch):
    videos = ("a", "b", "b", "c", "c", "c", "d", "d", "e", "a")
    draws = TrainingDraws(amounts=(2, 0.5), seeds=tuple(range(6)), groups=videos)
    rule = replace(RULE, bank_rows=None)
    found = banks_of(monkeypatch, draws=draws, protocol=rule)
    assert len(found) == 6  # half of five groups are two as well
    drawn = set()
    for bank in found:
        rows = {row.tobytes() for row in bank.keys}
        inside = [bool({r.tobytes() for r in pair[0].array} & rows) for pair in TRAIN]
        groups = {video for video, there in zip(videos, inside, strict=True) if there}
        assert len(groups) == 2
        assert inside == [video in groups for video in videos]
        assert bank.n_images == sum(inside)
        drawn.add(frozenset(groups))
    assert len(drawn) > 1
    first = run(draws=draws, protocol=rule, controls=False)[0]
    assert (first.protocol, first.settings["groups"]) == ("fungi, 2 groups", 2)
    together = run(draws=TrainingDraws(groups=videos), controls=False)
    assert [one.metrics for one in together] == [one.metrics for one in run(controls=False)]


def test_colours_are_controls_where_pixels_come_along():
    rng = np.random.default_rng(0)
    sides = [scenes.coloured(rng, pairs) for pairs in (TRAIN, TEST)]
    names = [one.name.removeprefix("control: ") for one in run(*sides)]
    assert names[3:] == ["coordinates", "colour", "colour and coordinates", *CONTROLS[1:]]


def test_another_encoder_is_a_further_control():
    rng = np.random.default_rng(0)
    random_weights = [
        [(scenes.noise(rng, (4, 5), fingerprint="two"), mask) for _, mask in side]
        for side in (TRAIN, TEST)
    ]
    draws = TrainingDraws(amounts=(4, None), seeds=(0, 1))
    options = {"protocol": replace(RULE, bank_rows=60), "draws": draws, "controls": False}
    found = run(others={"random weights": tuple(random_weights)}, **options)
    alone = run(*random_weights, **options)
    mine = [one for one in found if one.is_control]
    assert [one.name for one in mine] == ["control: random weights"] * 2
    assert [one.metrics for one in mine] == [one.metrics for one in alone]
    assert [one.spread for one in mine] == [one.spread for one in alone]
    for one in mine:
        assert one.fingerprint == "one"
        assert "features of two" in one.notes
        assert one.against_baseline["difference"] < -0.1
    assert [one for one in found if one not in mine] == run(**options)


def test_protocols():
    ours, paper, few, paper_few = (
        SEGMENTATION_PROTOCOLS[name]
        for name in ("fungi", "paper", "fungi-few-shot", "paper-few-shot")
    )
    for one in (ours, paper):
        assert (one.n_neighbors, one.temperature, one.bank_rows) == (30, 0.02, 102_400)
    for one in (few, paper_few):
        assert (one.n_neighbors, one.temperature, one.bank_rows) == (90, 0.1, None)
    for one in (paper, paper_few):
        assert (one.ignore, one.void_class, one.upsampling) == ((255,), 0, "bilinear")
    assert (ours.ignore, ours.void_class) == ((), None)


def test_the_published_protocol_teaches_void_as_background_and_does_not_score_it():
    results = {}
    for name in ("paper", "paper-few-shot"):
        rule = replace(SEGMENTATION_PROTOCOLS[name], n_neighbors=9)
        one = run(protocol=rule, controls=False)[-1]
        bank = MemoryBank.build(TRAIN, n_classes=5, protocol=rule)
        clean = MemoryBank.build(TRAIN, n_classes=5, protocol=replace(rule, void_class=None))
        assert bank.values[:, 0].sum() > clean.values[:, 0].sum()
        tables = [
            references.confusion(
                np.where(mask == 255, -1, mask), bank.label_map(features, size=mask.shape), 5
            )
            for features, mask in TEST
        ]
        assert one.metrics["miou"] == pytest.approx(references.miou(sum(tables)))
        assert sum(tables).sum() == sum((mask != 255).sum() for _, mask in TEST)
        results[name] = one.protocol
    assert results == {"paper": "paper", "paper-few-shot": "paper-few-shot"}
