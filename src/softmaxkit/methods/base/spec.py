"""Base class of specs: the design-time choices of a method, and everything derived from them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softmaxkit.formats import Array
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.engine_integers import EngineIntegers
from softmaxkit.methods.base.metadata import Dataflow as Dataflow
from softmaxkit.methods.base.metadata import Metadata
from softmaxkit.methods.base.metadata import Storage as Storage
from softmaxkit.methods.base.metadata import Training as Training
from softmaxkit.methods.base.partial import ElementPartial, Partial
from softmaxkit.suggestions import arguments_of, suggestion
from softmaxkit.tables import heads_of, is_real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.base.module import SoftmaxModule
    from softmaxkit.methods.base.unit import SoftmaxUnit


@dataclasses.dataclass(frozen=True)
class Spec(EngineIntegers, Metadata):
    """A frozen description of a way to normalise attention scores; each method derives its own class.

    Scores, codes and results have the shape (..., keys), with rows along the last axis. A mask is boolean, True where
    a key is attended, and broadcasts to that shape. A row without an attended key gives all zeros, in every form.

    A method implements the abstract methods of this class and of `Integers`, one of its bases.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    """Names of the learned or calibrated real parameters."""

    required: ClassVar[tuple[str, ...]] = ()
    """Those that the method cannot do without."""

    @abstractmethod
    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute the method's mathematics on real scores, in float64 NumPy.

        Args:
            scores: (..., keys).
            mask: boolean, True where attended, broadcasts to the scores; None attends to all.
            parameters: the method's real parameters: numbers, or arrays that broadcast to the scores, such as (heads,
                1, 1) for a number per head and scores (..., heads, queries, keys).

        Returns:
            Probabilities, shape of the scores; 0 where masked.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: an attended score is NaN, or the mask does not broadcast.
        """

    @abstractmethod
    def constants(self, **parameters: Any) -> Constants:
        """Convert the real parameters of one layer or head to integers.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: a parameter is out of range.
        """

    @abstractmethod
    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound `|decode(golden(codes)) - reference(score_values(codes))|`, derived from the formats.

        Returns:
            The bound of each element, shape of the codes; 0 where masked.
        """

    # Real parameters.

    @classmethod
    def require(cls, parameters: Mapping[str, Any], function: Callable[..., Any]) -> None:
        """Check what a function takes beside its own arguments: no parameter is unknown, no required one missing.

        Raises:
            TypeError: one is unknown, see `check_parameters`.
            ValueError: one is missing; the message says how to obtain it.
        """
        cls.check_parameters(parameters, function=function)
        missing = [name for name in cls.required if parameters.get(name) is None]
        if missing:
            arguments = ", ".join(f"{name}=..." for name in cls.required)
            raise ValueError(
                f"{cls.__name__} requires {' and '.join(missing)}, learned by a model or set by calibration: run "
                f"softmaxkit.apply and softmaxkit.calibrate on a model, or pass {arguments}"
            )

    @classmethod
    def check_parameters(
        cls,
        parameters: Mapping[str, Any],
        known: Sequence[str] | None = None,
        function: Callable[..., Any] | None = None,
    ) -> None:
        """Check the names and the types of parameters.

        Raises:
            TypeError: a name is not in `known`, by default all parameters; the message has the nearest known name. If a
                `function` takes the parameters beside its own arguments, it is named, and these are known too. Or a
                value is neither real numbers nor None.
        """
        known = cls.parameters if known is None else known
        for name in parameters:
            if name not in known:
                own = [] if function is None else arguments_of(function)
                where = "" if function is None else f"{function.__name__} with "
                hint = suggestion(name, dict.fromkeys((*own, *known)), "known parameters are")
                raise TypeError(f"{where}{cls.__name__} has no parameter {name!r}; {hint}")
            if not is_real(parameters[name]):
                raise TypeError(f"{name} must be a real number, or one for each head, got {parameters[name]!r}")

    @classmethod
    def _check_one_head(cls, parameters: Mapping[str, Any]) -> None:
        """Raise ValueError for a parameter that is not a single number, as the constants of one head require."""
        for name, value in parameters.items():
            if np.shape(value) != ():
                raise ValueError(
                    f"constants of {cls.__name__} are built for one head, so {name} must be a single number, got shape "
                    f"{tuple(np.shape(value))}; stack those of several heads with {cls.constants_class.__name__}.stack"
                )

    # Torch module, hardware unit, and rows in parts.

    @abstractmethod
    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> SoftmaxModule:
        """Return the `torch.nn.Module` of this method.

        Args:
            heads: size of axis -3 of the scores, for parameters per head; None shares them.
            mode: "float", "integer" or "fused", see `SoftmaxModule`.
            parameters: real parameters, learned or calibrated.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the mode is unknown, or a parameter is out of range.
        """

    def unit(self, lanes: int = 16, constants: Constants | None = None, sets: int = 1, **sizes: Any) -> SoftmaxUnit:
        """Return the hardware unit of this method, a streaming Amaranth component.

        Args:
            lanes: scores per cycle.
            constants: constants of one head, to bake in; None makes them loadable, if the method has any.
            sets: number of sets of loadable constants, 1 to 16; with more than one, each row carries the index of its
                set, and rows of different sets follow each other at full rate.
            sizes: `max_row`, the longest row (default 256); `depth`, the number of pipeline registers; `storage`, one
                of `storages`; and further arguments of the method's `Unit`.

        Raises:
            TypeError: the constants belong to another method.
            ValueError: the sizes cannot be built; the message states the rule.
            ModuleNotFoundError: Amaranth is not installed; the message says how to install it.
        """
        unit_class = self.unit_class()
        if sets != 1:
            if not unit_class.takes_sets:
                raise ValueError(f"a unit of {self.title} does not support several sets of constants; leave out sets")
            if constants is not None:
                raise ValueError(f"{sets} sets of constants must be loadable; leave out sets or the baked constants")
            sizes["sets"] = sets
        unit: SoftmaxUnit = unit_class(self, lanes, constants, **sizes)
        return unit

    @classmethod
    def unit_class(cls) -> Any:
        """Return the class `Unit` from unit.py next to the spec.

        Raises:
            ModuleNotFoundError: Amaranth is not installed; the message says how to install it.
        """
        import_module("softmaxkit.blocks")  # raises with the remedy if Amaranth is missing
        return import_module(f"{cls.__module__.rpartition('.')[0]}.unit").Unit

    def partial(self, **parameters: Any) -> Partial:
        """Return an empty state for rows that arrive in parts, with `update`, `merge` and `result`.

        The default is the state of an element-wise method, whose partial outputs simply add; it refuses all others. A
        method with the dataflow "deferred" must override it, one with "row" may, see `Partial`.

        Args:
            parameters: the method's real parameters, single or one per head, for scores (..., heads, queries, keys).

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the method has no partial results, or a required parameter is missing or out of range.
        """
        if self.dataflow != "element":
            raise ValueError(f"{self.title} has no partial results: a probability depends on the whole row")
        self.require(parameters, self.partial)
        self.module(heads_of(*parameters.values()), **parameters)  # refuses impossible numbers
        return ElementPartial(self, dict(parameters))

    # Examples and forms.

    def examples(self) -> list[Constants]:
        """Return example constants of a few layers, for hardware tests."""
        return [self.constants()]

    @classmethod
    def forms(cls) -> list[Form]:
        """Return the silicon forms that `synth` shows by default."""
        from softmaxkit.methods.base.forms import Form

        return [Form("", cls())]


def check_spec(spec: object) -> None:
    """Raise TypeError if the argument is not a spec; the message says how to construct one."""
    if isinstance(spec, type) and issubclass(spec, Spec):
        raise TypeError(f"pass a spec, {spec.__name__}(), not the class {spec.__name__}")
    if not isinstance(spec, Spec):
        given = repr(spec) if isinstance(spec, str) else type(spec).__name__
        raise TypeError(f"expected a spec such as softmaxkit.Softermax() or softmaxkit.Exaq(bits=3), got {given}")


def check_unit(unit: object) -> None:
    """Raise TypeError if the argument is a spec, or anything else that is no component, in place of a unit."""
    if not hasattr(unit, "signature"):
        given = f"{type(unit).__name__}(...)" if isinstance(unit, Spec) else type(unit).__name__
        raise TypeError(f"expected a unit such as softmaxkit.Softermax().unit(lanes=1), got {given}")
