"""The commands that make records of an engine's parts, each with a file name that no other process or spec has."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from shlex import quote

from softmaxkit.methods import METHODS
from softmaxkit.methods.base.forms import has_constants
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.hardware import Hardware


def unit_command(spec: Spec, pipeline: str, hardware: Hardware, lanes: int, folder: Path) -> str:
    """Return the command that makes the record of a unit of `lanes` lanes in `folder`."""
    process = hardware.process
    if pipeline == "deferred":
        file = f"arrays-{_name(spec)}-unit-{lanes}-{process}.json"
        return f"{_arrays(spec, hardware)} --array 'deferred unit' --lanes {lanes} --json {quote(str(folder / file))}"
    method = spec.method if _is_default(spec) else "--spec FILE"
    loadable = " --constants loadable" if has_constants(spec) else ""
    ending = "" if process == "sky130" else f"-{process}"
    file = f"units-{_name(spec)}-{lanes}{ending}.json"
    return (
        f"softmaxkit synth {method} --lanes {lanes} --storage memory{loadable} --cells {process} "
        f"{_clock(hardware)} --json {quote(str(folder / file))}"
    )


def arrays_command(spec: Spec, hardware: Hardware, folder: Path) -> str:
    """Return the command that makes the record of the arrays next to a unit, in `folder`."""
    file = f"arrays-{_name(spec)}-{hardware.process}.json"
    return f"{_arrays(spec, hardware)} --json {quote(str(folder / file))}"


def _arrays(spec: Spec, hardware: Hardware) -> str:
    method = f"--method {spec.method}" if _is_default(spec) else "--spec FILE"
    return f"python -m softmaxkit.simulation.arrays --cells {hardware.process} {method} {_clock(hardware)}"


def _clock(hardware: Hardware) -> str:
    """Return the option for netlists that are mapped at the clock at which they will run."""
    return f"--clock {1e3 / hardware.clock_mhz:g}"


def _name(spec: Spec) -> str:
    """Return the method, with a digest of the spec if the name alone does not select it."""
    text = json.dumps(spec.to_json(), sort_keys=True)
    return spec.method if _is_default(spec) else f"{spec.method}-{sha256(text.encode()).hexdigest()[:8]}"


def _is_default(spec: Spec) -> bool:
    """Whether the method's name alone selects this spec on the command line."""
    return spec == METHODS[spec.method]().for_hardware()
