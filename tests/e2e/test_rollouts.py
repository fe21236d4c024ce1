"""Rollout strategies on a real server: canaries and shadows that pass, that are called back, that users end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import read_records
from mlflow_restaurant.reference import ROLLOUT_FIELDS

from ..support import Load, Slow, do, eventually, records

FOR_EVER = {"strategy": "canary", "canary_steps": "50", "bake_s": "3600"}


@pytest.fixture
def url(client: RestaurantDeploymentClient, actor: Path) -> str:
    """The URL of a deployment `a` of the actor."""
    found: str = client.create_deployment("a", str(actor))["url"]
    return found


def settings(model: dict[str, Any], **more: str) -> dict[str, str]:
    return {"model_config": json.dumps(model), **more}


@contextlib.contextmanager
def trying(client: RestaurantDeploymentClient, **options: str) -> Iterator[Future[dict[str, Any]]]:
    """An update of which the trial is under way; at the end it is given up if it still is."""
    config = settings({"name": "second"}, **{**FOR_EVER, **options})
    with ThreadPoolExecutor(1) as pool:
        update = pool.submit(client.update_deployment, "a", config=config)

        def is_tried() -> bool:
            assert not update.done(), update.exception() or update.result()
            return "step" in (client.get_deployment("a")["rollout"] or {})

        try:
            eventually(is_tried, "the trial is under way")
            yield update
        finally:
            with contextlib.suppress(RestaurantError):
                ControlClient(client.home).abort("a", print)


def names(client: RestaurantDeploymentClient) -> set[str]:
    return {deployment["name"] for deployment in client.list_deployments()}


def answers(url: str, count: int = 40) -> list[str]:
    return [do(url, "name").predictions[0] for _ in range(count)]


def test_a_canary_gets_its_shares_and_then_serves(client: RestaurantDeploymentClient, url: str) -> None:
    options = {"strategy": "canary", "canary_steps": "10,50", "bake_s": "2", "min_requests": "20"}
    said: list[str] = []
    request = client._request(None, None, settings({"name": "second"}, **options), None)
    with Load(url, callers=8, action="name").running() as load:
        load.wait_for(20)
        ControlClient(client.home).update_deployment("a", request, said.append)
        seen = dict(load.seen)
        load.wait_for(50)
    assert not load.failures()
    assert client.get_deployment("a")["revision"] == 2
    assert set(answers(url, 10)) == {"second"}
    assert any("10 % of the requests go to revision 2 (step 1 of 2" in text for text in said)
    assert any("50 % of the requests go to revision 2 (step 2 of 2" in text for text in said)
    assert any("new 0.0% errors of" in text and "p95" in text for text in said)
    # Two steps of two seconds, of 10 and 50 %: about 30 % of what came meanwhile; the start of replicas adds to the old.
    assert 0.1 < seen["2"] / sum(seen.values()) < 0.4

    second, first = ControlClient(client.home).history("a")
    assert (second["state"], first["state"]) == ("SERVING", "SUPERSEDED")
    trial = second["trial"]
    assert (trial["strategy"], trial["step"], trial["steps"], trial["share"]) == ("canary", 2, 2, 50)
    assert trial["new"]["requests"] > 0
    assert abs(trial["new"]["requests"] / (trial["new"]["requests"] + trial["old"]["requests"]) - 0.5) < 0.05
    assert client.get_deployment("a")["rollout"] is None


def test_a_canary_that_fails_goes_back_by_itself(client: RestaurantDeploymentClient, url: str) -> None:
    config = settings(
        {"name": "second", "fail_every": 5}, strategy="canary", canary_steps="20,50", bake_s="60.5"
    )
    with Load(url, callers=8, action="name").running() as load:
        load.wait_for(20)
        with pytest.raises(MlflowException, match=r"of its .* requests failed.*max_error_rate_increase") as e:
            client.update_deployment("a", config=config)
        again = "(-C strategy=canary -C canary_steps=20,50 -C bake_s=60.5)"
        assert e.value.message.endswith(f"went with it: name them again with the next update {again}.")
        load.wait_for(2 * load.callers)  # what was on its way to the canary has come back
        errors, wanted = load.failures(), load.seen["2"]
        load.wait_for(100)
    assert load.failures() == errors  # none after it went back
    assert set(errors) == {400}
    assert sum(errors.values()) <= 0.25 * wanted + 5  # a fifth of the canary's own
    assert set(answers(url, 10)) == {"first"}
    got = client.get_deployment("a")
    assert (got["state"], got["revision"]) == ("HEALTHY", 1)
    assert "revision 2 failed, revision 1 goes on" in got["message"]
    second = ControlClient(client.home).history("a")[0]
    assert second["state"] == "DEPLOY_FAILED"
    assert "requests failed" in second["message"]
    assert second["trial"]["new"]["errors"] > 5
    assert "requests failed" in client.home.deployment_log("a").read_text()


def test_a_canary_that_is_slow_goes_back(client: RestaurantDeploymentClient, url: str) -> None:
    config = settings({"takes_s": 0.1}, strategy="canary", canary_steps="50", bake_s="60")
    with (
        Load(url, callers=4, action="name").running() as load,
        pytest.raises(MlflowException, match=r"its p95 is .* ms.*max_latency_ratio=2"),
    ):
        client.update_deployment("a", config=config)
    assert not load.failures()


@pytest.mark.parametrize("sleeps_s", ["4", "3600"], ids=["slow", "hangs"])
@pytest.mark.parametrize("strategy", ["canary", "shadow"])
def test_one_that_answers_hardly_anything_goes_back(
    client: RestaurantDeploymentClient, url: str, strategy: str, sleeps_s: str
) -> None:
    options = {"strategy": strategy, "canary_steps": "20,50", "bake_s": "3", "timeout_s": "20"}
    with (
        Load(url, callers=8, action="sleep", pause_s=0.01).running() as load,
        pytest.raises(MlflowException, match=r"its p95 is .* requests have no answer yet"),
    ):
        client.update_deployment("a", config=settings({"sleeps_s": float(sleeps_s)}, **options))
    trial = ControlClient(client.home).history("a")[0]["trial"]
    assert (trial["step"], trial["new"]["requests"] < 50, trial["new"]["under_way"] > 0) == (1, True, True)
    if strategy == "canary" and sleeps_s != "4":
        assert set(load.failures()) <= {504}
        assert sum(load.failures().values()) <= 8
    else:
        assert not load.failures()


def test_a_canary_that_is_hardly_asked_serves_and_its_history_says_so(
    client: RestaurantDeploymentClient, url: str
) -> None:
    config = settings({"name": "second"}, strategy="canary", canary_steps="50", bake_s="1")
    assert client.update_deployment("a", config=config)["revision"] == 2
    control = ControlClient(client.home)
    assert control.history("a")[0]["trial"]["not_judged"] == [{"step": 1, "requests": 0, "min_requests": 50}]
    said = [event["message"] for event in control.events("a") if event["kind"] == "trial"]
    assert said[-1] == "step 1 of 1 was not judged: 0 of 50 requests"


def pids(client: RestaurantDeploymentClient, revision: int) -> set[int]:
    """Return the processes of the replicas of a revision that run."""
    found = client.get_deployment("a")["replicas"]
    return {r["pid"] for r in found if r["revision"] == revision and r["state"] == "RUNNING"}


def test_a_canary_whose_replica_keeps_dying_goes_back(client: RestaurantDeploymentClient, url: str) -> None:
    with trying(client) as update:
        killed: set[int] = set()
        for _ in range(2):
            (pid,) = eventually(lambda: pids(client, 2) - killed, "the canary's replica runs")
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(MlflowException, match="ended by SIGKILL"):
            update.result(60)
    assert set(answers(url, 10)) == {"first"}


def test_one_death_does_not_end_a_trial_and_fails_no_request(
    client: RestaurantDeploymentClient, url: str
) -> None:
    with trying(client) as update, Load(url, callers=4, action="name").running() as load:
        (pid,) = pids(client, 2)
        os.kill(pid, signal.SIGKILL)
        load.wait_for(100)
        assert not update.done()
        assert ControlClient(client.home).promote("a", print)["revision"] == 2
        assert update.result(60)["revision"] == 2
        load.wait_for(20)
    assert not load.failures()


def test_users_end_a_trial(client: RestaurantDeploymentClient, url: str) -> None:
    control = ControlClient(client.home)
    for end in (control.promote, control.abort):
        with pytest.raises(RestaurantError, match="has no rollout under way"):
            end("a", print)
    with trying(client) as update:
        assert set(answers(url)) == {"first", "second"}
        found = client.get_deployment("a")
        assert found["state"] == "UPDATING"
        named = [name for field, _ in ROLLOUT_FIELDS for name in field.split(", ")]
        assert [name for name in named if name in found["rollout"]] == list(found["rollout"])
        assert control.abort("a", print)["revision"] == 1
        with pytest.raises(MlflowException, match="it was aborted"):
            update.result(60)
    assert set(answers(url)) == {"first"}

    with trying(client) as update:
        assert control.promote("a", print)["revision"] == 3
        assert update.result(60)["revision"] == 3
    assert set(answers(url)) == {"second"}


def test_promoting_what_cannot_serve_says_why(client: RestaurantDeploymentClient, url: str) -> None:
    config = settings({"at_load": "hang"}, startup_timeout_s="6", **FOR_EVER)
    control = ControlClient(client.home)
    with ThreadPoolExecutor(1) as pool:
        update = pool.submit(client.update_deployment, "a", config=config)
        eventually(lambda: client.get_deployment("a")["rollout"], "it is under way")
        with pytest.raises(RestaurantError, match=r"did not come into service: .*startup_timeout_s=6"):
            control.promote("a", print)
        with pytest.raises(MlflowException, match="startup_timeout_s=6"):
            update.result(60)
    assert client.get_deployment("a")["revision"] == 1


def test_a_first_revision_that_is_aborted_leaves_nothing(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    control = ControlClient(client.home)
    with ThreadPoolExecutor(1) as pool:
        hangs = settings({"at_load": "hang"})
        create = pool.submit(client.create_deployment, "new", str(actor), config=hangs)
        eventually(lambda: "new" in names(client), "it is under way")
        assert control.abort("new", print) == {}
        with pytest.raises(MlflowException, match="it was aborted"):
            create.result(60)
    assert "new" not in names(client)


@contextlib.contextmanager
def fetching(client: RestaurantDeploymentClient, name: str, change: str) -> Iterator[Future[dict[str, Any]]]:
    """A creation or an update whose model is fetched from a registry that takes the connection and never answers."""
    control = ControlClient(client.home)
    with socket.create_server(("127.0.0.1", 0)) as registry, ThreadPoolExecutor(1) as pool:
        store = f"http://127.0.0.1:{registry.getsockname()[1]}"
        request = {"model_uri": "models:/m/1", "tracking_uri": store, "registry_uri": store}
        command = pool.submit(getattr(control, f"{change}_deployment"), name, request, print)
        registry.settimeout(60)
        with registry.accept()[0]:
            yield command


def test_an_update_whose_model_is_being_fetched_is_seen_and_can_be_given_up(
    client: RestaurantDeploymentClient, url: str
) -> None:
    control = ControlClient(client.home)
    with fetching(client, "a", "update") as update:
        found = client.get_deployment("a")
        assert (found["state"], found["message"]) == (
            "UPDATING",
            "the model of its next revision is being fetched",
        )
        with pytest.raises(RestaurantError, match=r"nothing to promote yet: .* still being fetched"):
            control.promote("a", print)
        with pytest.raises(RestaurantError, match="or give that up with 'mlflow-restaurant abort a'"):
            control.rollback("a", None, print)
        after = control.abort("a", print)
        assert (after["state"], after["revision"]) == ("HEALTHY", 1)
        with pytest.raises(RestaurantError, match="change of deployment 'a' was given up: it was aborted"):
            update.result(60)
    assert [r["state"] for r in control.history("a")] == ["SERVING"]
    assert client.update_deployment("a", config=settings({"name": "second"}))["revision"] == 2


def test_a_deletion_while_the_model_is_being_fetched_is_told(
    client: RestaurantDeploymentClient, url: str
) -> None:
    for name, change in (("a", "update"), ("new", "create")):
        with fetching(client, name, change) as command:
            client.delete_deployment(name)
            with pytest.raises(RestaurantError, match=f"'{name}' was deleted before the command was done"):
                command.result(60)


@pytest.mark.parametrize("aborted", [True, False])
def test_two_who_give_the_same_change_up_get_along(
    client: RestaurantDeploymentClient, url: str, aborted: bool
) -> None:
    control = ControlClient(client.home)
    with fetching(client, "a", "update") as update, ThreadPoolExecutor(3) as pool:
        first = (
            pool.submit(control.abort, "a", print) if aborted else pool.submit(control.delete_deployment, "a")
        )
        others = [pool.submit(client.delete_deployment, "a") for _ in range(2)]
        with pytest.raises(RestaurantError, match=r"it was aborted|was deleted before"):
            update.result(60)
        assert [other.result(60) for other in others] == [None, None]
        with contextlib.suppress(RestaurantError):  # an abort may have come last
            first.result(60)
    assert "a" not in names(client)
    eventually(lambda: not [r for r in read_records(client.home.run) if r.kind == "job"], "no job is left")


def test_a_creation_whose_model_is_being_fetched_can_be_given_up(client: RestaurantDeploymentClient) -> None:
    with fetching(client, "new", "create") as create:
        assert ControlClient(client.home).abort("new", print) == {}
        with pytest.raises(RestaurantError, match="it was aborted"):
            create.result(60)
    assert "new" not in names(client)


@contextlib.contextmanager
def going_back(home: Home, actor: Path) -> Iterator[tuple[Future[Any], Future[Any]]]:
    """An abort that waits until replicas of the revision before have come back, and the update it gives up."""
    client = get_deploy_client(f"restaurant:{home.path}")
    slow = settings({"load_s": 2}, replicas="2")
    url = client.create_deployment("a", str(actor), config=slow)["url"]
    with Load(url, callers=2, action="name").running() as load, ThreadPoolExecutor(2) as pool:
        update = pool.submit(client.update_deployment, "a", config=settings({"load_s": 2, "name": "second"}))
        eventually(lambda: load.seen["2"], "one of two replicas is exchanged")
        abort = pool.submit(ControlClient(home).abort, "a", print)
        eventually(lambda: "going back" in client.get_deployment("a")["message"], "it goes back")
        yield abort, update


@pytest.mark.parametrize(
    ("overtake", "told"),
    [
        (
            lambda control: control.delete_deployment("a"),
            "the deployment was deleted|'a' was deleted before the command was done",
        ),
        (lambda control: control.down(), "goes back from revision 2 at the next 'up'"),
    ],
    ids=["deleted", "down"],
)
def test_an_abort_that_is_overtaken_says_by_what(home: Home, actor: Path, overtake: Any, told: str) -> None:
    with going_back(home, actor) as waiting:
        overtake(ControlClient(home))
        for ended in waiting:
            with pytest.raises((RestaurantError, MlflowException), match=told):
                ended.result(60)


def sending(url: str) -> list[Slow]:
    """Requests whose other half is still to come: small and large ones, with their length and in chunks."""
    return [Slow(url, *["x"] * rows, kind=kind) for rows in (1, 20_000) for kind in ("plain", "chunked") * 2]


@pytest.mark.parametrize("end", ["promote", "abort"])
@pytest.mark.parametrize("strategy", ["canary", "shadow"])
def test_requests_that_are_still_coming_when_a_trial_ends_are_answered(
    client: RestaurantDeploymentClient, url: str, strategy: str, end: str
) -> None:
    with trying(client, strategy=strategy) as update:
        slow = sending(url)
        getattr(ControlClient(client.home), end)("a", print)
        with contextlib.suppress(MlflowException):
            update.result(60)
        assert [request.answer().status for request in slow] == [200] * len(slow)


def test_requests_that_are_still_coming_during_an_update_are_answered(
    client: RestaurantDeploymentClient, url: str
) -> None:
    slow = sending(url)
    for name in ("second", "third"):
        client.update_deployment("a", config=settings({"name": name}))
    found = [request.answer() for request in slow]
    assert [(answer.status, answer.headers["x-mlflow-revision"]) for answer in found] == [(200, "3")] * 8


def test_a_rollback_and_a_deletion_need_no_trial(client: RestaurantDeploymentClient, url: str) -> None:
    control = ControlClient(client.home)
    with trying(client) as update:
        control.promote("a", print)
        update.result(60)
    assert (
        control.rollback("a", None, print)["revision"] == 3
    )  # at once, though its strategy asks for an hour
    assert set(answers(url, 10)) == {"first"}
    with trying(client) as update:
        client.delete_deployment("a")
        with pytest.raises(MlflowException, match="was deleted before the command was done"):
            update.result(60)


def test_callers_stay_on_their_side_of_a_canary(client: RestaurantDeploymentClient, url: str) -> None:
    def side(user: int) -> str:
        return do(url, "name", headers={"x-user-id": str(user)}).headers["x-mlflow-revision"]

    with trying(client, sticky="header:x-user-id"):
        sides = [{side(user) for _ in range(3)} for user in range(30)]
    assert all(len(found) == 1 for found in sides)
    assert set.union(*sides) == {"1", "2"}


def test_a_shadow_is_compared_and_nobody_waits_for_it(client: RestaurantDeploymentClient, url: str) -> None:
    config = settings(
        {"name": "second", "takes_s": 0.2}, strategy="shadow", bake_s="3", max_latency_ratio="1000000"
    )
    with Load(url, callers=4, action="name").running() as load:
        load.wait_for(20)
        client.update_deployment("a", config=config)
        seen = dict(load.seen)
    assert not load.failures()
    assert seen.get("2", 0) <= 50  # only after it came into service
    trial = ControlClient(client.home).history("a")[0]["trial"]
    found = trial["agreement"]
    assert trial["strategy"] == "shadow"
    assert found["rows"] > 0
    assert found["agreed"] == 0
    assert found["skipped"] > 0  # it is slower than its callers ask
    assert found["columns"]["prediction"]["compared"] == found["rows"]
    assert found["worst"][0]["old"] == "first"
    assert found["worst"][0]["new"] == "second"
    assert "name" in found["worst"][0]["input"]


def test_a_shadow_that_disagrees_goes_back(client: RestaurantDeploymentClient, url: str) -> None:
    config = settings({"name": "second"}, strategy="shadow", bake_s="60", min_agreement="0.9")
    with (
        Load(url, callers=4, action="name").running() as load,
        pytest.raises(MlflowException, match=r"agrees with the revision before on 0.0% of .* rows"),
    ):
        client.update_deployment("a", config=config)
    assert not load.failures()
    assert set(load.seen) == {"1"}


def test_a_shadow_that_agrees_comes_into_service(client: RestaurantDeploymentClient, url: str) -> None:
    config = settings({}, strategy="shadow", bake_s="2", min_agreement="1", shadow_percent="50")
    with Load(url, callers=4, action="name").running() as load:
        assert client.update_deployment("a", config=config)["revision"] == 2
    assert not load.failures()
    found = ControlClient(client.home).history("a")[0]["trial"]["agreement"]
    assert found["rows"] == found["agreed"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"canary_steps": "5,25,10"}, "'canary_steps' must be percentages that rise, such as 5,25,50"),
        ({"canary_steps": "5,5"}, "must be percentages that rise"),
        ({"canary_steps": "50,101"}, "must be percentages above 0 and up to 100"),
        ({"canary_steps": "0,5"}, "must be percentages above 0"),
        ({"canary_steps": ""}, "must be percentages above 0"),
        ({"canary_steps": "a,b"}, "must be percentages above 0"),
        ({"strategy": "canery"}, "'strategy' must be one of 'rolling', 'canary' or 'shadow'"),
        ({"shadow_percent": "150"}, "'shadow_percent' must be at most 100"),
        ({"min_agreement": "2"}, "'min_agreement' must be at most 1"),
        ({"bake_s": "-1"}, "'bake_s' must be at least 0"),
        ({"max_latency_ratio": "0.5"}, "'max_latency_ratio' must be at least 1"),
        ({"sticky": "cookie"}, "Write sticky as client"),
    ],
    ids=str,
)
def test_settings_that_are_refused(
    client: RestaurantDeploymentClient, url: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(MlflowException, match=words):
        client.update_deployment("a", config=options)
    assert client.get_deployment("a")["revision"] == 1


def test_a_first_revision_needs_no_trial(client: RestaurantDeploymentClient, actor: Path) -> None:
    assert client.create_deployment("b", str(actor), config=FOR_EVER)["state"] == "HEALTHY"


def test_a_trial_outlives_its_controller(home: Home, actor: Path) -> None:
    client = get_deploy_client(f"restaurant:{home.path}")
    url = client.create_deployment("a", str(actor))["url"]
    ended = threading.Event()

    def update() -> None:
        with pytest.raises(MlflowException):
            client.update_deployment("a", config=settings({"name": "second"}, **FOR_EVER))
        ended.set()

    with Load(url, callers=4, action="name").running() as load:
        thread = threading.Thread(target=update)
        thread.start()
        eventually(lambda: load.seen["2"] > 5, "the canary answers")
        os.kill(records(home, "controller")[0], signal.SIGKILL)
        assert ended.wait(60)
        thread.join()
        control = ControlClient(home)
        control.ensure_running()
        eventually(lambda: "step" in (client.get_deployment("a")["rollout"] or {}), "it is tried again")
        assert control.promote("a", print)["revision"] == 2
        load.wait_for(20)
    assert not load.failures()
    assert set(answers(url, 10)) == {"second"}


def test_replicas_are_exchanged_one_at_a_time(client: RestaurantDeploymentClient, actor: Path) -> None:
    url = client.create_deployment("a", str(actor), config={"replicas": "3"})["url"]
    counts: list[tuple[int, int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            found = client.get_deployment("a")["replicas"]
            counts.append((len(found), sum(r["state"] == "RUNNING" for r in found)))

    with Load(url, callers=8, action="name").running() as load:
        load.wait_for(20)
        watching = threading.Thread(target=watch)
        watching.start()
        client.update_deployment("a", config=settings({"name": "second"}))
        ended.set()
        watching.join()
        load.wait_for(20)
    assert not load.failures()
    assert max(there for there, _ in counts) == 4
    assert min(running for _, running in counts) >= 3
    assert set(answers(url, 10)) == {"second"}
    assert len(pids(client, 2)) == 3


def test_an_exchange_that_fails_half_way_goes_back_as_it_came(
    client: RestaurantDeploymentClient, actor: Path, tmp_path: Path
) -> None:
    obstacle = tmp_path / "obstacle"
    url = client.create_deployment("a", str(actor), config={"replicas": "3"})["url"]
    with Load(url, callers=8, action="name").running() as load, ThreadPoolExecutor(1) as pool:
        update = pool.submit(
            client.update_deployment, "a", config=settings({"end_if_there": str(obstacle), "name": "second"})
        )
        eventually(lambda: load.seen["2"], "the first new replica answers")
        obstacle.touch()
        with pytest.raises(MlflowException, match="its process ended with status 41"):
            update.result(60)
        load.wait_for(20)
    assert not load.failures()
    assert len(pids(client, 1)) == 3
    assert not pids(client, 2)
    assert set(answers(url, 10)) == {"first"}
