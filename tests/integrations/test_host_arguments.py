"""Every argument that a host's own classes take is obeyed or refused by name.

The lists come from the hosts' signatures: an argument of a new version fails here until somebody
has decided what becomes of it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sklearn.base import TransformerMixin
from transformers import AutoConfig, AutoTokenizer, pipeline

from fungi_hf import FungiExtractor
from fungi_hf.errors import ConfigError, EncoderError, FungiError
from fungi_hf.integrations.pipeline import FungiPipeline
from fungi_hf.integrations.sentence_transformers import FungiModule
from tests.integrations.conftest import CONFIG, TEXTS
from tests.tiny import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASK = "fungi-feature-extraction"
# "here": a test of this file; "host": done by the host, which hands on what this package sees.
PIPELINE = {
    "task": "host",
    "model": "here",
    "config": "host",  # names the classes to try; transformers' own tasks load without it, too
    "tokenizer": "here",
    "feature_extractor": "here",
    "image_processor": "here",
    "video_processor": "here",
    "processor": "here",
    "revision": "here",
    "use_fast": "host",  # transformers 5 has fast tokenizers only
    "token": "here",
    "device": "here",
    "device_map": "here",
    "dtype": "here",
    "trust_remote_code": "here",
    "model_kwargs": "here",
    "pipeline_class": "host",
    "kwargs": "here",
}
CONSTRUCTOR = {
    "model_name_or_path": "here",
    "modules": "here",
    "device": "host",
    "prompts": "host",
    "default_prompt_name": "host",
    "cache_folder": "here",
    "trust_remote_code": "host",
    "revision": "here",
    "local_files_only": "here",
    "token": "here",
    "use_auth_token": "host",
    "model_kwargs": "here",
    "processor_kwargs": "here",
    "tokenizer_kwargs": "host",  # the older name of processor_kwargs
    "config_kwargs": "here",
    "model_card_data": "host",
    "backend": "here",
    "similarity_fn_name": "host",
    "truncate_dim": "host",
}
ENCODE = {
    "inputs": "here",
    "prompt_name": "here",
    "prompt": "here",
    "batch_size": "here",
    "show_progress_bar": "host",
    "output_value": "here",
    "precision": "host",
    "convert_to_numpy": "host",
    "convert_to_tensor": "host",
    "device": "host",
    "normalize_embeddings": "host",
    "truncate_dim": "host",
    "pool": "host",
    "chunk_size": "host",
    "kwargs": "here",
}
LOAD = {"model_name_or_path", "subfolder", "token", "cache_folder", "revision", "local_files_only"}


def names(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "args"}


@pytest.fixture(scope="module")
def ours(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("ours") / "saved"
    FungiExtractor.from_pretrained(folder, CONFIG).save_pretrained(place)
    return str(place)


def host(ours: str, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(ours, trust_remote_code=True, device="cpu", **options)


@pytest.mark.parametrize(
    ("function", "decided"),
    [
        (transformers.pipeline, PIPELINE),
        (SentenceTransformer.__init__, CONSTRUCTOR),
        (SentenceTransformer.encode, ENCODE),
    ],
    ids=["pipeline", "SentenceTransformer", "encode"],
)
def test_every_argument_is_decided(function: Any, decided: dict[str, str]) -> None:
    assert names(function) - set(decided) == set()


def test_every_argument_of_a_modules_load_is_named() -> None:
    from sentence_transformers.base.modules import InputModule

    given = names(InputModule.load) - {"kwargs", "init_defaults"}
    assert given == LOAD
    assert names(FungiModule.load) >= LOAD


def test_scikit_learn_calls_no_more_than_x_and_y() -> None:
    assert names(TransformerMixin.fit_transform) == {"X", "y", "fit_params"}


def test_the_pipelines_dtype_is_obeyed_wherever_it_is_said(folder: Path) -> None:
    for options in (
        {"dtype": "bfloat16"},
        {"dtype": torch.bfloat16},
        {"model_kwargs": {"dtype": "bfloat16"}},
        {"model_kwargs": {"dtype": torch.bfloat16}},
        {"model_kwargs": {"torch_dtype": torch.bfloat16}},
    ):
        pipe = pipeline(TASK, model=str(folder), device="cpu", **options)
        assert pipe.fungi_config.dtype == "bfloat16", options
        assert next(pipe.model.parameters()).dtype == torch.bfloat16
    for dtype in ("auto", None):
        assert pipeline(TASK, model=str(folder), dtype=dtype).fungi_config.dtype == "float32"


def test_a_saved_extractor_refuses_another_dtype(ours: str) -> None:
    for options in ({"dtype": "bfloat16"}, {"model_kwargs": {"dtype": torch.bfloat16}}):
        with pytest.raises(ConfigError, match="was saved with dtype='float32'"):
            pipeline(TASK, model=ours, **options)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tokenizer": "somewhere"}, EncoderError, "must be an object; got the name 'somewhere'"),
    ({"feature_extractor": "somewhere"}, EncoderError, "must be an object"),
    ({"image_processor": "somewhere"}, EncoderError, "must be an object"),
    ({"processor": "somewhere"}, EncoderError, "must be an object"),
    ({"video_processor": "somewhere"}, ConfigError, "video_processor has no use"),
    ({"device_map": "auto"}, ConfigError, "device_map"),
    ({"model_kwargs": {"quantization_config": {}}}, ConfigError, "quantization_config"),
    ({"model_kwargs": {"output_attentions": True}}, ConfigError, "output_attentions"),
    ({"dtype": "float16"}, ConfigError, "dtype"),
    ({"dtype": "int8"}, ConfigError, "dtype"),
    ({"nonsense": 1}, ConfigError, "nonsense"),
    ({"top_k": 5}, ConfigError, "top_k"),
]


@pytest.mark.parametrize(
    ("options", "kind", "words"), REFUSED, ids=[str(r[0])[:40] for r in REFUSED]
)
def test_the_pipeline_refuses_by_name(
    folder: Path, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        pipeline(TASK, model=str(folder), **options)


def test_the_pipeline_obeys_the_rest(folder: Path, expected: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for options in (
        {"tokenizer": tokenizer},
        {"config": AutoConfig.from_pretrained(folder)},
        {"config": str(folder)},
        {"revision": "main", "token": False},
        {"trust_remote_code": True},
        {"trust_remote_code": False},
        {"model_kwargs": {"attn_implementation": "eager"}},
        {"model_kwargs": {"cache_dir": str(folder)}},
        {"use_fast": False},
        {"batch_size": 3, "num_workers": 0},
        {"pipeline_class": FungiPipeline},
    ):
        pipe = pipeline(TASK, model=str(folder), fungi_config=CONFIG, device="cpu", **options)
        rows = torch.cat(pipe(TEXTS, return_tensors=True)).numpy()
        assert np.abs(rows - expected).max() < ROUNDING, options
        if "model_kwargs" in options and "attn_implementation" in options["model_kwargs"]:
            assert pipe.model.config._attn_implementation == "eager"


def test_length_is_obeyed_or_refused(ours: str, folder: Path) -> None:
    model = host(ours)
    before = model.max_seq_length
    model.max_seq_length = 5
    assert model.max_seq_length == model[0].extractor.config.max_length == 5 != before
    with pytest.warns(UserWarning, match="longer than 5 tokens"):
        got = model.encode(TEXTS)
    short = FungiExtractor.from_pretrained(folder, CONFIG.replace(max_length=5))
    with pytest.warns(UserWarning, match="longer than 5 tokens"):
        wanted = short(TEXTS)
    assert np.abs(got - wanted.array).max() < ROUNDING
    for bad in (0, 10**6, "5"):
        with pytest.raises(ConfigError):
            model.max_seq_length = bad
    assert model.max_seq_length == 5
    model.max_seq_length = None  # the encoder's own limit
    assert model.max_seq_length == before
    fitted = FungiExtractor.from_pretrained(folder, CONFIG.replace(center=True)).fit(TEXTS)
    model = SentenceTransformer(modules=[FungiModule(fitted)], device="cpu")
    with pytest.raises(ConfigError, match="does not fit what was learned"):
        model.max_seq_length = 5


LOADING: list[tuple[dict[str, Any], str]] = [
    ({"model_kwargs": {"dtype": "bfloat16"}}, "was saved with dtype='float32'"),
    ({"model_kwargs": {"torch_dtype": torch.float16}}, "was saved with dtype='float32'"),
    ({"model_kwargs": {"device_map": "auto"}}, "device_map"),
    ({"model_kwargs": {"export": True}}, "export"),
    ({"processor_kwargs": {"model_max_length": 4}}, "processor_kwargs"),
    ({"config_kwargs": {"hidden_size": 4}}, "config_kwargs"),
    ({"backend": "onnx"}, "backend='onnx' has no gradients"),
    ({"backend": "openvino"}, "backend='openvino' has no gradients"),
]


@pytest.mark.parametrize(("options", "words"), LOADING, ids=[str(r[0])[:40] for r in LOADING])
def test_sentence_transformers_is_told_what_would_be_ignored(
    ours: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        host(ours, **options)


def test_sentence_transformers_arguments_that_hold(ours: str, expected: Any) -> None:
    for options in (
        {"model_kwargs": {"dtype": "float32", "attn_implementation": "eager"}},
        {"model_kwargs": {"dtype": torch.float32}},
        {"model_kwargs": {}, "processor_kwargs": {}, "config_kwargs": {}},
        {"local_files_only": True, "revision": "main", "token": False},
    ):
        model = host(ours, **options)
        assert np.abs(model.encode(TEXTS, batch_size=3) - expected).max() < ROUNDING, options
    assert (
        host(ours, model_kwargs={"attn_implementation": "eager"})[
            0
        ].encoder.config._attn_implementation
        == "eager"
    )


def test_encode_refuses_what_is_no_output(ours: str) -> None:
    model = host(ours)
    with pytest.raises(ConfigError, match="output_value='token_embeddings' is not an output"):
        model.encode(TEXTS, output_value="token_embeddings")
    with pytest.raises(ConfigError, match="processing_kwargs"):
        model.encode(TEXTS, processing_kwargs={"text": {"max_length": 4}})
    whole = model.encode(TEXTS, output_value=None)
    assert np.abs(whole[1]["sentence_embedding"].numpy() - model.encode(TEXTS)[1]).max() < ROUNDING


HALVES: list[Callable[[SentenceTransformer], Any]] = [
    lambda model: model.half(),
    lambda model: model.bfloat16(),
    lambda model: model.to(torch.float64),
    lambda model: model[0].encoder.half(),
]


@pytest.mark.parametrize("halve", HALVES, ids=["half", "bfloat16", "double", "module"])
def test_a_model_in_another_dtype_is_refused_and_not_saved(
    ours: str, folder: Path, tmp_path: Path, halve: Any
) -> None:
    extractor = FungiExtractor.from_pretrained(folder, CONFIG)
    model = SentenceTransformer(modules=[FungiModule(extractor)], device="cpu")
    halve(model)
    with pytest.raises(ConfigError, match="the config says dtype='float32'"):
        model.encode(TEXTS)
    with pytest.raises(ConfigError, match="the config says dtype='float32'"):
        model.save(str(tmp_path / "st"))
    with pytest.raises(ConfigError, match="the config says dtype='float32'"):
        extractor(TEXTS)


def test_a_halved_pipeline_is_refused_and_not_saved(folder: Path, tmp_path: Path) -> None:
    pipe = pipeline(TASK, model=str(folder), device="cpu")
    pipe.model.half()
    with pytest.raises(FungiError, match="the model is float16"):
        pipe(TEXTS)
    with pytest.raises(FungiError, match="the model is float16"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "fungi_config.json").exists()
