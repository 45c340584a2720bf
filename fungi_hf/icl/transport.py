"""Send chat requests through the `openai` package, whose own loop repeats them.

The loop waits between attempts: 0.5 s, doubled up to 8 s, shorter by up to a quarter by chance.
Every attempt passes one door here: the gate admits it, the body is put in, the answer is judged,
and the header `x-should-retry` tells the loop whether to go on. So quotas, waits and errors mean
the same with every release of `openai`, its logs never hold a prompt, no exception holds headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import re
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import openai

from fungi_hf.errors import LLMAuthError, LLMError, RequestFailedError
from fungi_hf.icl.faults import Failure, read_answer
from fungi_hf.icl.limits import Gate
from fungi_hf.icl.reply import read_usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fungi_hf.icl.limits import Limits, SlidingWindow
    from fungi_hf.icl.reply import Payload, Reply

    Send: TypeAlias = Callable[[Any], Awaitable[Any]]

_BROKEN = Failure(kind="retry", message="the connection broke before an answer")
# httpx under openai 2.x, httpx2 under 3.x
_HTTP: Any = importlib.import_module(
    openai.DefaultAsyncHttpxClient.__bases__[0].__module__.partition(".")[0]
)


@dataclass(slots=True)
class Exchange:
    """One request with all its attempts."""

    body: bytes
    estimate: int  # tokens that an attempt is expected to take
    attempts: int = 0
    outcome: Payload | Failure = _BROKEN  # of the last attempt


_EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")  # of the request that the task sends


class Transport:
    """What belongs to one event loop: the HTTP client, the gate, the requests in flight by key.

    The API key is sent and appears nowhere else. `proxies` obeys those that the environment names.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        limits: Limits,
        window: SlidingWindow,
        more: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
        *,
        proxies: bool,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.in_flight: dict[str, asyncio.Task[Reply]] = {}
        headers, query = more  # beside the client's own
        self._secrets = [one for one in (api_key, *headers.values()) if one != "none"]
        self._limits = limits
        self._gate = Gate(limits, window)
        self._unreachable, self._reached, self._answered = 0, False, False
        self._alike: tuple[str, int] = ("", 0)  # what the latest rows failed with, how many of them
        http = _Client(trust_env=proxies)
        http.door = self._attempt
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=limits.max_attempts - 1,
            timeout=limits.timeout,
            http_client=http,
            default_headers=dict(headers),
            default_query=dict(query),
        )

    async def ask(self, body: Mapping[str, object], estimate: int) -> tuple[Payload | Failure, int]:
        """Give the completion, or a failure that settles the row; and the number of attempts.

        `estimate` is what prompt and answer may take in tokens.

        Raises:
            LLMError: If the run has to stop.
            LLMAuthError: If credentials were refused.
            RequestFailedError: If the attempts are used up.
        """
        # Escaped JSON carries every text, lone surrogates included, and skips the client's walk
        # over the messages, which costs more than the request itself.
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
        exchange = Exchange(data, estimate)
        token = _EXCHANGE.set(exchange)
        try:
            with contextlib.suppress(openai.OpenAIError):  # the exchange holds the verdict
                await self._client.post("/chat/completions", cast_to=_HTTP.Response)
        finally:
            _EXCHANGE.reset(token)
        outcome, attempts = exchange.outcome, exchange.attempts
        if not isinstance(outcome, Failure) or outcome.kind in ("refused", "overflow"):
            self._answered, self._alike = True, ("", 0)
            return outcome, attempts
        message = outcome.message
        for secret in self._secrets:
            message = message.replace(secret, "[hidden]")
        if outcome.kind == "retry" or (outcome.kind == "row" and self._answered):
            self._count_alike(message)
            raise RequestFailedError(message, attempts)
        raise LLMAuthError(message) if outcome.kind == "auth" else LLMError(message)

    def _count_alike(self, message: str) -> None:
        """Stop where row after row fails with the same words, numbers aside.

        Raises:
            LLMError: If so many have.
        """
        words = re.sub(r"\d+", "0", message)
        self._alike = (words, self._alike[1] + 1 if self._alike[0] == words else 1)
        stop = self._limits.stop_after
        if stop is not None and self._alike[1] >= stop:
            raise LLMError(f"the last {stop} rows failed alike, so the run stops: {message}")

    async def close(self) -> None:
        """Cancel what is in flight, then close all connections."""
        tasks = list(self.in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _attempt(self, request: Any, send: Send) -> Any:
        """Make one attempt of the client's loop; give it the answer or the verdict."""
        exchange = _EXCHANGE.get()
        headers = [pair for pair in request.headers.multi_items() if pair[0] != "content-length"]
        options = {"headers": headers, "content": exchange.body, "extensions": request.extensions}
        request = _HTTP.Request(request.method, request.url, **options)
        exchange.attempts += 1
        ticket = await self._gate.enter(exchange.estimate)
        used = exchange.estimate
        try:
            response, outcome = await self._sent(request, send, exchange.attempts)
            if not isinstance(outcome, Failure):
                reported = read_usage(outcome)
                used = reported.total_tokens if reported.input_tokens else used
            elif outcome.wait_s is not None:
                self._gate.close_for(outcome.wait_s)  # before the slot is free for another worker
        finally:
            self._gate.leave(ticket, used)
        exchange.outcome = outcome
        if not isinstance(outcome, Failure):
            return response
        verdict = {"x-should-retry": "true" if outcome.kind == "retry" else "false"}
        return _HTTP.Response(503, headers=verdict, request=request)

    async def _sent(self, request: Any, send: Send, attempt: int) -> tuple[Any, Payload | Failure]:
        seconds, reached = self._limits.timeout, True
        try:
            async with asyncio.timeout(seconds):
                response = await send(request)
        except TimeoutError:
            message = f"no answer within {seconds:g} s"
        except _HTTP.HTTPError as error:
            message = f"no answer from the server ({type(error).__name__}: {error})"
            reached = not isinstance(error, (_HTTP.ConnectError, _HTTP.ConnectTimeout))
        else:
            self._reached = True
            answer = response.status_code, response.headers, response.content
            return response, read_answer(*answer, self._limits)
        self._reached |= reached
        self._unreachable += not self._reached and attempt == 1
        if self._reached or self._unreachable < 10:
            return None, Failure(kind="retry", message=message)
        message = f"the first {self._unreachable} requests could not connect: {message}"
        return None, Failure(kind="fatal", message=message)


class _Client(openai.DefaultAsyncHttpxClient):
    """The package's HTTP client with a door before every attempt."""

    door: Callable[[Any, Send], Awaitable[Any]]

    async def send(self, request: Any, **options: Any) -> Any:
        """Send one attempt through the door."""
        return await self.door(request, partial(super().send, **options))
