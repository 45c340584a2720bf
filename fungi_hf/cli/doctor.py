"""`fungi-hf doctor`: what is installed, what is broken, and the remedy."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Any, Final

_DOCTOR = """examples:
  fungi-hf doctor
  fungi-hf doctor && fungi-hf extract my-features texts.txt --out features.npy

The exit status is 1 if something is broken.
"""
_PACKAGES: Final = {
    "torch": "", "transformers": "", "huggingface_hub": "", "safetensors": "", "numpy": "",
    "faiss": "faiss", "nlpaug": "nlpaug", "openai": "icl", "soundfile": "audio", "soxr": "audio",
    "sentence_transformers": "sentence-transformers", "sklearn": "sklearn", "datasets": "datasets",
}  # fmt: skip
_DISTRIBUTIONS: Final = {"faiss": "faiss-cpu", "sklearn": "scikit-learn"}
_SWITCHES: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT")


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="versions, devices, broken packages, offline switches",
        epilog=_DOCTOR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run_doctor)


def run_doctor(_: argparse.Namespace) -> int:
    """Print the findings; 1 if something is broken."""
    problems = [*_packages(), *_torchaudio()]
    _devices()
    _switches()
    for problem in problems:
        _line("problem", problem)
    _line("result", "nothing is broken" if not problems else f"{len(problems)} broken; see above")
    return 1 if problems else 0


def _line(name: str, value: str) -> None:
    sys.stdout.write(f"{name:24}{value}\n")


def _packages() -> list[str]:
    _line("python", platform.python_version())
    problems = []
    for name, extra in _PACKAGES.items():
        version = _version(_DISTRIBUTIONS.get(name, name))
        if version is None:
            remedy = f"missing; pip install 'fungi-hf[{extra}]'" if extra else "missing"
            _line(name, remedy)
            if not extra:
                problems.append(f"{name} is required: pip install fungi-hf")
            continue
        reason = _broken(name)
        _line(name, version if reason is None else f"{version} (broken)")
        if reason is not None and name not in ("transformers", "sentence_transformers"):
            problems.append(f"{name} cannot be imported ({reason}): reinstall it")
    return problems


def _torchaudio() -> list[str]:
    if importlib.util.find_spec("torchaudio") is None:
        _line("torchaudio", "missing; not needed")
        return []
    reason = _broken("torchaudio")
    _line("torchaudio", (_version("torchaudio") or "?") + (" (broken)" if reason else ""))
    if reason is None:
        return []
    return [
        f"torchaudio cannot be loaded by this build of torch ({reason}) and breaks transformers "
        "with it: pip uninstall torchaudio, or install the build of torch that it was made for"
    ]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _broken(name: str) -> str | None:
    """Give the first line of why an import fails."""
    try:
        importlib.import_module(name)
    except Exception as error:  # any fault of a package's own code is the finding
        lines = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        return lines[0]
    return None


def _devices() -> None:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps (float32 in place of float64)")
    _line("devices", ", ".join(found))


def _switches() -> None:
    for name in _SWITCHES:
        value = os.environ.get(name)
        if value:
            effect = "downloads go there" if name == "HF_ENDPOINT" else "no downloads; unset it"
            _line(name, f"{value} ({effect})")
