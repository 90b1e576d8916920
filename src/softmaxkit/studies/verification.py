"""Verify the methods' units, every output against golden, for the commands `verify` and `compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.forms import Kind
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.hardware import TrainedHead, head_of_layer, of_kind
from softmaxkit.studies.progress import Progress, Say, Stage

if TYPE_CHECKING:
    from softmaxkit.flow.faults import Fault
    from softmaxkit.flow.verify import Verification
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.models.evaluation import RealScores

COMPARED_OUTPUTS = 200_000
"""Minimum number of outputs that `compare` verifies for each spec."""

ROWS = 256
"""Maximum number of rows of each of the model's heads among them."""

MODEL_OUTPUTS = 1_000_000
"""Approximate maximum number of outputs from the model's own scores among them, over all heads."""

EXAMPLES = 3
"""Number of heads whose constants are also tried with all codes and random rows."""

HEAD_ROWS = 2000
"""Rows of a head with which its unit is verified, in addition to random ones."""

SHOWN = 10
"""Maximum number of wrong results printed for each unit."""


@dataclass(frozen=True)
class VerificationOptions:
    """How to verify units.

    Attributes:
        sizes: `lanes`, `max_row`, `depth` and `storage` of every unit, as for `Spec.unit`.
        outputs: minimum number of outputs to compare for each spec.
        seed: seed of random rows, gaps and stalls, and of the injected fault.
        inject_fault: inject a fault into each unit, to check that verification detects it.
        waveform: file for the waveform (VCD) of the first run that fails, or else of a short run.
        kind: verify only units with "baked" or with "loadable" constants; None for both.
    """

    sizes: dict[str, Any]
    outputs: int = 2_000_000
    seed: int = 0
    inject_fault: bool = False
    waveform: Path | None = None
    kind: Kind | None = None


def verify_units(
    specs: Sequence[tuple[Spec, TrainedHead | None]],
    options: VerificationOptions,
    command: Sequence[str],
    stage: Stage,
    say: Say,
) -> dict[str, Any]:
    """Compare every output of the units of some specs with golden, and return the record.

    Args:
        specs: the methods, each with a model's head, whose constants and scores are used, or with None for the spec's
            examples and random scores.
        options: how to verify.
        command: the command line, for the record.
        stage: reports progress.
        say: called with each injected fault, and with each error as it is found.

    Returns:
        The record: a result for each form of a unit, with `compared`, `mismatches` and `faults`.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: the sizes cannot be built, or there is no unit of the requested kind.
    """
    forms = [
        (head, *form)
        for spec, head in specs
        for form in verified_forms(spec, head.constants if head else None, **options.sizes)
    ]
    chosen = of_kind(forms, lambda form: form[2], options.kind)
    units = Counter(unit.spec for _, _, unit, _ in chosen)
    results = []
    for head, title, unit, constants in chosen:
        outputs = -(-options.outputs // units[unit.spec])
        results.append(_verify_unit(title, unit, constants, head, outputs, options, stage, say))
    return make_record(command, options.seed, {"outputs": options.outputs}, results)


def _verify_unit(
    title: str,
    unit: SoftmaxUnit,
    constants: Sequence[Any],
    head: TrainedHead | None,
    outputs: int,
    options: VerificationOptions,
    stage: Stage,
    say: Say,
) -> dict[str, Any]:
    """Return the result of one form of a spec's unit."""
    from softmaxkit.flow.faults import Fault
    from softmaxkit.flow.verify import verify

    rows = [] if head is None else [(head.constants, head.rows.first(HEAD_ROWS, unit.max_row))]
    fault = Fault(options.seed) if options.inject_fault else None
    progress = stage(f"verify {unit.spec.name} {title}".rstrip())
    verification = verify(unit, constants, outputs, options.seed, rows, fault, options.waveform, progress)
    report(verification, fault, say)
    return make_result(
        unit.spec,
        "hardware",
        unit=title,
        **{**options.sizes, "depth": unit.depth},
        constants=[_constants_json(of_head) for of_head in constants],
        simulator=verification.simulator,
        compared=verification.compared,
        mismatches=verification.mismatches,
        faults=verification.faults,
        wrong=[wrong._asdict() for wrong in verification.wrong],
        exhausted=verification.parts,
        cycles=verification.cycles,
        seconds=round(verification.seconds, 3),
        injected_fault=fault and fault.what,
    )


def _constants_json(constants: Any) -> Any:
    """Return constants in JSON form; those of several rows at once, which have none, as text."""
    return constants.to_json() if hasattr(constants, "to_json") else str(constants)


def report(verification: Verification, fault: Fault | None, say: Say) -> None:
    """Report the injected fault, if any, and the errors found."""
    if fault is not None:
        say(f"injected: {fault.what}")
    for message in verification.faults:
        say(f"wrong: {message}")
    for wrong in verification.wrong[:SHOWN]:
        say(f"  {wrong}")


def verified_forms(
    spec: Spec, constants: Constants | None = None, **sizes: Any
) -> Iterator[tuple[str, SoftmaxUnit, Sequence[Any]]]:
    """Yield the units of a spec to verify, as title, unit, and the constants to run it with.

    Args:
        spec: the method.
        constants: constants of one head; None for the spec's examples.
        sizes: sizes of the unit, as for `Spec.unit`.
    """
    yield from spec.unit_class().verified_forms(spec, spec.examples() if constants is None else [constants], **sizes)


def verify_scores(scores: Sequence[RealScores], progress: Progress | None = None) -> Verification:
    """Verify the unit of a model's method with the constants and scores of every layer and head.

    Args:
        scores: the scores of every layer.
        progress: called with the number of outputs compared and their total.

    Raises:
        ToolError: a tool is missing or failed.
    """
    from softmaxkit.flow.verify import verify

    spec = scores[0].module.spec
    heads = [head_of_layer(of, layer, head) for layer, of in enumerate(scores) for head in range(of.scores.shape[1])]
    longest = max(int(head.rows.lengths.max()) for head in heads)
    unit = spec.unit(max_row=max(longest, 256))
    rows_per_head = max(1, min(ROWS, MODEL_OUTPUTS // (len(heads) * longest)))
    rows = [(head.constants, head.rows.first(rows_per_head, longest)) for head in heads]
    constants = list(dict.fromkeys(head.constants for head in heads))[:EXAMPLES]
    return verify(unit, constants, COMPARED_OUTPUTS, 0, rows, progress=progress)
