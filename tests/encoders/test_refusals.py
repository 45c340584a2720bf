"""Models and preprocessors that cannot be used are refused on loading, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sentence_transformers import SentenceTransformer
from transformers import GPT2Config, GPT2Model, ResNetConfig, ResNetModel

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.errors import EncoderError, LayerNotFoundError
from fungi_hf.integrations.sentence_transformers import FungiModule
from fungi_hf.testing import tiny_text_model

if TYPE_CHECKING:
    from pathlib import Path


def test_a_model_without_linear_layers_is_named() -> None:
    model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=64)).eval()
    _, tokenizer = tiny_text_model("bert")
    with pytest.raises(LayerNotFoundError, match=r"GPT2Model has no nn\.Linear .*Conv1D, as in G"):
        FungiExtractor.from_pretrained(model, None, tokenizer)
    asked = FungiConfig(target_layer="h.0.attn.c_proj")
    with pytest.raises(LayerNotFoundError, match=r"is a Conv1D, not a Linear; .* none at all"):
        FungiExtractor.from_pretrained(model, asked, tokenizer)


@pytest.mark.parametrize("given", [{"tokens": [[1]]}, [[1, 2]], None], ids=["dict", "list", "none"])
def test_a_tokenizer_that_gives_no_ids_is_named(given: Any) -> None:
    def tokenizer(*_: Any, **__: Any) -> Any:
        return given

    model, _ = tiny_text_model("bert")
    with pytest.raises(EncoderError, match=r"function gives no 'input_ids' but .*Hugging Face tok"):
        FungiExtractor.from_pretrained(model, None, tokenizer)


def test_a_convolutional_network_is_named_whatever_the_way_in(tmp_path: Path) -> None:
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    ).save_pretrained(tmp_path)
    for load in (FungiExtractor.from_pretrained, FungiModule):
        with pytest.raises(EncoderError, match="is a convolutional network without attention: pas"):
            load(str(tmp_path))
    FungiConfig().save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", '
        '"type": "fungi_hf.integrations.sentence_transformers.FungiModule"}]'
    )
    with pytest.raises(EncoderError, match="is a convolutional network"):
        SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
