"""Late views through the extractor: k = L is full views, nothing else changes, errors speak."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from fungi_hf import KL, Activation, FungiConfig, SimCLR
from fungi_hf.config import Custom
from fungi_hf.errors import ConfigError
from fungi_hf.extraction.batches import Budget
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients.layers import linear_layers
from fungi_hf.gradients.tape import untouched
from fungi_hf.objectives import register_objective
from fungi_hf.objectives.simclr import SimCLRObjective
from fungi_hf.testing import model_state, tiny_text_model
from tests.encoders.own import Numbers
from tests.extraction import late_reference
from tests.extraction.problems import MIDDLE, encoder_of, simclr
from tests.extraction.test_independence import TINY, difference
from tests.extraction.test_untouched import BoomError, marked_model
from tests.tiny import TRAIN, extractor_of

TEXTS = [
    "pay my card",
    "lost",
    *TRAIN[:4],
    "what? the bank paid me, but you paid the bank twice",
]


def objectives(*depths: int | None) -> tuple:
    """SimCLR at each depth, all with the same views, and KL."""
    made = [
        SimCLR(n_views=4, latent_dim=8, n_negatives=6, late_views=k, name=f"simclr{k}")
        for k in depths
    ]
    return (KL(latent_dim=24), *made)


def fitted(family: str = "bert", *depths: int | None, **changes) -> FungiExtractor:
    fields = {"objectives": objectives(*(depths or (1,))), **changes}
    return extractor_of(family, **fields).fit(TRAIN)


@pytest.mark.parametrize("family", MIDDLE)
def test_with_all_blocks_features_are_those_of_full_views(family: str) -> None:
    for pooling in ("first", "mean"):
        full, late, all_late = (
            extractor_of(family, pooling=pooling, objectives=(spec,)).fit(TRAIN)(TEXTS).array
            for k in (None, 2, 3)
            for spec in [SimCLR(n_views=4, latent_dim=8, n_negatives=6, late_views=k)]
        )
        assert np.array_equal(all_late, full)
        assert difference(late, full) > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_shared_keys_and_values_equal_views_of_their_own(family: str, pooling: str) -> None:
    fields = {"pooling": pooling, "objectives": objectives(1)}
    extractor = extractor_of(family, **fields)
    assert extractor.encoder.shared_block is not None
    generic = FungiExtractor(extractor.encoder.with_full_last_block(), extractor.config)
    assert difference(extractor.fit(TRAIN)(TEXTS).array, generic.fit(TRAIN)(TEXTS).array) < TINY


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_depths_beside_each_other_are_as_each_alone(pooling: str) -> None:
    together = fitted("bert", None, 1, 2, pooling=pooling)(TEXTS)
    for k in (None, 1, 2):
        alone = fitted("bert", k, pooling=pooling)(TEXTS)
        for name in ("embedding", "kl", f"simclr{k}"):
            assert difference(together.block(name), alone.block(name)) < TINY
    assert difference(together.block("simclr1"), together.block("simclr2")) > 1e-3


def test_embedding_kl_and_activation_do_not_change() -> None:
    late = fitted("bert", objectives=(*objectives(1), Activation()))(TEXTS)
    plain = extractor_of("bert", objectives=(*objectives()[:1], Activation()))(TEXTS)
    for name in ("embedding", "kl", "activation"):
        assert difference(late.block(name), plain.block(name)) < TINY


def test_only_the_last_blocks_run_per_view() -> None:
    """Rows through each block's MLP: the originals' in all, the views' in the last k."""
    for k, pooling in ((1, "mean"), (2, "mean"), (1, "cls")):
        model, tokenizer = tiny_text_model("bert")
        config = FungiConfig(objectives=objectives(k), dtype="float64", pooling=pooling)
        extractor = FungiExtractor.from_pretrained(model, config, tokenizer).fit(TRAIN)
        rows = [0, 0, 0]
        for i, block in enumerate(model.encoder.layer):

            def count(_, args, out, i=i, rows=rows):
                rows[i] += args[0].shape[:-1].numel()

            block.output.dense.register_forward_hook(count)
        extractor([TEXTS[-1]])
        n_tokens = len(tokenizer(TEXTS[-1])["input_ids"])
        assert rows[: 3 - k] == [n_tokens] * (3 - k)
        if pooling == "mean":
            assert all(row > 2 * n_tokens for row in rows[3 - k :])
        else:
            assert 2 < rows[2] <= 5  # one row for the original, one for each of four views


EDGES = [
    "lost",
    "",
    "!!!",
    "card " * 400,
    "my card",
    "my card is " + "lost " * 300,
    "\n",
    "card. card",
]


@pytest.mark.filterwarnings("ignore:.*of the texts:UserWarning")  # empty, truncated
@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "deberta-v2"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_batch_order_padding_and_edges(family: str, pooling: str) -> None:
    extractor = fitted(family, 1, 2, pooling=pooling)
    texts = [*TEXTS, *EDGES]
    expected = extractor(texts).array
    alone = np.concatenate([extractor([text]).array for text in texts])
    backwards = extractor(texts[::-1], batch_size=3).array[::-1]
    extractor.budget = Budget(batch_tokens=16, group_tokens=40)
    small = extractor(texts).array
    assert np.isfinite(expected).all()
    for got in (alone, backwards, small):
        assert difference(got, expected) < TINY


@pytest.mark.parametrize("family", MIDDLE)
def test_the_words_that_go_are_those_of_full_views(family: str) -> None:
    """Word pieces are those of the deleted text; others up to the blanks that a deletion leaves."""
    encoder = encoder_of(family)
    full, late = encoder.views("auto", 12, {}), encoder.late_views("auto", 12, {}, 1)
    for text in (*TEXTS[:2], *late_reference.TEXTS, "don't lose: my card!  (the new one)"):
        (original,) = encoder.prepare([text])
        (views,) = late([text], [original], [random.Random(3)])
        for view, deleted in zip(views, full(text, random.Random(3)), strict=True):
            got = list(original.data if view is original else original.data[view.data])
            expected = encoder.tokenizer(deleted)["input_ids"]
            if family in ("bert", "distilbert", "electra", "mpnet"):
                assert got == expected
            got, expected = (
                "".join(encoder.tokenizer.convert_ids_to_tokens(ids)) for ids in (got, expected)
            )
            assert re.sub("[Ġ▁]", "", got) == re.sub("[Ġ▁]", "", expected)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("boom", [False, True])
def test_the_model_is_bit_identical_also_after_an_exception(pooling: str, boom: bool) -> None:
    model, tokenizer = marked_model()
    own = model.encoder.layer[0].forward
    model.encoder.layer[0].forward = own  # as accelerate's hooks leave it
    config = FungiConfig(dtype="float64", objectives=objectives(1, 2), pooling=pooling)
    before = model_state(model)
    extractor = FungiExtractor.from_pretrained(model, config, tokenizer).fit(TRAIN)
    assert model_state(model) == before
    if boom:
        calls = []

        def explode(*_):
            calls.append(1)
            if len(calls) > 1:  # in a late pass
                raise BoomError

        handle = model.encoder.layer[2].output.dense.register_forward_hook(explode)
        with pytest.raises(BoomError):
            extractor(TEXTS)
        handle.remove()
    else:
        extractor(TEXTS)
    assert model_state(model) == before
    assert model.encoder.layer[0].forward is own


def config_of(**changes) -> FungiConfig:
    return FungiConfig(objectives=(SimCLR(**changes),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimCLR(late_views=0), "SimCLR.late_views must be None (views of the raw input) or "
         "the number of last blocks, an integer >= 1; got 0"),
        (lambda: SimCLR(late_views=-1), "an integer >= 1; got -1"),
        (lambda: SimCLR(late_views=True), "an integer >= 1; got True"),
        (lambda: SimCLR(late_views=1.0), "an integer >= 1; got 1.0"),
        (lambda: SimCLR(late_views="1"), "an integer >= 1; got '1'"),
        (lambda: KL(late_views=1), "objective 'kl' has one view, the untouched input, so there is "
         "nothing to make late: set late_views=None; got 1"),
        (lambda: Activation(late_views=2), "objective 'activation' has one view"),
        (lambda: FungiConfig.from_dict({"objectives": [{"kind": "kl", "late_views": 1}]}),
         "objective 'kl' has one view"),
        (lambda: extractor_of(objectives=objectives(4)), "late_views=4 is more than the 3 blocks "
         "of BertModel; choose 1 to 3, or None for views of the raw input"),
        (lambda: extractor_of(objectives=objectives(1), target_layer=MIDDLE["bert"]),
         "target_layer 'encoder.layer.1.attention.output.dense' lies below block 2, where views "
         "with late_views=1 begin, so they have no gradient there; choose a layer of the last 1 "
         "of 3 blocks, or late_views=2 or more"),
        (lambda: extractor_of("electra", objectives=objectives(3),
                              target_layer="embeddings_project"),
         "target_layer 'embeddings_project' lies below block 0"),
        (lambda: extractor_of(objectives=(SimCLR(late_views=1, views="nlpaug_deletion"),)),
         "views must be 'word_deletion' or 'auto'; got 'nlpaug_deletion'"),
        (lambda: extractor_of(objectives=(SimCLR(late_views=1, view_options={"p": 1}),)),
         "views 'word_deletion' refused its options" ),
    ],
)  # fmt: skip
def test_wrong_values_are_named(make, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_slow_tokenizers_and_other_encoders_are_refused() -> None:
    extractor = extractor_of("bert", fresh=True)

    class Slow:
        is_fast = False

    extractor.encoder.tokenizer = Slow()
    with pytest.raises(ConfigError, match="Slow does not say; use a fast tokenizer"):
        extractor.encoder.late_views("auto", 3, {}, 1)

    with pytest.raises(ConfigError, match="Numbers offers no late views; set late_views=None"):
        FungiExtractor(Numbers(), config_of(late_views=1))


def test_many_layers_at_once_are_refused() -> None:
    encoder = encoder_of("bert", "mean")
    objective = simclr(encoder)
    layers = linear_layers(encoder.model)
    plan = Plan(encoder=encoder, objectives={"simclr": objective}, layers=layers)
    samples = late_reference.samples_of(encoder, 1)
    with untouched(encoder.model), pytest.raises(ConfigError, match="set late_views=None"):
        Group(samples, plan, Budget())


def test_a_custom_objective_takes_late_views() -> None:
    class Mine(SimCLRObjective):
        def __init__(self, *, width: int, seed: int) -> None:
            super().__init__(width=width, seed=seed, n_views=4, latent_dim=8, name="late_mine")

    register_objective("late_mine", Mine)
    with pytest.raises(ConfigError, match="objective 'late_mine' has one view"):
        Custom(objective="late_mine", late_views=1)
    spec = Custom(objective="late_mine", n_views=4, n_fit=6, late_views=1)
    late = extractor_of(objectives=(spec,)).fit(TRAIN)
    whole = extractor_of(objectives=(Custom(objective="late_mine", n_views=4, n_fit=6),)).fit(TRAIN)
    assert late.state.objectives["late_mine"]["negatives"].shape == (24, 8)
    assert difference(late(TEXTS).array, whole(TEXTS).array) > 1e-3


def test_the_neutral_value_is_written_and_may_be_left_out() -> None:
    plain, late = config_of(), config_of(late_views=2)
    assert plain.to_dict()["objectives"][0]["late_views"] is None
    assert late.to_dict()["objectives"][0]["late_views"] == 2
    assert config_of().fingerprint() == "5a0efdb92c48e025"
    assert (
        len({plain.fingerprint(), late.fingerprint(), config_of(late_views=1).fingerprint()}) == 3
    )
    assert FungiConfig.from_json(late.to_json()) == late
    without = plain.to_dict()
    del without["objectives"][0]["late_views"]
    assert FungiConfig.from_dict(without).fingerprint() == plain.fingerprint()
