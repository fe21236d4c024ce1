"""Records: names, traffic splits, and that records survive the way to another process."""

from __future__ import annotations

import json
import string
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.entities import (
    DeploymentRoute,
    EndpointRoute,
    ModelArtifact,
    ReplicaRoute,
    Revision,
    RouteTable,
    check_name,
    isoformat,
    parse_traffic,
    plain_weights,
    utcnow,
)
from mlflow_restaurant.errors import InvalidRequest

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ENDS = string.ascii_letters + string.digits
INNER = ENDS + "._-"

names = st.builds(
    lambda first, inner, last: first + inner + last,
    st.sampled_from(ENDS),
    st.text(INNER, max_size=98),
    st.sampled_from(ENDS),
) | st.sampled_from(list(ENDS))


@st.composite
def splits(draw: st.DrawFn) -> dict[str, float]:
    chosen = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(chosen) - 1, max_size=len(chosen) - 1)))
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    return dict(zip(chosen, map(float, shares), strict=True))


class TestNames:
    @unhurried
    @given(names)
    def test_allowed(self, name: str) -> None:
        assert check_name(name) == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            " ",
            "a b",
            "a/b",
            "-a",
            "a-",
            ".",
            "..",
            "a.",
            "_a",
            "a\n",
            "ä",
            "a%2Fb",
            "x" * 101,
            None,
            1,
            b"a",
        ],
    )
    def test_refused_in_one_line_that_shows_the_name(self, name: object) -> None:
        with pytest.raises(InvalidRequest, match="can't be the name of an endpoint") as caught:
            check_name(name, "an endpoint")

        assert len(caught.value.message.splitlines()) == 1
        assert repr(name)[:20] in caught.value.message

    @unhurried
    @given(st.text())
    def test_any_text_is_accepted_or_refused_by_the_stated_rule(self, text: str) -> None:
        fits = (
            1 <= len(text) <= 100 and set(text) <= set(INNER) and text[0] in ENDS and text[-1] in ENDS
            if text
            else False
        )
        try:
            accepted = check_name(text) == text
        except InvalidRequest:
            accepted = False

        assert accepted == fits


class TestTraffic:
    @unhurried
    @given(splits())
    def test_every_way_to_write_a_split_means_the_same(self, split: dict[str, float]) -> None:
        written = ",".join(f"{name}={weight:g}" for name, weight in split.items())
        spaced = " , ".join(f" {name} = {weight} " for name, weight in split.items())

        assert parse_traffic(split) == split
        assert parse_traffic(written) == split
        assert parse_traffic(spaced) == split
        assert parse_traffic(json.dumps(split)) == split
        assert parse_traffic(json.dumps({name: str(weight) for name, weight in split.items()})) == split
        assert parse_traffic(plain_weights(split)) == split

    @unhurried
    @given(splits())
    def test_the_order_is_kept(self, split: dict[str, float]) -> None:
        assert list(parse_traffic(json.dumps(split))) == list(split)

    @unhurried
    @given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
    def test_anything_else_is_refused_and_never_breaks(self, value: object) -> None:
        try:
            split = parse_traffic(value)
        except InvalidRequest:
            return
        assert not split or sum(split.values()) == pytest.approx(100)

    @pytest.mark.parametrize("value", ["", "  ", "{}", {}])
    def test_an_empty_split_is_allowed(self, value: object) -> None:
        assert parse_traffic(value) == {}

    def test_thirds_add_up(self) -> None:
        assert sum(parse_traffic("a=33.3333333,b=33.3333333,c=33.3333334").values()) == pytest.approx(100)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("a=90,b=9", "must add up to 100, not 99"),
            ("a=110,b=-10", "from 0 to 100"),
            ("a=nan", "from 0 to 100"),
            ("a=inf", "from 0 to 100"),
            ("a=half,b=50", "'a' must be a percentage.*'half'"),
            ("a=50,a=50", "each deployment once"),
            ('{"a": 50, "a": 50}', "each deployment once"),
            ("a", "Write a traffic split as a=90,b=10"),
            ("a=100,b", "Write a traffic split as a=90,b=10"),
            ('{"a": 100', "not valid JSON"),
            ('{"a": true}', "from 0 to 100"),
            ('{"a": null}', "from 0 to 100"),
            ('{"a": {"b": 100}}', "from 0 to 100"),
            ({"a": True}, "from 0 to 100"),
            ("a/b=100", "can't be the name of a deployment"),
            ("=100", "can't be the name of a deployment"),
        ],
    )
    def test_refused(self, value: object, reason: str) -> None:
        with pytest.raises(InvalidRequest, match=reason):
            parse_traffic(value)

    def test_whole_weights_are_shown_as_written(self) -> None:
        assert json.dumps(plain_weights({"a": 90.0, "b": 9.5})) == '{"a": 90, "b": 9.5}'


class TestRecords:
    def revision(self, **config: Any) -> Revision:
        return Revision(
            deployment="d",
            number=1,
            artifact=ModelArtifact(digest="0" * 32, model_uri="models:/m/1", model_version="1"),
            config=DeploymentConfig.from_options(config),
            created_at=utcnow(),
        )

    def test_a_route_table_survives_json(self) -> None:
        route = DeploymentRoute(
            name="d",
            revision=2,
            timeout_s=1.5,
            max_queue=3,
            max_body_mb=0.5,
            replicas=(ReplicaRoute(key="k", socket="/s"),),
        )
        table = RouteTable(
            version=7,
            deployments={"d": route},
            endpoints={"e": EndpointRoute(name="e", traffic={"d": 100.0})},
        )

        assert RouteTable.model_validate_json(table.model_dump_json()) == table

    def test_a_record_is_frozen(self) -> None:
        with pytest.raises(ValidationError):
            self.revision().number = 2

    def test_unknown_fields_are_refused(self) -> None:
        with pytest.raises(ValidationError):
            ReplicaRoute.model_validate({"key": "k", "socket": "s", "port": 1})

    def test_a_revision_keeps_its_settings(self) -> None:
        revision = self.revision(**{"env.A": "1", "model_config": '{"k": 1}'})
        values = {**revision.model_dump(mode="json"), "config": revision.config.to_dict()}

        assert Revision.model_validate(values) == revision


class TestMoments:
    def test_now_is_in_utc(self) -> None:
        assert utcnow().utcoffset() == timedelta(0)

    @unhurried
    @given(st.datetimes(timezones=st.just(timezone(timedelta(hours=5, minutes=30)))))
    def test_isoformat_is_utc_to_the_millisecond(self, moment: datetime) -> None:
        try:
            text = isoformat(moment)
        except OverflowError:  # before the year 1 in UTC
            return

        assert text.endswith("Z")
        assert abs(datetime.fromisoformat(text[:-1] + "+00:00") - moment) < timedelta(milliseconds=1)
