"""Send one chat request through the `openai` package and report what happened, never raising.

The package's own retries are off, and its exceptions, which carry headers, do not leave here.
"""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fungi_hf.errors import ConfigError, OptionalDependencyError
from fungi_hf.icl.retry import Failure, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.icl.limits import Limits

PATH = "/chat/completions"
_HIDDEN = "[hidden]"


def is_loopback(base_url: str) -> bool:
    """Say whether the URL names this machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_url(base_url: str) -> str:
    """Give the base URL without a final slash.

    Args:
        base_url: What the user gave.

    Returns:
        The same URL.

    Raises:
        ConfigError: If it is not of the form http(s)://host[:port]/path, names the endpoint
            itself, or carries credentials.
    """
    form = "the form is https://host/v1"
    if not isinstance(base_url, str):
        raise ConfigError(f"base_url must be a string, got {type(base_url).__name__}; {form}")
    parts = urlsplit(base_url)
    if parts.username is not None or parts.password is not None or parts.query:
        raise ConfigError(f"base_url must not carry credentials or a query; {form}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url {base_url!r} has no scheme or host; {form}")
    url = base_url.rstrip("/")
    if url.endswith(PATH):
        raise ConfigError(f"base_url {base_url!r} must not end in {PATH}; {form}")
    return url


class Transport:
    """One HTTP client for one event loop.

    Args:
        base_url: A checked base URL.
        api_key: The bearer key; it is sent and appears nowhere else.
        limits: The timeout and the clock.

    Raises:
        OptionalDependencyError: If `openai` is not installed.
    """

    def __init__(self, base_url: str, api_key: str, limits: Limits) -> None:
        try:
            import openai
        except ImportError:
            raise OptionalDependencyError("openai", "icl") from None
        self._key, self._limits = api_key, limits
        http_client = None
        if is_loopback(base_url):
            # A proxy from the environment cannot reach this machine's own servers.
            # 2.x names the second client too, but brings only the first.
            is_new = int(openai.__version__.partition(".")[0]) >= 3
            name = "DefaultAsyncHttpx2Client" if is_new else "DefaultAsyncHttpxClient"
            http_client = getattr(openai, name)(trust_env=False)
        self._client: Any = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            timeout=limits.timeout,
            http_client=http_client,
        )
        takes_content = "content" in inspect.signature(self._client.post).parameters
        self._field = "content" if takes_content else "body"
        self._errors = openai.APIStatusError, openai.APIConnectionError, openai.OpenAIError

    async def send(self, body: Mapping[str, object]) -> dict[str, Any] | Failure:
        """Make one attempt.

        Args:
            body: The request, JSON values only.

        Returns:
            The decoded completion, or what went wrong.
        """
        # Escaped JSON carries every text, lone surrogates included, and skips the client's walk
        # over the messages, which costs more than the request itself.
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
        status, connection, anything = self._errors
        failure: Failure | None = None
        try:
            async with asyncio.timeout(self._limits.timeout):
                payload = await self._client.post(PATH, cast_to=object, **{self._field: data})
        except status as error:
            wall = self._limits.clock.wall()
            failure = judge(error.status_code, error.response.headers, error.body, wall)
        except TimeoutError:
            seconds = self._limits.timeout
            failure = Failure(kind="retry", message=f"no answer within {seconds:g} s")
        except connection as error:
            failure = _connection_failure(error)
        except (anything, ValueError) as error:
            failure = Failure(kind="retry", message=f"unreadable answer: {type(error).__name__}")
        if failure is not None:
            return self._without_key(failure)
        if not isinstance(payload, dict):
            return Failure(kind="retry", message="the answer's body is not a JSON object")
        return payload

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _without_key(self, failure: Failure) -> Failure:
        message = failure.message.replace(self._key, _HIDDEN) if self._key else failure.message
        return Failure(
            kind=failure.kind,
            message=message,
            wait_s=failure.wait_s,
            throttled=failure.throttled,
            unreachable=failure.unreachable,
        )


def _connection_failure(error: BaseException) -> Failure:
    cause = type(error.__cause__).__name__ if error.__cause__ is not None else ""
    words = f"{type(error).__name__}: {cause or error}"
    return Failure(
        kind="retry",
        message=f"no answer from the server ({words})",
        unreachable=cause in ("ConnectError", "ConnectTimeout"),
    )
