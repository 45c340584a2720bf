"""The pipeline gives the extractor's vectors by transformers' conventions, whatever the way in."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, T5ForConditionalGeneration, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import fungi_hf
from fungi_hf import KL, FungiConfig, FungiExtractor
from fungi_hf.errors import (
    ConfigError,
    EncoderError,
    InputTypeError,
    NotFittedError,
    StateError,
    StorageError,
)
from fungi_hf.integrations.transformers.pipeline import FungiPipeline
from fungi_hf.integrations.transformers.registration import register
from fungi_hf.testing import tiny_text_model
from tests.integrations.conftest import CONFIG, FITTED, TEXTS
from tests.tiny import ROUNDING

if TYPE_CHECKING:
    from pathlib import Path

TASK = "fungi-feature-extraction"


@pytest.fixture(scope="module")
def pipe(folder: Path) -> FungiPipeline:
    return pipeline(TASK, model=str(folder), fungi_config=CONFIG, device="cpu")


class _Texts(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> str:
        return TEXTS[index]


class _Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(TEXTS)


def _table() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(len(TEXTS)))})


WAYS: dict[str, Any] = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "numpy": lambda: np.array(TEXTS),
    "numpy_objects": lambda: np.array(TEXTS, dtype=object),
    "pandas": lambda: pd.Series(TEXTS),
    "column": lambda: _table()["text"],
    "generator": lambda: (text for text in TEXTS),
    "iterator": lambda: iter(TEXTS),
    "key_dataset": lambda: KeyDataset(_table(), "text"),
    "torch_dataset": _Texts,
    "iterable_dataset": _Stream,
    "streaming_column": lambda: _table().to_iterable_dataset()["text"],
}


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_extractors_vectors(
    pipe: FungiPipeline, expected: Any, way: str, batch_size: int | None
) -> None:
    outputs = list(pipe(WAYS[way](), batch_size=batch_size, return_tensors=True))

    assert [output.shape for output in outputs] == [(1, expected.shape[1])] * len(TEXTS)
    np.testing.assert_allclose(torch.cat(outputs), expected, rtol=0, atol=ROUNDING)


def test_one_text_gives_a_nested_list_as_transformers_does(
    pipe: FungiPipeline, expected: Any
) -> None:
    output = pipe(TEXTS[0])

    assert isinstance(output, list)
    assert len(output) == 1
    assert isinstance(output[0][0], float)
    np.testing.assert_allclose(output[0], expected[0], rtol=0, atol=ROUNDING)
    assert isinstance(pipe(TEXTS[:2]), list)
    np.testing.assert_allclose(pipe(TEXTS[:2])[1][0], expected[1], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(pipe.transform(TEXTS[:2])[1][0], expected[1], rtol=0, atol=ROUNDING)


def test_a_lazy_source_is_read_as_it_is_asked_and_has_a_length(pipe: FungiPipeline) -> None:
    read: list[str] = []

    def source() -> Any:
        for text in TEXTS:
            read.append(text)
            yield text

    iterator = pipe(source())
    assert read == []
    next(iterator)
    assert len(read) < len(TEXTS)
    assert len(pipe(_Texts())) == len(TEXTS)


@pytest.mark.slow
def test_workers_change_nothing(pipe: FungiPipeline, expected: Any) -> None:
    outputs = list(pipe(_Texts(), num_workers=2, batch_size=3, return_tensors=True))

    np.testing.assert_allclose(torch.cat(outputs), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_every_gradient_context(pipe: FungiPipeline, expected: Any, context: Any) -> None:
    with context():
        output = pipe(TEXTS, return_tensors=True)

    np.testing.assert_allclose(torch.cat(output), expected, rtol=0, atol=ROUNDING)


def test_views_do_not_depend_on_the_way_in(folder: Path, fitted: FungiExtractor) -> None:
    pipe = pipeline(TASK, model=str(folder), fungi_config=FITTED).fit(TEXTS)
    together = np.concatenate([np.asarray(row) for row in pipe(TEXTS)])

    one_by_one = np.concatenate([np.asarray(pipe(text)) for text in TEXTS])
    lazily = np.concatenate([np.asarray(row) for row in pipe(iter(TEXTS), batch_size=3)])

    np.testing.assert_allclose(together, fitted(TEXTS).array, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(one_by_one, together, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(lazily, together, rtol=0, atol=ROUNDING)


def test_unknown_arguments_are_refused_by_name(pipe: FungiPipeline, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no argument 'return_tensor'; choose one of 'return_te"):
        pipe("a", return_tensor=True)
    with pytest.raises(
        ConfigError, match="no argument 'fungi_confg'; choose one of 'fungi_config'"
    ):
        pipeline(TASK, model=str(folder), fungi_confg=CONFIG)
    with pytest.raises(ConfigError, match="model_kwargs has no use for 'nonsense'"):
        pipeline(TASK, model=str(folder), model_kwargs={"nonsense": 1})
    with pytest.raises(ConfigError, match="return_tensors must be True or False; got 'pt'"):
        pipe("a", return_tensors="pt")
    with pytest.raises(ConfigError, match="batch_size must be None or an integer >= 1; got 0"):
        pipe(["a"], batch_size=0)


def test_model_objects_names_and_configs_in_every_form(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    CONFIG.save_pretrained(tmp_path)
    wanted = pipeline(TASK, model=str(folder), fungi_config=CONFIG)(TEXTS[0])

    for config in (CONFIG, CONFIG.to_dict(), str(tmp_path), tmp_path):
        assert pipeline(TASK, model=folder, fungi_config=config)(TEXTS[0]) == wanted
    assert pipeline(TASK, model=model, fungi_config=CONFIG)(TEXTS[0]) == wanted
    given = pipeline(TASK, model=model, tokenizer=tokenizer, fungi_config=CONFIG)
    assert given(TEXTS[0]) == wanted
    other = pipeline("feature-extraction", model=str(folder), pipeline_class=FungiPipeline)
    assert other.fungi_config == FungiConfig()
    with pytest.raises(InputTypeError, match=r"fungi_config must be a FungiConfig.* got int: 3"):
        pipeline(TASK, model=str(folder), fungi_config=3)
    with pytest.raises(ConfigError, match=r"no fungi_config\.json in"):
        pipeline(TASK, model=str(folder), fungi_config=str(folder))


def test_dtype_is_the_configs_unless_said(folder: Path) -> None:
    half = pipeline(TASK, model=str(folder), dtype=torch.bfloat16)
    assert half.extractor.config.dtype == "bfloat16"
    assert half.dtype == torch.bfloat16
    double = pipeline(TASK, model=str(folder), fungi_config=CONFIG.replace(dtype="float64"))
    assert double.dtype == torch.float64
    with pytest.raises(ConfigError, match="dtype is 'float16'; choose one of"):
        pipeline(TASK, model=str(folder), dtype="float16")


def test_a_half_precision_checkpoint_is_computed_in_float32(folder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)

    assert pipeline(TASK, model=str(tmp_path)).dtype == torch.float32


def test_an_encoder_decoder_loads_as_encoder_only(tmp_path: Path) -> None:
    model, tokenizer = tiny_text_model("t5", dtype=torch.float32)
    settings = model.config
    settings.is_encoder_decoder = True
    settings.num_decoder_layers = 1
    T5ForConditionalGeneration(settings).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    pipe = pipeline(TASK, model=str(tmp_path))

    assert "Decoder" not in " ".join(type(m).__name__ for m in pipe.model.modules())
    assert len(pipe("a card")[0]) == 2 * pipe.extractor.encoder.width


def test_a_missing_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="BertModel needs its tokenizer"):
        pipeline(TASK, model=str(tmp_path))


def test_fit_comes_first_where_the_config_wants_it(folder: Path) -> None:
    pipe = pipeline(TASK, model=str(folder), fungi_config=FITTED)
    with pytest.raises(NotFittedError, match=r"needs training inputs for simclr, center"):
        pipe("a")
    assert pipe.fit(_table()["text"]) is pipe
    assert len(pipe("a")[0]) > 0


def test_a_saved_pipeline_loads_again(folder: Path, tmp_path: Path) -> None:
    pipe = pipeline(TASK, model=str(folder), fungi_config=FITTED).fit(TEXTS)
    pipe.save_pretrained(tmp_path)

    again = pipeline(TASK, model=str(tmp_path))

    assert again(TEXTS[0]) == pipe(TEXTS[0])
    assert again.extractor.fingerprint == pipe.extractor.fingerprint
    assert FungiExtractor.from_pretrained(tmp_path).fingerprint == pipe.extractor.fingerprint
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert not list(tmp_path.glob("*.py"))
    AutoModel.from_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="saved with dtype='float32'"):
        pipeline(TASK, model=str(tmp_path), dtype="bfloat16")


def test_a_saved_extractor_is_a_models_name_and_a_fungi_config(
    folder: Path, fitted: FungiExtractor, tmp_path: Path
) -> None:
    fitted.save_pretrained(tmp_path)
    wanted = fitted(TEXTS[:1]).array

    for arguments in ({"model": str(tmp_path)}, {"model": folder, "fungi_config": tmp_path}):
        pipe = pipeline(TASK, **arguments)
        assert pipe.extractor.is_fitted
        np.testing.assert_array_equal(np.asarray(pipe(TEXTS[0])), wanted)
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32, seed=5)
    with pytest.raises(StateError, match="digest of 'encoder'"):
        pipeline(TASK, model=model, tokenizer=tokenizer, fungi_config=tmp_path)


def test_saving_does_not_overwrite_another_model(pipe: FungiPipeline, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StorageError, match="holds a model, which saving a pipeline would overwri"):
        pipe.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_custom_code_is_opt_in_and_loads_with_trust(pipe: FungiPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, custom_code=True)
    shim = (tmp_path / "fungi_pipeline.py").read_text()

    remote = pipeline(TASK, model=str(tmp_path), trust_remote_code=True)
    local = pipeline(TASK, model=str(tmp_path), pipeline_class=FungiPipeline)

    assert [line for line in shim.splitlines() if "import" in line] == [
        "from fungi_hf.integrations.pipeline import FungiPipeline  # noqa: F401"
    ]
    assert remote(TEXTS[0]) == local(TEXTS[0]) == pipe(TEXTS[0])
    assert isinstance(remote, FungiPipeline)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline(TASK, model=str(tmp_path))
    assert "custom_pipelines" not in pipe.model.config.to_dict()


def test_registration_is_idempotent_and_the_front_door_is_small() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()
    assert len(fungi_hf.__all__) <= 15
    for name in fungi_hf.__all__:
        assert getattr(fungi_hf, name) is not None
    assert KL().name == "kl"
