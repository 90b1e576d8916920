"""Units with what belongs to them: constants and real scores from a model, and which forms of a unit to verify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.flow.vectors import Rows
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Spec

if TYPE_CHECKING:
    from softmaxkit.flow.verify import Progress, Verification
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.models.evaluation import RealScores

COMPARED_OUTPUTS = 200_000
"""Outputs that a comparison verifies of each form of a method, at least."""

ROWS = 256
"""Rows of each head of a model among them."""

EXAMPLES = 3
"""Heads whose constants meet all codes and random rows."""


@dataclass(frozen=True)
class Trained:
    """One head of a model.

    Attributes:
        spec: the method that is in its layer.
        constants: of the head.
        rows: codes of scores that it gave on a text.
    """

    spec: Spec
    constants: Constants
    rows: Rows


def head_of(model: str, layer: int, head: int, text: Path | None, context: int, windows: int = 8) -> Trained:
    """Return one head of a model that has a method in it, with scores of its own.

    Args:
        model: folder or hub name.
        layer: from 0.
        head: of the layer, from 0.
        text: to run it on; None for the default.
        context: tokens in a window.
        windows: how many to run.

    Raises:
        ValueError: the model has no method in it, or no such layer or head.
    """
    from softmaxkit.models.evaluation import real_scores
    from softmaxkit.models.patch import layers, set_mode
    from softmaxkit.models.pretrained import read_pretrained
    from softmaxkit.models.text import read_corpus

    loaded, tokenizer = read_pretrained(model, context)
    found = list(layers(loaded).values())
    if not found:
        raise ValueError(f"{model} has no method in it; put one in with 'softmaxkit calibrate {model} METHOD'")
    if not 0 <= layer < len(found):
        raise ValueError(f"--layer is 0 to {len(found) - 1} for this model, not {layer}")
    set_mode(loaded, "integer")
    seen = real_scores(loaded, read_corpus(text, tokenizer).held_out_windows(context, windows))[layer]
    heads = seen.scores.shape[1]
    if not 0 <= head < heads:
        raise ValueError(f"--head is 0 to {heads - 1} for this model, not {head}")
    return trained_head(seen, head)


def trained_head(seen: RealScores, head: int) -> Trained:
    """Return one head of a layer, of which scores were seen."""
    spec, constants = seen.module.spec, seen.module.constants.of_head(head)
    codes = spec.encode(seen.scores[:, head].flatten(0, -2), constants).cpu().numpy()
    mask = seen.attended[:, head].flatten(0, -2).cpu().numpy()
    # A row ends with the last key that is attended.
    lengths = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 1)
    return Trained(spec, constants, Rows(codes, mask, lengths))


def forms(spec: Spec, constants: Constants | None, **sizes: Any) -> Iterator[tuple[str, SoftmaxUnit, Sequence[Any]]]:
    """Yield the units of a spec that verification goes through: title, unit, and constants to run it with.

    Args:
        spec: the method.
        constants: of one head; None for the spec's examples.
        sizes: of the unit, as for `Spec.unit`.
    """
    yield from spec.unit_class().verified_forms(spec, spec.examples() if constants is None else [constants], **sizes)


def verify_seen(seen: Sequence[RealScores], progress: Progress | None = None) -> Verification:
    """Verify the unit of a method in a model, with the constants and scores of every layer and head.

    Args:
        seen: scores of every layer.
        progress: called with the outputs compared and all.

    Raises:
        ToolError: a tool is missing or failed.
    """
    from softmaxkit.flow.verify import verify

    spec = seen[0].module.spec
    heads = [trained_head(layer, head) for layer in seen for head in range(layer.scores.shape[1])]
    longest = max(int(each.rows.lengths.max()) for each in heads)
    unit = spec.unit(max_row=max(longest, 256))
    rows = [(each.constants, each.rows.first(ROWS, longest)) for each in heads]
    constants = list(dict.fromkeys(each.constants for each in heads))[:EXAMPLES]
    return verify(unit, constants, COMPARED_OUTPUTS, 0, rows, progress=progress)
