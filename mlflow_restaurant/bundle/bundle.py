"""Bundle: preprocessing, model and postprocessing as one object, so that callers send raw data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .calling import needs_mlflow, params_of_pyfunc
from .diagnosis import explain, row_count
from .models import (
    PREDICT_METHOD,
    THRESHOLD,
    Predictor,
    checked_params,
    checked_threshold,
    normal_labels,
)
from .steps import BundleError, Step, describe, from_code, make_steps, split_kwargs, takes_params

if TYPE_CHECKING:
    from .code_files import Source
    from .profile import Profile

__all__ = ["Bundle", "BundleError", "Step", "StepError"]


_logger = logging.getLogger(__name__)


class StepError(RuntimeError):
    """A step failed while a bundle was predicting; the error it raised is the ``__cause__``.

    Attributes:
        step: the step and its position, for example ``"preprocess step 2 of 3 'clean_text'"``.
        reason: type and message of the original error, and the column or value it is about where that is known.
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.step} failed: {self.reason}"


class Bundle:
    """Preprocessing, a fitted model, and postprocessing, which predict as one.

    Args:
        preprocess: functions or fitted transformers, called one after the other on the raw data. A single step need
            not be in a list. ``(function, {"name": value})`` or ``functools.partial(function, name=value)`` stores
            keyword arguments beside a function. The path of a ``.py`` file stands for what the file sets with
            ``mlflow.models.set_model``.
        model: a fitted estimator; a model of XGBoost, LightGBM, CatBoost, PyTorch, Keras, statsmodels or any other
            library that MLflow has a flavor for; a loaded pyfunc or a ``PythonModel``; the URI or directory of a saved
            MLflow model; or any function.
        postprocess: as `preprocess`, called on the predictions.
        predict_method: the method of the model that is called when a request names none in the param
            ``predict_method``: ``predict``, ``predict_proba``, ``decision_function``, ``transform``, … Probabilities
            are a DataFrame with a column per class.
        labels: names of the classes where the model predicts codes: a list of names by code, a dictionary, or a fitted
            ``LabelEncoder``. Predictions and the columns of probabilities then bear these names.
        threshold: default of the param ``threshold``: a model of two classes then predicts the second where its
            probability is at least that.
        params: further params of a request, with their defaults. A step that has an argument ``params`` gets all
            params of the request.
        flavor: name or module of the MLflow flavor that saves the model, where it cannot be told from its class.
        row_wise: whether rows are predicted independently of each other; None: not known. Unless it is False, a step
            that changes the number of rows is an error; so is a model that does, where it is True or was found to be
            when the bundle was saved.

    Between steps go DataFrames, Series and arrays: each step gets what the one before it returned.

    Raises:
        BundleError: no model, something that is no step or is not fitted, or arguments that do not fit the model.

    Example:
        >>> bundle = Bundle(preprocess=[clean_text, vectorizer], model=classifier)  # doctest: +SKIP
        >>> bundle.predict(raw_dataframe)  # doctest: +SKIP
        >>> bundle.predict(raw_dataframe, {"predict_method": "predict_proba"})  # doctest: +SKIP
    """

    _profile: Profile | Callable[[], Profile] | None = None
    _source: Source | None = None
    _signature: Any = None
    _row_wise_found: bool | None = None

    def __init__(
        self,
        preprocess: Any = (),
        model: Any = None,
        postprocess: Any = (),
        *,
        predict_method: str | None = None,
        labels: Any = None,
        threshold: float | None = None,
        params: dict[str, Any] | None = None,
        flavor: str | None = None,
        row_wise: bool | None = None,
    ) -> None:
        if model is None:
            raise BundleError("A bundle needs a model: pass a fitted estimator as model=...")
        self.labels = normal_labels(labels)
        self.threshold = None if threshold is None else checked_threshold(threshold)
        if not isinstance(flavor, str | None):
            raise BundleError(
                f"flavor is {describe(flavor)}: give the name of an MLflow flavor, such as 'onnx'."
            )
        self.flavor = flavor
        self._unknown: set[str] = set()
        self.row_wise = _checked_row_wise(row_wise)
        self._own_params = checked_params(params or {})
        step = _model_step(model, predict_method, self.labels, threshold, flavor)
        self._predictor: Predictor = step.call  # type: ignore[assignment]
        self._steps = (*make_steps("preprocess", preprocess), step, *make_steps("postprocess", postprocess))
        self._params = self._all_params()

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step, in the order in which they run."""
        return self._steps

    @property
    def preprocess(self) -> list[Any]:
        """The functions and transformers before the model."""
        return self._given("preprocess")

    @property
    def model(self) -> Any:
        """The model."""
        return self._model_step.target

    @property
    def postprocess(self) -> list[Any]:
        """The functions and transformers after the model."""
        return self._given("postprocess")

    @property
    def predict_method(self) -> str:
        """The method of the model that a request gets which names none."""
        return self._predictor.method

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the model that requests can choose."""
        return self._predictor.methods

    @property
    def params(self) -> dict[str, Any]:
        """Every param a request can give, with its default."""
        return dict(self._params)

    @property
    def declared_params(self) -> dict[str, Any]:
        """The params the bundle was made with, without those that models bring."""
        return dict(self._own_params)

    @property
    def profile(self) -> Profile | None:
        """Summary and sample of the reference data it was saved with, read on first use; None if there were none."""
        if callable(self._profile):
            self._profile = self._profile()
        return self._profile

    def predict(self, raw: Any, params: dict[str, Any] | None = None) -> Any:
        """Run every step on raw data.

        Args:
            raw: what the first step takes: usually a DataFrame of shape (rows, raw columns).
            params: params of this request, over the defaults in `Bundle.params`.

        Returns:
            What the last step returns: usually one prediction a row.

        Raises:
            StepError: a step failed; it names the step, its position, the original error, and the column or value it
                is about where that is known.
        """
        merged = self._merged(params) if params else self._params
        count_rows = self.row_wise is not False
        row_wise = self._row_wise_found if self.row_wise is None else self.row_wise
        rows = row_count(raw) if count_rows else None
        data: Any = raw
        before: list[tuple[Step, Any]] = []
        for step in self._steps:
            try:
                result = step.call(data, merged)
            except Exception as error:
                reason = (
                    f"{type(error).__name__}: {' '.join(str(error).split())}{explain(error, data, before)}"
                )
                raise StepError(str(step), reason) from error
            if result is None:
                raise StepError(str(step), "it returned None: does the function lack a return statement?")
            if count_rows:
                rows, before_rows = row_count(result), rows
                if rows != before_rows and (row_wise or step.role != "model"):
                    _check_rows(step, before_rows, rows)
            before.append((step, getattr(data, "columns", None)))
            data = result
        return data

    def _merged(self, params: dict[str, Any]) -> dict[str, Any]:
        unknown = params.keys() - self._params.keys() - self._unknown
        if unknown and not any(takes_params(step.target) for step in self._steps):
            self._unknown |= unknown
            known, odd = ", ".join(self._params) or "none", ", ".join(sorted(map(repr, unknown)))
            _logger.warning("There is no param %s, so it is ignored: this bundle has %s.", odd, known)
        return {**self._params, **params}

    def __call__(self, raw: Any, params: dict[str, Any] | None = None) -> Any:
        """`predict`: what can be called can be given to ``mlflow.models.set_model``."""
        return self.predict(raw, params)

    def changed(self, predict_method: str | None = None, row_wise: bool | None = None) -> Bundle:
        """The same bundle with another method or another word on rows; itself if nothing is given.

        Raises:
            BundleError: the model has no such method.
        """
        if predict_method is None and row_wise is None:
            return self
        other = copy(self)
        if self._source is not None:
            changes = {"predict_method": predict_method, "row_wise": row_wise}
            given = {name: value for name, value in changes.items() if value is not None}
            other._source = replace(self._source, changes={**self._source.changes, **given})
        if row_wise is not None:
            other.row_wise = _checked_row_wise(row_wise)
        if predict_method is not None:
            other._use_method(predict_method)
        return other

    def _use_method(self, method: str) -> None:
        old = self._model_step
        call = Predictor(old.target, old.kwargs, method, self.labels, self.threshold is not None)
        if method not in self.methods:  # not tried when rows were
            self._row_wise_found = None
        self._predictor = call
        self._steps = tuple(replace(step, call=call) if step is old else step for step in self._steps)
        self._params = self._all_params()

    def __repr__(self) -> str:
        before, (model,), after = (self._names(role) for role in ("preprocess", "model", "postprocess"))
        parts = [f"preprocess=[{', '.join(before)}]"] if before else []
        parts.append(f"model={model}")
        if after:
            parts.append(f"postprocess=[{', '.join(after)}]")
        return f"Bundle({', '.join(parts)})"

    def __str__(self) -> str:
        from .diagram import as_text, stages_of

        return as_text(stages_of(self))

    def _repr_html_(self) -> str:
        from .diagram import as_html, stages_of

        return as_html(stages_of(self))

    @property
    def _model_step(self) -> Step:
        return next(step for step in self._steps if step.role == "model")

    def _all_params(self) -> dict[str, Any]:
        found = {**params_of_pyfunc(self.model), **self._own_params}
        if self.threshold is not None:
            found[THRESHOLD] = self.threshold
        if self._predictor.chooses or len(self._predictor.methods) > 1:
            found[PREDICT_METHOD] = self._predictor.method
        return found

    def _given(self, role: str) -> list[Any]:
        return [step.given for step in self._steps if step.role == role]

    def _names(self, role: str) -> list[str]:
        return [step.name for step in self._steps if step.role == role]


def _model_step(
    given: Any, method: str | None, labels: dict[Any, Any] | None, threshold: float | None, flavor: str | None
) -> Step:
    target, kwargs = split_kwargs(given)
    target, source = from_code(target)
    if isinstance(target, Bundle) and source is None:
        raise BundleError(
            "The model is a Bundle: give the URI or directory it was saved at, Bundle(model='models:/spam/3'), or take it "
            "apart: Bundle(preprocess=[*more, *other.preprocess], model=other.model)."
        )
    if needs_mlflow(target, flavor):
        from .nested import open_model

        target, folder = open_model(target, flavor)
        source = source or folder
    call = Predictor(target, kwargs, method, labels, threshold is not None)
    return Step("model", 1, 1, target, call, kwargs, source)


def _checked_row_wise(given: Any) -> bool | None:
    if given is None or isinstance(given, bool):
        return given
    raise BundleError(f"row_wise is {given!r}: give True, False or None.")


def _check_rows(step: Step, before: int | None, after: int | None) -> None:
    if before is None or after is None:
        return
    raise StepError(
        str(step),
        f"it made {after} rows of {before}, so that predictions no longer belong to the rows of the request: keep every "
        "row (fill in what is missing rather than dropping it), or save the bundle with row_wise=False.",
    )
