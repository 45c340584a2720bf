"""What a sentence-transformers folder says of its embedding: prompts, modules, lower case."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

from fungi_hf import FungiConfig, FungiExtractor, SimCLR
from fungi_hf.cli import main
from fungi_hf.errors import ConfigError, EncoderError, FingerprintMismatchError
from fungi_hf.integrations.datasets import extract_dataset
from fungi_hf.integrations.sentence_transformers import FungiModule
from fungi_hf.integrations.sklearn import FungiTransformer
from fungi_hf.neighbors import ExactIndex
from tests.integrations.conftest import TEXTS

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = {"query": "how do you: ", "document": "the bank ", "empty": ""}


def saved(folder: Path, out: Path, *modules: Any, lower: bool = False, **options: Any) -> str:
    """Save a tiny model as sentence-transformers does, and give the folder."""
    transformer = Transformer(str(folder), do_lower_case=lower)
    if not any(isinstance(module, Pooling) for module in modules):
        modules = (Pooling(transformer.get_embedding_dimension(), "mean"), *modules)
    host = SentenceTransformer(modules=[transformer, *modules], device="cpu", **options)
    host.save(str(out), create_model_card=False)
    return str(out)


@pytest.fixture(scope="module")
def prompted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("prompted") / "st"
    return saved(folder, out, prompts=PROMPTS, default_prompt_name="query")


def assert_same(extractor: FungiExtractor, place: str, texts: list[str], **options: Any) -> None:
    wanted = SentenceTransformer(place, device="cpu").encode(
        texts, normalize_embeddings=True, **options
    )
    got = extractor(texts, **options).block("embedding")
    assert np.abs(wanted - got).max() < 1e-5


WIDTH = 32


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("after", [(), ("normalize",), ("dropout", "normalize")])
def test_the_embedding_block_is_what_encode_gives(
    folder: Path, tmp_path: Path, pooling: str, after: tuple[str, ...]
) -> None:
    made = {"normalize": Normalize(), "dropout": Dropout(0.2)}
    width = Transformer(str(folder)).get_embedding_dimension()
    modules = [Pooling(width, pooling), *(made[name] for name in after)]
    place = saved(folder, tmp_path / "st", *modules)
    assert_same(FungiExtractor.from_pretrained(place), place, TEXTS)


@pytest.mark.filterwarnings("ignore:.* hold tokens that the tokenizer does not know")
def test_lower_case_is_the_folders(folder: Path, tmp_path: Path) -> None:
    cased = tmp_path / "cased"
    host = Transformer(str(folder))
    host.tokenizer.backend_tokenizer.normalizer = None
    host.save(str(cased))
    texts = [text.upper() for text in TEXTS]
    for lower in (True, False):
        place = saved(cased, tmp_path / f"st-{lower}", lower=lower)
        extractor = FungiExtractor.from_pretrained(place)
        assert_same(extractor, place, texts)
        same = extractor(texts).array == extractor(TEXTS).array
        assert same.all() == lower
        extractor.save_pretrained(tmp_path / f"ours-{lower}")
        again = FungiExtractor.from_pretrained(tmp_path / f"ours-{lower}")
        assert again.fingerprint == extractor.fingerprint


@pytest.mark.parametrize("kind", ["Dense", "LayerNorm"])
def test_modules_that_are_not_applied_are_refused_by_name(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    width = Transformer(str(folder)).get_embedding_dimension()
    module = Dense(width, 8) if kind == "Dense" else LayerNorm(width)
    place = saved(folder, tmp_path / "st", module)
    for pooling in ("auto", "mean"):
        with pytest.raises(EncoderError, match=f"has a module {kind} that this package"):
            FungiExtractor.from_pretrained(place, FungiConfig(pooling=pooling))
    bare = FungiExtractor.from_pretrained(place, FungiConfig(pooling="cls"))  # another embedding
    assert np.isfinite(bare(TEXTS).array).all()


def test_a_mean_without_its_prompt_is_refused(folder: Path, tmp_path: Path) -> None:
    width = Transformer(str(folder)).get_embedding_dimension()
    place = saved(folder, tmp_path / "st", Pooling(width, "mean", include_prompt=False))
    with pytest.raises(EncoderError, match="leaves its prompts out of the mean"):
        FungiExtractor.from_pretrained(place)


@pytest.mark.parametrize(
    "options", [{}, {"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt_name": "empty"},
                {"prompt": "please help: "}, {"prompt": ""}]
)  # fmt: skip
def test_prompts_reach_the_text_as_in_encode(prompted: str, options: dict[str, str]) -> None:
    assert_same(FungiExtractor.from_pretrained(prompted), prompted, TEXTS, **options)


def test_a_prompt_is_text_in_front(prompted: str, folder: Path) -> None:
    simclr = SimCLR(n_views=3, latent_dim=16, n_negatives=4)
    config = FungiConfig(objectives=("kl", simclr), center=True, max_length=20)
    behind = FungiExtractor.from_pretrained(prompted, config)
    bare = FungiExtractor.from_pretrained(folder, config.replace(pooling="mean"))
    written = [PROMPTS["query"] + text for text in TEXTS]
    for first, second in (
        (behind.fit_transform(TEXTS), bare.fit_transform(written)),
        (behind.fit(TEXTS)(TEXTS), bare.fit(written)(written)),
        (behind(TEXTS, prompt="my "), bare([f"my {text}" for text in TEXTS])),
    ):
        np.testing.assert_array_equal(first.array, second.array)


def test_named_prompts_share_a_fingerprint_and_are_in_it(prompted: str, folder: Path) -> None:
    extractor = FungiExtractor.from_pretrained(prompted)
    documents = extractor(TEXTS, prompt_name="document")
    index = ExactIndex().fit(documents)
    found = index.search(extractor(TEXTS[:2], prompt_name="query"), k=1)
    assert found.indices.shape == (2, 1)
    with pytest.raises(FingerprintMismatchError):
        index.search(extractor(TEXTS[:2], prompt="something else: "), k=1)
    prints = {
        FungiExtractor.from_pretrained(prompted, config).fingerprint
        for config in (
            FungiConfig(),
            FungiConfig(default_prompt_name=""),
            FungiConfig(default_prompt_name="document"),
            FungiConfig(prompts={"query": "q: "}),
            FungiConfig(prompts={"query": "q: "}, default_prompt_name="query"),
        )
    }
    assert len(prints) == 5
    plain = FungiExtractor.from_pretrained(folder)
    empty = FungiExtractor.from_pretrained(folder, FungiConfig(prompts={"query": ""}))
    assert plain(TEXTS).fingerprint != documents.fingerprint
    np.testing.assert_array_equal(empty(TEXTS, prompt_name="query").array, plain(TEXTS).array)


@pytest.mark.parametrize("how", ["ours", "pipeline", "sentence-transformers"])
def test_saved_folders_keep_their_prompts(prompted: str, tmp_path: Path, how: str) -> None:
    extractor = FungiExtractor.from_pretrained(prompted)
    place = tmp_path / "saved"
    if how == "ours":
        extractor.save_pretrained(place)
    elif how == "pipeline":
        from fungi_hf.integrations.transformers.folders import save_pipeline

        save_pipeline(extractor, place)
    else:
        SentenceTransformer(modules=[FungiModule(extractor)], device="cpu").save(str(place))
    again = FungiExtractor.from_pretrained(place)
    assert again.fingerprint == extractor.fingerprint
    for name in (None, "document"):
        np.testing.assert_array_equal(
            again(TEXTS, prompt_name=name).array, extractor(TEXTS, prompt_name=name).array
        )


def test_every_way_in_takes_prompts(
    prompted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets
    from transformers import pipeline

    extractor = FungiExtractor.from_pretrained(prompted)
    wanted = {name: extractor(TEXTS, prompt_name=name).array for name in (None, *PROMPTS)}
    pipe = pipeline("fungi-feature-extraction", model=prompted, device="cpu")
    table = datasets.Dataset.from_dict({"text": TEXTS})
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(TEXTS))
    host = SentenceTransformer(modules=[FungiModule(extractor)], device="cpu")
    for name, rows in wanted.items():
        got = [
            torch.cat(pipe(TEXTS, prompt_name=name, return_tensors=True)).numpy(),
            torch.cat(
                list(pipe((text for text in TEXTS), prompt_name=name, return_tensors=True))
            ).numpy(),
            np.array(extract_dataset(table, extractor, prompt_name=name)["text_fungi"]),
            FungiTransformer(prompted, prompt_name=name).fit(TEXTS).transform(TEXTS),
        ]
        out = tmp_path / f"{name}.npy"
        words = ["--prompt-name", name] if name else []
        assert main(["extract", prompted, str(source), "--out", str(out), *words]) == 0
        got.append(np.load(out))
        for array in got:
            assert np.abs(array - rows).max() < 2e-5, name
    encoders = {
        None: host.encode(TEXTS),
        "query": host.encode_query(TEXTS),
        "document": host.encode_document(TEXTS),
        "empty": host.encode(TEXTS, prompt=""),
    }
    for name, array in encoders.items():
        assert np.abs(array - wanted[name]).max() < 2e-5, name
    capsys.readouterr()


def test_another_prompt_does_not_continue_a_run(prompted: str, tmp_path: Path, capsys: Any) -> None:
    source, out = tmp_path / "texts.txt", str(tmp_path / "features")
    source.write_text("\n".join(TEXTS))
    words = ["extract", prompted, str(source), "--out", out]
    assert main([*words, "--prompt-name", "document"]) == 0
    assert main(words) == 1
    assert "belongs to another prompt" in capsys.readouterr().err


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt_name": "quer"}, "unknown prompt_name 'quer'; choose one of 'query'"),
    ({"prompt_name": "query", "prompt": "x"}, "are both given; give one of them"),
    ({"prompt": 3}, "prompt must be a text; got int: 3"),
    ({"prompt_name": ["query"]}, "prompt_name must be a text; got list"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[words[:20] for _, words in BAD])
def test_wrong_prompts_are_refused(prompted: str, options: dict[str, Any], words: str) -> None:
    extractor = FungiExtractor.from_pretrained(prompted)
    for call in (extractor, extractor.fit, extractor.fit_transform):
        with pytest.raises(ConfigError, match=words):
            call(TEXTS, **options)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompts": ["query"]}, "prompts must be None or a dictionary"),
        ({"prompts": {"query": 1}}, "prompts must be None or a dictionary"),
        ({"prompts": {"query": "q"}, "default_prompt_name": "doc"}, "default_prompt_name is 'doc'"),
        ({"default_prompt_name": 3}, "default_prompt_name must be None or a name"),
    ],
)
def test_wrong_configs_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FungiConfig(**fields)


def test_a_default_without_its_text_is_refused(folder: Path, prompted: str) -> None:
    for place in (str(folder), prompted):
        with pytest.raises(ConfigError, match="unknown prompt_name 'nobody'"):
            FungiExtractor.from_pretrained(place, FungiConfig(default_prompt_name="nobody"))


def test_prompts_of_the_folder_may_be_null(prompted: str, tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "null"
    shutil.copytree(prompted, place)
    note = place / "config_sentence_transformers.json"
    words = json.loads(note.read_text())
    note.write_text(json.dumps(words | {"prompts": {"query": None}, "default_prompt_name": None}))
    extractor = FungiExtractor.from_pretrained(place)
    assert dict(extractor.encoder.prompts) == {}
    assert_same(extractor, str(place), TEXTS)
