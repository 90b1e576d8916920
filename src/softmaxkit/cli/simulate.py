"""`softmaxkit simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softmaxkit.cli.console import command_line, note, reported
from softmaxkit.cli.options import JsonOption, any_of, chosen_spec, output_file, writable_folder
from softmaxkit.cli.simulation_tables import chips_table, energy_lines, simulation_table
from softmaxkit.methods import ALL_METHODS, METHODS

CONTEXT = 1024
LONGEST = 1 << 24
"""Longest context in tokens; more than any model has, and simulated in about a minute."""
RECORDS = Path("results")


def _hardware_names() -> list[str]:
    from softmaxkit.simulation.hardware import hardware_names

    return hardware_names()


def _model_names() -> list[str]:
    from softmaxkit.simulation.workload import PUBLISHED

    return [*PUBLISHED]


def tokens(text: str | int) -> int:
    """Parse a number of tokens: "1024", "128k" (units of 1,024) or "1M" (units of 1,024²).

    Raises:
        typer.BadParameter: the text is not such a number, or is below 1 or above `LONGEST`.
    """
    written = str(text).strip().lower()
    scale = {"k": 1 << 10, "m": 1 << 20}.get(written[-1:], 1)
    number = written[:-1] if scale > 1 else written
    if not number.isdecimal() or not number.strip("0"):
        raise typer.BadParameter(f"must be a number of tokens, e.g. 1024, 128k or 1M, got {text!r}")
    if len(number) > 12 or int(number) * scale > LONGEST:
        raise typer.BadParameter(f"must be at most {LONGEST >> 20}M tokens, got {text!r}")
    return int(number) * scale


def simulate(
    model: Annotated[
        str,
        typer.Argument(
            help="A built-in model (gpt2, bert-base, llama-7b, llama-13b, llama-70b, smollm2-135m), or a folder, hub "
            "name or GGUF file whose configuration transformers can read.",
            show_default=False,
            autocompletion=_model_names,
        ),
    ],
    hardware: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="Built-in hardware (edge-npu, tpu-like or softermax-element), or a YAML file.",
            autocompletion=_hardware_names,
        ),
    ] = "edge-npu",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Method of the softmax unit in the engines. Repeatable.",
            show_default="all except rivals",
            autocompletion=lambda: [*METHODS],
        ),
    ] = None,
    spec: Annotated[
        list[Path] | None,
        typer.Option("--spec", metavar="FILE", help="A JSON file with the spec of a unit. Repeatable."),
    ] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            "--pipeline",
            help="Pipeline of the engines: token, element or deferred. Repeatable.",
            show_default="all that a method supports",
        ),
    ] = None,
    context: Annotated[
        list[int] | None,
        typer.Option(
            parser=tokens,
            metavar="TOKENS",
            help="Context length, e.g. 1024, 128k or 1M. Repeatable.",
            show_default="1024",
        ),
    ] = None,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="Simulate generating one token after the context, instead of a whole prompt."),
    ] = False,
    chips: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Also simulate the keys split over N chips. Repeatable.",
            show_default=False,
        ),
    ] = None,
    records: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the records with area and energy of the parts; the repository has one."
        ),
    ] = RECORDS,
    json: JsonOption = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="PATH", callback=output_file, help="Write an HTML page with charts to this file."),
    ] = None,
    stream: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", callback=writable_folder, help="Export the hardware for Stream (stream-dse) to this folder."
        ),
    ] = None,
    accelforge: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            callback=writable_folder,
            help="Export the units for AccelForge, as an hwcomponents package, to this folder.",
        ),
    ] = None,
) -> None:
    """Estimate cycles, time, energy and area of a model's attention on engines with a softmax unit.

    Cycles are those of the verified engine; area and energy are those of its synthesised parts, and published figures
    for memories. Projections and feed-forward layers are not included.
    """
    from softmaxkit.studies.hardware import require_amaranth

    require_amaranth()
    from softmaxkit.report.simulation import render_simulation
    from softmaxkit.simulation.hardware import hardware_named, read_hardware
    from softmaxkit.simulation.simulate import SimulationOptions
    from softmaxkit.simulation.simulate import simulate as run
    from softmaxkit.simulation.workload import read_workload

    named = method or ([] if spec else ALL_METHODS)
    specs = [chosen_spec(None, file) for file in spec or []]
    specs += [chosen_spec(name, None).for_hardware() for name in named]
    _check_pipelines(pipeline or [])
    if not records.is_dir():
        if records != RECORDS:
            raise ValueError(f"--records must be a folder, but {records} is none")
        said = f"there is no folder {records} here, so energy and area are left out; --records names another one"
        note(said)
    options = SimulationOptions(
        read_workload(model),
        read_hardware(hardware),
        [*dict.fromkeys(specs)],
        pipeline,
        "generation" if generate else "prompt",
        [*dict.fromkeys(context or [CONTEXT])],
        [*dict.fromkeys(chips or [])],
        records,
    )
    with hardware_named(hardware):
        record = run(options, command_line(), note)
    with reported(record, json, (html, render_simulation)) as screen:
        screen.print(simulation_table(record))
        for line in energy_lines(record["results"]):
            screen.print(line, soft_wrap=True)
        if chips:
            screen.print(chips_table(record["results"]))
    with hardware_named(hardware):
        if stream is not None:
            from softmaxkit.simulation.stream import write_stream

            note(f"for Stream: {', '.join(write_stream(stream, options, note))}")
        if accelforge is not None:
            from softmaxkit.simulation.accelforge import write_package

            note(f"for AccelForge: {', '.join(write_package(accelforge, options, note))}")


def _check_pipelines(pipelines: list[str]) -> None:
    """Raise ValueError if a pipeline name is unknown."""
    from softmaxkit.engine.engine import PIPELINES

    for name in pipelines:
        if name not in PIPELINES:
            raise ValueError(f"--pipeline must be {any_of(PIPELINES)}, got {name!r}")
