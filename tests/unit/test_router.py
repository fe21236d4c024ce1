"""The router: paths, and that an endpoint's requests are split by its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlflow_restaurant.entities import DeploymentRoute, EndpointRoute, RouteTable
from mlflow_restaurant.errors import DoesNotExist, Unavailable
from mlflow_restaurant.gateway.router import (
    Address,
    Caller,
    Draws,
    parse_path,
    pick,
    pick_side,
    split,
    stuck,
    takes_part,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

weights = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 50), min_size=1, max_size=6
)
printable = st.characters(exclude_categories=["C", "Z"])
draws = st.floats(0, 1, exclude_max=True)


def table(**traffic: dict[str, float]) -> RouteTable:
    names = {name for split_ in traffic.values() for name in split_} | {"d"}
    return RouteTable(
        deployments={
            n: DeploymentRoute(name=n, revision=1, timeout_s=1, max_queue=1, max_body_mb=1) for n in names
        },
        endpoints={n: EndpointRoute(name=n, traffic=t) for n, t in traffic.items()},
    )


ENDPOINT = Address("endpoints", "e", "/invocations")


def table_of(sticky: str, traffic: dict[str, float]) -> RouteTable:
    """Return a table with one sticky endpoint."""
    found = table(e=traffic)
    endpoint = found.endpoints["e"].model_copy(update={"sticky": sticky})
    return found.model_copy(update={"endpoints": {"e": endpoint}})


class TestPath:
    @pytest.mark.parametrize(
        ("path", "address"),
        [
            ("/deployments/d/invocations", Address("deployments", "d", "/invocations")),
            ("/endpoints/e/ping", Address("endpoints", "e", "/ping")),
            ("/deployments/d/", Address("deployments", "d", "/")),
            ("/deployments/d/a/b", Address("deployments", "d", "/a/b")),
            ("/deployments/a%2Eb/ping", Address("deployments", "a.b", "/ping")),
            ("/deployments/a%2Fb/ping", Address("deployments", "a/b", "/ping")),
            ("/deployments/%C3%A4/ping", Address("deployments", "ä", "/ping")),
            ("/deployments/d/a%20b", Address("deployments", "d", "/a%20b")),
            ("/deployments//ping", Address("deployments", "", "/ping")),
        ],
    )
    def test_what_it_addresses(self, path: str, address: Address) -> None:
        assert parse_path(path) == address

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "/ping",
            "/deployments",
            "/deployments/d",
            "deployments/d/ping",
            "/Deployments/d/ping",
            "//deployments/d/ping",
        ],
    )
    def test_paths_of_neither(self, path: str) -> None:
        assert parse_path(path) is None

    @unhurried
    @given(st.text(printable, min_size=1), st.text("abc/%20", max_size=8))
    def test_any_name_that_is_quoted_comes_back(self, name: str, rest: str) -> None:
        assert parse_path(f"/endpoints/{quote(name, safe='')}/{rest}") == Address(
            "endpoints", name, f"/{rest}"
        )


class TestPick:
    def test_a_deployment_by_its_name(self) -> None:
        assert pick(Address("deployments", "d", "/ping"), table(), Caller(), Draws()) == "d"

    @pytest.mark.parametrize("kind", ["deployments", "endpoints"])
    def test_an_unknown_name(self, kind: str) -> None:
        with pytest.raises(DoesNotExist, match="'nobody'"):
            pick(Address(kind, "nobody", "/ping"), table(e={"d": 100}), Caller(), Draws())

    def test_deployments_and_endpoints_have_names_of_their_own(self) -> None:
        with pytest.raises(DoesNotExist):
            pick(Address("deployments", "e", "/ping"), table(e={"d": 100}), Caller(), Draws())
        with pytest.raises(DoesNotExist):
            pick(Address("endpoints", "d", "/ping"), table(e={"d": 100}), Caller(), Draws())

    @pytest.mark.parametrize("traffic", [{}, {"a": 0.0}])
    def test_an_endpoint_without_traffic_is_unavailable(self, traffic: dict[str, float]) -> None:
        with pytest.raises(Unavailable, match="'e'"):
            pick(Address("endpoints", "e", "/ping"), table(e=traffic), Caller(), Draws())


class TestShares:
    @pytest.mark.parametrize("traffic", [{"a": 50, "b": 50}, {"a": 99, "b": 1}, {"a": 70, "b": 20, "c": 10}])
    def test_they_are_exact_over_a_few_hundred_requests(self, traffic: dict[str, float]) -> None:
        draws, address, routes = Draws(), Address("endpoints", "e", "/ping"), table(e=traffic)

        counts = Counter(pick(address, routes, Caller(), draws) for _ in range(500))

        for name, weight in traffic.items():
            assert abs(counts[name] / 5 - weight) < 1

    def test_each_endpoint_has_draws_of_its_own(self) -> None:
        draws = Draws()
        first = draws.next("endpoints", "e")
        draws.next("endpoints", "other")
        draws.next("canary", "e")

        assert (draws.next("endpoints", "e") - first) % 1 == pytest.approx(0.618, abs=1e-3)

    def test_those_of_endpoints_that_are_gone_are_forgotten(self) -> None:
        draws = Draws()
        for kind in ("endpoints", "canary"):
            for name in ("e", "d", "gone"):
                draws.next(kind, name)
        draws.keep(table(e={"d": 100}))

        assert {kind: set(last) for kind, last in draws.last.items()} == {
            "endpoints": {"e"},
            "canary": {"d"},
            "shadow": set(),
        }


MANY = 10_000


def asked(
    paths: Sequence[str], traffic: dict[str, dict[str, float]], mode: str, share: float
) -> Counter[str]:
    """Return where many requests went that ask these paths in turn.

    Counted are requests by path and deployment (``e/x``), and of those to deployment ``x``, which has a revision on
    trial, the ones that this answers or gets a copy of (``e/x/new``).
    """
    routes = table(**traffic)
    plain = routes.deployments["x"]
    new = {**dict(plain), "revision": 2, "replicas": ({"key": "k", "socket": "s"},)}
    trial = {"mode": mode, "share": share, "step": 1, "route": new}
    x = DeploymentRoute.model_validate({**dict(plain), "trial": trial})
    routes = routes.model_copy(update={"deployments": {**routes.deployments, "x": x}})
    addresses = [Address("deployments" if path == "direct" else "endpoints", path, "/") for path in paths]
    addresses = [Address(a.kind, "x", "/") if a.kind == "deployments" else a for a in addresses]
    found: Counter[str] = Counter()
    draws = Draws()
    for number in range(MANY):
        path, address = paths[number % len(paths)], addresses[number % len(paths)]
        name = pick(address, routes, Caller(), draws)
        found[f"{path}/{name}"] += 1
        if name == "x":
            taken = takes_part(x, draws) or pick_side(x, Caller(), draws).revision == 2
            found[f"{path}/x/new"] += taken
    return found


class TestNesting:
    """An endpoint chooses which requests a deployment gets, and the deployment which of those its canary gets."""

    @pytest.mark.parametrize("mode", ["canary", "shadow"])
    @pytest.mark.parametrize("share", [1, 5, 50, 61.8, 90])
    @pytest.mark.parametrize("weight", [5, 38, 50, 95])
    @pytest.mark.parametrize(
        "paths", [["x"], ["e"], ["e", "direct"], ["x", "e"], ["x", "e", "direct", "direct", "e"]]
    )
    def test_all_shares_are_exact(self, paths: list[str], weight: float, share: float, mode: str) -> None:
        split_ = {"y": 100 - weight, "x": weight}

        found = asked(paths, dict.fromkeys({*paths} - {"direct"}, split_), mode, share)

        for path in {*paths}:
            to_x, all_of_it = found[f"{path}/x"], found[f"{path}/x"] + found[f"{path}/y"]
            if path != "direct":
                assert abs(100 * to_x / all_of_it - weight) < 1
            off = 0.01 if len({*paths}) == 1 else 0.02
            assert abs(found[f"{path}/x/new"] - to_x * share / 100) < off * all_of_it
        new = sum(found[f"{path}/x/new"] for path in {*paths})
        every = sum(found[f"{path}/x"] for path in {*paths})
        assert abs(100 * new / every - share) < 1


class TestSticky:
    @pytest.mark.parametrize("sticky", ["client", "header:x-user-id"])
    def test_a_caller_stays(self, sticky: str) -> None:
        callers = [Caller([(b"x-user-id", b"%d" % n)], f"10.0.0.{n}") for n in range(200)]
        routes = table_of(sticky, {"a": 50, "b": 50})

        first = [pick(ENDPOINT, routes, caller, Draws()) for caller in callers]

        assert [pick(ENDPOINT, routes, caller, Draws()) for caller in callers] == first
        assert set(first) == {"a", "b"}

    def test_who_has_no_such_header_goes_anywhere(self) -> None:
        routes, draws = table_of("header:x-user-id", {"a": 50, "b": 50}), Draws()
        nobody = [Caller(), Caller([(b"x-user-id", b"")]), Caller([(b"x-other", b"1")])]

        for caller in nobody:
            assert {pick(ENDPOINT, routes, caller, draws) for _ in range(20)} == {"a", "b"}

    @pytest.mark.parametrize("share", [1, 5, 25, 50, 90])
    def test_callers_are_split_by_weight(self, share: int) -> None:
        weights = {"a": 100.0 - share, "b": float(share)}

        counts = Counter(stuck(weights, b"%d" % n) for n in range(20_000))

        assert abs(counts["b"] / 200 - share) < 1

    def test_as_a_share_grows_nobody_leaves_it_and_others_stay_where_they_are(self) -> None:
        keys = [b"user-%d" % n for n in range(2000)]
        before = {"a": 60.0, "b": 30.0, "c": 10.0}
        after = {"a": 60.0, "b": 30.0, "c": 40.0}

        for key in keys:
            assert stuck(after, key) in (stuck(before, key), "c")

    def test_a_canary_keeps_its_callers_at_every_step(self) -> None:
        keys = [b"user-%d" % n for n in range(2000)]
        there: set[bytes] = set()
        for share in (5.0, 25.0, 50.0, 100.0):
            now = {key for key in keys if stuck({"old": 100 - share, "new": share}, key) == "new"}
            assert there <= now
            there = now

    def test_every_process_gives_the_same(self) -> None:
        assert [stuck({"a": 50, "b": 50}, b"%d" % n) for n in range(6)] == list("aaaabb")

    def test_nobody_to_go_to(self) -> None:
        assert stuck({"a": 0.0}, b"x") is None


class TestSplit:
    @unhurried
    @given(weights)
    def test_shares_of_an_even_grid_follow_the_weights(self, traffic: dict[str, int]) -> None:
        total = sum(traffic.values())
        assume(total)
        endpoint = EndpointRoute(name="e", traffic={n: float(w) for n, w in traffic.items()})

        counts = Counter(split(endpoint.traffic, (k + 0.5) / total) for k in range(total))

        assert counts == Counter({n: w for n, w in traffic.items() if w})

    @unhurried
    @given(weights, draws)
    def test_zero_weights_are_never_picked(self, traffic: dict[str, int], draw: float) -> None:
        assume(any(traffic.values()))
        endpoint = EndpointRoute(name="e", traffic={n: float(w) for n, w in traffic.items()})

        chosen = split(endpoint.traffic, draw)

        assert chosen is not None
        assert traffic[chosen] > 0

    @unhurried
    @given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=5), draws)
    def test_weights_that_do_not_add_up_to_100_are_shares_of_what_is_left(
        self, shares: list[float], draw: float
    ) -> None:
        endpoint = EndpointRoute(name="e", traffic={str(k): w for k, w in enumerate(shares)})

        chosen = int(split(endpoint.traffic, draw) or 0)
        below = sum(shares[:chosen]) / sum(shares)

        assert below <= draw + 1e-9
        assert draw <= below + shares[chosen] / sum(shares) + 1e-9

    def test_the_largest_draw_still_finds_someone(self) -> None:
        endpoint = EndpointRoute(
            name="e", traffic={"a": 33.3333333, "b": 33.3333333, "c": 33.3333334, "d": 0.0}
        )

        assert split(endpoint.traffic, 1 - 2**-53) == "c"
