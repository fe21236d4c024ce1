"""Which scoring requests go to a replica next."""

from __future__ import annotations

import json
import math

from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway.calls import Batch, Call
from mlflow_restaurant.gateway.queue import Queue


def call(value: float, started: float = 0.0) -> Call:
    body = json.dumps({"instances": [value]}).encode()
    made = Call([(b"content-type", b"application/json")], body, "/invocations", "", lambda _: None)
    made.started = started
    return made


def queue(*calls: Call, wait_ms: float = 0) -> Queue:
    made = Queue()
    made.read_by(BatchRoute(max_rows=100, wait_ms=wait_ms, columns={"x": "double"}))
    for each in calls:
        made.add(each)
    return made


def taken(from_queue: Queue, most_rows: float = math.inf, most_calls: float = math.inf) -> list[Call]:
    batch = from_queue.next(0, most_rows, most_calls)
    assert isinstance(batch, Batch)
    return batch.calls


class TestSize:
    def test_so_many_rows_or_calls_at_most(self) -> None:
        calls = [call(float(i)) for i in range(10)]
        waiting = queue(*calls)

        assert taken(waiting, most_rows=3) == calls[:3]
        assert taken(waiting, most_calls=2.5) == calls[3:5]
        assert taken(waiting, most_rows=0.1) == calls[5:6]
        assert taken(waiting, most_calls=1) == calls[6:7]
        assert taken(waiting) == calls[7:]
        assert len(waiting) == 0

    def test_as_many_as_may_go_wait_for_no_more(self) -> None:
        calls = [call(float(i)) for i in range(4)]
        waiting = queue(*calls, wait_ms=60_000)

        assert waiting.next(0.0) == 60.0
        assert taken(waiting, most_rows=4) == calls


class TestBehind:
    def test_one_that_is_put_behind_lets_those_who_came_before_go_first(self) -> None:
        hung, before, after = call(1.0), call(2.0, started=5.0), call(3.0, started=15.0)
        waiting = queue(before)
        waiting.put_back(Batch([hung]), behind=10.0)
        assert len(waiting) == 2
        assert set(waiting) == {hung, before}

        assert taken(waiting) == [before]
        waiting.add(after)
        assert taken(waiting) == [hung]
        assert taken(waiting) == [after]

    def test_several_keep_their_order(self) -> None:
        hung, before = [call(float(i)) for i in range(3)], call(9.0)
        waiting = queue(before)
        waiting.put_back(*[Batch([one]) for one in hung], behind=10.0)

        assert taken(waiting) == [before]
        assert [taken(waiting) for _ in hung] == [[one] for one in hung]

    def test_what_is_tried_again_goes_before_it(self) -> None:
        hung, again = call(1.0), call(2.0)
        waiting = queue()
        waiting.put_back(Batch([hung]), behind=10.0)
        waiting.put_back(Batch([again]))

        assert taken(waiting) == [again]
        assert taken(waiting) == [hung]

    def test_it_stays_alone_when_others_are_merged_by_other_rules(self) -> None:
        hung, before = [call(1.0), call(2.0)], [call(3.0), call(4.0)]
        waiting = queue(*before)
        waiting.put_back(*[Batch([one], suspect=True) for one in hung], behind=10.0)
        waiting.read_by(BatchRoute(max_rows=8, wait_ms=0, columns={"x": "double"}))

        assert len(waiting) == 4
        assert taken(waiting) == before
        first = waiting.next(0.0)
        assert isinstance(first, Batch)
        assert (first.calls, first.suspect) == ([hung[0]], True)
        assert taken(waiting) == [hung[1]]
        assert len(waiting) == 0

    def test_it_can_leave(self) -> None:
        hung, before = call(1.0), call(2.0)
        waiting = queue(before)
        waiting.put_back(Batch([hung]), behind=10.0)

        assert waiting.remove(hung)
        assert taken(waiting) == [before]
        assert waiting.next(0) is None
