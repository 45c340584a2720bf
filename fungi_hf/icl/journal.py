"""The run folder: what was asked, what was answered, and nothing twice.

Rows are appended one write each as they finish, so a killed process loses only rows in flight.
`results.jsonl` holds no times and no attempts: however often a run was interrupted, its bytes are
those of an undisturbed one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import RunMismatchError, StorageError
from fungi_hf.icl.reply import Usage
from fungi_hf.icl.results import EvalResult, RowResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RUN, JOURNAL = "run.json", "journal.jsonl"
RESULTS, SUMMARY = "results.jsonl", "summary.json"
RUN_VERSION = 1
Place = tuple[int, int]  # repetition, query row


@dataclass(slots=True)
class Journal:
    """Finished rows, in memory and, with a folder, on disk.

    Attributes:
        folder: The run folder; None keeps everything in memory.
        finished: Last outcome of each place.
        usage: Tokens billed by all lines, superseded ones included.
        requests: Requests sent since this object was made.
        unreadable: Lines that could not be read, e.g. the last one of a killed process.
    """

    folder: Path | None = None
    finished: dict[Place, RowResult] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    unreadable: int = 0
    _file: int | None = None

    def add(self, row: int, result: RowResult, facts: Mapping[str, Any], usage: Usage) -> None:
        """Record a finished row.

        Args:
            row: The query's row.
            result: Its outcome.
            facts: Attempts, times, the server's words: anything that may differ between runs.
            usage: What it cost.
        """
        self.finished[result.repeat, row] = result
        self.usage += usage
        self.requests += int(facts.get("attempts", 0))
        if self._file is not None:
            line = {"row": row, "result": result.to_dict(), "usage": usage.to_dict(), **facts}
            with writing(self.folder):
                os.write(self._file, _line(line))

    def open(self) -> None:
        """Read what is on disk and prepare to append."""
        if self.folder is None:
            return
        path = self.folder / JOURNAL
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.read()
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            data_ends = path.stat().st_size
            if data_ends and path.read_bytes()[-1:] != b"\n":
                os.write(self._file, b"\n")  # a killed process left half a line

    def read(self) -> None:
        """Read the lines on disk."""
        path = self.folder / JOURNAL if self.folder is not None else None
        if path is None or not path.exists():
            return
        for words in path.read_bytes().split(b"\n"):
            if not words:
                continue
            try:
                line = json.loads(words)
                result = RowResult.from_dict(line["result"])
                place = result.repeat, int(line["row"])
                usage = Usage(**line["usage"])
            except (ValueError, KeyError, TypeError):
                self.unreadable += 1
                continue
            self.finished[place] = result
            self.usage += usage

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def rows(self) -> tuple[RowResult, ...]:
        """Give finished rows by repetition, then in query order."""
        return tuple(self.finished[place] for place in sorted(self.finished))


def claim(folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Make a folder belong to a config, or check that it does.

    Args:
        folder: The run folder.
        config: Everything that rows depend on, JSON values.
        facts: What else to record: versions, sizes.

    Raises:
        RunMismatchError: If the folder belongs to another config; the message names the fields.
        StorageError: If the folder holds results of something else, or cannot be written.
    """
    path = folder / RUN
    plain = json.loads(json.dumps(config))
    if path.exists():
        known = read_json(path).get("config", {})
        differing = sorted(_differences(known, plain))
        if differing:
            raise RunMismatchError(
                f"{folder} belongs to another run; these fields differ: {', '.join(differing)}; "
                "choose another folder"
            )
        return
    if (folder / JOURNAL).exists():
        raise StorageError(f"{folder} has a {JOURNAL} but no {RUN}; choose another folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"run_version": RUN_VERSION, "config": plain, **facts})


def _differences(a: object, b: object, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            inner = f"{path}.{key}" if path else str(key)
            if (key in a) != (key in b):
                yield inner
            else:
                yield from _differences(a[key], b[key], inner)
    elif a != b:
        yield f"{path} ({_short(a)} there, {_short(b)} here)"


def _short(value: object) -> str:
    words = json.dumps(value)
    return words if len(words) <= 40 else f"{words[:37]}..."


def finish(folder: Path, result: EvalResult) -> None:
    """Write results and summary so that readers see the old files or the new ones, never half."""
    data = b"".join(_line(row.to_dict()) for row in result.all_rows)
    _replace(folder / RESULTS, data)
    write_json(folder / SUMMARY, result.summary())
    record = read_json(folder / RUN)
    record["totals"] = result.summary()
    write_json(folder / RUN, record)


def load_result(folder: Path) -> EvalResult:
    """Read a run folder, finished or not.

    Args:
        folder: The folder.

    Returns:
        The rows so far.

    Raises:
        StorageError: If there is no run in the folder, or its record cannot be read.
    """
    if not (folder / RUN).exists():
        raise StorageError(f"there is no run in {folder} (no {RUN})")
    record = read_json(folder / RUN)
    version = record.get("run_version")
    if version != RUN_VERSION:
        raise StorageError(f"{folder} has run version {version}; this release reads {RUN_VERSION}")
    journal = Journal(folder)
    journal.read()
    sizes = record["sizes"]
    return EvalResult(
        all_rows=journal.rows(),
        usage=journal.usage,
        config=record["config"],
        folder=folder,
        **sizes,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        StorageError: If the file does not hold one.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise StorageError(f"{path} does not hold a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object at once."""
    record = {**value, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    _replace(path, json.dumps(record, indent=1).encode("ascii") + b"\n")


def _replace(path: Path, data: bytes) -> None:
    half = path.with_name(f"{path.name}.part{os.getpid()}")
    with writing(path.parent):
        half.write_bytes(data)
        half.replace(path)


@contextlib.contextmanager
def writing(folder: Path | None) -> Iterator[None]:
    """Turn a failed write into an error that names the folder.

    Raises:
        StorageError: If the write failed.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error}") from None


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
