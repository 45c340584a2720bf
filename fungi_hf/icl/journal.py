"""The run folder: what was asked, what was answered, and nothing twice.

Rows are appended one write each as they finish, so a killed process loses only rows in flight; a
row whose bytes changed on the disk is known by its digest, and asked again.
`results.jsonl` holds no times and no attempts: however often a run was interrupted, its bytes are
those of an undisturbed one. Everything here is JSON values; `results` knows what they mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import warnings
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import RunMismatchError, StorageError
from fungi_hf.storage.files import replace_file, write_first

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

RUN, JOURNAL = "run.json", "journal.jsonl"
RESULTS, SUMMARY = "results.jsonl", "summary.json"
RUN_VERSION = 1
_DIGEST = b',"digest":"'


class Journal:
    """The file of a run folder to which finished rows are appended, by one process at a time.

    Raises:
        StorageError: If another process works in the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, path = folder, folder / JOURNAL
        with _writing(folder):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._lock()
            if path.stat().st_size and path.read_bytes()[-1:] != b"\n":
                os.write(self._file, b"\n")  # a killed process left half a line

    def _lock(self) -> None:
        # The system gives the lock back when the process ends, however it ends.
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise StorageError(
                f"another process works in {self._folder}; wait until it has ended, or choose "
                "another folder"
            ) from None

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        with _writing(self._folder):
            words = _line(line)[:-2]
            os.write(self._file, b'%s%s%s"}\n' % (words, _DIGEST, _digest(words)))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(folder: Path) -> list[Any]:
    """Give what each line on disk holds, less those that are no JSON or were altered.

    The last line of a killed process may be cut, and a folder may have no journal yet. Altered
    lines are warned of.
    """
    path, lines, altered = folder / JOURNAL, [], 0
    for words in path.read_bytes().split(b"\n") if path.exists() else ():
        content, mark, digest = words.rpartition(_DIGEST)
        if mark and digest != _digest(content) + b'"}':
            altered += 1
            continue
        with contextlib.suppress(ValueError):
            lines.append(json.loads(content + b"}" if mark else words))
    if altered:
        warnings.warn(
            f"{altered} lines of {path} are not as they were written; their rows are asked again",
            stacklevel=2,
        )
    return lines


def claim(folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Make a folder belong to a config, on which all rows depend, or check that it does.

    The facts are recorded beside it: versions, sizes.

    Raises:
        RunMismatchError: If the folder belongs to another config; the message names the fields.
        StorageError: If the folder holds results of something else, or cannot be written.
    """
    path = folder / RUN
    plain = json.loads(json.dumps(config))
    # The journal is asked for first: a run that starts meanwhile writes it last.
    if (folder / JOURNAL).exists() and not path.exists():
        raise StorageError(f"{folder} has a {JOURNAL} but no {RUN}; choose another folder")
    if not path.exists():
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            record = _json_text({"run_version": RUN_VERSION, "config": plain, **facts})
            if write_first(path, record):
                return
    differing = sorted(_differences(_read_json(path).get("config", {}), plain))
    if differing:
        raise RunMismatchError(
            f"{folder} belongs to another run; these fields differ: {', '.join(differing)}; "
            "choose another folder"
        )


def _differences(a: object, b: object, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            inner = f"{path}.{key}" if path else str(key)
            if (key in a) != (key in b):
                yield inner
            else:
                yield from _differences(a[key], b[key], inner)
    elif a != b:
        there, here = (w if len(w) <= 40 else f"{w[:37]}..." for w in map(json.dumps, (a, b)))
        yield f"{path} ({there} there, {here} here)"


def finish(folder: Path, rows: Iterable[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Write results and summary so that readers see the old files or the new ones, never half."""
    with _writing(folder):
        replace_file(folder / RESULTS, b"".join(map(_line, rows)))
    _write_json(folder / SUMMARY, summary)
    _write_json(folder / RUN, {**_read_json(folder / RUN), "totals": summary})


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a run folder says about its run: config, versions, sizes.

    Raises:
        StorageError: If there is no run in the folder, or its record cannot be read.
    """
    if not (folder / RUN).exists():
        raise StorageError(f"there is no run in {folder} (no {RUN})")
    record = _read_json(folder / RUN)
    version = record.get("run_version")
    if version != RUN_VERSION:
        raise StorageError(f"{folder} has run version {version}; this release reads {RUN_VERSION}")
    return record


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise StorageError(f"{path} does not hold a JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with _writing(path.parent):
        replace_file(path, _json_text(value))


def _json_text(value: Mapping[str, Any]) -> bytes:
    record = {**value, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return json.dumps(record, indent=1).encode("ascii") + b"\n"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    # A failed write becomes an error that names the folder.
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error}") from None


def _digest(words: bytes) -> bytes:
    return hashlib.sha256(words).hexdigest()[:16].encode()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
