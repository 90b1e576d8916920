"""Metadata of a method: its names, how a model is trained for it, and which specs to compare."""

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

DEFAULT_KEYS = 256
"""Row length assumed for start values if none is known: the context of the ConSmax paper's model."""


class Metadata:
    """Class variables and methods of a spec that have a default and are not part of its mathematics."""

    title: ClassVar[str]
    """Name as its authors write it."""
    summary: ClassVar[str]
    """One-line description for listings."""
    source: ClassVar[str]
    """The paper that introduced the method."""
    trained: ClassVar[Training]
    """How a model is prepared for it: trained "from scratch", "fine-tuned" from exact softmax, or only "calibrated"."""
    rival: ClassVar[bool] = False
    """Whether the method is included only for comparison; commands that run all methods skip it unless it is named."""
    dataflow: ClassVar[Dataflow]
    """The most parallel schedule of the QK, softmax and PV pipeline that the method allows: "element", one score at a
    time, with partial outputs simply added; "deferred", a running maximum with the division after PV; "row", row by
    row."""
    storages: ClassVar[tuple[Storage, ...]] = ("flip-flops", "latches", "memory")
    """Storage types that its unit supports for waiting rows and loadable tables."""
    compared_kinds: ClassVar[tuple[Kind, ...]] = ("loadable",)
    """Kinds of unit that `compare` synthesises, the one in its main table first; both where constants dominate cost."""
    colour: ClassVar[str] = ""
    """Plot colour, e.g. "#0072b2"; empty to assign one that is still free."""
    published: ClassVar[tuple[Published, ...]] = ()
    """Hardware figures published in papers."""

    # Training.

    @property
    def training(self) -> Training:
        """How a model is prepared for this spec; `trained` by default."""
        return self.trained

    def as_trained(self) -> Self:
        """Return the spec whose trained model serves this one too, as they differ only in what training ignores."""
        return self

    @property
    def base(self) -> float:
        """Base of the real softmax that the method approximates."""
        return math.e

    @property
    def is_baseline(self) -> bool:
        """Whether this is exact softmax, the baseline for all comparisons."""
        return False

    def start(self, keys: int) -> dict[str, Any]:
        """Return the initial values of learned parameters, for rows of up to `keys` keys; empty for most methods."""
        return {}

    @classmethod
    def published_ratios(cls) -> list[Ratio]:
        """Return the area and energy ratios to other units that its paper reports."""
        return []

    @classmethod
    def claims(cls) -> list[Claim]:
        """Return the claims of its paper, from `claims()` in claims.py next to the spec; empty without that file."""
        name = f"{cls.__module__.rpartition('.')[0]}.claims"
        claims: list[Claim] = import_module(name).claims() if find_spec(name) else []
        return claims

    def by_bits(self) -> dict[int, Self]:
        """Return variants of this spec by the bit width that mainly sets its accuracy; empty where it has no choice."""
        return {}

    # Examples, forms, and specs to compare.

    def sample_parameters(self, keys: int, spread: float, largest: float | None = None) -> dict[str, Any]:
        """Return representative real parameters of a layer, for benchmarks.

        Args:
            keys: number of keys in a row.
            spread: standard deviation of the scores, which are normally distributed.
            largest: magnitude up to which no score may saturate; used where the method has a score scale.
        """
        return {}

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the specs that `compare` shows by default."""
        return [cls()]

    def reaching_further(self) -> list[Self]:
        """Return specs that differ only in a wider score range, best first; empty for many methods."""
        return []

    @classmethod
    def widest(cls, keys: int) -> Self | None:
        """Return the widest spec, where `recommend` starts to narrow formats; None if the method requires training.

        Args:
            keys: number of keys in the longest row.
        """
        return None

    def narrower(self) -> dict[str, list[Self]]:
        """Return candidates for narrowing, by the name of what is narrowed; the largest saving comes first.

        Each list holds specs that differ from this one only in that respect, from the narrowest up, which is the
        expected order of decreasing loss.
        """
        return {}

    def for_hardware(self) -> Self:
        """Return the spec with the same integers whose unit with loadable constants is cheapest."""
        return self

    def without_calibration(self) -> Self:
        """Return this spec with calibration-only fields reset; specs that compute the same then compare equal."""
        return self

    @classmethod
    def about(cls) -> dict[str, Any]:
        """Return the method's entry in a record: title, colour, published figures, and whether it is the baseline."""
        return {
            "title": cls.title,
            "colour": cls.colour,
            "baseline": cls().is_baseline,
            "published": [figures.to_json() for figures in cls.published],
        }
