"""What a method says of itself besides its mathematics: names, how a model comes to it, what to compare."""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from softmaxkit.methods.base.forms import Kind
from softmaxkit.methods.base.published import Published, Ratio

if TYPE_CHECKING:
    from softmaxkit.methods.base.claims import Claim

Training = Literal["from scratch", "fine-tuned", "calibrated"]
Dataflow = Literal["element", "row", "deferred"]
Storage = Literal["flip-flops", "latches", "memory"]


class Answers:
    """The answers of a spec that have a default."""

    method: ClassVar[str]
    """Its name on the command line and in JSON: that of its folder."""
    title: ClassVar[str]
    """Its name as its authors write it."""
    summary: ClassVar[str]
    """One line for listings."""
    source: ClassVar[str]
    """The paper."""
    trained: ClassVar[Training]
    """How a model is brought to it: trained "from scratch", "fine-tuned" from exact, or only "calibrated"."""
    rival: ClassVar[bool] = False
    """Is it here to be compared with? What goes through all methods takes a rival only where it is named."""
    dataflow: ClassVar[Dataflow]
    """The most parallel way through a pipeline of QK, softmax and PV that the method allows: "element", a score at a
    time, partial outputs just added; "deferred", a running maximum with the division after PV; "row", row by row."""
    storages: ClassVar[tuple[Storage, ...]] = ("flip-flops", "latches", "memory")
    """Where its unit can hold what waits."""
    compared_kinds: ClassVar[tuple[Kind, ...]] = ("loadable",)
    """Kinds of units that `compare` synthesises, that of its table first: more where it is the constants that cost."""
    colour: ClassVar[str] = ""
    """Its colour in pictures, as "#0072b2"; empty for one of those that are left."""
    published: ClassVar[tuple[Published, ...]] = ()
    """Figures of its hardware in papers."""

    @property
    def divides_last(self) -> bool:
        """Is there hardware with the division after the weighted sum, `Spec.deferred_unit`?"""
        return False

    # How a model comes to it.

    @property
    def training(self) -> Training:
        """How a model is brought to this spec; by default as to every spec of its method."""
        return self.trained

    def as_trained(self) -> Self:
        """Return the spec whose trained model serves this one too: they differ in what no training looks at."""
        return self

    @property
    def base(self) -> float:
        """The base to which real softmax is what the method stands for."""
        return math.e

    @property
    def is_baseline(self) -> bool:
        """Is this what all others are compared with: exact softmax?"""
        return False

    def start(self, keys: int) -> dict[str, Any]:
        """Return the parameters that a module trains from, for rows of up to `keys` keys; most methods have none."""
        return {}

    @classmethod
    def published_ratios(cls) -> list[Ratio]:
        """Return the ratios of area and energy to other units that its paper reports."""
        return []

    @classmethod
    def claims(cls) -> list[Claim]:
        """Return what its paper claims: `claims()` of the file claims.py beside the spec, where there is one."""
        name = f"{cls.__module__.rpartition('.')[0]}.claims"
        found: list[Claim] = import_module(name).claims() if find_spec(name) else []
        return found

    def by_bits(self) -> dict[int, Self]:
        """Return this spec with other widths of what it mainly trades accuracy for, by bits; most have no choice."""
        return {}

    # Examples, forms, and what to compare.

    def sample_parameters(self, keys: int, spread: float, largest: float | None = None) -> dict[str, Any]:
        """Return the real numbers of a layer to measure with.

        Args:
            keys: of a row.
            spread: standard deviation of the scores, which are normal.
            largest: magnitude up to which no score saturates, where the method has a score scale to set.
        """
        return {}

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the specs that `compare` shows by default."""
        return [cls()]

    def reaching_further(self) -> list[Self]:
        """Return specs that differ only in that larger scores have a code, the best first; many have none."""
        return []

    @classmethod
    def widest(cls, keys: int) -> Self | None:
        """Return the spec to narrow down from, for a model as it is; None where one has to be trained.

        Args:
            keys: of the longest row.
        """
        return None

    def narrower(self) -> dict[str, list[Self]]:
        """Return what can be narrower, by name, what saves most first: specs that differ in it alone, narrowest first.

        Each comes in an order in which a model loses less and less, as far as one can know beforehand.
        """
        return {}

    def for_hardware(self) -> Self:
        """Return the spec of equal integers whose unit with loadable constants costs least."""
        return self

    def without_calibration(self) -> Self:
        """Return this spec with defaults in place of what only calibration looks at: equal ones compute the same."""
        return self

    @classmethod
    def about(cls) -> dict[str, Any]:
        """Return what a record says of the method: title, colour, published figures, and whether it is the baseline."""
        return {
            "title": cls.title,
            "colour": cls.colour,
            "baseline": cls().is_baseline,
            "published": [figures.to_json() for figures in cls.published],
        }
