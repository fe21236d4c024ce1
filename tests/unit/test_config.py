"""Settings: each key's type and bounds, what is refused, and what the message says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mlflow_restaurant.config import (
    CONFIG_FILE,
    MAX_REPLICAS,
    DeploymentConfig,
    ServerSettings,
    config_table,
    parse_options,
)
from mlflow_restaurant.errors import HomeError, InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DEFAULTS = {
    "replicas": 1,
    "min_replicas": 0,
    "max_replicas": 0,
    "idle_timeout_s": 0,
    "threads": "auto",
    "env_manager": "auto",
    "batching": "auto",
    "max_batch_rows": 1024,
    "batch_wait_ms": 0,
    "max_queue": 2048,
    "timeout_s": 60,
    "max_body_mb": 64,
    "startup_timeout_s": 120,
    "max_memory_mb": 0,
    "strategy": "rolling",
    "canary_steps": "5,25,50",
    "shadow_percent": 100,
    "bake_s": 60,
    "min_requests": 50,
    "max_error_rate_increase": 0.02,
    "max_latency_ratio": 2,
    "min_agreement": 0,
    "trial_report": "auto",
    "sticky": "off",
    "keep_revisions": 5,
    "env": {},
    "model_config": None,
}


def options(**given_options: Any) -> dict[str, Any]:
    return DeploymentConfig.from_options(given_options).to_dict()


class TestDeployment:
    def test_defaults(self) -> None:
        assert options() == DEFAULTS

    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [
            ("replicas", "3", 3),
            ("threads", "2", 2),
            ("threads", "auto", "auto"),
            ("env_manager", "uv", "uv"),
            ("batching", "off", "off"),
            ("max_batch_rows", "10", 10),
            ("batch_wait_ms", "2.5", 2.5),
            ("max_queue", "0", 0),
            ("timeout_s", "0.5", 0.5),
            ("max_body_mb", "0.001", 0.001),
            ("startup_timeout_s", "600", 600.0),
            ("model_config", '{"a": [1, null]}', {"a": [1, None]}),
            ("model_config", "null", None),
            ("env", '{"A": 1}', {"A": "1"}),
            ("env.A_b.c", "x=y", {"A_b.c": "x=y"}),
        ],
    )
    def test_each_key_as_the_string_of_the_command_line(self, key: str, text: str, value: object) -> None:
        public = "env" if key.startswith("env.") else key

        assert options(**{key: text}) == {**DEFAULTS, public: value}

    @pytest.mark.parametrize("wait_ms", [2000, 2001])
    def test_a_wait_for_rows_that_ends_after_the_request(self, wait_ms: int) -> None:
        with pytest.raises(InvalidRequest, match=r"must be less than timeout_s=2 \(seconds\)") as caught:
            options(batch_wait_ms=wait_ms, timeout_s="2")

        assert f"batch_wait_ms={wait_ms}" in caught.value.message
        assert "\n" not in caught.value.message
        assert options(batch_wait_ms="1999", timeout_s="2")["batch_wait_ms"] == 1999

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("replicas", "0", "must be at least 1, not '0'"),
            ("replicas", str(MAX_REPLICAS + 1), f"must be at most {MAX_REPLICAS}"),
            ("replicas", "two", "must be a whole number, not 'two'"),
            ("replicas", "1.5", "must be a whole number"),
            ("replicas", 1.5, "must be a whole number"),
            ("replicas", None, "must be a whole number"),
            ("replicas", True, "number"),
            ("threads", "0", "must be at least 1, not '0'"),
            ("threads", "some", "must be a whole number, not 'some'"),
            ("threads", True, "number"),
            ("env_manager", "pip", "must be one of .*'uv'.*not 'pip'"),
            ("env_manager", "UV", "must be one of"),
            ("batching", "yes", "must be one of"),
            ("max_batch_rows", "0", "at least 1"),
            ("batch_wait_ms", "-1", "at least 0"),
            ("batch_wait_ms", "60001", "at most 60000"),
            ("max_queue", "-1", "at least 0"),
            ("timeout_s", "0", "must be greater than 0"),
            ("timeout_s", "inf", "must be a finite number"),
            ("timeout_s", "nan", "must be a finite number"),
            ("timeout_s", "1m", "must be a number, not '1m'"),
            ("timeout_s", False, "number"),
            ("max_body_mb", "2049", "at most 2048"),
            ("startup_timeout_s", "-3", "greater than 0"),
            ("model_config", "{", "not valid JSON"),
            ("model_config", "[1]", "must be a JSON object"),
            ("model_config", 3, "must be a JSON object"),
            ("env", "A", "must be a JSON object"),
            ("env", "[]", "must be a JSON object"),
            ("env.", "x", "names no environment variable"),
            ("env.A=B", "x", "names no environment variable"),
        ],
    )
    def test_refused_values_name_the_key_and_what_to_do(self, key: str, value: object, reason: str) -> None:
        with pytest.raises(InvalidRequest, match=reason) as caught:
            options(**{key: value})

        assert f"'{key}'" in caught.value.message
        assert len(caught.value.message.splitlines()) == 1

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("replica", "Did you mean 'replicas'?"),
            ("timeout", "Did you mean 'timeout_s'?"),
            ("envNAME", "Did you mean 'env.NAME'?"),
            ("zzz", "Known: allow_schema_change, bake_s"),
            ("model_config_", "Did you mean 'model_config'?"),
            ("Replicas", "Did you mean 'replicas'?"),
        ],
    )
    def test_unknown_keys_name_the_nearest(self, key: str, hint: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            options(**{key: "1"})

        assert f"Unknown config key '{key}'" in caught.value.message
        assert hint in caught.value.message

    def test_long_values_are_cut_in_messages(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            options(replicas="9" * 10_000)

        assert len(caught.value.message) < 300

    def test_what_is_not_named_stays_as_in_the_base(self) -> None:
        base = DeploymentConfig.from_options(
            {"replicas": "2", "env.A": "1", "env.B": "2", "model_config": '{"k": 1}'}
        )

        changed = DeploymentConfig.from_options({"timeout_s": "5", "env.B": "3"}, base)

        assert changed.to_dict() == {**base.to_dict(), "timeout_s": 5.0, "env": {"A": "1", "B": "3"}}

    def test_env_as_a_whole_replaces_the_base(self) -> None:
        base = DeploymentConfig.from_options({"env.A": "1"})

        assert DeploymentConfig.from_options({"env": "{}"}, base).env == {}

    def test_model_config_can_be_taken_back(self) -> None:
        base = DeploymentConfig.from_options({"model_config": '{"k": 1}'})

        assert DeploymentConfig.from_options({"model_config": "null"}, base).model_config_ is None

    def test_settings_are_frozen(self) -> None:
        config = DeploymentConfig.from_options({})

        with pytest.raises(ValidationError):
            config.replicas = 2

    @unhurried
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "replicas": st.integers(1, MAX_REPLICAS),
                "env_manager": st.sampled_from(["auto", "local", "uv", "virtualenv", "conda"]),
                "batching": st.sampled_from(["auto", "on", "off"]),
                "max_batch_rows": st.integers(1, 1_000_000),
                "batch_wait_ms": st.floats(0, 999),
                "max_queue": st.integers(0, 1_000_000),
                "timeout_s": st.floats(1, 86_400),
                "max_body_mb": st.floats(0, 2048, exclude_min=True),
                "startup_timeout_s": st.floats(0, 86_400, exclude_min=True),
                "env.A": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
                "model_config": st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
            },
        )
    )
    def test_strings_and_values_mean_the_same_and_survive_json(self, given_options: dict[str, Any]) -> None:
        strings = {
            k: v if isinstance(v, str) else json.dumps(v) if isinstance(v, dict) else repr(v)
            for k, v in given_options.items()
        }

        config = DeploymentConfig.from_options(given_options)

        assert DeploymentConfig.from_options(strings) == config
        assert DeploymentConfig.model_validate_json(json.dumps(config.to_dict())) == config
        assert DeploymentConfig.from_options({}, config) == config


class TestServer:
    def test_defaults_without_file_or_variables(self, tmp_path: Path) -> None:
        settings = ServerSettings.load(tmp_path, {"PATH": "/bin", "MLFLOW_RESTAURANT_HOME": "/x"})

        assert settings.model_dump() == {
            "host": "127.0.0.1",
            "port": 5001,
            "gateways": 1,
            "max_total_memory_mb": 0,
            "max_bodies_mb": 1024,
            "keep_events": 200,
            "keep_events_days": 90,
            "max_log_mb": 10,
            "log_files": 3,
        }

    def test_file_and_variables_and_variables_win(self, tmp_path: Path) -> None:
        (tmp_path / CONFIG_FILE).write_text('host = "0.0.0.0"\nport = 7000\n')

        settings = ServerSettings.load(
            tmp_path, {"MLFLOW_RESTAURANT_PORT": "0", "MLFLOW_RESTAURANT_GATEWAYS": "2"}
        )

        assert (settings.host, settings.port, settings.gateways) == ("0.0.0.0", 0, 2)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("prot = 1", "Unknown key 'prot'.*Did you mean 'port'"),
            ("[server]\nport = 1", "Unknown key 'server'"),
            ("port = true", "port.*number"),
            ("port = 65536", "'port' must be at most 65535"),
            ("port = -1", "'port' must be at least 0"),
            ('host = ""', "'host' must not be empty"),
            ("host = 1", "'host' must be a string"),
            ("gateways = 0", "'gateways' must be at least 1"),
            ("port =", "can't be read as TOML"),
        ],
    )
    def test_refused_files(self, tmp_path: Path, text: str, reason: str) -> None:
        (tmp_path / CONFIG_FILE).write_text(text)

        with pytest.raises(HomeError, match=reason):
            ServerSettings.load(tmp_path, {})

    def test_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / CONFIG_FILE).write_bytes(b"\xff\xfe")

        with pytest.raises(HomeError, match="can't be read as TOML"):
            ServerSettings.load(tmp_path, {})

    def test_directory_in_place_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / CONFIG_FILE).mkdir()

        with pytest.raises(HomeError, match=CONFIG_FILE):
            ServerSettings.load(tmp_path, {})

    @pytest.mark.parametrize(
        ("variable", "value", "reason"),
        [
            ("MLFLOW_RESTAURANT_PRT", "1", "Did you mean 'MLFLOW_RESTAURANT_PORT'"),
            ("MLFLOW_RESTAURANT_PORT", "http", "'port' must be a whole number, not 'http'"),
            ("MLFLOW_RESTAURANT_HOST", "", "'host' must not be empty"),
        ],
    )
    def test_refused_variables(self, tmp_path: Path, variable: str, value: str, reason: str) -> None:
        with pytest.raises(HomeError, match=reason):
            ServerSettings.load(tmp_path, {variable: value})


class TestTable:
    def test_every_key_has_a_row_with_its_meaning(self) -> None:
        rows = {key: (default, meaning) for key, default, meaning in config_table(DeploymentConfig)}

        assert set(rows) == {"env.NAME" if key == "env" else key for key in DEFAULTS}
        assert all(meaning for _, meaning in rows.values())

    @pytest.mark.parametrize("cls", [DeploymentConfig, ServerSettings])
    def test_shown_defaults_are_the_defaults(self, cls: type[DeploymentConfig | ServerSettings]) -> None:
        by_name = {f.alias or name: f for name, f in cls.model_fields.items()}

        for key, shown, _ in config_table(cls):
            if shown:
                assert shown == f"{by_name[key].default}"
            else:
                assert key in ("env.NAME", "model_config")


class TestOptionsOfOneChange:
    def test_they_are_told_apart_from_settings(self) -> None:
        config, change = parse_options({"replicas": "2", "reason": "why", "wait": "true"})

        assert config == DeploymentConfig.from_options({"replicas": 2})
        assert (change.reason, change.wait, change.rollback, change.revision) == ("why", True, False, None)

    def test_nothing_of_them_stays(self) -> None:
        config, _ = parse_options({"reason": "why"})

        assert "reason" not in config.to_dict()

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"env.A": "\ud800"}, "'env.A' must have a value that can be written in UTF-8"),
            ({"wait": "maybe"}, "'wait' must be true or false, not 'maybe'"),
            ({"revision": "two", "rollback": True}, "'revision' must be a whole number"),
            ({"revision": True}, "'revision' must be a number"),
            ({"reason": 5}, "'reason' must be a string"),
            ({"rolback": True}, "Did you mean 'rollback'"),
        ],
        ids=str,
    )
    def test_refused(self, options: dict[str, Any], reason: str) -> None:
        with pytest.raises(InvalidRequest, match=reason):
            parse_options(options)
