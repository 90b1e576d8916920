"""softmaxkit: from a softmax in a PyTorch model to verified gates, and back with the numbers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "functional": ("softmax", "softmax_topk"),
    "explanation": ("explain",),
    "fused_attention.call": ("attention",),
    "fused_attention.cache": ("KeyValueCache",),
    "fused_attention.paged": ("PagedKeyValueCache",),
    "fused_attention.partial": ("partial_attention",),
    "formats": ("BF16", "FP16", "UQ", "Float", "Q"),
    "methods.base.constants": ("Constants",),
    "methods.base.online": ("OnlineSoftmax",),
    "methods.base.spec": ("Spec",),
    "models": ("QuantisedCache", "apply", "calibrate", "fused_layers", "layers", "load", "restore", "save", "set_mode"),
    "flow.verify": ("verify",),
    "flow.synthesize": ("synthesize",),
}
_NAMES = {name: f"softmaxkit.{module}" for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:
    from softmaxkit.explanation import explain as explain
    from softmaxkit.flow.synthesize import synthesize as synthesize
    from softmaxkit.flow.verify import verify as verify
    from softmaxkit.formats import BF16 as BF16
    from softmaxkit.formats import FP16 as FP16
    from softmaxkit.formats import UQ as UQ
    from softmaxkit.formats import Float as Float
    from softmaxkit.formats import Q as Q
    from softmaxkit.functional import softmax as softmax
    from softmaxkit.functional import softmax_topk as softmax_topk
    from softmaxkit.fused_attention.cache import KeyValueCache as KeyValueCache
    from softmaxkit.fused_attention.call import attention as attention
    from softmaxkit.fused_attention.paged import PagedKeyValueCache as PagedKeyValueCache
    from softmaxkit.fused_attention.partial import partial_attention as partial_attention
    from softmaxkit.methods import *  # noqa: F403
    from softmaxkit.methods.base.constants import Constants as Constants
    from softmaxkit.methods.base.online import OnlineSoftmax as OnlineSoftmax
    from softmaxkit.methods.base.spec import Spec as Spec
    from softmaxkit.models import QuantisedCache as QuantisedCache
    from softmaxkit.models import apply as apply
    from softmaxkit.models import calibrate as calibrate
    from softmaxkit.models import fused_layers as fused_layers
    from softmaxkit.models import layers as layers
    from softmaxkit.models import load as load
    from softmaxkit.models import restore as restore
    from softmaxkit.models import save as save
    from softmaxkit.models import set_mode as set_mode


def _methods() -> dict[str, Any]:
    """Return the spec classes of all methods, keyed by class name."""
    return {spec.__name__: spec for spec in import_module("softmaxkit.methods").METHODS.values()}


def __getattr__(name: str) -> Any:
    # Names are imported on first access, so `import softmaxkit` loads neither torch nor amaranth.
    if name in _NAMES:
        value = globals()[name] = getattr(import_module(_NAMES[name]), name)
        return value
    if name == "__all__":
        return sorted((*_NAMES, *_methods()))
    if not name.startswith("__") and name in (methods := _methods()):
        return methods[name]
    message = f"module 'softmaxkit' has no attribute {name!r}"
    if not name.startswith("_"):
        from softmaxkit.suggestions import closest

        near = closest(name, (*methods, *_NAMES))
        message += "" if near is None else f"; did you mean {near!r}?"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return [*_NAMES, *_methods(), "__version__"]
