"""What belongs to one event loop: the HTTP client, the gate, the requests in flight."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fungi_hf.errors import LLMError
from fungi_hf.icl.retry import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from fungi_hf.icl.limits import Gate
    from fungi_hf.icl.reply import Reply
    from fungi_hf.icl.retry import Payload
    from fungi_hf.icl.transport import Transport

FIRST_ROWS = 10  # so many rows that could not connect, and none that could: nobody is there


class Connection:
    """The shared state of all requests that one event loop sends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Transport, gate: Gate) -> None:
        self.loop, self.transport, self.gate = loop, transport, gate
        self.in_flight: dict[str, asyncio.Task[Reply]] = {}
        self._unreachable = 0
        self._reached = False

    def start(self, key: str, work: Coroutine[None, None, Reply]) -> asyncio.Task[Reply]:
        """Run the work as a task that all askers of the key share."""
        task = self.loop.create_task(work)
        self.in_flight[key] = task
        task.add_done_callback(lambda _: self.in_flight.pop(key, None))
        return task

    def sender(self, body: Payload) -> Callable[[], Awaitable[Payload | Failure]]:
        """Give a function that sends the body once each time it is called."""
        first = True

        async def send() -> Payload | Failure:
            nonlocal first
            is_first, first = first, False
            outcome = await self.transport.send(body)
            if not (isinstance(outcome, Failure) and outcome.unreachable):
                self._reached = True
            elif not self._reached:
                self._unreachable += is_first
                self._stop_if_nobody_is_there(outcome.message)
            return outcome

        return send

    def _stop_if_nobody_is_there(self, message: str) -> None:
        if self._unreachable >= FIRST_ROWS:
            raise LLMError(f"the first {self._unreachable} requests could not connect: {message}")

    async def close(self) -> None:
        """Cancel what is in flight, then close the client."""
        tasks = list(self.in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.transport.close()
