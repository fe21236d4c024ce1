"""Who may import whom, as the parts of the package promise each other."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.deployments import BaseDeploymentClient

import mlflow_restaurant
from mlflow_restaurant import deployments
from tests.support import run_python

NAME = "mlflow_restaurant"
ROOT = Path(mlflow_restaurant.__file__).parent
FOUNDATION = {"_version", "entities", "states", "config", "errors", "sticky"}
SERVER_LIBRARIES = {
    "uvicorn",
    "uvloop",
    "starlette",
    "aiohttp",
    "fastapi",
    "sqlalchemy",
    "alembic",
    "prometheus_client",
}


def modules() -> dict[str, Path]:
    """Return the modules of the package: names below it, and files."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TRAVELLING = [m for m in MODULES if m == "bundle" or m.startswith("bundle.")]


def absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = [NAME, *module.split(".")]
    if MODULES[module].name != "__init__.py":
        package = package[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def imported(module: str) -> Iterator[str]:
    """Yield what a module imports anywhere in its code: full names, of modules and of what is taken from them."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own(module: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for name in imported(module):
        below = name.removeprefix(NAME).removeprefix(".")
        if name == NAME or name.startswith(NAME + "."):
            found.add(below if below in MODULES else below.rpartition(".")[0])
    return found - {""}


def below(part: str) -> list[str]:
    return [m for m in MODULES if m == part or m.startswith(part + ".")]


def libraries(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(module)}


def test_every_part_is_there() -> None:
    assert all(below(part) for part in ("control", "gateway", "replica", "process"))


@pytest.mark.parametrize("module", below("gateway"))
def test_the_gateway_never_imports_control(module: str) -> None:
    assert not {m for m in own(module) if m.split(".")[0] in ("control", "replica")}


@pytest.mark.parametrize("module", below("replica"))
def test_a_replica_imports_neither_control_nor_gateway(module: str) -> None:
    assert not {m for m in own(module) if m.split(".")[0] in ("control", "gateway")}


@pytest.mark.parametrize("module", below("process"))
def test_processes_are_started_without_knowing_what_for(module: str) -> None:
    assert not {m for m in own(module) if m.split(".")[0] in ("control", "gateway", "replica")}


@pytest.mark.parametrize("module", [module for part in sorted(FOUNDATION) for module in below(part)])
def test_the_foundation_imports_none_of_the_rest(module: str) -> None:
    assert {name.split(".")[0] for name in own(module)} <= FOUNDATION


@pytest.mark.parametrize("module", [module for part in sorted(FOUNDATION) for module in below(part)])
def test_the_foundation_imports_neither_mlflow_nor_a_server(module: str) -> None:
    assert not libraries(module) & {"mlflow", "asyncio", *SERVER_LIBRARIES}


@pytest.mark.parametrize(
    "module",
    [
        "control.planner",
        "gateway.router",
        "gateway.layout",
        "gateway.values",
        "gateway.scoring",
        "gateway.queue",
        "explain",
        "payload",
    ],
)
def test_what_decides_does_no_io(module: str) -> None:
    assert not libraries(module) & {
        "asyncio",
        "os",
        "pathlib",
        "socket",
        "subprocess",
        "time",
        "random",
        "requests",
    }


@pytest.mark.parametrize("module", ["deployments", "foreground", "scoring_client"])
def test_the_target_reaches_the_server_only_through_its_client(module: str) -> None:
    assert {m for m in own(module) if m.split(".")[0] in ("control", "gateway", "replica", "process")} == {
        "control.client"
    }


def test_the_command_reaches_the_server_only_through_its_client_or_runs_it_in_the_foreground() -> None:
    assert {m for m in own("cli") if m.split(".")[0] in ("control", "gateway", "replica", "process")} <= {
        "control.client",
        "control.server",
    }


def test_a_bundle_needs_only_the_standard_library_numpy_and_pandas_to_be_imported() -> None:
    assert not {library for m in TRAVELLING for library in libraries(m)} & SERVER_LIBRARIES
    assert not {m.partition(".")[0] for m in loaded_by(f"import {NAME}.bundle")} & {
        "mlflow",
        "sklearn",
        *SERVER_LIBRARIES,
    }


@pytest.mark.parametrize("module", TRAVELLING)
def test_what_travels_imports_only_what_travels(module: str) -> None:
    assert own(module) <= set(TRAVELLING)


@pytest.mark.parametrize("module", ["bundle.files", "bundle.profile", "saving.columns", "saving.profiling"])
def test_a_profile_is_read_and_made_without_mlflow(module: str) -> None:
    assert "mlflow" not in libraries(module)


def test_the_target_exposes_exactly_one_client_class() -> None:
    clients = [
        value
        for _, value in inspect.getmembers(deployments, inspect.isclass)
        if issubclass(value, BaseDeploymentClient) and value is not BaseDeploymentClient
    ]

    assert clients == [deployments.RestaurantDeploymentClient]
    assert callable(deployments.run_local)
    assert callable(deployments.target_help)


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    return set(json.loads(run_python("-c", code, folder=Path.cwd()).splitlines()[-1]))


def test_importing_the_package_imports_nothing_of_the_server_nor_mlflow() -> None:
    loaded = loaded_by(f"import {NAME}")

    assert {m for m in loaded if m.startswith(NAME)} <= {NAME, f"{NAME}._version"}
    assert not {m.partition(".")[0] for m in loaded} & {"mlflow", "pandas", "numpy", *SERVER_LIBRARIES}


def test_importing_the_command_imports_neither_mlflow_nor_a_server() -> None:
    roots = {m.partition(".")[0] for m in loaded_by(f"import {NAME}.cli")}

    assert not roots & {"mlflow", "pandas", "numpy", "sklearn", *SERVER_LIBRARIES}


def test_importing_errors_is_light() -> None:
    roots = {m.partition(".")[0] for m in loaded_by(f"import {NAME}.errors")}

    assert not roots & {"mlflow", "pydantic", *SERVER_LIBRARIES}


def test_what_runs_in_environments_without_this_package_imports_none_of_it_at_the_top() -> None:
    for module in (
        "replica.app",
        "replica.own_steps",
        "replica.model_guard",
        "replica.traces",
        "process.lease",
        "process.merging",
    ):
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        names = {
            name.partition(".")[0]
            for node in tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or NAME]
            )
        }
        assert names <= set(sys.stdlib_module_names), module
