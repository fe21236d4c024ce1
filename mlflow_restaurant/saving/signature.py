"""The signature of a bundle: that of raw input and predictions, with every param a request can give."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec
from mlflow.types.utils import _infer_param_schema

from mlflow_restaurant.bundle.calling import params_of_pyfunc
from mlflow_restaurant.bundle.hashes import refusal
from mlflow_restaurant.bundle.models import PREDICT_METHOD, THRESHOLD
from mlflow_restaurant.saving.outputs import difference_of_outputs

if TYPE_CHECKING:
    from mlflow.models import Model

    from mlflow_restaurant.bundle import Bundle
    from mlflow_restaurant.saving.rehearsal import ExampleRun

__all__ = ["check_signature", "completed", "param_schema", "set_signature", "signature_told"]

_logger = logging.getLogger(__name__)


def check_signature(given: Any) -> None:
    """Refuse what is no signature.

    Args:
        given: a ``ModelSignature``, None to infer one, or False for none.

    Raises:
        MlflowException: it is something else.
    """
    if not (given is None or given is False or isinstance(given, ModelSignature)):
        raise refusal(
            f"signature is a {type(given).__name__}: give a ModelSignature, such as mlflow.models.infer_signature makes, "
            "False for none, or leave it out."
        )


def set_signature(model: Model, bundle: Bundle, given: Any, run: ExampleRun | None) -> None:
    """Set the signature, with every param the bundle knows unless a given one says otherwise.

    Args:
        model: gets it.
        bundle: the bundle.
        given: a ``ModelSignature``; None: that of `run`, else the one the bundle was loaded with; False: none.
        run: what the bundle made of its example, if there is one.
    """
    if given is None and run is None:
        given = bundle._signature
    chosen = run.signature if run is not None else given
    if chosen is None and given is None and bundle.params:
        chosen = ModelSignature(params=param_schema(bundle, None))
    if not chosen:
        return
    if given is None:
        schema = param_schema(bundle, None if run is None else run.params)
    else:
        schema = completed(chosen.params, bundle)
    outputs = chosen.outputs
    if run is None and _method_of(chosen, bundle) != bundle.predict_method:
        outputs = None  # they are those of another method
    elif run is not None and given is not None and outputs is not None:
        _warn_of_outputs(outputs, run.predictions)
    model.signature = ModelSignature(chosen.inputs, outputs, schema)


def _method_of(signature: Any, bundle: Bundle) -> str:
    """The method whose predictions a signature describes, as far as it says so."""
    named = (spec.default for spec in signature.params or () if spec.name == PREDICT_METHOD)
    return next(named, bundle.predict_method)


def _warn_of_outputs(outputs: Any, predictions: Any) -> None:
    if text := difference_of_outputs(outputs, predictions):
        _logger.warning(
            "The outputs of the given signature are not what the bundle predicts from its input example: %s. Leave the "
            "signature out, and it is inferred.",
            text,
        )


def signature_told(model: Model, given: Any) -> str:
    """What is to be said of the signature where there is no example."""
    if model.signature is None or model.signature.inputs is None:
        return "no signature of its input was inferred"
    return (
        "its signature is the one that was given"
        if given
        else "its signature is the one it was saved with before"
    )


def param_schema(bundle: Bundle, example_params: dict[str, Any] | None) -> Any:
    """Types and defaults of every param a request can give; None if there are none.

    Raises:
        MlflowException: the default of a param has a type that a signature cannot hold.
    """
    defaults = {**(example_params or {}), **bundle.params}
    declared = _declared(bundle)
    specs = [_param_spec(name, default, declared.get(name)) for name, default in defaults.items()]
    return ParamSchema(specs) if specs else None


def _declared(bundle: Bundle) -> dict[str, ParamSpec]:
    """Params that the bundle's model, a pyfunc, declares itself."""
    if not params_of_pyfunc(bundle.model):
        return {}
    return {spec.name: spec for spec in bundle.model.metadata.get_params_schema()}


def _param_spec(name: str, default: Any, declared: ParamSpec | None) -> ParamSpec:
    if declared is None:
        return _infer_param_schema({name: default}).params[0]
    return ParamSpec(name, declared.dtype, default, declared.shape)


def completed(given: Any, bundle: Bundle) -> Any:
    """A given schema of params, and those of the bundle that it does not name; its method and threshold are the bundle's."""
    own = param_schema(bundle, None)
    if given is None or own is None:
        return own if given is None else given
    defaults = {spec.name: spec for spec in own}
    specs = {spec.name: spec for spec in given}
    chosen = {name: defaults[name] for name in (PREDICT_METHOD, THRESHOLD) if name in defaults}
    return ParamSchema(
        list({**specs, **chosen, **{n: s for n, s in defaults.items() if n not in specs}}.values())
    )
