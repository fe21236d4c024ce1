"""Bundle: preprocessing, model and postprocessing as one object, so that callers send raw data.

This module travels inside every saved bundle (see ``flavor.py``): it imports the standard library only, and
scikit-learn's check for fitted estimators where scikit-learn is in use.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Bundle", "BundleError", "Step", "StepError"]


class BundleError(ValueError):
    """A bundle cannot be made of what was given; the message says why, and what to do."""


class StepError(RuntimeError):
    """A step failed while a bundle was predicting; the error it raised is the ``__cause__``.

    Attributes:
        step: the step and its position, for example ``"preprocess step 2 of 3 'clean_text'"``.
        reason: type and message of the original error.
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.step} failed: {self.reason}"


@dataclass(frozen=True)
class Step:
    """One step of a bundle.

    Attributes:
        role: ``preprocess``, ``model`` or ``postprocess``.
        position: place among the steps of the same role, from 1.
        count: how many steps have this role.
        target: the function, transformer or estimator.
        call: what `Bundle.predict` calls with the data.
    """

    role: str
    position: int
    count: int
    target: Any
    call: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """The function's name, or the class name of anything else."""
        return str(getattr(self.target, "__name__", None) or type(self.target).__name__)

    def __str__(self) -> str:
        return _label(self.role, self.position, self.count, self.name)


class Bundle:
    """Preprocessing, a fitted model, and postprocessing, which predict as one.

    Args:
        preprocess: plain functions or fitted transformers, called one after the other on the raw data. A single step
            need not be in a list.
        model: a fitted estimator with ``predict``, for example a scikit-learn classifier or ``Pipeline``.
        postprocess: plain functions or fitted transformers, called one after the other on the predictions.

    Between steps go DataFrames, Series and arrays: each step gets what the one before it returned.

    Raises:
        BundleError: no model, a step that is neither a function nor a transformer, or something that is not fitted.

    Example:
        >>> bundle = Bundle(preprocess=[clean_text, vectorizer], model=classifier)  # doctest: +SKIP
        >>> bundle.predict(raw_dataframe)  # doctest: +SKIP
    """

    def __init__(self, preprocess: Any = (), model: Any = None, postprocess: Any = ()) -> None:
        if model is None:
            raise BundleError("A bundle needs a model: pass a fitted estimator as model=...")
        self._steps = (
            *_steps("preprocess", preprocess),
            _model_step(model),
            *_steps("postprocess", postprocess),
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step, in the order in which they run."""
        return self._steps

    @property
    def preprocess(self) -> list[Any]:
        """The functions and transformers before the model."""
        return self._targets("preprocess")

    @property
    def model(self) -> Any:
        """The estimator."""
        return self._targets("model")[0]

    @property
    def postprocess(self) -> list[Any]:
        """The functions and transformers after the model."""
        return self._targets("postprocess")

    def predict(self, raw: Any, params: dict[str, Any] | None = None) -> Any:
        """Run every step on raw data.

        Args:
            raw: what the first step takes: usually a DataFrame of shape (rows, raw columns).
            params: accepted because MLflow passes it to every pyfunc; no step receives it.

        Returns:
            What the last step returns: usually one prediction a row.

        Raises:
            StepError: a step failed; it names the step, its position and the original error.
        """
        data: Any = raw
        for step in self._steps:
            try:
                data = step.call(data)
            except Exception as error:
                raise StepError(str(step), f"{type(error).__name__}: {error}") from error
        return data

    def __repr__(self) -> str:
        before, (model,), after = (self._names(role) for role in ("preprocess", "model", "postprocess"))
        parts = [f"preprocess=[{', '.join(before)}]"] if before else []
        parts.append(f"model={model}")
        if after:
            parts.append(f"postprocess=[{', '.join(after)}]")
        return f"Bundle({', '.join(parts)})"

    def _targets(self, role: str) -> list[Any]:
        return [step.target for step in self._steps if step.role == role]

    def _names(self, role: str) -> list[str]:
        return [step.name for step in self._steps if step.role == role]


def _label(role: str, position: int, count: int, name: str) -> str:
    return f"model '{name}'" if role == "model" else f"{role} step {position} of {count} '{name}'"


def _steps(role: str, given: Any) -> list[Step]:
    targets = list(given) if isinstance(given, (list, tuple)) else [given]
    if given is None:
        targets = []
    return [_step(role, position, len(targets), target) for position, target in enumerate(targets, 1)]


def _step(role: str, position: int, count: int, target: Any) -> Step:
    label = f"{role} step {position} of {count}"
    if hasattr(target, "transform"):
        _check_instance(label, target, "transform")
        _check_fitted(label, target)
        return Step(role, position, count, target, target.transform)
    if not callable(target):
        raise BundleError(
            f"{label} is {_describe(target)}, which is neither a function nor has a transform method: "
            "give a function or a fitted transformer."
        )
    return Step(role, position, count, target, target)


def _model_step(target: Any) -> Step:
    if not hasattr(target, "predict"):
        raise BundleError(
            f"The model is {_describe(target)}, which has no predict method: give a fitted estimator."
        )
    _check_instance("The model", target, "predict")
    _check_fitted("The model", target)
    return Step("model", 1, 1, target, target.predict)


def _check_instance(label: str, target: Any, method: str) -> None:
    if isinstance(target, type):
        raise BundleError(
            f"{label} is the class {target.__name__}, not an instance of it: "
            f"give a fitted {target.__name__}, whose {method} can be called."
        )


def _check_fitted(label: str, target: Any) -> None:
    for part in _parts(target):
        if not _is_fitted(part):
            name = type(part).__name__
            inside = "" if part is target else f" in the {type(target).__name__}"
            raise BundleError(
                f"{label}: the {name}{inside} is not fitted yet: call its fit method before making the bundle."
            )


def _parts(target: Any) -> list[Any]:
    """The estimators inside a scikit-learn ``Pipeline``, or the object itself."""
    pipeline = getattr(sys.modules.get("sklearn.pipeline"), "Pipeline", None)
    if pipeline is None or not isinstance(target, pipeline):
        return [target]
    return [part for _, step in target.steps for part in _parts(step)]


def _is_fitted(target: Any) -> bool:
    # Only scikit-learn's own classes keep its convention that fitting sets an attribute ending in "_"; a transformer
    # of the user's that learns nothing would look unfitted for ever.
    if not type(target).__module__.startswith("sklearn."):
        return True
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(target)
    except NotFittedError:
        return False
    except TypeError:  # no estimator: nothing to fit
        return True
    return True


def _describe(target: Any) -> str:
    return f"{target!r:.60} ({type(target).__name__})"
