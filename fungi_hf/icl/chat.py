"""Ask any OpenAI-compatible server; no equal request is sent twice.

The key is sent to the server and stored nowhere: not in the cache, not in records, not in errors.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args
from urllib.parse import parse_qsl, urlsplit

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError, LLMAuthError, OptionalDependencyError
from fungi_hf.icl.cache import AnswerCache, request_key
from fungi_hf.icl.faults import Failure
from fungi_hf.icl.limits import SlidingWindow
from fungi_hf.icl.model import LLM
from fungi_hf.icl.prompt import PROMPT_VERSION
from fungi_hf.icl.reply import Reply, first_token_scores, read_reply
from fungi_hf.icl.sampling import OutputMode, Sampling, response_format, schema_fits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.icl.limits import Limits
    from fungi_hf.icl.prompt import Prompt
    from fungi_hf.icl.reply import Payload
    from fungi_hf.icl.task import Task
    from fungi_hf.icl.transport import Transport

_GREEDY = Sampling()


class ChatLLM(LLM):
    """A chat model behind an OpenAI-compatible endpoint.

    Args:
        model: The model's name, as the server knows it.
        base_url: e.g. "http://127.0.0.1:8000/v1"; else the environment's OPENAI_BASE_URL, else
            OpenAI's own.
        api_key: The bearer key; else the environment's OPENAI_API_KEY; a loopback server needs
            none.
        output: "enum" (a JSON schema that allows the labels only; free answers are asked for as
            "text"), "text" (the label alone), or "json" (a JSON object without schema). Answers are
            parsed here in every mode.
        limits: Concurrency, rates, attempts and waits.
        sampling: Temperature and the like.
        cache: A path or an `AnswerCache`; complete answers that can be read are kept there.
        headers: More headers of every request, e.g. {"api-key": ...} (Azure); their values are
            kept as secret as the key.
        query: Query of every request, e.g. {"api-version": "2024-10-21"}; it may stand in
            `base_url`, too.

    Raises:
        ConfigError: If an argument is unusable.
        CacheError: If the cache is.
    """

    def __init__(  # noqa: PLR0913  (each is an option of its own)
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        output: OutputMode = "enum",
        limits: Limits | None = None,
        sampling: Sampling | None = None,
        cache: AnswerCache | str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            raise ConfigError(f"model must be a name, got {model!r}")
        check_choice("output", output, get_args(OutputMode))
        if api_key is not None and not (isinstance(api_key, str) and api_key.strip()):
            raise ConfigError("api_key must be a non-empty string or None")
        self.model, self.output = model, output
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.base_url, asked = _checked_url(base_url)
        self._headers, self.query = _pairs("headers", headers), {**asked, **_pairs("query", query)}
        self.limits, self.sampling = limits or LLM.limits, sampling or _GREEDY
        self._fields = self.sampling.fields()
        self._api_key = api_key
        self._owns_cache = not isinstance(cache, AnswerCache)
        self.cache = AnswerCache(cache) if isinstance(cache, (str, Path)) else cache
        self._window = SlidingWindow(self.limits.rpm, self.limits.tpm)
        self._transport: Transport | None = None
        self._warned = False

    def __repr__(self) -> str:
        return f"ChatLLM({self.model!r}, base_url={self.base_url!r}, output={self.output!r})"

    @property
    def name(self) -> str:
        """Kind and model."""
        return f"chat:{self.model}"

    def describe(self) -> dict[str, object]:
        """Give everything that an answer depends on, for a run's record; no secrets."""
        return {
            "kind": "chat",
            "model": self.model,
            "base_url": self.base_url,
            "output": self.output,
            "sampling": self._fields,
            "repair": self.limits.repair,
            **({"query": self.query} if self.query else {}),
            **({"headers": sorted(self._headers)} if self._headers else {}),
        }

    def prompt_output(self, labels: Task) -> OutputMode:
        """Give the form of answers that prompts should show.

        "text" takes the place of "enum" for free answers and, with one warning, if a schema cannot
        hold the labels.

        Raises:
            ConfigError: If scores of labels are asked for where there are no labels.
        """
        if not labels.surfaces:
            if self.sampling.top_logprobs is not None:
                raise ConfigError("top_logprobs gives scores of labels; free answers have none")
            return "text" if self.output == "enum" else self.output
        if self.output != "enum" or schema_fits(labels.surfaces):
            return self.output
        if not self._warned:
            self._warned = True
            n_letters = sum(map(len, labels.surfaces))
            warnings.warn(
                f"{len(labels.surfaces)} labels with {n_letters} characters are "
                "more than a response schema may hold; output='text' is used instead of 'enum'",
                stacklevel=2,
            )
        return "text"

    def request(self, prompt: Prompt, labels: Task) -> tuple[dict[str, Any], str]:
        """Give the body of a request, and its identity."""
        body = {"model": self.model, "messages": list(prompt.messages), **self._fields}
        form = response_format(self.prompt_output(labels), labels.surfaces)
        if form is not None:
            body["response_format"] = form
        identity = {"prompt_version": PROMPT_VERSION, "kind": "chat", "base_url": self.base_url}
        if self.query:
            identity["query"] = json.dumps(self.query, sort_keys=True)
        return body, request_key({**identity, "request": body, "draw": prompt.draw})

    @property
    def max_output_tokens(self) -> int:
        """The most tokens of an answer."""
        return self.sampling.max_output_tokens

    def is_cached(self, prompt: Prompt, labels: Task) -> bool:
        """Say whether the answer is in the cache, so that nothing would be sent."""
        if self.cache is None:
            return False
        return self.cache.read(self.request(prompt, labels)[1]).result() is not None

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse what can be known to fail before the first request.

        A missing key raises `LLMAuthError`, a missing package `OptionalDependencyError`.

        Raises:
            ConfigError: If a request is larger than `limits.tpm`.
        """
        self._key_to_send()
        tpm = self.limits.tpm
        for row, prompt in enumerate(prompts):
            tokens = prompt.input_tokens + self.max_output_tokens
            if tpm is not None and tokens > tpm:
                raise ConfigError(
                    f"row {row} takes {tokens} tokens (input {prompt.input_tokens}, output up to "
                    f"{self.max_output_tokens}), more than tpm={tpm}"
                )

    async def answer(self, prompt: Prompt, labels: Task) -> Reply:
        """Answer one prompt, from the cache if it was answered before; see `LLM.answer`."""
        transport = self._connected()
        body, key = self.request(prompt, labels)
        shared = transport.in_flight.get(key)
        if shared is not None:
            return (await asyncio.shield(shared)).free()
        task = asyncio.create_task(self._answer(prompt, labels, body, key))
        transport.in_flight[key] = task
        task.add_done_callback(lambda _: transport.in_flight.pop(key, None))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Stop what is in flight and close the connections; the next answer opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None and transport.loop is asyncio.get_running_loop():
            await transport.close()

    def close(self) -> None:
        """Close the cache if it was opened here."""
        if self.cache is not None and self._owns_cache:
            self.cache.close()

    async def _answer(self, prompt: Prompt, labels: Task, body: dict[str, Any], key: str) -> Reply:
        if self.cache is not None:
            stored = await asyncio.wrap_future(self.cache.read(key))
            if stored is not None:
                return self.reply(stored, labels).free()
        transport, reply, repairs = self._connected(), Reply(), self.limits.repair
        tokens = prompt.input_tokens + self.max_output_tokens
        while True:
            outcome, attempts = await transport.ask(body, tokens)
            reply = self.reply(outcome, labels, attempts).after(reply)
            if reply.failure or (self.cache is None and not repairs):
                return reply
            answer = labels.parse(reply.content)
            if answer.status == "ok" or not repairs:
                break
            repairs -= 1
            said = f"{answer.reason} {labels.reminder}"
            turns = {"assistant": reply.content, "user": said}.items()
            asked = [{"role": role, "content": words} for role, words in turns]
            body = {**body, "messages": [*body["messages"], *asked]}
        if self.cache is not None and reply.finish_reason == "stop" and answer.status == "ok":
            await asyncio.wrap_future(self.cache.write(key, cast("Payload", outcome)))
        return reply

    def reply(self, outcome: Payload | Failure, labels: Task, attempts: int = 0) -> Reply:
        """Read what a request gave: a completion, or a failure that settles the row."""
        if isinstance(outcome, Failure):
            reason = "overflow" if outcome.kind == "overflow" else "content_filter"
            return Reply(finish_reason=reason, attempts=attempts)
        reply = read_reply(outcome, attempts)
        if self.sampling.top_logprobs is None or self.prompt_output(labels) != "text":
            return reply
        return replace(reply, label_scores=first_token_scores(outcome, labels.surfaces))

    def _key_to_send(self) -> str:
        key = self._api_key or os.environ.get("OPENAI_API_KEY")
        if importlib.util.find_spec("openai") is None:
            raise OptionalDependencyError("openai", "icl")
        if not key and not _is_loopback(self.base_url) and not self._brings_key():
            raise LLMAuthError(
                f"no API key for {self.base_url}; pass api_key= or set OPENAI_API_KEY "
                "(only servers on this machine need none)"
            )
        return key or "none"

    def _brings_key(self) -> bool:
        return bool({name.lower() for name in self._headers} & {"authorization", "api-key"})

    def _connected(self) -> Transport:
        if self._transport is None or self._transport.loop is not asyncio.get_running_loop():
            url, key = self.base_url, self._key_to_send()
            from fungi_hf.icl.transport import Transport

            # A proxy from the environment cannot reach this machine's own servers.
            proxies = not _is_loopback(url)
            more = (self._headers, self.query)
            self._transport = Transport(url, key, self.limits, self._window, more, proxies=proxies)
        return self._transport


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _pairs(name: str, given: Mapping[str, str] | None) -> dict[str, str]:
    texts = isinstance(given, Mapping) and all(
        isinstance(one, str) for p in given.items() for one in p
    )
    if given is not None and not texts:
        raise ConfigError(f"{name} must be a dictionary of texts, or None")
    return dict(given or {})


def _checked_url(base_url: str) -> tuple[str, dict[str, str]]:
    # http(s)://host[:port]/path, not the endpoint's own, without its final slash; and its query.
    form = "the form is https://host/v1"
    if not isinstance(base_url, str):
        raise ConfigError(f"base_url must be a string, got {type(base_url).__name__}; {form}")
    base_url = base_url.strip()
    parts = urlsplit(base_url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    secret = [name for name in query if re.search(r"key|token|secret|sig", name, re.IGNORECASE)]
    if parts.username is not None or parts.password is not None or secret:
        raise ConfigError(f"base_url must not carry credentials; pass api_key= or headers=; {form}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url {base_url!r} has no scheme or host; {form}")
    url = base_url.partition("?")[0].rstrip("/")
    if url.endswith("/chat/completions"):
        raise ConfigError(f"base_url {base_url!r} must not end in /chat/completions; {form}")
    return url, query
