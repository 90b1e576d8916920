"""Makes generated Verilog readable: names for unnamed ports, and a comment for each module."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from amaranth.hdl import Fragment
from amaranth.lib.wiring import Component

UNNAMED = r"\\(port_\d+_\d+)\b"
"""Amaranth's name for a value that crosses into a submodule without being a whole signal there."""

ELEMENT = r"\\(\w+(?:\[\d+\])+)"
"""The name of an element of an array."""


def name_ports(design: str) -> str:
    """Return RTLIL in which unnamed ports are named after the signal of some module that they are, or are part of.

    A part of a signal has the name of the signal and its index, counted from the lowest part.
    """
    named: dict[str, str] = {}
    for name, whole in re.findall(rf"^connect \\(\w+) {UNNAMED} \[\d+(?::\d+)?\]$", design, re.MULTILINE):
        named.setdefault(whole, name)
    for name, parts in re.findall(r"^connect \\(\w+) \{ (.*) \}$", design, re.MULTILINE):
        for place, part in enumerate(reversed(re.findall(r"\S+ \[[\d:]+\]|\S+", parts))):
            if match := re.match(UNNAMED, part):
                named.setdefault(match[1], f"{name}_part{place}")
    modules = re.split(r"(?m)^(?=module )", design)
    words = [set(re.findall(r"\\(\w+)", text)) for text in modules]
    for port, name in named.items():
        users = [taken for taken in words if port in taken]
        while any(name in taken for taken in users):
            name += "_port"
        for taken in users:
            taken.add(name)
        named[port] = name
    return re.sub(UNNAMED, lambda match: f"\\{named.get(match[1], match[1])}", design)


def name_elements(design: str) -> str:
    """Return RTLIL without indices in signal names, which would have to be escaped in Verilog."""
    taken = set(re.findall(r"\\(\w+)(?![\w\[])", design))
    plain_names: dict[str, str] = {}
    for name in sorted(set(re.findall(ELEMENT, design))):
        plain = re.sub(r"\W+", "_", name).rstrip("_")
        while plain in taken:
            plain += "_element"
        taken.add(plain)
        plain_names[name] = plain
    return re.sub(ELEMENT, lambda match: f"\\{plain_names[match[1]]}", design)


def comment_modules(verilog: str, component: Component, name: str) -> str:
    """Return Verilog with a comment above each module: the first sentence of its component's docstring."""
    for module, words in _descriptions(Fragment.get(component, None), name):
        verilog = re.sub(rf"(?m)^module {module}\(", lambda match, words=words: f"// {words}\n{match[0]}", verilog)  # type: ignore[misc]
    return verilog


def _descriptions(fragment: Fragment, name: str) -> Iterator[tuple[str, str]]:
    """Yield `(module, description)` with the module names of `softmaxkit.flow.verilog.to_rtlil`."""
    component = next((origin for origin in fragment.origins or () if isinstance(origin, Component)), None)
    if component is not None and type(component).__doc__:
        yield name, re.split(r"\n\s*\n|(?<=\.)\s", inspect.getdoc(component) or "")[0].replace("\n", " ")
    for inner, inner_name, _ in fragment.subfragments:
        if inner_name is not None:
            yield from _descriptions(inner, f"{name}_{re.sub(r'__|[.$]', '_', inner_name)}")
