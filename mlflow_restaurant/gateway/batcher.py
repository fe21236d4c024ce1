"""Sends the scoring requests to one revision of a deployment to its replicas: together where that is the same as alone.

A free replica takes whatever waits: the requests that can be merged with the one that waited longest, or that one
alone. So nothing waits for a timer when there is little to do, and batches grow as far as there is more. Every request
is resolved exactly once, whatever becomes of the others in its batch:

- a merged request that fails is cut in half and each half sent again, down to single requests as their callers sent
  them; so a row that is wrong fails only its own request; where many failed lately, each is sent alone at once;
- a replica that breaks the connection costs one more try of the same batch at another; after that each request is sent
  alone, since one of them may be what ends replicas;
- a replica that hangs is given up long before the time of the requests is over; each is sent alone, after all that came
  before, and so is the one at which a replica hangs again;
- where the model itself ended the replica, each request is sent alone at once;
- an answer that is not one prediction for each row ends merging for that revision;
- where functions of the model's author predict, each request is sent alone when a prediction is missing, beside which
  the others may look otherwise; when that happens often, merging ends for that revision;
- a caller who goes away, or whose time is over, is left out of the answer, not out of the batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from mlflow_restaurant.entities import DeploymentRoute
from mlflow_restaurant.errors import DeadlineExceeded, QueueFull, RestaurantError, Unavailable
from mlflow_restaurant.gateway import metrics, scoring
from mlflow_restaurant.gateway.answers import JSON_TYPE, MODEL_EXITED, Reply, mend
from mlflow_restaurant.gateway.calls import PATH, Batch, Call, replicas_ended, stamped
from mlflow_restaurant.gateway.dispatch import Dispatcher, Slots
from mlflow_restaurant.gateway.failures import Failures
from mlflow_restaurant.gateway.patience import Patience
from mlflow_restaurant.gateway.queue import Queue
from mlflow_restaurant.gateway.trust import Distrust, Trust
from mlflow_restaurant.gateway.upstream import (
    Answer,
    ConnectFailed,
    ConnectionBroken,
    Hanging,
    Headers,
    Message,
)
from mlflow_restaurant.process.merging import NEVER

if TYPE_CHECKING:
    from prometheus_client import Counter

MAX_TRIES = 2
SWEEP_S = 0.02
"""Smallest time between two looks for requests whose time is over."""
MERGED_HEADERS: Headers = [(b"content-type", JSON_TYPE)]


class Send(Protocol):
    """How batches get to a replica: see `Sender.send`."""

    async def __call__(
        self,
        dispatcher: Dispatcher,
        slots: Slots,
        message: Message,
        deadline: float,
        *,
        fresh: bool,
        patience_s: float,
    ) -> Answer: ...


class Batcher:
    """The scoring requests to one revision of a deployment.

    Args:
        dispatcher: its replicas.
        send: sends one request to one replica.
        log: adds a text to the log of a deployment.
        distrust: see `Trust`.
    """

    def __init__(
        self, dispatcher: Dispatcher, send: Send, log: Callable[[str, str], None], distrust: Distrust
    ) -> None:
        self.dispatcher, self.send, self.log = dispatcher, send, log
        self.loop = asyncio.get_running_loop()
        self.queue = Queue()
        self.running: dict[asyncio.Task[None], Batch] = {}
        self.trust = Trust(log, distrust)
        self.patience, self.failures = Patience(), Failures()
        self.pumping: asyncio.Handle | None = None
        self.ripening: asyncio.TimerHandle | None = None
        self.sweeping: asyncio.TimerHandle | None = None
        self.sweep_at = 0.0
        self.successor: Batcher | None = None
        self.told_apart_no_more: int | None = None  # the revision that is not
        self.route = dispatcher.route
        self._merge_by(dispatcher.route)
        dispatcher.on_free = self.pump

    @property
    def merges(self) -> bool:
        """Whether requests are merged now."""
        return self.queue.reader is not None

    def update(self, route: DeploymentRoute) -> None:
        """Take over a new route, before its replicas are there: what waits is merged by the rules of the new revision."""
        changed = (route.batch, route.revision) != (self.route.batch, self.route.revision)
        self.route = route
        if changed:
            self._merge_by(route)
        self.trust.follow(route)

    def _merge_by(self, route: DeploymentRoute) -> None:
        self.patience, self.failures = Patience(), Failures()
        self._read_by(route)

    def _read_by(self, route: DeploymentRoute) -> None:
        batch = None if self.trust.is_lost(route.revision) else route.batch
        if batch is not None and route.revision == self.told_apart_no_more:
            batch = batch.model_copy(update={"tells_requests_apart": False})
        self.queue.read_by(batch)
        self.dispatcher.one_at_a_time = self.merges

    # -- the callers' side

    def submit(self, call: Call) -> None:
        """Take a request into the queue.

        Raises:
            DoesNotExist: the deployment was deleted.
            QueueFull: too many requests wait already.
        """
        if self.dispatcher.closed:
            raise self.dispatcher.deleted()
        if len(self.queue) >= self.route.max_queue and self._waits():
            raise QueueFull(
                f"{len(self.queue)} requests wait for deployment '{self.route.name}' already (max_queue);"
                " try again later."
            )
        call.deadline = call.arrived + self.route.timeout_s
        self.queue.add(call)
        if self.sweeping is None or call.deadline < self.sweep_at:
            self._sweep_at(call.deadline, call.started)
        if not self.merges:
            self.pump()
        elif self.pumping is None:
            # After all that arrived in this turn of the loop.
            self.pumping = self.loop.call_soon(self.pump)

    def _waits(self) -> bool:
        """Tell whether a request that comes now waits: for a replica, or for more rows beside those that do already."""
        return (self.queue.wait_s > 0 and len(self.queue) > 0) or not self.dispatcher.is_free()

    def give_up(self, call: Call) -> None:
        """Forget a call whose caller went away; the others of its batch go on."""
        call.done = None
        if not self.queue.remove(call) and self.successor is not None:
            self.successor.give_up(call)

    def close(self, successor: Batcher | None = None) -> None:
        """End this revision's service: whoever waits goes to `successor`, or is told that the deployment is gone.

        What is with a replica goes on.
        """
        self.successor = successor
        self._let_go(self.queue.clear())

    def _let_go(self, calls: Iterable[Call]) -> None:
        if self.successor is not None:
            self.successor.take_over(calls)
            return
        for call in calls:
            call.finish(self.dispatcher.deleted())

    def take_over(self, calls: Iterable[Call]) -> None:
        """Let calls that waited for another revision wait here."""
        waiting = [call for call in calls if call.done is not None]
        if self.dispatcher.closed:
            self._let_go(waiting)
            return
        for call in waiting:
            self.queue.add(call)
        if waiting:
            self._sweep_by(min(call.deadline for call in waiting))
            self.pump()

    def _sweep_at(self, moment: float, now: float) -> None:
        if self.sweeping is not None:
            self.sweeping.cancel()
        self.sweep_at = moment
        self.sweeping = self.loop.call_later(moment - now, self._sweep)

    def _sweep(self) -> None:
        """Answer those whose time is over."""
        self.sweeping = None
        now = time.monotonic()
        deadlines = []
        for call in list(self.queue):
            if call.deadline > now:
                deadlines.append(call.deadline)
            elif self.queue.remove(call):
                call.finish(self._not_free())
        for batch in self.running.values():
            # Those with the latest deadline of their batch are told when the replica is given up.
            for call in batch.waiting():
                if now < call.deadline < batch.deadline:
                    deadlines.append(call.deadline)
                elif call.deadline < batch.deadline:
                    call.finish(self._too_late())
        if deadlines:
            self._sweep_at(max(min(deadlines), now + SWEEP_S), now)

    def _not_free(self) -> Unavailable:
        return Unavailable(
            f"No replica of deployment '{self.route.name}' was free within {self.route.timeout_s:g} s."
        )

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"Deployment '{self.route.name}' did not answer within {self.route.timeout_s:g} s (timeout_s)."
        )

    def unanswered(self) -> Iterator[Call]:
        """Return the calls that wait here or are with a replica."""
        yield from (call for call in self.queue if call.done is not None)
        for batch in self.running.values():
            yield from batch.waiting()

    # -- the replicas' side

    def pump(self) -> None:
        """Send what waits to the replicas that are free."""
        for timer in (self.pumping, self.ripening):
            if timer is not None:
                timer.cancel()
        self.pumping = self.ripening = None
        while self.queue and self.dispatcher.is_free():
            now = time.monotonic() if self.queue.wait_s else 0.0
            most_rows = self.patience.most_rows(self.route.timeout_s)
            batch = self.queue.next(now, most_rows, self.failures.most_requests())
            if not isinstance(batch, Batch):
                if batch is not None:
                    self.ripening = self.loop.call_later(batch - now, self.pump)
                return
            slots = self.dispatcher.take()
            assert slots is not None
            task = self.loop.create_task(self._run(slots, batch))
            self.running[task] = batch
            task.add_done_callback(self.running.pop)

    async def _run(self, slots: Slots, batch: Batch) -> None:
        """Send one batch to one replica, and tell its callers, or put it back into the queue."""
        batch.deadline = max(call.deadline for call in batch.calls)
        held, sent = True, time.monotonic()
        try:
            answer = await self.send(
                self.dispatcher,
                slots,
                self._message(batch),
                batch.deadline,
                fresh=batch.tries > 0,
                patience_s=self.patience.limit_s(batch, self.route.timeout_s),
            )
            if answer.status == 200:
                self.patience.saw(batch, time.monotonic() - sent)
                self.failures.saw(batch)
            if self.queue and answer.status == 200:
                # The replica gets its next batch before this one is split and told.
                held = False
                self.dispatcher.release(slots, scoring=True)
                await asyncio.sleep(0)
            self._answered(slots, batch, answer)
        except ConnectFailed:
            self._put_back(batch)
        except Hanging:
            self.patience.gave_up(batch, time.monotonic() - sent)
            self._hung(batch)
        except ConnectionBroken as e:
            self._broken(batch, e)
        except DeadlineExceeded:
            self.patience.gave_up(batch, time.monotonic() - sent)
            self._finish(batch, self._too_late())
        except Exception as e:  # a mistake of ours must not leave callers without an answer
            self.log(self.route.name, f"a scoring request failed in the gateway: {e!r}")
            self._finish(
                batch, RestaurantError("The gateway failed on this request; the log has the reason.")
            )
        finally:
            if held:
                self.dispatcher.release(slots, scoring=True)

    def _hung(self, batch: Batch) -> None:
        """Send each request of a batch alone, and the one at which a replica hung alone again.

        They wait for all that came before: whatever is sent before the one that hangs gets its answer in time.
        """
        behind = time.monotonic()
        if len(batch.calls) > 1:
            self._count(metrics.RERUNS)
            self._put_back(*[Batch([call], tries=1, suspect=True) for call in batch.calls], behind=behind)
            return
        batch.suspect = False
        self._put_back(batch, behind=behind)

    def _finish(self, batch: Batch, error: RestaurantError) -> None:
        for call in batch.calls:
            call.finish(type(error)(error.message))

    def _put_back(self, *batches: Batch, behind: float | None = None) -> None:
        if self.dispatcher.closed:
            self._let_go(call for batch in batches for call in batch.calls)
            return
        self.queue.put_back(*batches, behind=behind)
        self._sweep_by(min(call.deadline for batch in batches for call in batch.calls))

    def _sweep_by(self, moment: float) -> None:
        """Look for requests whose time is over at `moment` at the latest."""
        if self.sweeping is None or moment < self.sweep_at:
            now = time.monotonic()
            self._sweep_at(max(moment, now), now)

    def _message(self, batch: Batch) -> Message:
        parts = [call.part for call in batch.calls if call.part is not None]
        if parts and not self._is_forgotten():
            metrics.observe_batch(self.route.name, len(parts), sum(part.count for part in parts))
        if len(batch.calls) == 1:
            call = batch.calls[0]
            return Message("POST", call.path, call.headers, call.body, call.is_plain(), self.merges)
        body, counts = scoring.merge(parts), scoring.counts_of(parts)
        batch.told_apart = bool(counts)
        return Message("POST", PATH, MERGED_HEADERS, body, plain=True, in_turn=True, counts=counts)

    def _is_forgotten(self) -> bool:
        """Tell whether the deployment is gone: what was counted of it was forgotten, and must not come back."""
        return self.dispatcher.closed and self.successor is None

    def _count(self, counter: Counter) -> None:
        if not self._is_forgotten():
            counter.labels(self.route.name).inc()

    def _broken(self, batch: Batch, error: ConnectionBroken) -> None:
        batch.tries += 1
        name = self.route.name
        if batch.tries < MAX_TRIES:
            self._count(metrics.RETRIES)
            self._put_back(batch)
        elif len(batch.calls) > 1:
            self._count(metrics.RERUNS)
            self._put_back(*[Batch([call], tries=MAX_TRIES - 1) for call in batch.calls])
        else:
            batch.calls[0].finish(replicas_ended(name, error))

    def _answered(self, slots: Slots, batch: Batch, answer: Answer) -> None:
        calls, name = batch.calls, self.route.name
        if len(calls) == 1:
            if answer.status != 200:
                self.failures.saw(batch, failed=True)
            reply = mend(answer, calls[0].prefix)
            reply.headers = stamped(reply.headers, name, slots)
            calls[0].finish(reply)
            return
        if answer.status == NEVER and batch.told_apart and slots.revision == self.route.revision:
            self._tell_apart_no_more()
        if answer.status != 200:
            # To cut it in half would end one replica after the other, or cost more calls than requests.
            if MODEL_EXITED in answer.body or self.failures.most_requests() == 1:
                self._send_alone(calls)
                return
            self._count(metrics.RERUNS)
            middle = len(calls) // 2
            self._put_back(Batch(calls[:middle], batch.reader), Batch(calls[middle:], batch.reader))
            return
        counts = [call.part.count for call in calls if call.part is not None]
        own_code = batch.reader is not None and batch.reader.own_code
        bodies = self.trust.parts(name, slots.revision, answer.body, counts, own_code)
        if bodies is None:
            if self.merges and self.trust.is_lost(self.route.revision):
                self._merge_by(self.route)
            self._send_alone(calls)
            return
        headers = stamped(answer.headers, name, slots)
        for call, body in zip(calls, bodies, strict=True):
            call.finish(Reply(200, headers, body))

    def _tell_apart_no_more(self) -> None:
        if self.told_apart_no_more != self.route.revision:
            self.told_apart_no_more = self.route.revision
            text = f"a replica of revision {self.route.revision} can't tell requests apart any more"
            self.log(self.route.name, text)
            self._read_by(self.route)

    def _send_alone(self, calls: list[Call]) -> None:
        self._count(metrics.RERUNS)
        self._put_back(*[Batch([call]) for call in calls])
