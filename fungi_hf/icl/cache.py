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
from typing import TYPE_CHECKING, Any, Self

from fungi_hf.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

CACHE_VERSION = 2
_PATIENCE = 15  # tenths of a second
_APPLICATION_ID = 0x46554E47  # "FUNG"


def request_key(parts: Mapping[str, object]) -> str:
    """Give the sha256 in hexadecimal of the canonical JSON of all that an answer depends on."""
    versioned = {"cache_version": CACHE_VERSION, **parts}
    words = json.dumps(
        versioned, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:16]


class AnswerCache:
    """Raw replies by request key in one SQLite file; it and its folder are made when missing.

    All access runs in one thread of its own, so the object may be used from any thread and its
    futures awaited from any event loop. Several processes may share the file.

    Raises:
        CacheError: If path cannot be written, is a folder, not one of these databases, or of
            another version. The file is left as it was.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise CacheError(f"the answer cache {path} is a folder; give the path of a file")
        with self._facts():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path, timeout=10.0, isolation_level=None, check_same_thread=False
            )
        try:
            for _ in range(_PATIENCE):
                if self._prepare():
                    break
                time.sleep(0.1)  # another process is making the file
            else:
                raise CacheError(
                    f"{self.path} is an SQLite file of another program; give another path"
                )
        except BaseException:
            self._database.close()
            raise
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answer-cache")

    def read(self, key: str) -> Future[dict[str, Any] | None]:
        """Look up the reply stored under the key; None if there is none, or it was altered."""
        return self._thread.submit(self._read, key)

    def write(self, key: str, reply: Mapping[str, object]) -> Future[None]:
        """Store a reply; it is on its way to the disk when the future is done."""
        words = json.dumps(reply)
        words = f"{_digest(words)} {words}"
        insert = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)"
        return self._thread.submit(self._execute, insert, key, words, time.time())

    def close(self) -> None:
        """Finish pending writes and close the file; a second call does nothing."""
        self._thread.shutdown()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, key: str) -> dict[str, Any] | None:
        row = self._execute("SELECT reply FROM answers WHERE key = ?", key)
        try:
            digest, words = row[0].split(" ", 1) if row else ("", "null")
            if row and digest.startswith("{"):  # written before replies had digests
                digest, words = _digest(row[0]), row[0]
            reply = json.loads(words) if not row or digest == _digest(words) else None
        except (ValueError, TypeError, AttributeError):
            return None
        return reply if isinstance(reply, dict) else None

    def _prepare(self) -> bool:
        """Make the table, or see that it is there; False of a file that has no owner yet.

        Raises:
            CacheError: If the file is another program's or of another version.
        """
        self._execute("BEGIN IMMEDIATE")  # so that no other process is making the file meanwhile
        application = self._execute("PRAGMA application_id")[0]
        version = self._execute("PRAGMA user_version")[0]
        if not (application or version or self._execute("SELECT count(*) FROM sqlite_master")[0]):
            columns = "key TEXT PRIMARY KEY, reply TEXT NOT NULL, created REAL NOT NULL"
            self._execute(f"CREATE TABLE answers ({columns})")
            self._execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._execute(f"PRAGMA user_version = {CACHE_VERSION}")
        elif not application and not version:
            self._execute("ROLLBACK")
            return False
        elif application != _APPLICATION_ID:
            raise CacheError(f"{self.path} is an SQLite file of another program; give another path")
        elif version != CACHE_VERSION:
            reads = f"this release reads {CACHE_VERSION}; give another path"
            raise CacheError(f"the answer cache {self.path} has version {version}; {reads}")
        self._execute("COMMIT")
        with contextlib.suppress(CacheError):  # the mode only saves waiting; another may change it
            self._execute("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = NORMAL")
        return True

    def _execute(self, statement: str, *values: object) -> Any:
        with self._facts():
            return self._database.execute(statement, values).fetchone()

    @contextlib.contextmanager
    def _facts(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise CacheError(f"the answer cache {self.path} cannot be used: {error}") from None
