"""Endpoints on a real server: who joins, who gets how many requests, and what is refused."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow.sklearn
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LinearRegression

from mlflow_restaurant.deployments import RestaurantDeploymentClient
from mlflow_restaurant.home import Home

from ..support import Answer, call, do, eventually
from .conftest import borrowed

REQUESTS = 400
TEN_THOUSAND = 10_000
JSON = {"Content-Type": "application/json"}
ROWS = {"dataframe_split": {"columns": ["do"], "data": [["x"]]}}


@pytest.fixture(scope="module")
def deployed(shared_home: Home, actor: Path) -> Iterator[RestaurantDeploymentClient]:
    """A server with the deployments `a` and `b` of the endpoint `e`, and `other` of the endpoint `f`."""
    with borrowed(shared_home) as client:
        for name, endpoint in (("a", "e"), ("b", "e"), ("other", "f")):
            client.create_deployment(name, str(actor), endpoint=endpoint)
        yield client


@pytest.fixture
def endpoint(deployed: RestaurantDeploymentClient) -> str:
    """The URL of the endpoint `e`, all of whose traffic goes to `a`."""
    url: str = deployed.update_endpoint("e", {"traffic": {"a": 100}})["url"]
    eventually(lambda: ask(url, 1) == {"a": 1}, "the endpoint sends its requests to a")
    return url


def ask(url: str, requests: int = REQUESTS) -> Counter[str]:
    """Return how many requests each deployment answered."""

    def one(_: int) -> str:
        answer = do(url, "x")
        assert answer.status == 200
        assert answer.predictions == ["x"]
        return answer.headers["x-mlflow-deployment"]

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(one, range(requests)))


def assert_share(count: int, share: float, requests: int = REQUESTS) -> None:
    """Check a count of requests: within one percentage point of the share that was set."""
    assert abs(count / requests - share) < 0.01


def state(client: RestaurantDeploymentClient) -> tuple[Any, Any]:
    return client.list_deployments(), client.list_endpoints()


def assert_not_found(answer: Answer) -> None:
    assert answer.status == 404
    assert answer.json["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_create_makes_the_endpoint_and_the_first_gets_everything(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    assert client.create_deployment("x", str(actor), endpoint="new")["endpoint"] == "new"
    url = client.get_endpoint("new")["url"]
    assert ask(url, 3) == {"x": 3}
    client.create_deployment("y", str(actor), endpoint="new")
    found = client.get_endpoint("new")
    assert found["traffic"] == {"x": 100}
    assert sorted(found["deployments"]) == ["x", "y"]
    assert ask(url, 20) == {"x": 20}
    assert [d["name"] for d in client.list_deployments(endpoint="new")] == ["x", "y"]
    assert client.get_deployment("y", endpoint="new")["name"] == "y"


def test_requests_are_split_by_weight(deployed: RestaurantDeploymentClient, endpoint: str) -> None:
    changed = deployed.update_endpoint("e", {"traffic": "a=75,b=25"})
    assert changed["traffic"] == deployed.get_endpoint("e")["traffic"] == {"a": 75, "b": 25}
    seen = ask(endpoint)
    assert sum(seen.values()) == REQUESTS
    assert_share(seen["a"], 0.75)
    deployed.update_endpoint("e", {"traffic": '{"a": 10, "b": 90}'})
    assert_share(ask(endpoint)["b"], 0.9)


def test_a_split_of_ten_thousand_requests_is_exact(
    client: RestaurantDeploymentClient, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"a": [0.0, 1.0]})
    mlflow.sklearn.save_model(
        LinearRegression().fit(frame, [0.0, 1.0]), tmp_path / "line", input_example=frame
    )
    for name in ("old", "new"):
        client.create_deployment(name, str(tmp_path / "line"), endpoint="split")
    url = client.update_endpoint("split", {"traffic": "old=83,new=17"})["url"]
    parts = urlsplit(url)
    body = json.dumps({"dataframe_split": {"columns": ["a"], "data": [[0.5]]}}).encode()

    def ask_many(_: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        with contextlib.closing(connection):
            for _ in range(TEN_THOUSAND // 16):
                connection.request("POST", f"{parts.path}/invocations", body, JSON)
                answer = connection.getresponse()
                answer.read()
                seen[f"{answer.status} {answer.headers['x-mlflow-deployment']}"] += 1
        return seen

    with ThreadPoolExecutor(16) as pool:
        seen = sum(pool.map(ask_many, range(16)), Counter())
    assert set(seen) == {"200 old", "200 new"}
    assert_share(seen["200 new"], 0.17, TEN_THOUSAND)


def test_a_caller_stays_with_its_deployment_as_shares_grow(
    deployed: RestaurantDeploymentClient, endpoint: str
) -> None:
    def side(user: int) -> str:
        answer = call(f"{endpoint}/invocations", ROWS, headers={"X-User-Id": str(user)})
        assert answer.status == 200
        return answer.headers["x-mlflow-deployment"]

    users, there = range(40), set[int]()
    for share in (10, 50, 90):
        changed = deployed.update_endpoint(
            "e", {"traffic": f"a={100 - share},b={share}", "sticky": "header:X-User-ID"}
        )
        assert changed["sticky"] == "header:x-user-id"
        now = {user for user in users if side(user) == "b"}
        assert now == {user for user in users if side(user) == "b"}
        assert there <= now
        there = now
    assert 0 < len(there) <= 40

    deployed.update_endpoint("e", {"traffic": "a=50,b=50", "sticky": "client"})
    assert len(ask(endpoint, 20)) == 1
    deployed.update_endpoint("e", {"sticky": "off"})
    assert deployed.get_endpoint("e")["traffic"] == {"a": 50, "b": 50}
    assert len(ask(endpoint, 20)) == 2


@pytest.mark.parametrize("sticky", ["header", "header:", "header:a b", "cookie", 5], ids=str)
def test_a_rule_that_is_refused_changes_nothing(
    deployed: RestaurantDeploymentClient, endpoint: str, sticky: object
) -> None:
    with pytest.raises(MlflowException, match=r"Write sticky as client, header:NAME"):
        deployed.update_endpoint("e", {"traffic": {"b": 100}, "sticky": sticky})
    assert deployed.get_endpoint("e")["traffic"] == {"a": 100}


def test_a_change_holds_from_the_next_request_on(deployed: RestaurantDeploymentClient, endpoint: str) -> None:
    for name in ("b", "a") * 10:
        deployed.update_endpoint("e", {"traffic": {name: 100}})
        assert do(endpoint, "x").headers["x-mlflow-deployment"] == name


def test_an_endpoint_answers_as_soon_as_it_is_made(client: RestaurantDeploymentClient, actor: Path) -> None:
    client.create_deployment("x", str(actor))
    for number in range(10):
        url = client.create_endpoint(f"e{number}", {"traffic": {"x": 100}})["url"]
        assert do(url, "x").status == 200
        client.delete_endpoint(f"e{number}")
        assert_not_found(do(url, "x"))


@pytest.mark.parametrize(
    ("traffic", "weights"),
    [
        ("a=75,b=25", {"a": 75, "b": 25}),
        (" a = 75 , b = 25 ", {"a": 75, "b": 25}),
        ("a=99.5,b=0.5", {"a": 99.5, "b": 0.5}),
        ('{"a": 75, "b": 25}', {"a": 75, "b": 25}),
        ({"b": 25, "a": 75.0}, {"a": 75, "b": 25}),
        ({"b": 100}, {"b": 100}),
        ({"a": 33.3, "b": 66.7}, {"a": 33.3, "b": 66.7}),
    ],
)
def test_forms_of_a_split(deployed: RestaurantDeploymentClient, traffic: object, weights: object) -> None:
    assert deployed.update_endpoint("e", {"traffic": traffic})["traffic"] == weights
    assert deployed.get_endpoint("e")["traffic"] == weights


@pytest.mark.parametrize(
    ("traffic", "reason"),
    [
        ("a=75,b=24", "must add up to 100, not 99"),
        ("a=75,b=26", "must add up to 100, not 101"),
        ("a=0,b=0", "must add up to 100, not 0"),
        ("a=-1,b=101", "weight of 'a' must be a percentage"),
        ("a=nan,b=100", "weight of 'a' must be a percentage"),
        ("a=inf,b=0", "weight of 'a' must be a percentage"),
        ("a=,b=100", "weight of 'a' must be a percentage"),
        ("a=half,b=half", "weight of 'a' must be a percentage"),
        ({"a": True, "b": 99}, "weight of 'a' must be a percentage"),
        ("a=50,a=50", "names each deployment once"),
        ('{"a": 50, "a": 50}', "names each deployment once"),
        ("a=50,nobody=50", "no deployment 'nobody'"),
        ("a=50,x/y=50", "name of a deployment"),
        ("a=50,other=50", "belongs to endpoint 'f'"),
        ("a", "Write a traffic split as a=90,b=10"),
        ('["a", "b"]', "Write a traffic split as a=90,b=10"),
        ('{"a": 100', "not valid JSON"),
        (100, "Write a traffic split as a=90,b=10"),
    ],
)
def test_a_split_that_is_refused_changes_nothing(
    deployed: RestaurantDeploymentClient, traffic: object, reason: str
) -> None:
    client, before = deployed, state(deployed)
    with pytest.raises(MlflowException, match=reason) as caught:
        client.update_endpoint("e", {"traffic": traffic})
    assert "\n" not in caught.value.message
    with pytest.raises(MlflowException):
        client.create_endpoint("g", {"traffic": traffic})
    assert state(client) == before


def test_an_endpoint_twice_and_one_that_is_not_there_are_refused(
    deployed: RestaurantDeploymentClient, endpoint: str
) -> None:
    before = state(deployed)
    with pytest.raises(MlflowException, match="'e' exists already"):
        deployed.create_endpoint("e", {"traffic": "b=100"})
    for refused in (deployed.get_endpoint, deployed.update_endpoint, deployed.list_deployments):
        with pytest.raises(MlflowException, match="no endpoint 'g'"):
            refused("g")
    with pytest.raises(MlflowException, match="no endpoint 'g'"):
        deployed.predict(endpoint="g", inputs=ROWS)
    with pytest.raises(MlflowException, match="Did you mean 'traffic'"):
        deployed.update_endpoint("e", {"trafic": "b=100"})
    deployed.delete_endpoint("g")
    assert state(deployed) == before
    assert ask(endpoint, 5) == {"a": 5}


def test_a_deployment_of_another_endpoint_does_not_move(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    client.create_deployment("x", str(actor), endpoint="new")
    before = state(client)
    with pytest.raises(MlflowException, match="belongs to endpoint 'new', not 'no'"):
        client.update_deployment("x", endpoint="no")
    with pytest.raises(MlflowException, match="no deployment 'x' in endpoint 'no'"):
        client.get_deployment("x", endpoint="no")
    with pytest.raises(MlflowException, match="no deployment 'x' in endpoint 'no'"):
        client.predict("x", ROWS, endpoint="no")
    assert state(client) == before


def test_a_split_takes_in_deployments_without_an_endpoint(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    client.create_deployment("x", str(actor))
    url = client.create_endpoint("new", {"traffic": {"x": 100}})["url"]
    assert client.get_deployment("x")["endpoint"] == "new"
    assert ask(url, 5) == {"x": 5}


def test_deleting_an_endpoint_keeps_its_deployments(client: RestaurantDeploymentClient, actor: Path) -> None:
    deployment = client.create_deployment("x", str(actor), endpoint="new")
    url = client.get_endpoint("new")["url"]
    client.delete_endpoint("new")
    client.delete_endpoint("new")
    eventually(lambda: do(url, "x").status == 404, "the endpoint is gone")
    after = client.get_deployment("x")
    assert (after["endpoint"], after["state"]) == (None, "HEALTHY")
    assert do(deployment["url"], "x").predictions == ["x"]


def test_a_deployment_with_traffic_can_not_be_deleted_and_one_without_can(
    client: RestaurantDeploymentClient, actor: Path
) -> None:
    for name in ("x", "y"):
        client.create_deployment(name, str(actor), endpoint="new")
    client.update_endpoint("new", {"traffic": "x=100,y=0"})
    before = state(client)
    with pytest.raises(MlflowException, match="'new' still sends 100 % of its requests to deployment 'x'"):
        client.delete_deployment("x")
    assert state(client) == before
    client.delete_deployment("y")
    found = client.get_endpoint("new")
    assert (found["traffic"], found["deployments"]) == ({"x": 100}, ["x"])
    assert ask(found["url"], 5) == {"x": 5}


def test_predictions_through_the_client(deployed: RestaurantDeploymentClient, endpoint: str) -> None:
    del endpoint
    deployed.update_endpoint("e", {"traffic": "b=100"})
    pids = {name: str(deployed.get_deployment(name)["replicas"][0]["pid"]) for name in ("a", "b")}
    assert deployed.predict(endpoint="e", inputs={"do": ["pid"]})["predictions"] == [pids["b"]]
    assert deployed.predict("a", {"do": ["pid"]}, endpoint="e")["predictions"] == [pids["a"]]


def test_an_endpoint_without_deployments_asks_to_come_again(client: RestaurantDeploymentClient) -> None:
    url = client.create_endpoint("empty")["url"]
    for answer in (call(f"{url}/invocations", ROWS), call(f"{url}/ping")):
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert "'empty'" in answer.json["message"]


@pytest.mark.parametrize("path", ["ping", "health", "version", "invocations"])
def test_what_an_endpoint_answers_is_what_its_deployment_answers(
    deployed: RestaurantDeploymentClient, endpoint: str, path: str
) -> None:
    payload = ROWS if path == "invocations" else None
    through = call(f"{endpoint}/{path}", payload)
    direct = call(f"{deployed.get_deployment('a')['url']}/{path}", payload)
    assert through.status == direct.status == 200
    assert through.body == direct.body
    assert through.headers["x-mlflow-deployment"] == direct.headers["x-mlflow-deployment"] == "a"
    assert through.headers["x-mlflow-revision"] == direct.headers["x-mlflow-revision"] == "1"
    assert "x-mlflow-model-version" not in through.headers


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "",
        "E",
        "e%20",
        "%20e",
        "e%2Fx",
        "..%2Fe",
        "%2E%2E",
        "%00",
        "%FF",
        "%E2%98%83",
        "e%0Ax-a:b",
        "%",
        "%zz",
        "e;f",
        "x" * 2000,
    ],
)
@pytest.mark.parametrize("kind", ["endpoints", "deployments"])
def test_names_that_are_not_there_are_not_found(endpoint: str, kind: str, name: str) -> None:
    base = endpoint.removesuffix("/endpoints/e")
    answer = call(f"{base}/{kind}/{name}/invocations", ROWS)
    assert_not_found(answer)
    assert answer.headers["content-type"] == "application/json"
    assert "x-a" not in answer.headers
    assert len(json.dumps(answer.json["message"])) < 5000


def test_a_name_may_be_percent_encoded(endpoint: str) -> None:
    base = endpoint.removesuffix("/endpoints/e")
    assert do(f"{base}/endpoints/%65", "x").predictions == ["x"]
    assert do(f"{base}/deployments/%61", "x").predictions == ["x"]
