"""Designs as Yosys reads them: RTLIL of units, and anybody's Verilog with its includes, defines and parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from softmaxkit.flow.tools import ToolError

COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
"""A comment, or a string, which may hold what looks like one."""

MODULE = re.compile(r"(?<![\w$`])(?:macro)?module\s+(?:automatic\s+|static\s+)?([A-Za-z_]\w*)")
NAMED_FILE = re.compile(r'(`include\s+|\$readmem[hb]\s*\(\s*)"([^"\n]+)"')
"""Where Verilog names another file."""

NAME = re.compile(r"[A-Za-z_]\w*")
CONSTANT = re.compile(r"""-?\d+|\d*'s?[bodh][\da-f_xz?]+|"[^"\\\n]*\"""", re.IGNORECASE)
"""A parameter's value: a number in Verilog's notation, or a string."""

UNREAD = re.compile(r":\d+: ERROR: .*(?:syntax error|unsupported|not supported|unimplemented)", re.IGNORECASE)
"""What Yosys says of a line that it cannot read."""

HINT = (
    "Yosys reads a part of SystemVerilog only: convert the files to Verilog with sv2v "
    "(https://github.com/zachjs/sv2v) or with yosys-slang (https://github.com/povik/yosys-slang), and give these"
)


class Source(NamedTuple):
    """A design to map.

    Attributes:
        top: name of its top module.
        files: text by file name, in the order to read them: RTLIL (.il) or Verilog.
        apart: patterns of module names to map separately, so that their cells can be told from the rest.
        included: names and texts of the files that those name themselves.
        parameters: of the top module: names, and values as Verilog constants.
    """

    top: str
    files: dict[str, str]
    apart: tuple[str, ...] = ()
    included: tuple[tuple[str, str], ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_verilog(self) -> bool:
        """Whether it is anybody's Verilog, and no unit."""
        return not all(name.endswith(".il") for name in self.files)

    def write(self, folder: Path) -> None:
        """Write its files to a folder."""
        for name, text in (*self.files.items(), *self.included):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    def commands(self) -> str:
        """Return Yosys's commands that read it, from the folder that it was written to."""
        read = [
            f"read_rtlil {name}" if name.endswith(".il") else f"read_verilog -sv -defer {name}" for name in self.files
        ]
        chosen = "".join(f" -chparam {name} {value}" for name, value in self.parameters)
        return "\n".join([*read, f"hierarchy -check -top {self.top}{chosen}"])


def read_verilog(
    files: Sequence[Path],
    top: str | None,
    include: Sequence[Path] = (),
    defines: Sequence[str] = (),
    parameters: Sequence[str] = (),
) -> Source:
    """Return any Verilog as a design.

    Args:
        files: Verilog or SystemVerilog.
        top: name of the top module; optional if there is only one module.
        include: folders to look for included files in, after the folder of the file that names them.
        defines: macros, "NAME" or "NAME=VALUE".
        parameters: of the top module, "NAME=VALUE".

    Raises:
        ValueError: there is no such module, or several and no `top`; or a define or a parameter cannot be read.
        OSError: a file cannot be read.
    """
    macros = {name: "1" if value is None else value for name, value in _pairs(defines, "--define")}
    values: dict[str, str] = {}
    for name, value in _pairs(parameters, "--parameter"):
        if value is None or not CONSTANT.fullmatch(value):
            raise ValueError(
                f'--parameter is NAME=VALUE, with a value such as 8, 8\'hff or "text", not {name}={value or ""}'
            )
        values[name] = _constant(value)
    texts: dict[str, str] = {}
    names: dict[Path, str] = {}

    def add(path: Path) -> str:
        """Read a file and all that it names, and return what it is called here."""
        path = path.resolve()
        if path not in names:
            plain = re.sub(r"[^\w.-]", "_", path.name)
            while f"source/{plain}" in names.values():
                plain = f"{len(names)}_{plain}"
            names[path] = f"source/{plain}"
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            texts[names[path]] = NAMED_FILE.sub(lambda match: linked(match, path.parent), text)
        return names[path]

    def linked(match: re.Match[str], folder: Path) -> str:
        for place in (folder, *include, Path.cwd()):
            if (place / match[2]).is_file():
                return f'{match[1]}"{add(place / match[2])}"'
        return match[0]  # Yosys says so where it needs the file

    given = list(dict.fromkeys(add(path) for path in files))
    modules = list(dict.fromkeys(name for text in texts.values() for name in MODULE.findall(COMMENT.sub(" ", text))))
    if top is None and len(modules) == 1:
        top = modules[0]
    if top is None or top not in modules:
        problem = "say which module is the top, with --top" if top is None else f"there is no module {top}"
        raise ValueError(f"{problem}; there {'are' if len(modules) > 1 else 'is'} {', '.join(modules) or 'none'}")
    first = {"defines.v": "".join(f"`define {name} {value}\n" for name, value in macros.items())} if macros else {}
    included = tuple((name, text) for name, text in texts.items() if name not in given)
    return Source(top, first | {name: texts[name] for name in given}, (), included, tuple(values.items()))


def _pairs(texts: Sequence[str], option: str) -> Iterator[tuple[str, str | None]]:
    """Yield name and value of "NAME=VALUE"; the value is None where there is no "="."""
    for text in texts:
        name, equals, value = text.partition("=")
        if not NAME.fullmatch(name) or "\n" in value:
            raise ValueError(f"{option} is NAME=VALUE, not {text!r}")
        yield name, value if equals else None


def _constant(value: str) -> str:
    """Return a parameter's value without a sign or quotes, which Yosys does not take there."""
    if value.startswith("-"):
        return f"32'sh{int(value) % 2**32:x}"
    if value.startswith('"'):
        text = value[1:-1].encode() or b"\0"
        return f"{8 * len(text)}'h{text.hex()}"
    return value


def explained(error: ToolError, source: Source) -> ToolError:
    """Return an error of Yosys while it read a design, with what can be done about it."""
    said = str(error)
    if missing := re.search(r"Can't find object for defparam `(\w+)`", said):
        return ToolError(f"the module {source.top} has no parameter {missing[1]}")
    if missing := re.search(r"Can't open include file `([^']+)'", said):
        return ToolError(f"the file {missing[1]}, which is included, was not found; give its folder with --include")
    if missing := re.search(r"undefined macro `(\w+)", said):
        return ToolError(f"the macro {missing[1]} is not defined; give it with --define {missing[1]}=VALUE\n{said}")
    if source.is_verilog and UNREAD.search(said):
        return ToolError(f"{said}\n{HINT}")
    return error
