"""The router: paths, and that an endpoint's requests are split by its weights."""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlflow_restaurant.entities import DeploymentRoute, EndpointRoute, RouteTable
from mlflow_restaurant.errors import DoesNotExist, Unavailable
from mlflow_restaurant.gateway.router import Address, parse_path, pick, split

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

weights = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 50), min_size=1, max_size=6
)
draws = st.floats(0, 1, exclude_max=True)


def table(**traffic: dict[str, float]) -> RouteTable:
    names = {name for split_ in traffic.values() for name in split_} | {"d"}
    return RouteTable(
        deployments={
            n: DeploymentRoute(name=n, revision=1, timeout_s=1, max_queue=1, max_body_mb=1) for n in names
        },
        endpoints={n: EndpointRoute(name=n, traffic=t) for n, t in traffic.items()},
    )


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
    @given(st.text(min_size=1), st.text("abc/%20", max_size=8))
    def test_any_name_that_is_quoted_comes_back(self, name: str, rest: str) -> None:
        assume(name.isprintable())

        assert parse_path(f"/endpoints/{quote(name, safe='')}/{rest}") == Address(
            "endpoints", name, f"/{rest}"
        )


class TestPick:
    def test_a_deployment_by_its_name(self) -> None:
        assert pick(Address("deployments", "d", "/ping"), table(), 0.5) == "d"

    @pytest.mark.parametrize("kind", ["deployments", "endpoints"])
    def test_an_unknown_name(self, kind: str) -> None:
        with pytest.raises(DoesNotExist, match="'nobody'"):
            pick(Address(kind, "nobody", "/ping"), table(e={"d": 100}), 0.5)

    def test_deployments_and_endpoints_have_names_of_their_own(self) -> None:
        with pytest.raises(DoesNotExist):
            pick(Address("deployments", "e", "/ping"), table(e={"d": 100}), 0.5)
        with pytest.raises(DoesNotExist):
            pick(Address("endpoints", "d", "/ping"), table(e={"d": 100}), 0.5)

    @pytest.mark.parametrize("traffic", [{}, {"a": 0.0}])
    def test_an_endpoint_without_traffic_is_unavailable(self, traffic: dict[str, float]) -> None:
        with pytest.raises(Unavailable, match="'e'"):
            pick(Address("endpoints", "e", "/ping"), table(e=traffic), 0.5)


class TestSplit:
    @unhurried
    @given(weights)
    def test_shares_of_an_even_grid_follow_the_weights(self, traffic: dict[str, int]) -> None:
        total = sum(traffic.values())
        assume(total)
        endpoint = EndpointRoute(name="e", traffic={n: float(w) for n, w in traffic.items()})

        counts = Counter(split(endpoint, (k + 0.5) / total) for k in range(total))

        assert counts == Counter({n: w for n, w in traffic.items() if w})

    @unhurried
    @given(weights, draws)
    def test_zero_weights_are_never_picked(self, traffic: dict[str, int], draw: float) -> None:
        assume(any(traffic.values()))
        endpoint = EndpointRoute(name="e", traffic={n: float(w) for n, w in traffic.items()})

        assert traffic[split(endpoint, draw)] > 0

    @unhurried
    @given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=5), draws)
    def test_weights_that_do_not_add_up_to_100_are_shares_of_what_is_left(
        self, shares: list[float], draw: float
    ) -> None:
        endpoint = EndpointRoute(name="e", traffic={str(k): w for k, w in enumerate(shares)})

        chosen = int(split(endpoint, draw))
        below = sum(shares[:chosen]) / sum(shares)

        assert below <= draw + 1e-9
        assert draw <= below + shares[chosen] / sum(shares) + 1e-9

    def test_the_largest_draw_still_finds_someone(self) -> None:
        endpoint = EndpointRoute(
            name="e", traffic={"a": 33.3333333, "b": 33.3333333, "c": 33.3333334, "d": 0.0}
        )

        assert split(endpoint, 1 - 2**-53) == "c"
