"""Names for the unnamed wires of generated Verilog, after the signals that they are computed for."""

from __future__ import annotations

import re
from collections.abc import Iterator

ANONYMOUS = re.compile(r"\b_(?:\d+_|(?:signal|like)(?:_\d+)?)\b")
"""A wire name that is numbered through the whole module, from Yosys or from Amaranth where it finds no better."""

OPERATIONS = {
    r" \? ": "mux",
    r" [&]{1,2} ": "and",
    r" [|]{1,2} ": "or",
    r" \^ ": "xor",
    r" [=]{2,3} ": "equal",
    r" [!]={1,2} ": "unequal",
    r" >= | > ": "above",
    r" <= | < ": "below",
    r" [<]{2,3} | [>]{2,3} ": "shifted",
    r" \* ": "product",
    r" \+ ": "sum",
    r" - ": "difference",
    r"^[~!]": "not",
    r"^\|": "any",
    r"^&": "all",
    r"^- ?": "negative",
    r"^\{": "joined",
}
"""Names of the operations that compute wires, by a pattern of the right-hand side; Yosys writes one operator a line."""

ASSIGN = r"^  assign (?P<target>[^=]+) = (?P<value>.*);$"
ALWAYS = r"^  always.*\n(?:    .*\n|  end\n)*"
INSTANCE = r"^  \w+ (?P<instance>\w+) \(\n(?P<pins>(?:    \..*\n)*)"
PARTS = re.compile(rf"{ASSIGN}|{ALWAYS}|{INSTANCE}", re.MULTILINE)


def name_wires(verilog: str) -> str:
    """Return Verilog that was written by Yosys with unnamed wires named after the nearest signals that they feed.

    The name of the signal is followed by the operation that computes the wire and, if there are several of the same
    operation, a number: `maximum_above_2`. A change to the logic of one signal thus leaves all other names unchanged.
    """
    return "".join(_named(module) for module in re.split(r"(?m)^(?=module )", verilog))


def _named(module: str) -> str:
    feeds: dict[str, dict[str, None]] = {}
    values: dict[str, str] = {}
    wholes: dict[str, str] = {}  # wires that nothing reads, with the signal that is part of them
    for part in PARTS.finditer(module):
        for target, read in _uses(part):
            feeds.setdefault(target, {}).update(dict.fromkeys(ANONYMOUS.findall(read)))
        if part["target"] is not None and ANONYMOUS.fullmatch(part["target"]):
            values[part["target"]] = part["value"]
        elif part["target"] is not None and (wires := ANONYMOUS.findall(part["target"])):
            named = re.findall(r"[A-Za-z]\w*", f"{ANONYMOUS.sub('', part['target'])} {part['value']}")
            wholes |= {wire: named[0] for wire in wires if named and wire not in wholes}
    taken = set(re.findall(r"\w+", module))
    roots = {target: target for target in feeds if not ANONYMOUS.fullmatch(target)}
    names: dict[str, str] = {}
    numbers: dict[str, int] = {}
    reached = list(roots)
    for target in reached:  # grows during iteration, so that the nearest signals come first
        for wire in feeds.get(target, ()):
            if wire not in roots:
                roots[wire] = roots[target]
                names[wire] = _free(f"{roots[target]}_{_operation(values.get(wire, ''))}", taken, numbers)
                reached.append(wire)
    for wire, signal in wholes.items():
        if wire not in names:
            names[wire] = _free(f"{signal}_whole", taken, numbers)
    return ANONYMOUS.sub(lambda match: names.get(match[0], match[0]), module)


def _uses(part: re.Match[str]) -> Iterator[tuple[str, str]]:
    """Yield `(driven signal, text that it is computed from)`."""
    if part["target"] is not None:
        for target in re.findall(r"[A-Za-z_]\w*", part["target"]):
            yield target, part["value"]
    elif part["instance"] is not None:
        for pin, value in re.findall(r"^    \.(\w+)\((.*)\),?$", part["pins"], re.MULTILINE):
            yield f"{part['instance']}_{pin}", value
    else:
        for target in dict.fromkeys(re.findall(r"(\w+)(?:\[[^\]]*\])? <?= ", part[0])):
            yield target, part[0]


def _operation(value: str) -> str:
    return next((name for pattern, name in OPERATIONS.items() if re.search(pattern, value)), "value")


def _free(name: str, taken: set[str], numbers: dict[str, int]) -> str:
    """Return a name that is not taken, and add it to `taken`; `numbers` has the last number of each name."""
    free = name
    while free in taken:
        numbers[name] = numbers.get(name, 1) + 1
        free = f"{name}_{numbers[name]}"
    taken.add(free)
    return free
