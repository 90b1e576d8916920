"""Designs as Yosys reads them: RTLIL of units, and users' Verilog with includes, defines and parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from softmaxkit.flow.identifiers import check_name
from softmaxkit.flow.tools import DesignError, ToolError

COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
"""A comment, or a string, which may contain what looks like a comment."""

MODULE = re.compile(r"(?<![\w$`])(?:macro)?module\s+(?:automatic\s+|static\s+)?([A-Za-z_]\w*)")
NAMED_FILE = re.compile(r'(`include\s+|\$readmem[hb]\s*\(\s*)"([^"\n]+)"')
"""A reference to another file in Verilog."""

SETTING = "softmaxkit_parameters"
"""Name of the module that instantiates a design with its parameters, and of its file."""

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
CONSTANT = re.compile(r"""-?\d+|\d*'s?[bodh][\da-f_xz?]+|"[^"\\\n]*\"""", re.IGNORECASE)
"""The value of a parameter: a number in Verilog notation, or a string."""

UNREAD = re.compile(r":\d+: ERROR: .*(?:syntax error|unsupported|not supported|unimplemented)", re.IGNORECASE)
"""Errors of Yosys for source lines that it cannot read."""

HINT = (
    "Yosys supports only a part of SystemVerilog: convert the files to Verilog with sv2v "
    "(https://github.com/zachjs/sv2v) or yosys-slang (https://github.com/povik/yosys-slang), and give the results"
)


class Source(NamedTuple):
    """A design to map.

    Attributes:
        top: name of its top module.
        files: text by file name, in the order to read them: RTLIL (.il) or Verilog.
        apart: patterns of the names of modules to map separately, so that their cells can be told from the rest.
        included: names and texts of the files that those in `files` refer to.
        parameters: parameters of the top module: names, and values as Verilog constants.
    """

    top: str
    files: dict[str, str]
    apart: tuple[str, ...] = ()
    included: tuple[tuple[str, str], ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_verilog(self) -> bool:
        """Whether it is a user's Verilog rather than the RTLIL of a unit."""
        return not all(name.endswith(".il") for name in self.files)

    def write(self, folder: Path) -> None:
        """Write all files to a folder."""
        for name, text in (*self.files.items(), *self.included):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        if self.parameters:
            values = ", ".join(f".{name}({value})" for name, value in self.parameters)
            text = f"module {SETTING};\n  {self.top} #({values}) top ();\nendmodule\n"
            (folder / f"{SETTING}.v").write_text(text, encoding="utf-8")

    def commands(self) -> str:
        """Return the Yosys commands that read the design from the folder that it was written to."""
        read = [
            f"read_rtlil {name}" if name.endswith(".il") else f"read_verilog -sv -defer {name}" for name in self.files
        ]
        if not self.parameters:
            return "\n".join([*read, f"hierarchy -check -top {self.top}"])
        # An instance sets the parameters, since `hierarchy -chparam` makes negative values unsigned.
        read += [f"read_verilog -sv {SETTING}.v", f"hierarchy -check -top {SETTING}", f"delete {SETTING}"]
        return "\n".join([*read, "hierarchy -check -auto-top", f"rename -top {self.top}"])


def read_verilog(
    files: Sequence[Path],
    top: str | None,
    include: Sequence[Path] = (),
    defines: Sequence[str] = (),
    parameters: Sequence[str] = (),
) -> Source:
    """Return a user's Verilog as a design.

    Args:
        files: Verilog or SystemVerilog files.
        top: name of the top module; optional if there is only one module.
        include: folders to search for included files, after the folder of the including file.
        defines: macros, "NAME" or "NAME=VALUE".
        parameters: parameters of the top module, "NAME=VALUE".

    Raises:
        ValueError: there is no such module, or several and no `top`; or a define or parameter is malformed.
        OSError: a file cannot be read.
    """
    macros = {name: "1" if value is None else value for name, value in _pairs(defines, "--define")}
    values: dict[str, str] = {}
    for name, value in _pairs(parameters, "--parameter"):
        check_name(name, "parameter")
        if value is None or not CONSTANT.fullmatch(value):
            raise ValueError(
                f'--parameter must be NAME=VALUE, with a value such as 8, 8\'hff or "text", got {name}={value or ""}'
            )
        values[name] = value
    texts: dict[str, str] = {}
    names: dict[Path, str] = {}

    def add(path: Path) -> str:
        """Read a file and all files that it refers to, and return its name in the design."""
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
        return match[0]  # Yosys reports the missing file if it needs it

    listed = list(dict.fromkeys(add(path) for path in files))
    modules = list(dict.fromkeys(name for text in texts.values() for name in MODULE.findall(COMMENT.sub(" ", text))))
    if top is None and len(modules) == 1:
        top = modules[0]
    if top is None or top not in modules:
        problem = "name the top module with --top" if top is None else f"there is no module {top}"
        raise ValueError(f"{problem}; the files define {', '.join(modules) or 'no module'}")
    first = {"defines.v": "".join(f"`define {name} {value}\n" for name, value in macros.items())} if macros else {}
    included = tuple((name, text) for name, text in texts.items() if name not in listed)
    return Source(top, first | {name: texts[name] for name in listed}, (), included, tuple(values.items()))


def _pairs(texts: Sequence[str], option: str) -> Iterator[tuple[str, str | None]]:
    """Yield `(name, value)` of each "NAME=VALUE"; the value is None if there is no "="."""
    for text in texts:
        name, equals, value = text.partition("=")
        if not NAME.fullmatch(name) or "\n" in value:
            raise ValueError(f"{option} must be NAME=VALUE, got {text!r}")
        yield name, value if equals else None


def explained(error: ToolError, source: Source) -> ToolError:
    """Return an error that Yosys raised while reading a design, with advice on how to fix it."""
    message = str(error)
    if missing := re.search(r"Can't find object for defparam `(\w+)`", message):
        return DesignError(f"the module {source.top} has no parameter {missing[1]}")
    if missing := re.search(r"Can't open include file `([^']+)'", message):
        return DesignError(f"the included file {missing[1]} was not found; give its folder with --include")
    if missing := re.search(r"undefined macro `(\w+)", message):
        needed = f"give it with --define {missing[1]}=VALUE"
        return DesignError(f"the macro {missing[1]} is not defined; {needed}\n{message}")
    if source.is_verilog and UNREAD.search(message):
        return DesignError(f"{message}\n{HINT}")
    return DesignError(message) if source.is_verilog and "ERROR: " in message else error
