"""A bfloat16 model on a processor without bfloat16 units is said once; doctor names the dtype."""

from __future__ import annotations

import warnings

import pytest
import torch

from fungi_hf import FungiExtractor
from fungi_hf.cli import doctor
from fungi_hf.encoders import dtypes
from fungi_hf.errors import SlowDtypeWarning
from fungi_hf.testing import tiny_text_model

AVX2 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse4_2 avx2 fma\n"


@pytest.fixture(autouse=True)
def _forget() -> None:
    dtypes._warn.cache_clear()


def has_units(monkeypatch: pytest.MonkeyPatch, *, value: bool | None) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16_units", lambda: value)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (AVX2, False),
        (AVX2.replace("fma", "fma avx512f avx512_bf16"), True),
        (AVX2.replace("fma", "amx_tile amx_bf16"), True),
        ("Features\t: fp asimd sve bf16 i8mm\n", True),
        ("Features\t: fp asimd\n", False),
        ("Features\t: fp svebf16x\n", False),
        ("Hardware\t: unknown\n", None),
        ("", None),
    ],
)
def test_units_are_read_from_the_processors_features(cpuinfo: str, expected: bool | None) -> None:
    assert dtypes.bfloat16_units(cpuinfo) is expected


def test_a_slow_dtype_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    has_units(monkeypatch, value=False)
    half, tokenizer = tiny_text_model("bert", dtype=torch.bfloat16)
    single, _ = tiny_text_model("bert", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FungiExtractor.from_pretrained(single, processor=tokenizer)
    with pytest.warns(SlowDtypeWarning, match="no bfloat16 units.*use dtype='float32'"):
        FungiExtractor.from_pretrained(half, processor=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FungiExtractor.from_pretrained(half, processor=tokenizer)


@pytest.mark.parametrize("value", [True, None])
def test_nothing_is_said_where_units_are_there_or_unknown(
    monkeypatch: pytest.MonkeyPatch, value: bool | None
) -> None:
    has_units(monkeypatch, value=value)
    model, tokenizer = tiny_text_model("bert", dtype=torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FungiExtractor.from_pretrained(model, processor=tokenizer)


@pytest.mark.parametrize(
    ("value", "words"), [(True, "bfloat16 or float32"), (False, "float32 (no"), (None, "not known")]
)
def test_doctor_names_the_dtype_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, value: bool | None, words: str
) -> None:
    has_units(monkeypatch, value=value)
    assert words in doctor._dtype()
