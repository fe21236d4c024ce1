"""The reference page of the documentation and the help of the target, written from where each thing is defined.

``python -m mlflow_restaurant.reference > docs/reference.md``
"""

from __future__ import annotations

import sys

from mlflow_restaurant.config import (
    ENDPOINT_TABLE,
    ENV_PREFIX,
    HOME_VARIABLE,
    ChangeOptions,
    DeploymentConfig,
    ServerSettings,
    config_table,
)
from mlflow_restaurant.entities import EVENT_KINDS

DEPLOYMENT_FIELDS = (
    ("name", "its name"),
    ("flavor", "that was asked for, else `python_function`"),
    ("model_uri", "as it was given"),
    ("model_version", "in the registry, that the URI stood for; or null"),
    ("model_uuid", "of the model"),
    ("endpoint", "that the deployment belongs to, or null"),
    ("revision", "that serves, from 1"),
    ("state", "`UPDATING`, `HEALTHY`, `UNHEALTHY`, `DEPLOY_FAILED`, `DELETING`"),
    ("message", "what is under way, or wrong"),
    ("replicas", "a list: `id`, `state`, `pid`, `restarts`, `revision`"),
    ("url", "where it answers"),
    ("config", "its settings"),
    ("env_manager", "`chosen`, and the `reason`"),
    ("batching", "whether requests are merged, and why"),
    ("rollout", "the one that is under way, below; or null"),
    ("created_at", "ISO 8601, UTC"),
    ("updated_at", "likewise"),
)
ROLLOUT_FIELDS = (
    ("revision", "that is to come into service"),
    ("strategy", "`rolling`, `canary`, `shadow`"),
    ("step, steps", "number of the step that is baked, and how many there are"),
    ("share", "of the requests that it answers, or gets copies of, in percent"),
    (
        "old, new",
        "what each side did in this step: `requests`, `errors`, `error_rate`, `p95_ms`, `under_way`",
    ),
    ("agreement", "of a shadow: rows that were compared and agreed, by column too, and the worst"),
    (
        "not_judged",
        "steps that passed with too few requests, where there are some: `step`, `requests`, `min_requests`",
    ),
)
PATHS = (
    (
        "POST",
        "/deployments/NAME/invocations",
        "predictions, by MLflow's scoring protocol: JSON, CSV, Parquet",
    ),
    ("GET", "/deployments/NAME/ping, /health, /version", "as MLflow's scoring server"),
    ("POST", "/endpoints/NAME/invocations (and the others)", "the same, by the endpoint's traffic split"),
    (
        "GET",
        "/api/2.0/endpoints/, /api/2.0/endpoints/NAME",
        "for `mlflow.deployments.get_deploy_client(URL)`",
    ),
    (
        "GET",
        "/ping, /health, /version, /metrics",
        "of the gateway itself; metrics in Prometheus' text format",
    ),
)
HEADERS = (
    ("x-request-id", "the caller's own (1 to 128 visible ASCII characters), else a new one"),
    ("x-mlflow-deployment", "the deployment that answered"),
    ("x-mlflow-revision", "its revision"),
    ("x-mlflow-model-version", "the version in the registry, if the model came from there"),
    ("retry-after", "seconds, with 503"),
)
STATUSES = (
    (
        "400",
        "BAD_REQUEST, INVALID_PARAMETER_VALUE",
        "the model or MLflow refused the input, there is no Content-Type, or it is no HTTP",
    ),
    ("404", "RESOURCE_DOES_NOT_EXIST", "no such deployment or endpoint"),
    ("408", "DEADLINE_EXCEEDED", "the headers did not arrive within 30 s, or the body within `timeout_s`"),
    ("413", "BAD_REQUEST", "the body is larger than `max_body_mb`"),
    ("431", "BAD_REQUEST", "the headers are larger than 64 KiB"),
    ("500", "INTERNAL_ERROR", "MLflow's server failed without saying why; the log has more"),
    ("503", "REQUEST_LIMIT_EXCEEDED", "`max_queue` requests wait already"),
    (
        "503",
        "TEMPORARILY_UNAVAILABLE",
        "no replica was free in time, two of them ended on this request, or there are too many connections",
    ),
    ("504", "DEADLINE_EXCEEDED", "the model did not answer within `timeout_s`"),
)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def reference() -> str:
    """Return the page, in Markdown."""
    deployment = [(_code(k), _code(d), m) for k, d, m in config_table(DeploymentConfig)]
    change = [(_code(k), _code(d), m) for k, d, m in config_table(ChangeOptions)]
    server = [(_code(k), _code(d), m) for k, d, m in config_table(ServerSettings)]
    lines = [
        "# Reference",
        "",
        "This page is written by `python -m mlflow_restaurant.reference`.",
        "",
        "## Targets",
        "",
        f"`restaurant` is the server of the default home, `${HOME_VARIABLE}`, else `~/.mlflow-restaurant`;",
        "`restaurant:/abs/path` is the server of that home.",
        "",
        "## Settings of a deployment",
        "",
        "With `-C key=value`, or as `config={...}` in Python. `update` keeps what it does not name.",
        "",
        *_table(("key", "default", "meaning"), [*deployment]),
        "",
        "## Said of one change only",
        "",
        "With `-C key=value` too, on `update` (and `reason` on `create`); nothing of it stays.",
        "",
        *_table(("key", "default", "meaning"), [*change]),
        "",
        "## Settings of an endpoint",
        "",
        *_table(("key", "default", "meaning"), [(_code(k), _code(d), m) for k, d, m in ENDPOINT_TABLE]),
        "",
        "## Settings of a server",
        "",
        f"In `config.toml` of its home, or as `{ENV_PREFIX}<NAME>` in the environment of the command that starts it.",
        "",
        *_table(("key", "default", "meaning"), [*server]),
        "",
        "## A deployment as `get` describes it",
        "",
        "`mlflow deployments get` and `list`, the same in Python, and `mlflow-restaurant status --json`, with what the last minute brought.",
        "",
        *_table(("field", "what"), [(_code(f), w) for f, w in DEPLOYMENT_FIELDS]),
        "",
        "`rollout`; from `step` on only while a canary or shadow is tried, as [`history --json`](rollouts.md) keeps it under `trial`:",
        "",
        *_table(("field", "what"), [(_code(f).replace(", ", "`, `"), w) for f, w in ROLLOUT_FIELDS]),
        "",
        "## Events",
        "",
        "`mlflow-restaurant events [NAME]` lists them; `--json` has `id`, `time`, `kind`, `deployment`, `endpoint`, `revision`,",
        "`by` and `message`.",
        "",
        *_table(("kind", "what happened"), [(_code(k), m) for k, m in EVENT_KINDS.items()]),
        "",
        "## HTTP",
        "",
        *_table(("method", "path", "what"), [(m, _code(p), w) for m, p, w in PATHS]),
        "",
        "Headers of answers:",
        "",
        *_table(("header", "value"), [(_code(h), v) for h, v in HEADERS]),
        "",
        "Errors are JSON with `error_code` and `message`, except where MLflow's scoring server answers in plain text (415).",
        "",
        *_table(
            ("status", "error_code", "when"), [(s, _code(c).replace(", ", "`, `"), w) for s, c, w in STATUSES]
        ),
        "",
    ]
    return "\n".join(lines)


def target_help() -> str:
    """Return the help of the target: its URIs and its settings, from where they are defined."""
    return "\n".join(
        [
            "Deploy MLflow models to a server on this machine. It is started with the first call that needs it.",
            "",
            "Targets:",
            "  restaurant            the server of the default home, $MLFLOW_RESTAURANT_HOME or ~/.mlflow-restaurant",
            "  restaurant:/abs/path  the server of that home",
            "",
            "Config of a deployment (create, update, run-local), as -C key=value:",
            *_rows(config_table(DeploymentConfig)),
            "",
            "Said of one change only (create, update), as -C key=value:",
            *_rows(config_table(ChangeOptions)),
            "",
            "Config of an endpoint (create-endpoint, update-endpoint):",
            *_rows(ENDPOINT_TABLE),
            "",
            "Settings of the server, in config.toml of its home or as MLFLOW_RESTAURANT_<NAME>:",
            *_rows(config_table(ServerSettings)),
            "",
            "The command `mlflow-restaurant` shows status, logs and history, and stops the server.",
        ]
    )


def _rows(table: list[tuple[str, str, str]]) -> list[str]:
    return [f"  {key:<18} {default:<9} {meaning}".rstrip() for key, default, meaning in table]


if __name__ == "__main__":
    sys.stdout.write(reference())
