"""A Hub of data sets on this machine: what `datasets` asks for when it loads a repository."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.fake_hub import TOKEN, FakeHub, Repo, _Handler


@dataclass
class DataHub(FakeHub):
    """Data sets are under "datasets/OWNER/NAME".

    Attributes:
        gated: Repositories that only the owner may download from.
        asked: (repository, revision) of every file that was downloaded.
    """

    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def start(self) -> ThreadingHTTPServer:
        hub = self

        class Handler(_DataHandler):
            memory = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def put_data(self, repo_id: str, files: dict[str, bytes], revision: str = "main") -> str:
        repo = self.repos.setdefault(f"datasets/{repo_id}", Repo())
        return repo.commit(revision, files)


class _DataHandler(_Handler):
    memory: DataHub

    def _get(self) -> None:
        raw = self.path.split("?")[0]
        if raw.startswith("/api/datasets/"):
            self._data_info(raw.removeprefix("/api/datasets/"))
        elif raw.startswith("/datasets/") and "/resolve/" in raw:
            name, _, rest = raw[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            if self._may_download(name):
                self.memory.asked.append((name, unquote(revision)))
                self._file(name, unquote(revision), unquote(file))
        else:
            super()._get()

    def do_POST(self) -> None:  # noqa: N802  (the server's name)
        raw = self.path.split("?")[0]
        body = self._body()
        owner, name, action, revision = raw.removeprefix("/api/datasets/").split("/")[:4]
        repo = self._repo(f"datasets/{owner}/{name}")
        if repo is None or action != "paths-info":
            return
        text = body.decode()
        if text.startswith("{"):
            wanted = json.loads(text)["paths"]
        else:
            pairs = [one.partition("=") for one in text.split("&")]
            wanted = [unquote(value) for key, _, value in pairs if key == "paths"]
        files = repo.commits[repo.find(unquote(revision)) or ""]
        self._json(200, [_entry(path, files) for path in wanted if _is_there(path, files)])

    def _may_download(self, name: str) -> bool:
        is_owner = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name in self.memory.gated and not is_owner:
            self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            return False
        return True

    def _data_info(self, path: str) -> None:
        owner, name, *rest = path.split("/")
        key = f"datasets/{owner}/{name}"
        repo = self._repo(key)
        if repo is None:
            return
        if rest[:1] == ["auth-check"]:
            if self._may_download(key):
                self._json(200, {})
            return
        revision = unquote(rest[1]) if len(rest) > 1 else "main"
        sha = repo.find(revision)
        if sha is None:
            self._missing("RevisionNotFound")
            return
        files = repo.commits[sha]
        if rest[:1] == ["tree"]:
            self._tree(files, unquote("/".join(rest[2:])))
            return
        siblings = [{"rfilename": p, "size": len(b)} for p, b in files.items()]
        facts = {"id": f"{owner}/{name}", "sha": sha, "siblings": siblings, "private": False}
        gated = "manual" if key in self.memory.gated else False
        self._json(
            200,
            {**facts, "gated": gated, "disabled": False, "downloads": 0, "likes": 0, "tags": []},
        )

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        start = f"{folder}/" if folder else ""
        inside = [path for path in files if path.startswith(start)]
        if folder and not inside:
            self._missing("EntryNotFound")
            return
        paths = set(inside)
        for path in inside:
            parts = path.split("/")[:-1]
            paths |= {"/".join(parts[: n + 1]) for n in range(len(parts))}
        if "recursive=True" not in self.path and "recursive=true" not in self.path:
            paths = {p for p in paths if "/" not in p.removeprefix(start)}
        self._json(200, [_entry(p, files) for p in sorted(paths) if p.startswith(start)])


def _is_there(path: str, files: dict[str, bytes]) -> bool:
    return path in files or any(one.startswith(f"{path}/") for one in files)


def _entry(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    if path in files:
        return {"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40}
    return {"type": "directory", "path": path, "oid": "0" * 40}
