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
    "attention": "softmaxkit.fused",
    "KeyValueCache": "softmaxkit.cache",
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
    "layers": "softmaxkit.models",
    "set_mode": "softmaxkit.models",
    "verify": "softmaxkit.flow.verify",
    "synthesize": "softmaxkit.flow.synthesize",
}
__all__ = sorted(_NAMES)

if TYPE_CHECKING:
    from softmaxkit.cache import KeyValueCache as KeyValueCache
    from softmaxkit.flow.synthesize import synthesize as synthesize
    from softmaxkit.flow.verify import verify as verify
    from softmaxkit.formats import BF16 as BF16
    from softmaxkit.formats import FP16 as FP16
    from softmaxkit.formats import UQ as UQ
    from softmaxkit.formats import Float as Float
    from softmaxkit.formats import Q as Q
    from softmaxkit.functional import softmax as softmax
    from softmaxkit.fused import attention as attention
    from softmaxkit.methods.consmax import ConSmax as ConSmax
    from softmaxkit.methods.exact import Exact as Exact
    from softmaxkit.methods.exact.partial import OnlineSoftmax as OnlineSoftmax
    from softmaxkit.methods.exact.partial import softmax_topk as softmax_topk
    from softmaxkit.methods.exaq import Exaq as Exaq
    from softmaxkit.methods.softermax import Softermax as Softermax
    from softmaxkit.models import apply as apply
    from softmaxkit.models import calibrate as calibrate
    from softmaxkit.models import layers as layers
    from softmaxkit.models import load as load
    from softmaxkit.models import restore as restore
    from softmaxkit.models import save as save
    from softmaxkit.models import set_mode as set_mode
    from softmaxkit.spec import Constants as Constants
    from softmaxkit.spec import Spec as Spec


def __getattr__(name: str) -> Any:
    # Each face loads what it needs when it is asked for: `import softmaxkit` brings neither torch nor amaranth.
    if name not in _NAMES:
        near = [known for known in _NAMES if known.lower() == name.lower()]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module 'softmaxkit' has no attribute {name!r}{hint}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
