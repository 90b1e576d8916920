"""Other corners of a cell library, at which a netlist is timed as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.cells.library import Library, some
from softmaxkit.flow.cells.reading import library_from_liberty
from softmaxkit.flow.netlist import Netlist
from softmaxkit.flow.timing import Timing, analyse


def read_corners(files: Sequence[Sequence[Path]], library: Library) -> dict[str, Library]:
    """Read other corners of a library, each from Liberty files with all of its cells, before anything is mapped to it.

    Returns:
        The corners, with the library's estimate of wires, by name; by files where two have the same name.

    Raises:
        LibertyError: a file is damaged, or a corner lacks a cell.
        OSError: a file cannot be read.
    """
    corners = {",".join(map(str, paths)): library_from_liberty(paths, library.wire) for paths in files}
    for paths, corner in corners.items():
        if lacking := list(_lacking(corner, library)):
            raise LibertyError(
                f"{paths} is no corner of {library.name}, whose cells it must have all; it lacks {some(lacking)}"
                "; list all files of a corner with commas between them"
            )
    names = [corner.name for corner in corners.values()]
    return {paths if names.count(corner.name) > 1 else corner.name: corner for paths, corner in corners.items()}


def at_corners(netlist: Netlist, corners: Mapping[str, Library]) -> dict[str, Timing]:
    """Return the timing of a netlist at other corners of its library, by their names."""
    return {name: analyse(netlist.with_library(corner)) for name, corner in corners.items()}


def _lacking(corner: Library, library: Library) -> Iterator[str]:
    """Yield the cells of a library that a corner lacks, or has without one of their pins, each with the reason."""
    for name, cell in library.cells.items():
        if name not in corner.cells or set(cell.pins) - set(corner.cells[name].pins):
            why = [remark for remark, names in corner.remarks.items() if name in names]
            yield f"{name} ({why[0]})" if why else name
