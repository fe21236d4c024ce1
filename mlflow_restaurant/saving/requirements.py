"""Pinned requirements of a saved bundle. What MLflow knows of modules and packages is used here alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mlflow.utils import requirements_utils
from mlflow.utils.environment import _mlflow_conda_env
from mlflow.utils.requirements_utils import _get_pinned_requirement
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["conda_env", "defaults", "of_bundle"]

_logger = logging.getLogger(__name__)

_NEVER_REQUIRED = {"mlflow-restaurant", "pytest", "setuptools"}
"""This package, which no saved bundle needs, what SciPy imports only where tests run, and what is there anyway."""


def defaults(include_cloudpickle: bool = True, include_skops: bool = True) -> list[str]:
    """Pinned requirements of every saved bundle, beside MLflow itself.

    Args:
        include_cloudpickle: a step is written with cloudpickle.
        include_skops: a step is written with skops, which also needs scikit-learn.
    """
    requirements = [_get_pinned_requirement("numpy"), _get_pinned_requirement("pandas")]
    if include_cloudpickle:
        requirements.append(_get_pinned_requirement("cloudpickle"))
    if include_skops:
        requirements.append(_get_pinned_requirement("scikit-learn", module="sklearn"))
        requirements.append(_get_pinned_requirement("skops"))
    return sorted(requirements)


def conda_env(include_cloudpickle: bool = True, include_skops: bool = True) -> dict[str, Any]:
    """The conda environment that is written by default, with `defaults` in it."""
    env: dict[str, Any] = _mlflow_conda_env(additional_pip_deps=defaults(include_cloudpickle, include_skops))
    return env


def of_bundle(
    modules: Iterable[str], steps: Sequence[dict[str, Any]], nested: Iterable[str] = ()
) -> list[str]:
    """Requirements of a bundle.

    Args:
        modules: top-level modules that loading it and predicting import.
        steps: its steps, as in MLmodel.
        nested: requirements of models that were saved before and are now inside it: they count where no module says
            otherwise.
    """
    serializers = {step["serializer"] for step in steps}
    own = defaults("cloudpickle" in serializers, "skops" in serializers)
    found = {_name(line): line for line in [*nested, *_of_modules(modules), *own]}
    return sorted(line for name, line in found.items() if name not in _NEVER_REQUIRED | {"mlflow"})


def _of_modules(modules: Iterable[str]) -> list[str]:
    """Packages that provide the modules, without those that others of them bring along."""
    requirements_utils._init_modules_to_packages_map()
    known: dict[str, list[str]] = requirements_utils._MODULES_TO_PACKAGES or {}
    packages = {package for module in modules for package in known.get(module, [])}
    names = {requirements_utils._normalize_package_name(package) for package in packages}
    wanted = set(requirements_utils._prune_packages(names)) - set(known.get("mlflow", []))
    return [line for name in sorted(wanted) for line in [_pinned(name)] if line]


def _pinned(package: str) -> str | None:
    try:
        return str(_get_pinned_requirement(package))
    except Exception as error:  # a folder that only looks like an installed package
        _logger.warning("No version is known of the package %s, which the bundle imports: %s", package, error)
        return None


def _name(requirement: str) -> str:
    try:
        return str(canonicalize_name(Requirement(requirement).name))
    except InvalidRequirement:  # an option such as --extra-index-url
        return requirement
