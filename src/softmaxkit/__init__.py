"""softmaxkit: from a softmax in a PyTorch model to verified gates, and back with the numbers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "Exact": "softmaxkit.methods.exact",
    "ConSmax": "softmaxkit.methods.consmax",
    "Softermax": "softmaxkit.methods.softermax",
    "Exaq": "softmaxkit.methods.exaq",
    "OnlineSoftmax": "softmaxkit.methods.exact.partial",
    "softmax_topk": "softmaxkit.methods.exact.partial",
    "softmax": "softmaxkit.functional",
    "Spec": "softmaxkit.spec",
    "Constants": "softmaxkit.spec",
    "Q": "softmaxkit.formats",
    "UQ": "softmaxkit.formats",
    "Float": "softmaxkit.formats",
    "FP16": "softmaxkit.formats",
    "BF16": "softmaxkit.formats",
    "apply": "softmaxkit.models",
    "restore": "softmaxkit.models",
    "calibrate": "softmaxkit.models",
    "save": "softmaxkit.models",
    "load": "softmaxkit.models",
}
__all__ = sorted(_NAMES)

if TYPE_CHECKING:
    from softmaxkit.formats import BF16, FP16, UQ, Float, Q
    from softmaxkit.functional import softmax
    from softmaxkit.methods.consmax import ConSmax
    from softmaxkit.methods.exact import Exact
    from softmaxkit.methods.exact.partial import OnlineSoftmax, softmax_topk
    from softmaxkit.methods.exaq import Exaq
    from softmaxkit.methods.softermax import Softermax
    from softmaxkit.models import apply, calibrate, load, restore, save
    from softmaxkit.spec import Constants, Spec


def __getattr__(name: str) -> Any:
    # Each face loads what it needs when it is asked for: `import softmaxkit` brings neither torch nor amaranth.
    if name not in _NAMES:
        raise AttributeError(f"module 'softmaxkit' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
