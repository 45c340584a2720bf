"""Keep every complete answer that was paid for, so that no equal request is sent twice.

One SQLite file, one commit per answer, safe under `kill -9` and between processes. The key holds
everything that can change an answer and nothing secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from fungi_hf.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

JsonObject: TypeAlias = dict[str, Any]

CACHE_VERSION = 1
_APPLICATION_ID = 0x46554E47  # "FUNG"
_BUSY_S = 10.0
_MAGIC = b"SQLite format 3\x00"


def request_key(parts: Mapping[str, object]) -> str:
    """Give the sha256 of the canonical JSON of everything that an answer depends on.

    Args:
        parts: JSON values only: strings, finite numbers, booleans, None, lists, objects.

    Returns:
        64 hexadecimal digits.
    """
    versioned = {"cache_version": CACHE_VERSION, **parts}
    words = json.dumps(
        versioned, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()


class AnswerCache:
    """Raw replies by request key in one SQLite file.

    All access runs in one thread of its own, so the object may be used from any thread and its
    futures awaited from any event loop. Several processes may share the file.

    Args:
        path: The file; it and its folder are made when missing.

    Attributes:
        unreadable: Rows met so far that do not hold a JSON object; they count as missing.

    Raises:
        CacheError: If path is a folder, not one of these databases, or of another version. The
            file is left as it was.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.unreadable = 0
        _check_file(self.path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answer-cache")
        try:
            self._database = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def get(self, key: str) -> JsonObject | None:
        """Give a private copy of the reply stored under the key, or None."""
        return self.read(key).result()

    def put(self, key: str, reply: Mapping[str, object]) -> None:
        """Store a reply; it is on its way to the disk when this returns."""
        self.write(key, reply).result()

    def read(self, key: str) -> Future[JsonObject | None]:
        """Give the future of `get`."""
        return self._thread.submit(self._get, key)

    def write(self, key: str, reply: Mapping[str, object]) -> Future[None]:
        """Give the future of `put`."""
        return self._thread.submit(self._put, key, json.dumps(reply))

    def __len__(self) -> int:
        return int(self._thread.submit(self._count).result())

    def close(self) -> None:
        """Finish pending writes and close the file; a second call does nothing."""
        with contextlib.suppress(RuntimeError):  # the thread is gone already
            self._thread.submit(self._database.close).result()
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            with _facts(self.path):
                _prepare(database, self.path)
        except BaseException:
            database.close()
            raise
        return database

    def _get(self, key: str) -> JsonObject | None:
        with _facts(self.path):
            row = self._database.execute(
                "SELECT reply FROM answers WHERE key = ? AND version = ?", (key, CACHE_VERSION)
            ).fetchone()
        if row is None:
            return None
        try:
            reply = json.loads(row[0])
        except (ValueError, TypeError):
            reply = None
        if isinstance(reply, dict):
            return reply
        self.unreadable += 1
        return None

    def _put(self, key: str, reply: str) -> None:
        with _facts(self.path):
            self._database.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
                (key, reply, time.time(), CACHE_VERSION),
            )

    def _count(self) -> int:
        with _facts(self.path):
            return int(self._database.execute("SELECT count(*) FROM answers").fetchone()[0])


@contextlib.contextmanager
def _facts(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(f"the answer cache {path} cannot be used: {error}") from None


def _check_file(path: Path) -> None:
    """Refuse what is not ours before SQLite touches it.

    Raises:
        CacheError: If it is a folder or no SQLite file.
    """
    if path.is_dir():
        raise CacheError(f"the answer cache {path} is a folder; give the path of a file")
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise CacheError(f"{path} is not an SQLite file, so not an answer cache")


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    # Tables first: another process may make the table and the identity, together, in between.
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application, version = _identity(database)
    if (application, version) == (0, 0) and not tables:
        _create(database)
        application, version = _identity(database)
    if application != _APPLICATION_ID:
        raise CacheError(f"{path} is an SQLite file of another program, not an answer cache")
    if version != CACHE_VERSION:
        raise CacheError(
            f"the answer cache {path} has version {version}; this release reads {CACHE_VERSION}"
        )
    database.execute("PRAGMA synchronous = NORMAL")


def _identity(database: sqlite3.Connection) -> tuple[int, int]:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    return application, database.execute("PRAGMA user_version").fetchone()[0]


def _create(database: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _BUSY_S
    while True:  # the busy timeout does not cover a change of the journal mode
        try:
            database.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    database.execute("BEGIN IMMEDIATE")
    database.execute(
        "CREATE TABLE IF NOT EXISTS answers "
        "(key TEXT PRIMARY KEY, reply TEXT NOT NULL, created REAL NOT NULL, version INTEGER)"
    )
    database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {CACHE_VERSION}")
    database.execute("COMMIT")
