"""And-inverter graphs in AIGER format, simulated to turn a counterexample into a trace of ports."""

from __future__ import annotations

from collections.abc import Iterator

from softmaxkit.flow.tools import ToolError


class Graph:
    """An and-inverter graph whose registers start at 0, read from ASCII AIGER."""

    def __init__(self, text: str) -> None:
        lines = iter(text.splitlines())
        self.variables, *counts = map(int, next(lines).split()[1:6])
        kinds = [[[int(word) for word in next(lines).split()] for _ in range(count)] for count in counts]
        self.inputs, self.registers, self.outputs, self.gates = kinds
        self.ports: dict[str, list[tuple[int, int]]] = {}  # literal and position of each bit, by port name
        for line in lines:
            symbol, *names = line.split()
            if symbol == "c":
                break
            for name in names:
                if symbol[0] in "io" and not name.startswith("init:"):
                    node = (self.inputs if symbol[0] == "i" else self.outputs)[int(symbol[1:])]
                    port, _, place = name.rstrip("]").partition("[")
                    self.ports.setdefault(port, []).append((node[0], int(place or 0)))

    def run(self, inputs: str) -> Iterator[dict[str, int]]:
        """Simulate the graph and yield the values of its ports in each cycle.

        Args:
            inputs: a digit 0 or 1 for every input, cycle by cycle.

        Raises:
            ToolError: the number of digits is not a multiple of the number of inputs.
        """
        width = len(self.inputs)
        if len(inputs) % width:
            raise ToolError(f"ABC returned a counterexample of {len(inputs)} bits for a design with {width} inputs")
        state = [0] * len(self.registers)
        for start in range(0, len(inputs), width):
            value = [0, 1] * (self.variables + 1)  # by literal; an odd literal is the inverse of the even one before it
            stimulus = zip(self.inputs, map(int, inputs[start : start + width]), strict=True)
            for (literal, *_), bit in [*stimulus, *zip(self.registers, state, strict=True)]:
                value[literal], value[literal + 1] = bit, 1 - bit
            for literal, first, second in self.gates:
                value[literal] = value[first] & value[second]
                value[literal + 1] = 1 - value[literal]
            state = [value[register[1]] for register in self.registers]
            yield {port: sum(value[literal] << place for literal, place in bits) for port, bits in self.ports.items()}
