"""Rate windows and the gate, against a plain count over every window, in virtual time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fungi_hf.icl.faults import Failure, judge, server_wait
from fungi_hf.icl.limits import WINDOW_S, Gate, Limits, SlidingWindow
from tests.icl.chat_kit import FastClock


def heaviest(times, weights):
    """The largest sum of weights in any half-open window of 60 seconds."""
    times, weights = np.array(times), np.array(weights)
    return max(weights[(times > t - WINDOW_S) & (times <= t)].sum() for t in times)


def drive(limits, requests, clock):
    """Send (estimate, real tokens, seconds) through a gate; give the times the server saw."""
    window = SlidingWindow(limits.rpm, limits.tpm)
    seen, state = [], {"now": 0, "most": 0}

    async def one(gate, estimate, real, seconds):
        ticket = await gate.enter(estimate)
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        await clock.sleep(seconds / 2)
        seen.append((clock.now(), real))
        await clock.sleep(seconds / 2)
        state["now"] -= 1
        gate.leave(ticket, real)

    async def run():
        gate = Gate(limits, window)
        await asyncio.gather(*(one(gate, *request) for request in requests))

    asyncio.run(run())
    return seen, state["most"]


@pytest.mark.parametrize("seed", range(4))
def test_no_window_is_ever_over_a_limit(seed):
    rng = np.random.default_rng(seed)
    limits = Limits(
        concurrency=int(rng.integers(1, 9)),
        rpm=int(rng.integers(3, 12)),
        tpm=int(rng.integers(150, 600)),
        clock=FastClock(),
    )
    estimates = rng.integers(10, 100, 40)
    real = [int(rng.integers(1, e + 1)) for e in estimates]
    requests = list(zip(map(int, estimates), real, rng.uniform(0, 8, 40), strict=True))
    seen, most = drive(limits, requests, limits.clock)
    assert len(seen) == 40
    assert most <= limits.concurrency
    times, tokens = zip(*seen, strict=True)
    assert heaviest(times, np.ones(40)) <= limits.rpm
    assert heaviest(times, tokens) <= limits.tpm


def test_the_request_rate_is_used_up_and_no_slower():
    clock = FastClock()
    seen, _ = drive(Limits(rpm=10, clock=clock), [(1, 1, 0.0)] * 35, clock)
    times = sorted(time for time, _ in seen)
    assert times[:10] == [0.0] * 10
    assert times[10:30] == pytest.approx([60.0] * 10 + [120.0] * 10)
    assert times[30:] == pytest.approx([180.0] * 5)


def test_the_estimate_is_replaced_by_what_was_used():
    clock = FastClock()
    limits = Limits(concurrency=1, tpm=100, clock=clock)
    seen, _ = drive(limits, [(90, 10, 1.0)] * 5, clock)
    # 90 + 10 <= 100 once the first is settled at 10, so two fit where estimates allow one
    assert [time for time, _ in seen[:2]] == [0.5, 1.5]
    assert seen[2][0] > 60


def test_a_window_waits_for_answers_in_flight():
    window = SlidingWindow(rpm=1, tpm=None)
    ticket = window.admit(0.0, 5)
    assert window.delay(1.0, 5) is None
    window.settle(ticket, 3.0, 5)
    window.settle(ticket, 30.0, 5)  # a second time changes nothing
    assert window.delay(4.0, 5) == 59.0
    assert window.delay(63.0, 5) == 0.0
    assert SlidingWindow(None, None).delay(0.0, 10**9) == 0.0


def test_a_closed_gate_holds_everybody_even_those_who_sleep():
    clock = FastClock()
    entered = []

    async def enter(gate):
        gate.leave(await gate.enter(1), 1)
        entered.append(clock.now())

    async def run():
        gate = Gate(Limits(clock=clock), SlidingWindow(None, None))
        gate.close_for(10)
        waiting = [asyncio.ensure_future(enter(gate)) for _ in range(3)]
        await clock.sleep(5)
        gate.close_for(20)  # to 25, while others sleep until 10
        gate.close_for(1)  # an earlier end does not open it
        await asyncio.gather(*waiting)

    asyncio.run(run())
    assert entered == [25.0] * 3


def test_a_cancelled_waiter_gives_its_slot_back():
    async def run():
        clock = FastClock()
        gate = Gate(Limits(concurrency=1, clock=clock), SlidingWindow(None, None))
        first = await gate.enter(1)
        waiter = asyncio.ensure_future(gate.enter(1))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        gate.leave(first, 1)
        return await asyncio.wait_for(gate.enter(1), 1)

    assert asyncio.run(run()).open


def test_server_waits_are_read_in_every_form():
    wall = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
    assert server_wait({}, wall) is None
    assert server_wait({"retry-after": "3"}, wall) == 3.0
    assert server_wait({"retry-after": "0.5", "retry-after-ms": "250"}, wall) == 0.25
    assert server_wait({"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT"}, wall) == 60.0
    assert server_wait({"retry-after": "Sun, 06 Nov 1994 08:00:00 GMT"}, wall) == 0.0
    for nonsense in ("soon", "-3", "nan", "inf", ""):
        assert server_wait({"retry-after": nonsense}, wall) is None
    assert server_wait({"retry-after-ms": "x", "retry-after": "4"}, wall) == 4.0


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, "fatal"), (400, "content_filter", "refused"), (401, None, "auth"),
        (400, "context_length_exceeded", "overflow"), (403, None, "auth"), (404, None, "fatal"),
        (408, None, "retry"), (409, None, "retry"), (422, None, "fatal"), (429, None, "retry"),
        (429, "rate_limit_exceeded", "retry"), (429, "insufficient_quota", "fatal"),
        (500, None, "retry"), (502, None, "retry"), (529, None, "retry"),
    ],
)  # fmt: skip
def test_statuses_are_judged(status, code, kind):
    limits = Limits()
    verdict = judge(status, {}, {"error": {"message": "why", "code": code}}, limits)
    assert isinstance(verdict, Failure)
    kind = "row" if kind == "fatal" and status < 429 and status != 402 and code is None else kind
    assert verdict.kind == kind
    assert f"{status}: why" in verdict.message
    # a 429 without a wait still holds everybody back for the client's own first wait
    assert verdict.wait_s == (0.5 if status == 429 and kind == "retry" else None)
    # some servers send the inner object, others plain words or nothing
    assert judge(status, {}, {"message": "why", "code": code}, limits).kind == kind
    for body in (None, "words", [1], {"detail": "words"}):
        assert judge(status, {}, body, limits).message.startswith(f"the server answered {status}")
