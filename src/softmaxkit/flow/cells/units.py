"""Units of a Liberty library, and its tables converted from them."""

from __future__ import annotations

import re

import numpy as np

from softmaxkit.flow.cells.liberty import Group, LibertyError, numbers
from softmaxkit.flow.cells.library import Table

PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}

LOAD = "total_output_net_capacitance"
TEMPLATES = ("lu_table_template", "power_lut_template")


class Units:
    """Factors that convert the values of a library to ns, pF, pJ and nW, and its table templates."""

    def __init__(self, library: Group, source: str) -> None:
        self.source = source
        self.time = self._scale(library.values.get("time_unit", "1ns"), "s") / 1e-9
        load = library.values.get("capacitive_load_unit", "1 pf").replace(",", "")
        self.capacitance = self._scale(load, "f") / 1e-12
        voltage = self._scale(library.values.get("voltage_unit", "1V"), "v")
        self.energy = self.capacitance * voltage**2
        self.leakage = self._scale(library.values.get("leakage_power_unit", "1nW"), "w") / 1e-9
        self.voltage = library.number("nom_voltage") * voltage
        self.templates = {group.name: group for kind in TEMPLATES for group in library.of(kind)}

    def _scale(self, text: str, letter: str) -> float:
        match = re.fullmatch(rf"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]?){letter}\s*", text.lower())
        if match is None or match[2] not in PREFIXES:
            raise LibertyError(f"{self.source}: {text!r} is no unit such as 1n{letter}")
        return float(match[1]) * PREFIXES[match[2]]

    def table(self, group: Group | None, scale: float, loads: float) -> Table | None:
        """Return a table, with its values scaled by `scale` and its second axis by `loads`."""
        if group is None or "values" not in group.values:
            return None
        template = self.templates.get(group.name, group)
        values = numbers(group.values["values"]) * scale
        axes = [
            numbers(source.values[key])
            for key in ("index_1", "index_2", "index_3")
            for source in (group, template)
            if key in source.values and not (source is template and key in group.values)
        ]
        if values.size == 1 or group.name == "scalar":
            return Table(np.zeros(1), np.zeros(1), values[:1].reshape(1, 1))
        if len(axes) > 2 or int(np.prod([len(axis) for axis in axes])) != values.size:
            raise LibertyError(
                f"{self.source}: a table {group.name} has {values.size} values, which does not match its axes"
            )
        first = template.values.get("variable_1", "")
        if len(axes) == 1:
            axes, first = [axes[0], np.zeros(1)], first
            if first == LOAD:
                return Table(np.zeros(1), axes[0] * loads, values.reshape(1, -1))
            return Table(axes[0] * self.time, np.zeros(1), values.reshape(-1, 1))
        if first in (LOAD, "related_pin_transition"):
            axes, values = axes[::-1], values.reshape(len(axes[0]), -1).T
        return Table(axes[0] * self.time, axes[1] * loads, values.reshape(len(axes[0]), -1))
