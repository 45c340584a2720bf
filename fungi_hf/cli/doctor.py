"""`fungi-hf doctor`: what is installed, what is broken, and the remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.cli.arguments import command

if TYPE_CHECKING:
    import argparse

    from packaging.specifiers import SpecifierSet

_DOCTOR = """examples:
  fungi-hf doctor
  fungi-hf doctor && fungi-hf extract my-features texts.txt --out features.npy

The exit status is 1 if something is broken.
"""
_PACKAGES: Final = {  # name to import -> our extra; "" is required, None is not needed
    "torchaudio": None, "torchvision": None,
    "torch": "", "transformers": "", "huggingface_hub": "", "safetensors": "", "numpy": "",
    "faiss": "faiss", "openai": "icl", "soundfile": "audio", "soxr": "audio",
    "PIL": "vision",
    "sentence_transformers": "sentence-transformers", "sklearn": "sklearn", "datasets": "datasets",
}  # fmt: skip
_DISTRIBUTIONS: Final = {"faiss": "faiss-cpu", "sklearn": "scikit-learn", "PIL": "pillow"}
_COMPANIONS: Final = ("torchaudio", "torchvision")
_WORKER_GB: Final = 1.5  # torch, transformers and a model of the size of MiniLM or BERT-base
_SWITCHES: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT")


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    words = "versions, devices, broken packages, offline switches"
    command(subparsers, "doctor", words, _run_doctor, _DOCTOR)


def _run_doctor(_: argparse.Namespace) -> int:
    _line("python", platform.python_version())
    reasons = {name: _broken(name) for name in _PACKAGES}
    faults = [_package(name, extra, reasons) for name, extra in _PACKAGES.items()]
    if reasons["torch"] is None:
        _devices()
    _switches()
    _line("result", f"{sum(faults)} broken; see above" if any(faults) else "nothing is broken")
    return 1 if any(faults) else 0


def _line(name: str, value: str) -> None:
    sys.stdout.write(f"{name:24}{value}\n")


def _package(name: str, extra: str | None, reasons: dict[str, str | None]) -> bool:
    # Print one package's line; whether it is at fault.
    distribution = _DISTRIBUTIONS.get(name, name)
    version, reason = _version(distribution), reasons[name]
    needed = _needed(distribution)
    if version is None and importlib.util.find_spec(name) is None:
        kind = {"": "required", None: "not needed"}.get(extra, f"pip install 'fungi-hf[{extra}]'")
        _line(name, f"missing; {kind}")
        return extra == ""
    shown = version or "unknown version"
    culprit = next((one for one in _COMPANIONS if reason and reasons[one] and one in reason), name)
    if culprit != name:
        _line(name, f"{shown} (broken by {culprit}; see there)")
    elif reason is not None:
        _line(name, f"{shown} (broken: {reason}; {_remedy(name, distribution, reason)})")
    elif version is not None and not needed.contains(version, prereleases=True):
        _line(name, f"{shown} (not supported; pip install '{distribution}{needed}')")
    else:
        _line(name, shown)
        return False
    return True


def _remedy(name: str, distribution: str, reason: str) -> str:
    if name in _COMPANIONS:
        return (
            f"it breaks transformers and sentence-transformers with it; pip uninstall {name}, or "
            "install the build of torch that it was made for"
        )
    absent = re.match(r"No module named '(\w+)", reason)
    if absent and absent[1] != name:
        return f"pip install {absent[1]}"
    return f"pip install --force-reinstall --no-deps {distribution}"


def _needed(distribution: str) -> SpecifierSet:
    # The versions that this package says it works with.
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    try:
        found = [Requirement(line) for line in importlib.metadata.requires("fungi-hf") or ()]
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        found = []
    name = canonicalize_name(distribution)
    specifiers = [one.specifier for one in found if canonicalize_name(one.name) == name]
    return specifiers[0] if specifiers else SpecifierSet()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _broken(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # any fault of a package's own code is the finding
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines()]
        return next((line for line in lines if line), type(error).__name__)
    return None


def _devices() -> None:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps (float32 in place of float64)")
    _line("devices", ", ".join(found))
    _line("dtype on the cpu", _dtype())
    _line("extract", advice(_cores(), torch.cuda.device_count(), _memory_gb()))


def advice(cores: int, n_devices: int, memory_gb: float | None) -> str:
    """Say how many workers and threads `fungi-hf extract` should have, and why."""
    if n_devices > 1:
        devices = ",".join(f"cuda:{i}" for i in range(n_devices))
        return f"--devices {devices} (one worker for each device)"
    if n_devices == 1:
        return "--workers 1 (one worker keeps the device busy)"
    if cores == 1:
        return "--workers 1 --threads 1 (there is one core)"
    room = cores if memory_gb is None else max(1, int(memory_gb // _WORKER_GB))
    number = min(cores, room)
    why = "a thread of its own does more than a share of all: 1.15 times on 2 cores"
    if number < cores:
        why = f"{memory_gb:.0f} GB have room for {number} copies of a small model"
    return f"--workers {number} --threads {max(1, cores // number)} ({why})"


def _cores() -> int:
    has_list = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_list else os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def _dtype() -> str:
    from fungi_hf.encoders.dtypes import has_bfloat16_units

    return {
        True: "bfloat16 or float32 (this processor has bfloat16 units)",
        False: "float32 (no bfloat16 units here: bfloat16 is emulated and slower)",
        None: "float32 (whether bfloat16 is fast here is not known)",
    }[has_bfloat16_units()]


def _switches() -> None:
    for name in _SWITCHES:
        if value := os.environ.get(name):
            _line(name, f"{value} ({_effect(name, value)})")


def _effect(name: str, value: str) -> str:
    if name == "HF_ENDPOINT":
        return "downloads come from there; unset it for huggingface.co"
    if value.upper() not in ("1", "ON", "YES", "TRUE"):
        return "downloads are allowed"
    return f"no downloads, only what is cached; to allow them: unset {name}"
