"""The on-disk layout: `fungi_config.json` and `fungi_state.safetensors`, locally or on the Hub.

JSON and safetensors only. Whatever is wrong with a folder is said before anything is used: the
digests of tensors and JSON data that it holds are the same everywhere for the same values.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fungi_hf.errors import StateError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

T = TypeVar("T")

CONFIG_NAME: Final = "fungi_config.json"
STATE_NAME: Final = "fungi_state.safetensors"
CLASSIFIER_NAME: Final = "classifier.json"  # beside them in the folder of a classifier
FORMAT: Final = 1
MODEL_TYPE: Final = "fungi"  # in the `config.json` of a folder without a model
TASK: Final = "fungi-feature-extraction"  # in the `config.json` of a saved pipeline
_MAX_CONFIG_BYTES: Final = 1 << 20
_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
_CLIENTS: Final = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How to reach a repository: arguments of huggingface_hub and of every `from_pretrained`.

    Attributes:
        revision: Branch, tag or commit.
        token: Access token; never written or logged.
        cache_dir: Cache folder.
        local_files_only: Do not ask the network.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def find_file(source: str | Path, name: str, hub: HubOptions) -> Path | None:
    """Give the local path of a file of a folder or repository, or None where it has none.

    Raises:
        StorageError: If the repository cannot be reached or does not exist.
        StateError: If the name leads out of the folder.
    """
    if name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name:
        raise StateError(f"{str(source)!r} names a file outside of itself: {name!r}")
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    what = f"{str(source)!r} is neither a folder nor a repository that can be reached"
    return reach(lambda: _download(str(source), name, hub), what)


def _download(repo_id: str, name: str, hub: HubOptions) -> Path | None:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, name, **asdict(hub)))
    except LocalEntryNotFoundError as error:
        # Offline, a file that a cached repository lacks looks like one that cannot be had.
        cache = Path(hub.cache_dir or constants.HF_HUB_CACHE)
        snapshots = cache / f"models--{repo_id.replace('/', '--')}" / "snapshots"
        is_cached = snapshots.is_dir() and any(snapshots.iterdir())
        if _status(error.__cause__) not in _RETRIED and is_cached:
            return None
        raise
    except EntryNotFoundError:
        return None


def reach(call: Callable[[], T], what: str) -> T:
    """Ask the Hub, again while it is busy or cuts the connection, and give what it says.

    Raises:
        StorageError: `what` and the reason, when the Hub refuses, stays busy or is out of reach.
    """
    try:
        return patiently(call)
    except StorageError:
        raise
    except Exception as error:
        # The HTTP client's own tree is not OSError, and it differs between versions.
        if not isinstance(error, (OSError, ValueError)) and _client(error) not in _CLIENTS:
            raise
        raise StorageError(f"{what}: {explain(error)}") from None


def patiently(call: Callable[[], T]) -> T:
    """Call again, after a pause, while the Hub is busy or cuts the connection; raise the last."""
    for pause_s in _PAUSES_S:
        try:
            return call()
        except Exception as error:  # whose error it is differs between libraries and versions
            if not _is_busy(error):
                raise
        time.sleep(pause_s)
    return call()


def _is_busy(error: BaseException) -> bool:
    # Whether a busy answer, or a connection that broke in the middle of one, is behind an error.
    from huggingface_hub.errors import LocalEntryNotFoundError

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(link, LocalEntryNotFoundError) for link in chain):
        return False  # the client itself asked again
    cut = any(_client(link) in _CLIENTS and "Protocol" in type(link).__name__ for link in chain)
    return cut or any(_status(link) in _RETRIED for link in chain)


def explain(error: Exception) -> str:
    """Give what the client says, what was behind it, and what to do about it."""
    reason, behind = _first_line(error), _first_line(error.__cause__) if error.__cause__ else ""
    if behind and behind not in reason:
        reason = f"{reason} ({behind})"
    remedies = {
        401: "a private repository needs token=, and a name may be misspelt",
        403: "the token may not do this: pass one that may",
        404: "check the name and the revision",
    }
    remedy = remedies.get(_status(error) or _status(error.__cause__) or 0, "")
    if isinstance(error, PermissionError):
        remedy = "the Hub's cache cannot be written: pass cache_dir= or set HF_HUB_CACHE"
    elif "offline mode is enabled" in reason:
        remedy = "only what was downloaded before can be loaded offline"
    return f"{reason}; {remedy}" if remedy else reason


def _client(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: BaseException | None) -> str:
    """Give the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def read_document(path: Path) -> dict[str, Any]:
    """Read a `fungi_config.json`.

    Raises:
        StorageError: If it is too large, not JSON, or not an object.
        StateError: If a newer version of this package wrote it.
    """
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise StorageError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes: not a config")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise StorageError(f"{path} must hold a JSON object with a 'config' object")
    version = document.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise StateError(
            f"{path} has layout version {version!r}, this package reads {FORMAT}: upgrade fungi-hf"
        )
    return document


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `fungi_state.safetensors`.

    Raises:
        StateError: If the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise StateError(f"{path} is damaged or not a safetensors file: {error}") from None


def reference_text(encoder: str) -> str:
    """Give a `config.json` that points to an encoder, for folders of our files and no model.

    transformers reads `config.json` before anything else; without one it cannot even tell that a
    folder is ours.
    """
    return json.dumps({"model_type": MODEL_TYPE, "fungi_encoder": encoder}, indent=2) + "\n"


def is_reference(path: Path) -> bool:
    """Whether a `config.json` is ours and not a model's."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("model_type") == MODEL_TYPE


def write_folder(
    folder: str | Path,
    document: dict[str, Any],
    tensors: dict[str, Tensor] | None,
    extras: dict[str, str] | None = None,
) -> None:
    """Write config and state; each file appears whole or not at all, others are not touched.

    There is no state file if `tensors` are empty; None leaves a file that is there alone. `extras`
    are files for other libraries, name -> text; a file that exists is left as it is.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from safetensors.torch import save

    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        state = target / STATE_NAME
        if tensors:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            replace_file(state, save(plain))
        elif tensors is not None and state.exists():
            state.unlink()
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        replace_file(target / CONFIG_NAME, text.encode())
        for name, content in (extras or {}).items():
            if not (target / name).exists():
                replace_file(target / name, content.encode())
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error}") from None


def check_folder(folder: str | Path) -> None:
    """Say before long work that `write_folder` cannot write a folder; nothing is left behind.

    Raises:
        StorageError: If it is a file, or neither it nor its nearest parent takes a file.
    """
    target = Path(folder)
    there = next((path for path in (target, *target.parents) if path.exists()), target)
    if not there.is_dir():
        raise StorageError(f"cannot write to {target}: {there} is no folder; name another one")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {there}: {error.strerror}") from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_first(path: Path, data: bytes) -> bool:
    """Write a file that appears whole, unless there is one; give whether this call wrote it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        part.write_bytes(data)
        part.chmod(0o644)
        return move_first(part, path)
    finally:
        part.unlink(missing_ok=True)


def move_first(part: Path, target: Path) -> bool:
    """Give a finished file its name, unless a file has it; two that try at once never both win."""
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: of two at once the later wins
        if target.exists():
            return False
        part.replace(target)
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; it takes the final path's place when the block ends well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Give a 16-digit digest of named tensors, independent of their order and device."""
    import torch  # configs are digested without it

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def json_digest(data: Mapping[str, Any]) -> str:
    """Give a 16-digit digest of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
