"""An OpenAI-compatible chat server on 127.0.0.1 for tests and dry runs without any model.

It reads the demonstrations back from the prompt, counts tokens, fails on request, and logs what it
saw but never a header.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
import weakref
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from fungi_hf.checks import check_number
from fungi_hf.errors import ConfigError
from fungi_hf.icl.server import policies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fungi_hf.icl.server.policies import FakeReply, Json, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One planned failure: an HTTP status, `delay_s` seconds after the server's latency.

    Status 0 sends nothing and closes the connection. `body` is sent in place of an error object
    with the message and the code, e.g. "insufficient_quota". `retry_after` (seconds, or an HTTP
    date as text) and `retry_after_ms` are headers.
    """

    status: int = 500
    code: str | None = None
    message: str = "planned failure"
    retry_after: float | str | None = None
    retry_after_ms: float | None = None
    body: bytes | None = None
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """What the server saw of one chat request; times are `time.monotonic()` seconds."""

    number: int
    arrival_s: float
    end_s: float
    status: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, and the tokens that it bills; status 0 closes the connection instead."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[int, int] = (0, 0)


def _error(fault: Fault) -> Response:
    named = {"Retry-After": fault.retry_after, "retry-after-ms": fault.retry_after_ms}
    headers = {name: str(value) for name, value in named.items() if value is not None}
    kind = "invalid_request_error" if fault.status < 429 else "server_error"
    error = {"message": fault.message, "type": kind, "param": None, "code": fault.code}
    body = json.dumps({"error": error}).encode() if fault.body is None else fault.body
    return Response(fault.status, body, headers)


class FakeOpenAIServer:
    """A chat-completion server in a thread; use it as a context manager.

    Args:
        policy: One of majority, nearest, reciprocal_rank, lookup, first_label, echo, invalid,
            empty, refusal, length; or a list of answers; or a function of the request's body.
        latency: Seconds that every answer takes.
        faults: A function of (request number, from 1 in order of arrival, and body) that gives an
            HTTP status, a `Fault`, or None for no fault. A fault with status 200 and no body, e.g.
            `Fault(status=200, delay_s=1)`, only delays.
        count_tokens: Text -> tokens, for `usage`; the default counts four bytes as one.
        table: Text -> label for the policy "lookup".
        api_key: If given, requests without this bearer key get status 401.
        port: 0 takes a free one.

    Raises:
        ConfigError: If the policy is unknown or latency is negative.

    Example:
        >>> with FakeOpenAIServer(policy="majority") as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self,
        policy: Policy = "majority",
        latency: float = 0.0,
        faults: Callable[[int, Json], int | Fault | None] | None = None,
        count_tokens: Callable[[str], int] | None = None,
        *,
        table: Mapping[str, str] | None = None,
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self._answer_to = policies.answers_of(policy, table)
        self._latency = check_number("latency", latency, 0)
        self._count = count_tokens or policies.estimate_tokens
        self.faults, self._api_key, self._port = faults, api_key, port
        self._lock = threading.Lock()
        self._arrived = self._in_flight = 0
        self._http: _Server | None = None
        self.log: list[LoggedRequest] = []
        self.max_in_flight = 0

    @property
    def url(self) -> str:
        """The base URL, ending in /v1.

        Raises:
            ConfigError: If the server was never started.
        """
        if not self._port:
            raise ConfigError("the server has no address before start(); use it in a with block")
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def prompt_tokens(self) -> int:
        """Input tokens billed so far."""
        return sum(entry.prompt_tokens for entry in self.log)

    @property
    def completion_tokens(self) -> int:
        """Output tokens billed so far."""
        return sum(entry.completion_tokens for entry in self.log)

    def start(self) -> Self:
        """Begin to listen; give the server itself."""
        self._http = _Server(("127.0.0.1", self._port), self)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        self._http = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def respond(self, raw: bytes, authorization: str) -> Response:
        """Answer the bytes of one chat request and log it."""
        arrival = time.monotonic()
        with self._lock:
            self._arrived += 1
            number = self._arrived
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
        response = Response(0, b"")
        try:
            response = self._answer(raw, authorization, number)
        finally:
            with self._lock:
                # Before the bytes leave: the client may send the next request at once.
                self._in_flight -= 1
                end = time.monotonic()
                billed = (response.status, *response.tokens)
                self.log.append(LoggedRequest(number, arrival, end, *billed))
        return response

    def _answer(self, raw: bytes, authorization: str, number: int) -> Response:
        time.sleep(self._latency)
        if self._api_key is not None and authorization != f"Bearer {self._api_key}":
            message = "Incorrect API key provided"
            return _error(Fault(status=401, message=message, code="invalid_api_key"))
        try:
            body = policies.check_request(json.loads(raw))
            fault = self.faults(number, body) if self.faults is not None else None
            fault = Fault(status=fault) if isinstance(fault, int) else fault
            if fault is not None:
                time.sleep(fault.delay_s)
                if fault.status != 200 or fault.body is not None:
                    return _error(fault)
            return self._complete(body, self._answer_to(body), number)
        except json.JSONDecodeError as error:
            message, code = f"the body is not JSON: {error}", "invalid_json"
        except policies.BadRequestError as error:
            message, code = str(error), "invalid_request"
        return _error(Fault(status=400, message=message, code=code))

    def _complete(self, body: Json, reply: str | FakeReply, number: int) -> Response:
        reply = policies.FakeReply(content=reply) if isinstance(reply, str) else reply
        # Three tokens of overhead for the request and for each message.
        asked = 3 + sum(3 + self._count(policies.message_text(m)) for m in body["messages"])
        said = self._count(reply.content or "")
        usage: Json = {"prompt_tokens": asked, "completion_tokens": said}
        usage["total_tokens"] = asked + said
        if reply.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": reply.cached_tokens}
        message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
        choice: Json = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        if body.get("logprobs"):
            ranked = sorted(reply.top_logprobs.items(), key=lambda pair: -pair[1])
            ranked = ranked[: body.get("top_logprobs", 0)]
            entries = [{"token": token, "logprob": math.log(share)} for token, share in ranked]
            first = entries[0] if entries else {"token": reply.content or "", "logprob": 0.0}
            choice["logprobs"] = {"content": [{**first, "top_logprobs": entries}]}
        completion = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "system_fingerprint": "fp_loopback",
            "choices": [choice],
            "usage": usage,
        }
        return Response(200, json.dumps(completion).encode(), tokens=(asked, said))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512  # the default of 5 resets connections when many workers start at once

    def __init__(self, address: tuple[str, int], owner: FakeOpenAIServer) -> None:
        self.owner = owner
        self._connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        super().server_close()
        for connection in self._connections:  # wakes threads that wait on a kept connection
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: a client that hangs up, or is killed, is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet
    server: _Server

    def do_GET(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        route = f"{self.command} {self.path.split('?')[0]}"
        if route == "POST /v1/chat/completions":
            response = self.server.owner.respond(raw, self.headers.get("Authorization", ""))
        elif route == "GET /v1/models":
            models = [{"id": "fake", "object": "model", "created": 0, "owned_by": "fungi-hf"}]
            response = Response(200, json.dumps({"object": "list", "data": models}).encode())
        else:
            response = _error(Fault(status=404, message=f"no such path: {self.path}"))
        if response.status == 0:
            self.close_connection = True
            return
        self.send_response(response.status)
        own = {"Content-Type": "application/json", "Content-Length": str(len(response.body))}
        for name, value in (own | dict(response.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.body)
        self.wfile.flush()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Keep standard error clean; `FakeOpenAIServer.log` has the facts."""
