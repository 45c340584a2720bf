"""Parts of a fit as files: tensors, and JSON in the header; texts and paths as they are."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from fungi_hf.errors import InputTypeError, StateError, StorageError
from fungi_hf.extraction.draws import Draw, StoredInput
from fungi_hf.extraction.fit_part import FitPart, Origin
from fungi_hf.extraction.latents import Latents
from fungi_hf.extraction.moments import Moments
from fungi_hf.features import Failure
from fungi_hf.storage.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_KEY: Final = "fungi_fit_part"
_FORMAT: Final = 1


def save_part(part: FitPart, path: str | Path) -> None:
    """Write a safetensors file, which appears whole or not at all.

    Of drawn inputs texts and paths are written as they are, bytes, arrays and clips as tensors.

    Raises:
        InputTypeError: If a drawn input is something else, e.g. a PIL image.
        StorageError: If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {f"sums/{name}": some for name, some in part.sums.items()}
    for name, latents in part.latents.items():
        tensors |= {f"latents/{name}/keys": latents.keys, f"latents/{name}/rows": latents.rows}
    for name, moments in part.moments.items():
        found = moments.to_tensors()
        tensors |= {f"moments/{name}/{field}": tensor for field, tensor in found.items()}
    draws = {
        name: {
            "most": draw.most,
            "items": [
                [key, *_written(item, f"draw/{name}/{key}", tensors)]
                for key, item in draw.items.items()
            ],
        }
        for name, draw in part.draws.items()
    }
    document = {
        "format": _FORMAT,
        "stage": part.stage,
        "origin": part.origin._asdict(),
        "names": dict(part.names),
        "n_inputs": part.n_inputs,
        "failures": [[one.index, one.source, one.error] for one in part.failures],
        "draws": draws,
    }
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        replace_file(Path(path), save(plain, metadata={_KEY: json.dumps(document)}))
    except (SafetensorError, OSError) as error:
        raise StorageError(f"cannot write the part to {path}: {error}") from None


def _written(item: Any, place: str, tensors: dict[str, Tensor]) -> tuple[str, Any]:
    # The kind of an input and its JSON; arrays are added to the tensors.
    raw = item.raw if isinstance(item, StoredInput) else item
    raw = raw.plain() if hasattr(raw, "plain") else raw
    if isinstance(raw, (str, os.PathLike)):
        return "text", os.fspath(raw)
    if isinstance(raw, (bytes, bytearray)):
        tensors[place] = torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).copy())
        return "bytes", None
    value, rate = raw if isinstance(raw, tuple) and len(raw) == 2 else (raw, None)
    if isinstance(value, torch.Tensor):
        tensors[place] = value
        return "tensor", rate
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        tensors[place] = torch.from_numpy(np.ascontiguousarray(value))
        return "array", rate
    raise InputTypeError(
        f"a drawn input is {type(raw).__name__}, which a part's file cannot hold; fit from paths, "
        "bytes, arrays or texts, or hand the part over in memory"
    )


def load_part(path: str | Path) -> FitPart:
    """Read what `save_part` wrote.

    Raises:
        StorageError: If the file is missing or is no part.
        StateError: If it is damaged, or a newer version of this package wrote it.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise StorageError(f"there is no part of a fit at {path}")
    try:
        with safe_open(str(file), "pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path} is no part of a fit: {error}") from None
    if _KEY not in header:
        raise StorageError(f"{path} is no part of a fit: save_part did not write it")
    try:
        document = json.loads(header[_KEY])
        if document["format"] > _FORMAT:
            raise StateError(
                f"{path} has layout version {document['format']}, this package reads {_FORMAT}: "
                "upgrade fungi-hf"
            )
        return _part(document, tensors)
    except StateError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StateError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def packed(part: FitPart) -> bytes:
    """Give what `save_part` would write; its errors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.safetensors"
        save_part(part, path)
        return path.read_bytes()


def unpacked(data: bytes) -> FitPart:
    """Read what `packed` gave; the errors of `load_part`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.safetensors"
        path.write_bytes(data)
        return load_part(path)


def _part(document: dict[str, Any], tensors: Mapping[str, Tensor]) -> FitPart:
    rooms: dict[str, dict[str, dict[str, Tensor]]] = {"latents": {}, "moments": {}}
    for path, tensor in tensors.items():
        room, _, rest = path.partition("/")
        name, _, field = rest.rpartition("/")
        if room in rooms:
            rooms[room].setdefault(name, {})[field] = tensor
    draws = {
        name: Draw(
            some["most"],
            {
                key: StoredInput(_read(kind, value, tensors.get(f"draw/{name}/{key}")))
                for key, kind, value in some["items"]
            },
        )
        for name, some in document["draws"].items()
    }
    return FitPart(
        stage=document["stage"],
        origin=Origin(**document["origin"]),
        names=document["names"],
        n_inputs=document["n_inputs"],
        failures=tuple(
            Failure(index=index, source=source, error=error)
            for index, source, error in document["failures"]
        ),
        sums={
            name.removeprefix("sums/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("sums/")
        },
        draws=draws,
        latents={
            name: Latents(some["keys"], some["rows"]) for name, some in rooms["latents"].items()
        },
        moments={name: Moments.from_tensors(some) for name, some in rooms["moments"].items()},
    )


def _read(kind: str, value: Any, tensor: Tensor | None) -> Any:
    if kind == "text":
        return value
    if tensor is None:
        raise KeyError("the tensor of a drawn input is missing")
    if kind == "bytes":
        return tensor.numpy().tobytes()
    held: Any = tensor if kind == "tensor" else tensor.numpy()
    return held if value is None else (held, value)
