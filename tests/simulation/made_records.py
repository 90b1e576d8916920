"""Records of parts in the form that `synth` and `simulation.arrays` write, with invented figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.arrays import QUERY_KEY, SIZES, UNIT, VALUE
from softmaxkit.simulation.pipelines import pipelines_of

MADE = {"area_um2": 50_000.0, "energy_pj_per_element": 10.0, "fmax_mhz": 120.0, "lanes": 16, "max_row": 256}
MEMORY = {"width_bits": 160, "depth_words": 20, "writes_per_element": 1 / 16, "reads_per_element": 1 / 16}
SHARES = {"query-key": (4_000.0, 1_500.0, 60.0, 900.0), "value": (3_000.0, 1_000.0, 250.0, 700.0)}
"""Area in um2 per multiplier, per row or column, per channel, and per array; energies in pJ are a hundredth of it."""


def array_area(name: str, rows: int, columns: int, channels: int) -> float:
    multiplier, across, channel, rest = SHARES[name]
    return multiplier * rows * columns + across * (rows if name == "query-key" else columns) + channel * channels + rest


def record_of(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a record with these results."""
    return {"schema": 1, "command": ["made", "up"], "results": results}


def write_records(folder: Path, *specs: Spec, waits: bool = True) -> Path:
    """Write records of a unit of 16 lanes and of both arrays for each spec; return the folder of all records."""
    (folder / "accelerator").mkdir(parents=True, exist_ok=True)
    units, arrays = [], []
    for spec in specs:
        about = {"method": spec.method, "spec": spec.to_json(), "cells": "sky130"}
        units.append(about | MADE | {"memories": {"row_memory": MEMORY} if waits else {}})
        for pipeline in pipelines_of(spec):
            for name in (QUERY_KEY, VALUE):
                for rows, columns, channels in SIZES:
                    area = array_area(name, rows, columns, channels)
                    figures = {"area_um2": area, "energy_pj_per_cycle": area / 100, "fmax_mhz": 110.0}
                    sizes = {"rows": rows, "columns": columns, "channels": channels, "max_keys": 4096}
                    arrays.append(about | {"array": name, "pipeline": pipeline} | sizes | figures)
            if pipeline == "deferred":
                sizes = {"rows": 16, "columns": 2, "channels": 4, "max_keys": 4096}
                figures = {"area_um2": 30_000.0, "energy_pj_per_cycle": 80.0, "fmax_mhz": 115.0}
                arrays.append(about | {"array": UNIT, "pipeline": pipeline, "pace": 1} | sizes | figures)
    for file, results in (("units-made", units), ("arrays-made", arrays)):
        (folder / "accelerator" / f"{file}.json").write_text(json.dumps(record_of(results)))
    return folder
