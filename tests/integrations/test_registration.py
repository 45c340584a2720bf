"""What importing the package costs and does; each claim needs a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fungi_hf.integrations.transformers.pipeline import FungiPipeline

if TYPE_CHECKING:
    from pathlib import Path

    from fungi_hf import FungiExtractor

pytestmark = pytest.mark.slow


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_importing_adds_little_to_transformers_pipelines() -> None:
    """What it takes in time is held by benchmarks/import_time; this says what is not imported."""
    program = (
        "import json, sys, transformers.pipelines; before = set(sys.modules); import fungi_hf;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    added = json.loads(run(program).stdout)

    heavy = {"sklearn", "scipy", "faiss", "matplotlib", "pandas", "datasets", "soundfile", "openai"}
    assert not heavy & {name.split(".")[0] for name in added}
    others = [name for name in added if not name.startswith("fungi_hf")]
    assert len(others) < 40, others


@pytest.mark.parametrize(
    "order", ["fungi_hf, transformers.pipelines", "transformers.pipelines, fungi_hf"]
)
def test_the_task_is_registered_in_either_order_of_imports(order: str) -> None:
    program = (
        f"import {order}; from transformers.pipelines import PIPELINE_REGISTRY as R;"
        "print(R.check_task('fungi-feature-extraction')[1]['impl'].__name__)"
    )

    assert run(program).stdout.strip() == "FungiPipeline"


@pytest.mark.parametrize("module", ["fungi_hf", "fungi_hf.icl", "fungi_hf.config"])
def test_what_needs_no_model_imports_none(module: str) -> None:
    heavy = ("torch", "transformers", "openai", "httpx", "sklearn", "faiss")
    program = f"import sys, {module}; print([n for n in {heavy!r} if n in sys.modules])"

    assert run(program).stdout.strip() == "[]"


def test_importing_loads_no_optional_package() -> None:
    heavy = ("torchaudio", "nlpaug", "mteb", "faiss", "openai", "sentence_transformers", "datasets")
    program = f"import sys, fungi_hf; print([n for n in {heavy!r} if n in sys.modules])"
    before = "import sys, transformers.pipelines; " + program.split("; ", 1)[1]

    assert run(program).stdout == run(before).stdout


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "torchaudio",
            "OSError('Could not load this library: torchaudio/lib/_torchaudio.abi3.so')",
        ),
        ("torchvision", "RuntimeError('operator torchvision::nms does not exist')"),
    ],
)
def test_a_broken_companion_gives_one_clear_message(tmp_path: Path, name: str, error: str) -> None:
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {error}\n")
    metadata = tmp_path / f"{name}-2.11.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.11.0\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    imported = run("import fungi_hf; print(fungi_hf.FungiConfig().seed)", PYTHONPATH=path)
    piped = run("import fungi_hf; from transformers import pipeline", PYTHONPATH=path)
    used = run("import fungi_hf; fungi_hf.FungiExtractor", PYTHONPATH=path)

    assert imported.returncode == 0
    assert imported.stdout.strip() == "42"
    assert imported.stderr == ""
    assert f"{name} is installed but this build of torch cannot" in piped.stderr
    assert used.returncode != 0
    assert f"BrokenDependencyError: {name} is installed but" in used.stderr.splitlines()[-1]
    assert f"uninstall {name}" in used.stderr.splitlines()[-1]


def test_custom_code_needs_no_import(extractor: FungiExtractor, tmp_path: Path) -> None:
    pipe = FungiPipeline(extractor.encoder.model, tokenizer=extractor.encoder.tokenizer)
    pipe.save_pretrained(tmp_path, custom_code=True)
    program = (
        "import json; from transformers import pipeline;"
        f"pipe = pipeline('fungi-feature-extraction', model={str(tmp_path)!r},"
        " trust_remote_code=True); print(json.dumps(pipe('my card')))"
    )

    result = run(program, HF_MODULES_CACHE=str(tmp_path / "modules"))

    got = json.loads(result.stdout.splitlines()[-1])
    assert got[0] == pytest.approx(pipe("my card")[0], abs=1e-5)
