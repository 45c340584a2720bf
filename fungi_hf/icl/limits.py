"""Hold requests back: never more in flight, per minute or in tokens per minute than allowed."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, get_args

from fungi_hf.checks import check_choice, check_fields, check_integer, check_number
from fungi_hf.errors import ConfigError

WINDOW_S = 60.0
Retryable = Literal["refused", "empty", "length"]


class Clock:
    """The machine's own time; a test hands in a clock whose minutes pass at once."""

    def now(self) -> float:
        """Give the monotonic time in seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Give seconds since 1970, to read dates in headers."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the event loop."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How fast and how persistently requests are sent.

    Attributes:
        concurrency: Most requests in flight.
        rpm: Most requests in any 60 seconds; None for no limit. Retries count.
        tpm: Most tokens in any 60 seconds, input plus output; None for no limit.
        max_attempts: Most requests for one row, the first included; the waits between them are
            those of the `openai` client: 0.5 s, doubled up to 8 s, or the server's if longer.
        timeout: Seconds after which an attempt counts as failed.
        max_wait: Longest wait in seconds that a server may ask for; a longer one stops the run.
            While a server's wait lasts, no request is sent for any row.
        repair: How often an answer outside the label list is sent back for correction.
        stop_after: A run stops when so many rows one after the other fail with the same words, or
            when twice as many first rows give no label at all; None goes on.
        ask_again: Statuses that a resumed run asks again: "refused", "empty", "length".
        clock: Where time comes from.

    Raises:
        ConfigError: If a value is out of range.
    """

    concurrency: int = 16
    rpm: int | None = None
    tpm: int | None = None
    max_attempts: int = 6
    timeout: float = 60.0
    max_wait: float = 120.0
    repair: int = 0
    stop_after: int | None = 10
    ask_again: tuple[Retryable, ...] = ()
    clock: Clock = field(default_factory=Clock, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, ("concurrency", "max_attempts"), check_integer, 1)
        check_fields(self, ("rpm", "tpm", "stop_after"), check_integer, 1, optional=True)
        check_fields(self, ("repair",), check_integer, 0)
        check_fields(self, ("timeout", "max_wait"), check_number, 0, inclusive="neither")
        if isinstance(self.ask_again, str):
            raise ConfigError(f"ask_again is one string ({self.ask_again!r}); pass a tuple")
        for status in self.ask_again:
            check_choice("a status in ask_again", status, get_args(Retryable))


@dataclass(slots=True)
class Ticket:
    """One admitted request: when it last could have reached the server, and its tokens."""

    time_s: float
    tokens: int
    open: bool = True


class SlidingWindow:
    """Bounds on requests and tokens in any window of `WINDOW_S` seconds; None is no bound.

    A request counts from its admission until `WINDOW_S` seconds after its answer: whenever
    between the two the server saw it, no window of the server's holds more than allowed.
    """

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        self.rpm, self.tpm = rpm or math.inf, tpm or math.inf
        self._closed: deque[Ticket] = deque()  # in order of time_s
        self._open = self._charged = 0

    def delay(self, now: float, tokens: int) -> float | None:
        """Give the seconds that a request has to wait; None if only an answer can make room."""
        while self._closed and self._closed[0].time_s <= now - WINDOW_S:
            self._charged -= self._closed.popleft().tokens
        count, charged = len(self._closed) + self._open, self._charged
        if self._admits(count, charged, tokens):
            return 0.0
        for ticket in self._closed:
            count, charged = count - 1, charged - ticket.tokens
            if self._admits(count, charged, tokens):
                return ticket.time_s + WINDOW_S - now
        return None

    def admit(self, now: float, tokens: int) -> Ticket:
        """Count a request as started."""
        self._open += 1
        self._charged += tokens
        return Ticket(now, tokens)

    def settle(self, ticket: Ticket, now: float, tokens: int) -> None:
        """Count a request as answered, with the tokens that it really took."""
        if not ticket.open:
            return
        ticket.open = False
        self._open -= 1
        self._charged += tokens - ticket.tokens
        ticket.time_s, ticket.tokens = now, tokens
        self._closed.append(ticket)

    def _admits(self, count: int, charged: int, tokens: int) -> bool:
        return count < self.rpm and charged + tokens <= self.tpm


class Gate:
    """Where every attempt of one event loop waits for room, in order of arrival."""

    def __init__(self, limits: Limits, window: SlidingWindow) -> None:
        self._clock, self._window = limits.clock, window
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._queue = asyncio.Lock()
        self._settled = asyncio.Event()
        self._closed_until = -math.inf

    def close_for(self, seconds: float) -> None:
        """Let nobody start before that many seconds have passed."""
        self._closed_until = max(self._closed_until, self._clock.now() + seconds)

    async def enter(self, tokens: int) -> Ticket:
        """Wait for room, then count the request as started."""
        async with self._queue:
            await self._slots.acquire()
            try:
                while True:
                    now = self._clock.now()
                    # Cleared before the question, so that an answer meanwhile is not missed.
                    self._settled.clear()
                    room = self._window.delay(now, tokens)
                    if room is None:
                        await self._settled.wait()
                        continue
                    wait = max(room, self._closed_until - now)
                    if wait <= 0:
                        return self._window.admit(now, tokens)
                    await self._clock.sleep(wait)
            except BaseException:
                self._slots.release()
                raise

    def leave(self, ticket: Ticket, tokens: int) -> None:
        """Count the request as answered."""
        self._window.settle(ticket, self._clock.now(), tokens)
        self._slots.release()
        self._settled.set()
