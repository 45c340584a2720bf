"""A Hub on this machine: repositories in memory, commits, private ones, and faults on demand.

It speaks the part of the Hub's protocol that creating, listing, committing and downloading need.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_the_owner"


@dataclass
class Repo:
    """Branches of one repository; a commit's name is the digest of its files."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    pulls: int = 0

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False)
        sha = digest.hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        return self.branches.get(revision)


@dataclass
class FakeHub:
    """The server's memory.

    Attributes:
        faults: (method, end of the path) -> what to answer before behaving: status codes, or "cut"
            for a connection that breaks in the middle of the body.
        seen: "METHOD path" -> number of requests.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: dict[tuple[str, str], list[int | str]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            memory = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def put(self, repo_id: str, files: dict[str, bytes], *, private: bool = False) -> str:
        repo = self.repos.setdefault(repo_id, Repo(private=private))
        return repo.commit("main", files)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return repo.commits[repo.branches.get(revision, revision)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    memory: FakeHub

    def log_message(self, *args: Any) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _fault(self) -> bool:
        path = self._path()
        self.memory.seen[f"{self.command} {path}"] += 1
        for (method, end), answers in self.memory.faults.items():
            if method == self.command and path.endswith(end) and answers:
                answer = answers.pop(0)
                if answer == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.send_header("ETag", '"cut"')
                    self.end_headers()
                    self.wfile.write(b"half")
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self._json(int(answer), {"error": "on demand"})
                return True
        return False

    def _path(self) -> str:
        return unquote(self.path.split("?")[0])

    def _may_read(self, repo: Repo) -> bool:
        return not repo.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _get(self) -> None:
        if self._fault():
            return
        path = self._path()
        if path == "/api/whoami-v2":
            self._json(200, {"name": "owner", "auth": {"accessToken": {"role": "write"}}})
        elif path.startswith("/api/models/"):
            self._info(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            name, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            self._file(name, revision, file)
        else:
            self._missing("EntryNotFound")

    def _repo(self, name: str) -> Repo | None:
        repo = self.memory.repos.get(name)
        if repo is None or not self._may_read(repo):
            self._json(401, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def _info(self, path: str) -> None:
        parts = path.split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        repo = self._repo(name)
        if repo is None:
            return
        revision = rest[1] if len(rest) > 1 else "main"
        sha = repo.find(revision)
        if sha is None:
            self._missing("RevisionNotFound")
            return
        files = repo.commits[sha]
        if rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in files.items()
            ]
            self._json(200, entries)
            return
        siblings = [{"rfilename": p} for p in files]
        self._json(200, {"id": name, "sha": sha, "siblings": siblings, "private": repo.private})

    def _file(self, name: str, revision: str, file: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        sha = repo.find(revision)
        if sha is None:
            self._missing("RevisionNotFound")
            return
        body = repo.commits[sha].get(file)
        if body is None:
            self._missing("EntryNotFound", {"X-Repo-Commit": sha})
            return
        etag = hashlib.sha256(body).hexdigest()
        self._send(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": sha})

    def do_POST(self) -> None:
        body = self._body()
        if self._fault():
            return
        path = self._path()
        if path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        else:
            parts = path.removeprefix("/api/models/").split("/")
            self._write("/".join(parts[:2]), parts[2], parts[3], body)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'owner'}/{wanted['name']}"
        if name in self.memory.repos:
            self._json(409, {"error": "exists", "url": f"{self.memory.url}/{name}"})
            return
        self.memory.repos[name] = Repo(
            private=bool(wanted.get("private")) or wanted.get("visibility") == "private"
        )
        self.memory.repos[name].commit("main", {})
        self._json(200, {"url": f"{self.memory.url}/{name}", "name": name, "id": name})

    def _write(self, name: str, action: str, revision: str, body: bytes) -> None:
        repo = self.memory.repos.get(name)
        if repo is None:
            self._missing("RepoNotFound")
        elif action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            self._json(200, {"files": files})
        elif action == "branch":
            repo.branches[revision] = repo.branches["main"]
            self._json(200, {})
        elif action == "commit":
            self._commit(name, repo, revision, body)
        else:
            self._missing("EntryNotFound")

    def _commit(self, name: str, repo: Repo, revision: str, body: bytes) -> None:
        files = dict(repo.commits[repo.branches[revision]])
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[entry["value"]["path"]]
        extra = {}
        if "create_pr=1" in self.path:
            repo.pulls += 1
            revision = f"refs/pr/{repo.pulls}"
            extra = {"pullRequestUrl": f"{self.memory.url}/{name}/discussions/{repo.pulls}"}
        sha = repo.commit(revision, files)
        url = f"{self.memory.url}/{name}/commit/{sha}"
        self._json(200, {"success": True, "commitOid": sha, "commitUrl": url, **extra})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._json(404, {"error": code}, {"X-Error-Code": code, **(headers or {})})

    def _json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self._send(status, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
