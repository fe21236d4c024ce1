"""The dispatcher: first come first served, nobody who waits is lost, and no slot is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_restaurant.entities import DeploymentRoute, ReplicaRoute
from mlflow_restaurant.errors import DoesNotExist, QueueFull, Unavailable
from mlflow_restaurant.gateway import dispatch
from mlflow_restaurant.gateway.dispatch import Dispatcher, Slots
from mlflow_restaurant.process.protocol import AT_ONCE

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG_S = 60.0


@pytest.fixture(autouse=True)
def one_slot_a_replica() -> Iterator[None]:
    with mock.patch.object(dispatch, "AT_ONCE", 1):
        yield


def route(*keys: str, revision: int = 1, max_queue: int = 100, version: str | None = None) -> DeploymentRoute:
    return DeploymentRoute(
        name="d",
        revision=revision,
        model_version=version,
        timeout_s=LONG_S,
        max_queue=max_queue,
        max_body_mb=1,
        replicas=tuple(ReplicaRoute(key=key, socket=f"/{key}") for key in keys),
    )


def running(test: Callable[[], Awaitable[None]]) -> None:
    async def with_a_limit() -> None:
        await asyncio.wait_for(test(), 5)

    asyncio.run(with_a_limit())


async def settle() -> None:
    """Let everything that is ready to run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def acquire(dispatcher: Dispatcher, timeout_s: float = LONG_S) -> asyncio.Task[Slots]:
    return asyncio.ensure_future(dispatcher.acquire(timeout_s))


class TestSlots:
    def test_a_free_slot_is_given_at_once(self) -> None:
        async def test() -> None:
            slots = await Dispatcher(route("a", revision=3, version="7")).acquire(0)

            assert (slots.route.key, slots.revision, slots.model_version) == ("a", 3, "7")
            assert slots.in_flight == 1
            assert not slots.idle.is_set()

        running(test)

    def test_the_least_busy_replica_is_chosen(self) -> None:
        async def test() -> None:
            with mock.patch.object(dispatch, "AT_ONCE", 2):
                dispatcher = Dispatcher(route("a", "b"))

                taken = [(await dispatcher.acquire(0)).route.key for _ in range(4)]

            assert sorted(taken[:2]) == sorted(taken[2:]) == ["a", "b"]

        running(test)

    def test_no_replica_gets_more_than_its_slots(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            await dispatcher.acquire(0)

            with pytest.raises(Unavailable, match="'d'"):
                await dispatcher.acquire(0)

        running(test)

    def test_a_released_slot_makes_the_replica_idle(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            slots = await dispatcher.acquire(0)

            dispatcher.release(slots)

            assert slots.in_flight == 0
            assert slots.idle.is_set()
            assert await dispatcher.acquire(0) is slots

        running(test)

    def test_a_benched_replica_gets_nothing(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a", "b"))
            slots = await dispatcher.acquire(0)
            dispatcher.bench(slots)
            dispatcher.release(slots)

            other = await dispatcher.acquire(0)

            assert other is not slots
            with pytest.raises(Unavailable):
                await dispatcher.acquire(0)

        running(test)

    def test_a_recalled_replica_serves_who_waits(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            slots = await dispatcher.acquire(0)
            dispatcher.bench(slots)
            dispatcher.release(slots)
            task = acquire(dispatcher)
            await settle()

            assert dispatcher.recall(slots)

            assert await task is slots

        running(test)

    def test_a_replica_that_left_is_not_recalled(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            [slots] = dispatcher.replicas.values()
            dispatcher.bench(slots)
            dispatcher.update(route())
            dispatcher.update(route("a"))

            assert not dispatcher.recall(slots)
            assert not slots.usable
            assert await dispatcher.acquire(0) is not slots

        running(test)


class TestQueue:
    def test_first_come_first_served(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)
            served: list[int] = []

            async def caller(number: int) -> None:
                slots = await dispatcher.acquire(LONG_S)
                served.append(number)
                dispatcher.release(slots)

            callers = [asyncio.ensure_future(caller(n)) for n in range(10)]
            await settle()
            dispatcher.release(held)
            await asyncio.gather(*callers)

            assert served == list(range(10))

        running(test)

    def test_a_newcomer_does_not_overtake_those_who_wait(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)
            first = acquire(dispatcher)
            await settle()
            dispatcher.release(held)

            with pytest.raises(Unavailable):
                await dispatcher.acquire(0)

            assert await first is held

        running(test)

    def test_more_than_max_queue_are_refused_at_once(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a", max_queue=2))
            held = await dispatcher.acquire(0)
            waiting = [acquire(dispatcher), acquire(dispatcher)]
            await settle()

            with pytest.raises(QueueFull, match=r"2 requests wait.*max_queue"):
                await dispatcher.acquire(LONG_S)

            for task in waiting:
                dispatcher.release(held)
                assert await task is held

        running(test)

    def test_with_max_queue_0_free_slots_are_still_given(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a", max_queue=0))
            await dispatcher.acquire(LONG_S)

            with pytest.raises(QueueFull):
                await dispatcher.acquire(LONG_S)

        running(test)

    def test_who_waited_too_long_leaves_the_queue(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)
            impatient, patient = acquire(dispatcher, 0.01), acquire(dispatcher)

            with pytest.raises(Unavailable, match="No replica of deployment 'd' was free"):
                await impatient
            dispatcher.release(held)

            assert await patient is held
            assert not dispatcher.waiting

        running(test)

    @pytest.mark.parametrize("gone", [0, 1, 2])
    def test_one_of_three_who_wait_goes_away_and_the_others_are_answered(self, gone: int) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)
            waiting = [acquire(dispatcher) for _ in range(3)]
            await settle()

            waiting[gone].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[gone]
            for number, task in enumerate(waiting):
                if number != gone:
                    dispatcher.release(held)
                    assert await task is held

            dispatcher.release(held)
            assert held.in_flight == 0
            assert not dispatcher.waiting

        running(test)

    @pytest.mark.parametrize("ticks", range(5))
    def test_going_away_at_the_moment_of_hand_over_loses_no_slot(self, ticks: int) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)

            async def caller() -> None:
                dispatcher.release(await dispatcher.acquire(LONG_S))

            leaver, stayer = asyncio.ensure_future(caller()), asyncio.ensure_future(caller())
            await settle()
            dispatcher.release(held)
            for _ in range(ticks):
                await asyncio.sleep(0)
            leaver.cancel()
            await asyncio.wait([leaver, stayer])

            assert stayer.exception() is None
            assert held.in_flight == 0
            assert await dispatcher.acquire(0) is held

        running(test)


class TestReplicasComeAndGo:
    def test_who_waits_is_answered_by_a_replica_that_comes(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route())
            task = acquire(dispatcher)
            await settle()

            assert dispatcher.update(route("a", revision=2)) == []

            assert (await task).revision == 2

        running(test)

    def test_a_replica_that_leaves_keeps_what_it_has_and_gets_no_more(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)
            task = acquire(dispatcher)
            await settle()

            assert dispatcher.update(route()) == [held]
            dispatcher.release(held)
            await settle()

            assert held.idle.is_set()
            assert not task.done()
            dispatcher.update(route("b"))
            assert (await task).route.key == "b"

        running(test)

    def test_a_replica_that_stays_keeps_its_count(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)

            assert dispatcher.update(route("a", "b")) == []

            assert (await dispatcher.acquire(0)).route.key == "b"
            dispatcher.release(held)
            assert await dispatcher.acquire(0) is held

        running(test)

    def test_a_new_limit_of_the_queue_holds_from_the_update_on(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route(max_queue=0))
            dispatcher.update(route(max_queue=1))
            task = acquire(dispatcher)
            await settle()
            assert not task.done()

            dispatcher.update(route("a"))
            await task

        running(test)


class TestClose:
    def test_everyone_who_waits_is_told(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            held = await dispatcher.acquire(0)
            waiting = [acquire(dispatcher) for _ in range(3)]
            await settle()

            assert dispatcher.close() == [held]

            for task in waiting:
                with pytest.raises(DoesNotExist, match="'d' was deleted"):
                    await task
            dispatcher.release(held)
            assert held.idle.is_set()

        running(test)

    def test_who_comes_later_is_told_at_once(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route("a"))
            dispatcher.close()
            task = acquire(dispatcher)
            await settle()

            assert task.done()
            assert isinstance(task.exception(), DoesNotExist)

        running(test)

    def test_one_who_goes_away_as_it_closes_disturbs_nobody(self) -> None:
        async def test() -> None:
            dispatcher = Dispatcher(route())
            waiting = [acquire(dispatcher) for _ in range(2)]
            await settle()

            waiting[0].cancel()
            dispatcher.close()
            await asyncio.wait(waiting)

            assert waiting[0].cancelled()
            assert isinstance(waiting[1].exception(), DoesNotExist)

        running(test)


numbers = st.integers(0, 7)
steps = st.one_of(
    st.tuples(st.just("come"), st.sampled_from([0.0, LONG_S, LONG_S, LONG_S])),
    st.tuples(st.just("finish"), numbers),
    st.tuples(st.just("finish"), numbers),
    st.tuples(st.just("leave"), numbers),
    st.tuples(st.just("replicas"), st.sets(st.sampled_from("abc"))),
    st.tuples(st.just("bench"), numbers),
    st.tuples(st.just("recall"), numbers),
    st.tuples(st.just("tick"), st.integers(1, 4)),
    st.tuples(st.just("tick"), st.integers(1, 4)),
)


class Schedule:
    """Callers of one dispatcher, who come, finish and leave as they are told."""

    def __init__(self, max_queue: int) -> None:
        self.max_queue = max_queue
        self.dispatcher = Dispatcher(route("a", max_queue=max_queue))
        self.callers: list[tuple[asyncio.Task[str], asyncio.Event]] = []
        self.known: set[Slots] = set()
        self.keys = 0

    async def call(self, timeout_s: float, finished: asyncio.Event) -> str:
        try:
            slots = await self.dispatcher.acquire(timeout_s)
        except QueueFull:
            return "queue full"
        except (DoesNotExist, Unavailable):
            return "unavailable"
        self.known.add(slots)
        try:
            await finished.wait()
            return "served"
        finally:
            self.dispatcher.release(slots)

    def come(self, timeout_s: float) -> None:
        finished = asyncio.Event()
        self.callers.append((asyncio.ensure_future(self.call(timeout_s, finished)), finished))

    def finish(self, number: int) -> None:
        if self.callers:
            self.callers[number % len(self.callers)][1].set()

    def leave(self, number: int) -> None:
        if self.callers:
            self.callers[number % len(self.callers)][0].cancel()

    def replicas(self, keys: set[str]) -> None:
        self.known |= set(self.dispatcher.replicas.values())
        self.dispatcher.update(route(*sorted(keys), max_queue=self.max_queue))

    def bench(self, number: int) -> None:
        there = list(self.dispatcher.replicas.values())
        if there:
            self.dispatcher.bench(there[number % len(there)])

    def recall(self, number: int) -> None:
        if self.known:
            ordered = sorted(self.known, key=id)
            self.dispatcher.recall(ordered[number % len(ordered)])

    def check(self) -> None:
        self.known |= set(self.dispatcher.replicas.values())
        for slots in self.known:
            assert 0 <= slots.in_flight <= AT_ONCE
            assert slots.idle.is_set() == (slots.in_flight == 0)
        assert len(self.dispatcher.waiting) <= self.max_queue

    async def end(self, closed: bool) -> None:
        await settle()
        for _, finished in self.callers:
            finished.set()
        if closed:
            self.dispatcher.close()
        else:
            self.replicas({"last"})
        if self.callers:
            await asyncio.wait([task for task, _ in self.callers])
        await settle()


@unhurried
@given(st.lists(steps, max_size=40), st.integers(0, 4), st.booleans(), st.integers(1, 2))
def test_in_any_order_everyone_is_answered_once_and_no_slot_is_lost(
    history: list[tuple[str, object]], max_queue: int, closed: bool, slots: int
) -> None:
    troubles: list[object] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        schedule = Schedule(max_queue)
        for what, argument in history:
            if what == "tick":
                for _ in range(int(str(argument))):
                    await asyncio.sleep(0)
            else:
                getattr(schedule, what)(argument)
            schedule.check()
        await schedule.end(closed)

        assert all(task.done() for task, _ in schedule.callers)
        for task, _ in schedule.callers:
            assert task.cancelled() or task.result() in ("served", "queue full", "unavailable")
        schedule.check()
        assert not schedule.dispatcher.waiting
        assert all(s.in_flight == 0 for s in schedule.known)

    with mock.patch.object(dispatch, "AT_ONCE", slots):
        running(test)
    assert troubles == []
