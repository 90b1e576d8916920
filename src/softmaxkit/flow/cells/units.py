"""Units of a Liberty library, and conversion of its tables to ns, pF and pJ."""

from __future__ import annotations

import re
from math import prod

import numpy as np

from softmaxkit.flow.cells.liberty import Group, LibertyError, numbers
from softmaxkit.flow.cells.table import Table
from softmaxkit.formats import Array

PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}

TEMPLATES = ("lu_table_template", "power_lut_template")

SLEW = {"input_net_transition", "input_transition_time", "constrained_pin_transition"}
"""Variables of the first axis of a `Table`."""

LOAD = {"total_output_net_capacitance", "related_pin_transition"}
"""Variables of the second axis: a load or, for setup and hold times, the slew of the clock."""


class LeftOut(ValueError):
    """A cell is not to be used, or has a description that is not supported; the message is the reason."""


class Units:
    """Factors that convert the values of a library to ns, pF, pJ and nW, and its table templates.

    Raises:
        LibertyError: a unit is missing or unknown, or the delay model is not that of look-up tables.
    """

    def __init__(self, library: Group) -> None:
        model = library.values.get("delay_model", "table_lookup")
        if model != "table_lookup":
            raise LibertyError(f"delay_model is {model}; only table_lookup is supported")
        if "capacitive_load_unit" not in library.values:
            raise LibertyError(f"library {library.name} has no capacitive_load_unit")
        self.library = library
        self.time = self._scale(library.values.get("time_unit", "1ns"), "s") / 1e-9
        load = library.values["capacitive_load_unit"].replace(",", "")
        self.capacitance = self._scale(load, "f") / 1e-12
        voltage = self._scale(library.values.get("voltage_unit", "1V"), "v")
        self.energy = self.capacitance * voltage**2
        self.leakage = self._scale(library.values.get("leakage_power_unit", "1nW"), "w") / 1e-9
        self.voltage = library.number("nom_voltage") * voltage
        # A delay template and a power template may have the same name.
        self.templates = {kind: {group.name: group for group in library.of(kind)} for kind in TEMPLATES}
        self._axes: dict[str, Array] = {}

    def _scale(self, text: str, letter: str) -> float:
        match = re.fullmatch(rf"\s*(\d+\.?\d*(?:e[+-]?\d+)?)\s*([a-z]?){letter}\s*", text.lower())
        if match is None or match[2] not in PREFIXES or not float(match[1]):
            raise LibertyError(f"{text!r} is not a unit such as 1n{letter}")
        return float(match[1]) * PREFIXES[match[2]]

    def default(self, name: str) -> float | None:
        """Return a default value of the library, in the library's unit; None if it has none."""
        return self.library.number(name) if name in self.library.values else None

    def delay(self, group: Group | None) -> Table | None:
        """Return a table of delays or slews in ns; None if the group has no values."""
        return self._table(group, "lu_table_template", self.time, self.capacitance)

    def constraint(self, group: Group | None) -> Table | None:
        """Return a table of setup or hold times in ns; None if the group has no values."""
        return self._table(group, "lu_table_template", self.time, self.time)

    def power(self, group: Group | None) -> Table | None:
        """Return a table of energies in pJ; None if the group has no values."""
        return self._table(group, "power_lut_template", self.energy, self.capacitance)

    def _table(self, group: Group | None, kind: str, scale: float, loads: float) -> Table | None:
        """Return a table, with its values scaled by `scale` and its second axis by `loads`.

        Raises:
            LibertyError: its values do not match its axes, or it has no template.
            LeftOut: its axes are not slew and load.
        """
        if group is None or "values" not in group.values:
            return None
        values = numbers(group.values["values"]) * scale
        if values.size == 1:
            return Table(np.zeros(1), np.zeros(1), values.reshape(1, 1))
        template = self._template(group, kind)
        axes: list[Array] = []
        names: list[str] = []
        for axis in "123":
            values_of = next(
                (candidate for candidate in (group, template) if f"index_{axis}" in candidate.values), None
            )
            if values_of is not None:
                axes.append(self._axis(values_of.values[f"index_{axis}"]))
                names.append(template.values.get(f"variable_{axis}", ""))
        if unknown := [name for name in names if name not in SLEW | LOAD]:
            raise LeftOut(f"tables over {unknown[0] or 'an axis without a name'}")
        if len(axes) > 2 or (len(names) == 2 and (names[0] in LOAD) == (names[1] in LOAD)):
            raise LeftOut(f"tables over {' and '.join(names)}")
        if not axes or prod(map(len, axes)) != values.size:
            raise LibertyError(f"a table {group.name} has {values.size} values, which does not match its axes")
        if any((axis[1:] <= axis[:-1]).any() for axis in axes):
            raise LibertyError(f"the axes of a table {group.name} are not ascending")
        if len(axes) == 1:
            axes, names = [*axes, np.zeros(1)], [*names, "" if names[0] in LOAD else min(LOAD)]
        values = values.reshape(len(axes[0]), -1)
        if names[0] in LOAD:
            axes, values = axes[::-1], values.T
        return Table(axes[0] * self.time, axes[1] * loads, values)

    def _axis(self, text: str) -> Array:
        """Return the numbers of an axis; most tables of a library repeat the text of another."""
        if text not in self._axes:
            self._axes[text] = numbers(text)
        return self._axes[text]

    def _template(self, group: Group, kind: str) -> Group:
        """Return the template that a table refers to: of its own kind, or else of the other, as some libraries do."""
        for templates in (self.templates[kind], *self.templates.values()):
            if group.name in templates:
                return templates[group.name]
        raise LibertyError(f"a table refers to the template {group.name!r}, which is not defined")
