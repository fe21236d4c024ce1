"""What a server tells of what happened, through the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import EVENT_KINDS
from mlflow_restaurant.home import Home

from ..support import call, eventually, records
from .conftest import BIN, own_client, restaurant, running


def told(home: Home, *arguments: str) -> list[dict[str, Any]]:
    """Return what ``events --json`` prints."""
    found: list[dict[str, Any]] = json.loads(restaurant(home, "events", *arguments, "--json").out)
    assert {event["kind"] for event in found} <= set(EVENT_KINDS)
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


def test_what_happens_to_a_deployment_and_after_it_is_gone(home: Home, actor: Path) -> None:
    client, control = own_client(home), ControlClient(home)
    client.create_deployment("a", str(actor), config={"reason": "to begin with"})
    client.update_deployment("a", config={"replicas": "2"})
    with pytest.raises(MlflowException, match="fell ill"):
        client.update_deployment("a", config={"model_config": '{"at_load": "raise"}'})
    control.rollback("a", None, print, reason="it was better")
    control.create_endpoint("e", "a=100")
    client.update_endpoint("e", {"sticky": "client"})
    client.delete_endpoint("e")
    client.delete_deployment("a")

    found = told(home, "a")
    assert kinds(found) == [
        *("created", "promoted", "revision", "promoted", "revision", "replica", "failed"),
        *("rollback", "promoted", "deleted"),
    ]
    assert [event["revision"] for event in found] == [1, 1, 2, 2, 3, 3, 3, 4, 4, None]
    assert found[0]["message"] == f"revision 1 of {actor}: to begin with"
    assert "the actor fell ill while loading" in found[6]["message"]
    assert found[7]["message"] == f"revision 4 of {actor}, as revision 1: it was better"
    by = {event["kind"]: event["by"] for event in found}
    assert by["created"] == by["rollback"] == by["deleted"] != ""
    assert by["promoted"] == by["failed"] == by["replica"] == ""
    assert [event["time"] for event in found] == sorted(event["time"] for event in found)
    assert [event["message"] for event in told(home, "e")] == [
        "created, a 100 %",
        "changed, a 100 %, sticky by client",
        "deleted",
    ]

    assert kinds(told(home)) == ["server", *kinds(found[:9]), *["endpoint"] * 3, "deleted"]
    assert told(home, "-n", "2") == told(home)[-2:]
    assert told(home, "--since", "1h", "a") == found
    assert told(home, "--since", "0s") == []
    shown = restaurant(home, "events", "a").out
    assert all(word in shown for word in ("created", "rollback", "as revision 1: it was better"))
    assert restaurant(home, "events", "a", "--since", "0s").out == "No events.\n"
    assert "no events of a deployment or endpoint 'nobody'" in restaurant(home, "events", "nobody").error
    assert "Write a duration as" in restaurant(home, "events", "--since", "soon").error

    before = told(home, "a")
    assert control.down()
    assert told(home, "a") == before  # which starts the server again
    assert [e["message"].partition(" (")[0] for e in told(home) if e["kind"] == "server"] == [
        *("the server runs", "the server goes down", "the server runs")
    ]


def test_deaths_are_told_while_they_happen(home: Home, actor: Path) -> None:
    client = own_client(home)
    client.create_deployment("a", str(actor), config={"replicas": "1"})
    follow = (BIN / "mlflow-restaurant", "-t", f"restaurant:{home.path}", "events", "-f", "-n", "1", "--json")
    with running(*follow) as events:
        assert json.loads(events.line("promoted"))["message"] == "revision 1 serves"
        os.kill(records(home, "replica")[0], signal.SIGKILL)
        ended, again = (json.loads(events.line(text)) for text in ("SIGKILL", "runs again"))
        assert ended["message"].startswith("replica a-1-0 ended: its process was ended by SIGKILL")
        assert again["message"] == "replica a-1-0 runs again (restart 1)"
        assert (again["kind"], again["deployment"], again["revision"]) == ("replica", "a", 1)
        os.kill(records(home, "gateway")[0], signal.SIGKILL)
        assert json.loads(events.line("another takes its place"))["kind"] == "gateway"
        url = f"{client.get_deployment('a')['url']}/ping"
        eventually(lambda: call(url).status == 200, "the new gateway answers")
        ControlClient(home).down()
        assert not ControlClient(home).is_running()
        client.get_deployment("a")
        events.line("the server goes down")
        events.line("the server runs")  # a follower starts none, and goes on with the next
        assert events.end(signal.SIGINT) == 130
    assert "Traceback" not in events.said


def test_a_replica_that_keeps_dying_is_told_of_in_few_words(home: Home, actor: Path, tmp_path: Path) -> None:
    client = own_client(home)
    obstacle = tmp_path / "obstacle"
    config = {"model_config": json.dumps({"end_if_there": str(obstacle)})}
    client.create_deployment("a", str(actor), config=config)
    obstacle.touch()
    os.kill(records(home, "replica")[0], signal.SIGKILL)
    eventually(lambda: client.get_deployment("a")["state"] == "UNHEALTHY", "it is given up")
    (event,) = eventually(lambda: [e for e in told(home, "a") if e["kind"] == "unhealthy"], "it is told")
    assert "ended with status 41; it keeps ending, and is tried every 30 s" in event["message"]
    assert kinds(told(home, "a")).count("replica") == 4
