"""What makes generated Verilog readable: names for ports that have none, and a comment for each module."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from amaranth.hdl import Fragment
from amaranth.lib.wiring import Component

UNNAMED = r"\\(port_\d+_\d+)\b"
"""Amaranth's name for a value that crosses into a submodule and is not all of a signal there."""


def name_ports(design: str) -> str:
    """Return RTLIL in which ports without a name have that of the signal that they are, in some module, or part of.

    A part of a signal has its name and its place, from the lowest up.
    """
    named: dict[str, str] = {}
    for name, whole in re.findall(rf"^connect \\(\w+) {UNNAMED} \[\d+(?::\d+)?\]$", design, re.MULTILINE):
        named.setdefault(whole, name)
    for name, parts in re.findall(r"^connect \\(\w+) \{ (.*) \}$", design, re.MULTILINE):
        for place, part in enumerate(reversed(re.findall(r"\S+ \[[\d:]+\]|\S+", parts))):
            if match := re.match(UNNAMED, part):
                named.setdefault(match[1], f"{name}_part{place}")
    modules = re.split(r"(?m)^(?=module )", design)
    for port, name in named.items():
        users = [text for text in modules if re.search(rf"\\{port}\b", text)]
        taken = {word for text in users for word in re.findall(r"\\(\w+)", text)}
        while name in taken:
            name += "_port"
        modules = [re.sub(rf"\\{port}\b", lambda _, name=name: f"\\{name}", text) for text in modules]
    return "".join(modules)


def name_elements(design: str) -> str:
    """Return RTLIL without indices in the names of signals, which Verilog would have to escape."""
    taken = set(re.findall(r"\\(\w+)(?![\w\[])", design))
    for name in sorted(set(re.findall(r"\\(\w+(?:\[\d+\])+)", design))):
        plain = re.sub(r"\W+", "_", name).rstrip("_")
        while plain in taken:
            plain += "_element"
        taken.add(plain)
        design = re.sub(rf"\\{re.escape(name)}(?!\[)", rf"\\{plain}", design)
    return design


def comment_modules(verilog: str, component: Component, name: str) -> str:
    """Return Verilog with the first sentence of the docstring of what each module is made of above it."""
    for module, words in _descriptions(Fragment.get(component, None), name):
        verilog = re.sub(rf"(?m)^module {module}\(", lambda match, words=words: f"// {words}\n{match[0]}", verilog)  # type: ignore[misc]
    return verilog


def _descriptions(fragment: Fragment, name: str) -> Iterator[tuple[str, str]]:
    """Yield the names of modules, as `softmaxkit.flow.verilog.to_rtlil` gives them, with what they are."""
    made_of = next((origin for origin in fragment.origins or () if isinstance(origin, Component)), None)
    if made_of is not None and type(made_of).__doc__:
        yield name, re.split(r"\n\s*\n|(?<=\.)\s", inspect.getdoc(made_of) or "")[0].replace("\n", " ")
    for inner, inner_name, _ in fragment.subfragments:
        if inner_name is not None:
            yield from _descriptions(inner, f"{name}_{re.sub(r'__|[.$]', '_', inner_name)}")
