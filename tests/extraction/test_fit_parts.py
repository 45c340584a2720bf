"""A fit in parts, in merge trees of random shape, against the fit of all inputs at once."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf import DeepCluster, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.encoders.base import Encoder
from fungi_hf.errors import (
    ConfigError,
    EncoderError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    NotFittedError,
    StateError,
    StorageError,
)
from fungi_hf.extraction import group, learner
from fungi_hf.extraction.fit_part import FitPart
from fungi_hf.extraction.part_files import load_part, packed, save_part, unpacked
from fungi_hf.storage.files import tensor_digest
from tests.encoders.audio_models import build, clips
from tests.encoders.vision.kit import encoder_of, pictures
from tests.tiny import SIMCLR, TEXTS, TRAIN, extractor_of, fitted, model_of

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ["card", "bank", "money", "lost", "new", "old", "pay", "paid", "account", "help", "you"]
MANY = [f"{WORDS[i % 11]} {WORDS[i * 7 % 10]} {WORDS[i * i % 9]}" for i in range(24)]
ALL = {"objectives": (SIMCLR,), "center": True, "whitening": 0.5, "reduction": 6}


def merge_tree(parts: list[FitPart], order: np.random.Generator) -> FitPart:
    """Merge some random parts until one is left; now and then with one that is inside already."""
    pool, inside = list(parts), {id(part): [part] for part in parts}
    while len(pool) > 1:
        some = [pool.pop(int(order.integers(len(pool)))) for _ in range(min(len(pool), 2))]
        known = [part for one in some for part in inside[id(one)]]
        again = [known[int(order.integers(len(known)))]] if order.random() < 0.5 else []
        merged = FitPart.merged([*again, *some])
        inside[id(merged)] = [*known, *some]
        pool.append(merged)
    return pool[0]


def fit_in_parts(extractor, pieces, order=None, *, through=lambda part: part) -> FungiExtractor:
    for stage in extractor.fit_stages:
        parts = [through(extractor.fit_part(piece, stage)) for piece in pieces]
        parts = parts if order is None else [merge_tree(parts, order)]
        assert extractor.fit_merge(parts, stage) is extractor
    return extractor


def assert_equal_fits(one, two) -> None:
    """Draws and what objectives learn to the bit, means and whitening to 1e-12."""
    a, b = one.state, two.state
    for name, tensors in a.objectives.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, b.objectives[name][key])
    assert a.means.keys() == b.means.keys()
    assert a.whitening.keys() == b.whitening.keys()
    for name, mean in a.means.items():
        np.testing.assert_allclose(mean, b.means[name], rtol=0, atol=1e-12)
    for name, matrix in a.whitening.items():
        np.testing.assert_allclose(matrix, b.whitening[name], rtol=0, atol=1e-12)
    assert a.skipped == b.skipped
    if a.components is not None:
        rows, others = (one.components.components.numpy() for one in (a, b))
        np.testing.assert_allclose(rows.T @ rows, others.T @ others, atol=1e-6)


def alone(**changes) -> FungiExtractor:
    return extractor_of(**{**ALL, **changes})


TABLE: dict[tuple[str, bytes], dict[str, torch.Tensor]] = {}


def compute(reading, plan, budget, **options):
    """Extract every text once, alone, so that its rows have the same bits in every part."""
    learned = {f"{name} {k}": t for name, one in plan.state().items() for k, t in one.items()}
    place = f"{sorted(plan.widths)} {tensor_digest(learned)}"
    for samples in reading:
        for sample in samples:
            key = place, sample.original.key
            if key not in TABLE:
                (TABLE[key],) = group.compute(Once([replace(sample, index=0)]), plan, budget)
        rows = [TABLE[place, sample.original.key] for sample in samples]
        yield {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


@contextmanager
def remembering():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "compute", compute)
        yield


@pytest.fixture
def remembered():
    with remembering():
        yield


class Once:
    """A reading of one chunk."""

    n_inputs = n_read = 1

    def __init__(self, samples) -> None:
        self.samples = samples

    def __iter__(self):
        yield self.samples


@pytest.fixture(scope="module")
def whole() -> FungiExtractor:
    with remembering():
        return alone().fit(MANY)


@settings(deadline=None, max_examples=15)
@given(n_parts=st.integers(1, 7), seed=st.integers(0, 10_000))
def test_random_parts_in_random_trees_give_the_fit_of_all(whole, n_parts, seed) -> None:
    order = np.random.default_rng(seed)
    cuts = np.sort(order.integers(0, len(MANY) + 1, n_parts - 1))
    pieces = [[MANY[i] for i in some] for some in np.split(order.permutation(len(MANY)), cuts)]
    with remembering():
        extractor = fit_in_parts(alone(), pieces, order)
    assert_equal_fits(extractor, whole)
    np.testing.assert_allclose(extractor(TEXTS).array, whole(TEXTS).array, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"objectives": ("kl",)}, ()),
        ({}, ("draw",)),
        ({"objectives": ("kl",), "center": True}, ("moments",)),
        ({"objectives": ("kl",), "reduction": 3}, ("components",)),
        ({"center": True}, ("draw", "moments")),
        ({"whitening": 1.0, "reduction": 400}, ("draw", "moments", "components")),
    ],
)
def test_one_part_is_the_fit_to_the_bit(changes: dict, stages: tuple[str, ...]) -> None:
    local = extractor_of(**changes).fit(TRAIN)
    extractor = extractor_of(**changes)
    assert extractor.fit_stages == stages
    fit_in_parts(extractor, [TRAIN])
    assert extractor.is_fitted
    assert extractor.fingerprint == local.fingerprint
    assert local.fit_transform(TRAIN).fingerprint == local.fingerprint


def test_the_order_of_parts_changes_no_bit() -> None:
    pieces = [MANY[:5], MANY[5:6], MANY[6:17], MANY[17:]]
    for shuffled in (pieces[::-1], [pieces[2], pieces[0], pieces[3], pieces[1]]):
        one, two = alone(), alone()
        fit_in_parts(one, pieces)
        fit_in_parts(two, [*shuffled, *shuffled[:2]])  # two of them twice
        assert one.fingerprint == two.fingerprint


def test_parts_that_overlap_count_once_or_are_refused() -> None:
    extractor = extractor_of(objectives=(), center=True)
    a, b, c = (extractor.fit_part([text], "moments") for text in TEXTS[:3])
    ab, bc = FitPart.merged([a, b]), FitPart.merged([c, b])
    abc = FitPart.merged([ab, c])
    for parts in ([abc, b], [abc, bc], [ab, bc, abc], [abc, abc], [FitPart.merged([abc, ab])]):
        merged = FitPart.merged(parts)
        assert merged.n_inputs == merged.moments["embedding"].n == 3
        assert merged.names.keys() == abc.names.keys()
    with pytest.raises(InputError, match=r"overlap in 1 of 2 parts .*merge every part once"):
        FitPart.merged([ab, bc])
    draws = [extractor_of().fit_part(some, "draw") for some in ([TEXTS[0]], [TEXTS[1]], TRAIN)]
    first = FitPart.merged(draws[:2])
    assert FitPart.merged([first, FitPart.merged(draws[1:])]).names.keys() == {
        name for part in draws for name in part.names
    }


def test_equal_parts_are_told_apart_by_name() -> None:
    extractor = extractor_of(objectives=(), center=True)
    parts = [extractor.fit_part(TEXTS, "moments", name=name) for name in ("shard 1", "shard 2")]
    assert FitPart.merged(parts).moments["embedding"].n == 2 * len(TEXTS)
    assert FitPart.merged([parts[0], parts[0]]).moments["embedding"].n == len(TEXTS)
    other = extractor.fit_part(TRAIN, "moments", name="shard 1")
    with pytest.raises(InputError, match="two parts named 'shard 1' hold other inputs"):
        FitPart.merged([parts[0], other])
    with pytest.raises(ConfigError, match="name must be a text or None; got 3"):
        extractor.fit_part(TEXTS, "moments", name=3)


def test_empty_parts_add_nothing_and_nothing_else_is_an_error(remembered) -> None:
    pieces = [[], MANY[:9], [], MANY[9:]]
    assert_equal_fits(fit_in_parts(alone(), pieces), alone().fit(MANY))
    extractor = extractor_of(objectives=(), center=True)
    a, b, nothing = (extractor.fit_part(some, "moments") for some in ([TEXTS[0]], TEXTS[1:], []))
    sides = [FitPart.merged([one, nothing]) for one in (a, b)]
    assert FitPart.merged([*sides, nothing]).names == {**a.names, **b.names}
    extractor = alone()
    for parts in ([extractor.fit_part([], "draw")] * 2, []):
        with pytest.raises(InputError, match=r"at least one input; got none|there are no parts"):
            extractor.fit_merge(parts, "draw")
    assert not extractor.is_fitted


def test_unusable_inputs_are_left_out_and_listed() -> None:
    bad = "\ud800"
    extractor, clean = alone(), alone()
    pieces = [[*MANY[:8], bad], [bad, 7, *MANY[8:]], [bad]]
    for stage in extractor.fit_stages:
        parts = [extractor.fit_part(some, stage, on_error="skip") for some in pieces]
        assert [[one.index for one in part.failures] for part in parts] == [[8], [0, 1], [0]]
        assert [part.n_inputs for part in parts] == [8, len(MANY) - 8, 0]
        with pytest.raises(InputError, match="at least one input; got none that is usable of 1"):
            extractor.fit_merge([parts[-1]], stage)
        extractor.fit_merge(parts, stage)
    fit_in_parts(clean, [MANY[:8], MANY[8:]])
    assert extractor.fingerprint == clean.fingerprint
    with pytest.raises(InputError, match="input 8 has a lone surrogate"):
        extractor.fit_part(pieces[0], "draw")
    with pytest.raises(ConfigError, match="on_error is 'ignore'"):
        extractor.fit_part(MANY, "draw", on_error="ignore")


def test_a_stage_needs_those_before_it() -> None:
    extractor = extractor_of(center=True, whitening=0.5, reduction=3)
    with pytest.raises(NotFittedError, match="'moments' builds on simclr, which earlier stages"):
        extractor.fit_part(TEXTS, "moments")
    extractor.fit_merge([extractor.fit_part(TRAIN, "draw")], "draw")
    with pytest.raises(NotFittedError, match="'components' builds on center, whitening, which"):
        extractor.fit_part(TEXTS, "components")
    with pytest.raises(NotFittedError, match="inputs for center, whitening, reduction"):
        extractor(TEXTS)


def sent(part: FitPart) -> FitPart:
    found: FitPart = pickle.loads(pickle.dumps(part))  # noqa: S301 - as between processes
    return found


def test_a_worker_goes_on_from_a_saved_folder(tmp_path: Path) -> None:
    fields = {"objectives": (SIMCLR,), "center": True, "reduction": 4, "dtype": "float32"}
    driver = extractor_of(**fields)
    pieces = [TRAIN[:4], TRAIN[4:]]
    for stage in driver.fit_stages:
        driver.save_pretrained(tmp_path)
        model, tokenizer = model_of("bert", "float32")
        worker = FungiExtractor.from_pretrained(tmp_path, model=model, processor=tokenizer)
        parts = [sent(worker.fit_part(some, stage)) for some in pieces]
        driver.fit_merge(parts, stage)
    expected = fit_in_parts(extractor_of(**fields), pieces)
    assert driver.fingerprint == expected.fingerprint


def test_parts_of_others_are_refused() -> None:
    extractor = fitted(center=True)
    draw, moments = (extractor.fit_part(TRAIN, stage) for stage in ("draw", "moments"))
    with pytest.raises(
        FingerprintMismatchError, match="a part of stage 'draw' was given for stage"
    ):
        extractor.fit_merge([moments, draw], "moments")
    others = {
        "another config": extractor_of(center=True, whitening=0.5).fit(TRAIN),
        "another encoder": fitted("roberta", center=True),
        "another state": fitted(center=True).fit(TEXTS * 2),
    }
    for words, other in others.items():
        part = other.fit_part(TRAIN, "moments")
        with pytest.raises(FingerprintMismatchError, match=words):
            extractor.fit_merge([moments, part], "moments")
        with pytest.raises(FingerprintMismatchError, match=words):
            FitPart.merged([moments, part])
    asked = extractor.fit_part(TRAIN, "moments", prompt="query: ")
    with pytest.raises(FingerprintMismatchError, match="another prompt"):
        extractor.fit_merge([moments, asked], "moments")
    with pytest.raises(InputTypeError, match="must be what fit_part gave; got str"):
        extractor.fit_merge(["part"], "moments")
    assert extractor.is_fitted  # a refusal changes nothing


def test_stages_that_are_not_there_are_refused() -> None:
    extractor = extractor_of()
    for call in (extractor.fit_part, extractor.fit_merge):
        with pytest.raises(ConfigError, match="stage is 'moments'; choose one of 'draw'"):
            call([], "moments")
        with pytest.raises(ConfigError, match="this config learns nothing"):
            getattr(extractor_of(objectives=("kl",)), call.__name__)([], "draw")
        dense = extractor_of(objectives=(), dense=True, center=True)
        with pytest.raises(ConfigError, match="dense features are not fitted in parts"):
            getattr(dense, call.__name__)([], "moments")
    wide = extractor_of(objectives=("kl",), sketch_dim=5000, whitening=0.5)
    with pytest.raises(ConfigError, match="a covariance of 5000 columns, 190 MB in every part"):
        wide.fit_part(TEXTS, "moments")


def test_prompts_stand_in_front_of_what_is_drawn(remembered) -> None:
    local = alone().fit(MANY, prompt="please: ")
    extractor = alone()
    for stage in extractor.fit_stages:
        pieces = (MANY[:10], MANY[10:])
        parts = [extractor.fit_part(some, stage, prompt="please: ") for some in pieces]
        extractor.fit_merge(parts, stage)
    assert_equal_fits(extractor, local)
    found = [one.state.objectives["simclr"]["negatives"] for one in (local, alone().fit(MANY))]
    assert not torch.equal(*found)


def test_a_failure_on_the_way_leaves_the_state() -> None:
    extractor = extractor_of(center=True).fit(TRAIN)
    before, features = extractor.fingerprint, extractor(TEXTS).array

    def breaking():
        yield from TEXTS
        raise RuntimeError("the disk is gone")

    class TwiceThenBroken:
        reads = 0

        def __iter__(self):
            self.reads += 1
            return breaking() if self.reads > 1 else iter(TEXTS * 2)

    with pytest.raises(RuntimeError, match="the disk is gone"):
        extractor.fit(TwiceThenBroken())
    assert extractor.fingerprint == before
    np.testing.assert_array_equal(extractor(TEXTS).array, features)


def test_one_stage_holds_no_generator() -> None:
    left, most = [0], [0]

    class Text(str):
        def __del__(self) -> None:
            left[0] -= 1

    def texts():
        for i in range(120):
            left[0] += 1
            most[0] = max(most[0], left[0])
            yield Text(f"{MANY[i % 24]} {i}")

    extractor = extractor_of(objectives=("kl",), center=True)
    extractor.encoder.chunk_size = 20
    extractor.fit(texts())
    assert most[0] <= 60


def test_blocks_that_are_too_many_are_extracted_again(monkeypatch) -> None:
    from fungi_hf.extraction import learning

    changes = {"center": True, "reduction": 4}
    kept, features = extractor_of(**changes), extractor_of(**changes)
    kept.fit(TRAIN)
    first = features.fit_transform(TRAIN)
    monkeypatch.setattr(learning, "_FIT_BYTES", 100)
    monkeypatch.setattr(learning, "_TRANSFORM_BYTES", 100)
    again = extractor_of(**changes)
    assert again.fit(TRAIN).fingerprint == kept.fingerprint == first.fingerprint
    second = extractor_of(**changes).fit_transform(TRAIN)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(first.array, second.array)


def test_clusters_of_all_inputs_and_their_statistics() -> None:
    """An encoder that learns goes first, and clusters wait for it: a stage of their own."""
    spec = DeepCluster(n_views=4, prototypes=(3,), latent_dim=6)
    config = FungiConfig(
        objectives=(spec, SimCLR(n_views=2, n_negatives=3, latent_dim=6)),
        dtype="float64",
        audio_statistics="fit",
        center=True,
    )
    model, processor = build("ast")
    items = clips(*range(9000, 16_000, 1000))

    def fresh() -> FungiExtractor:
        return FungiExtractor(AudioEncoder(model.double().eval(), processor, config), config)

    local, extractor = fresh().fit(items), fresh()
    assert extractor.fit_stages == ("draw", "latents", "moments")
    with pytest.raises(NotFittedError, match="'latents' builds on audio_statistics"):
        extractor.fit_part(items, "latents")
    fit_in_parts(extractor, [items[:3], items[3:4], items[4:]])
    a, b = local.state, extractor.state
    np.testing.assert_allclose(a.encoder["statistics"], b.encoder["statistics"], rtol=1e-12)
    for name in ("deepcluster", "simclr"):
        for key, tensor in a.objectives[name].items():
            np.testing.assert_allclose(tensor, b.objectives[name][key], atol=1e-5)
    np.testing.assert_allclose(local(items[:2]).array, extractor(items[:2]).array, atol=2e-5)


def test_an_encoder_that_learns_at_once_is_fitted_as_a_whole() -> None:
    inner = extractor_of().encoder

    class Learns(type(inner)):
        seen = 0

        def fit(self, items) -> None:
            self.seen = sum(1 for _ in items)

    encoder = Learns.__new__(Learns)
    encoder.__dict__.update(inner.__dict__)
    config = extractor_of(objectives=(SIMCLR,)).config
    extractor = FungiExtractor(encoder, config).fit(TRAIN)
    assert encoder.seen == len(TRAIN)
    with pytest.raises(EncoderError, match=r"Learns learns from all inputs at once; call fit"):
        extractor.fit_part(TRAIN, "draw")
    plain = FungiExtractor(encoder, config.replace(objectives=()))
    assert plain.fit_stages == ("draw",)
    assert plain.fit(TRAIN[:3]).encoder.seen == 3
    assert Encoder.fit is not Learns.fit


def through_file(path: Path):
    def through(part: FitPart) -> FitPart:
        save_part(part, path)
        return load_part(path)

    return through


def test_parts_in_files(tmp_path: Path) -> None:
    pieces = [[], MANY[:5], MANY[5:]]
    direct = fit_in_parts(alone(), pieces)
    stored = fit_in_parts(alone(), pieces, through=through_file(tmp_path / "part.safetensors"))
    assert stored.fingerprint == direct.fingerprint
    sent = fit_in_parts(alone(), pieces, through=lambda part: unpacked(packed(part)))
    assert sent.fingerprint == direct.fingerprint
    part = alone().fit_part([*MANY, 3], "draw", on_error="skip", name="shard ü")
    again = through_file(tmp_path / "again")(part)
    assert (again.names, again.failures, again.n_inputs) == (part.names, part.failures, len(MANY))
    twice = through_file(tmp_path / "twice")(again)
    assert twice.draws["simclr"].items == again.draws["simclr"].items


def test_sounds_and_pictures_in_files(tmp_path: Path) -> None:
    config = FungiConfig(
        objectives=(SimCLR(n_views=2, n_negatives=4, latent_dim=6),),
        dtype="float64",
        audio_statistics="fit",
    )
    model, processor = build("ast")
    items = clips(*range(9000, 14_000, 1000))
    made = [
        FungiExtractor(AudioEncoder(model.double().eval(), processor, config), config)
        for _ in range(2)
    ]
    through = through_file(tmp_path / "part")
    direct = fit_in_parts(made[0], [items[:2], items[2:]])
    assert fit_in_parts(made[1], [items[:2], items[2:]], through=through).fingerprint == (
        direct.fingerprint
    )
    image_module = pytest.importorskip("PIL.Image")
    images = pictures(5)
    for i, image in enumerate(images[:2]):
        image_module.fromarray(image).save(tmp_path / f"{i}.png")
    mixed = [
        tmp_path / "0.png",
        str(tmp_path / "1.png"),
        images[2],
        torch.from_numpy(images[3]).permute(2, 0, 1),
        (tmp_path / "1.png").read_bytes(),
    ]
    seen = config.replace(audio_statistics="processor")
    direct, stored = (FungiExtractor(encoder_of("vit"), seen) for _ in range(2))
    fit_in_parts(direct, [mixed[:2], mixed[2:]])
    fit_in_parts(stored, [mixed[:2], mixed[2:]], through=through)
    assert stored.fingerprint == direct.fingerprint
    part = through(direct.fit_part(mixed[:1], "draw"))
    image_module.fromarray(images[4]).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=r"0\.png.* is not what was drawn for 'simclr'"):
        stored.fit_merge([part], "draw")
    held = direct.fit_part([image_module.fromarray(images[0])], "draw")
    with pytest.raises(InputTypeError, match="a drawn input is Image, which a part's file cannot"):
        save_part(held, tmp_path / "held")
    assert not (tmp_path / "held").exists()


def test_files_that_are_no_parts(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(StorageError, match="there is no part of a fit at"):
        load_part(tmp_path / "nothing")
    broken = tmp_path / "broken"
    broken.write_bytes(b"no tensors")
    with pytest.raises(StorageError, match="is no part of a fit"):
        load_part(broken)
    save_file({"x": torch.zeros(1)}, broken)
    with pytest.raises(StorageError, match="save_part did not write it"):
        load_part(broken)
    save_file({"x": torch.zeros(1)}, broken, {"fungi_fit_part": '{"format": 2}'})
    with pytest.raises(StateError, match="layout version 2"):
        load_part(broken)
    save_file({"x": torch.zeros(1)}, broken, {"fungi_fit_part": '{"format": 1}'})
    with pytest.raises(StateError, match="is damaged: KeyError"):
        load_part(broken)
    part = extractor_of(objectives=("kl",), center=True).fit_part(TEXTS, "moments")
    with pytest.raises(StorageError, match="cannot write the part to"):
        save_part(part, tmp_path / "no" / "folder")
    save_part(part, tmp_path / "part")
    assert any(name.startswith("moments/kl/") for name in load_file(tmp_path / "part"))


def test_parts_are_small() -> None:
    """Sums of a block take the place of its rows: 200 rows of 16 columns are 12 KB."""
    extractor = extractor_of(objectives=(), whitening=0.5)
    part = extractor.fit_part([f"{text} {i}" for text in MANY for i in range(8)], "moments")
    assert part.n_inputs == 192
    assert len(pickle.dumps(part)) < 8000
