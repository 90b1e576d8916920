"""Parser for Liberty, the format of cell libraries, into a tree of groups."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import numpy as np

from softmaxkit.formats import Array

STATEMENT = re.compile(
    r"""\s*(?:
        (?P<name>[\w.]+)\s*(?:
            \((?P<args>(?:"[^"\\]*(?:\\.[^"\\]*)*"|[^()"{}])*)\)\s*(?P<open>\{|;?)
          | :\s*(?P<value>"[^"\\]*(?:\\.[^"\\]*)*"|[^;{}"\n]+?)[ \t]*(?:;|(?=[\n}]))
        )
      | (?P<close>\})
      | (?P<end>\Z)
      | ;
    )""",
    re.VERBOSE | re.DOTALL,
)
"""A statement: the head of a group, a simple attribute, a complex attribute (in brackets), or the end of a group."""

COMMENT = re.compile(r""""[^"\\]*(?:\\.[^"\\]*)*"|/\*.*?\*/|//[^\n]*""", re.DOTALL)
"""A comment, or a string, in which there are no comments."""

TRUTH = {"true": True, "1": True, "false": False, "0": False}


class LibertyError(ValueError):
    """A Liberty file is damaged or incomplete; the message names the file, and the line if possible."""


@dataclass
class Group:
    """A group of a Liberty file: `kind (names) { attributes, groups }`.

    Attributes:
        kind: kind of group, such as "library", "cell", "pin" or "timing".
        names: the names in brackets.
        values: attributes by name; the last value if an attribute is repeated.
        groups: the groups inside, in order.
        line: the line of the file in which it begins; 0 if unknown.
    """

    kind: str
    names: tuple[str, ...]
    values: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    line: int = field(default=0, compare=False)

    @property
    def name(self) -> str:
        """The first name, or empty."""
        return self.names[0] if self.names else ""

    def of(self, kind: str) -> Iterator[Group]:
        """Yield the groups of one kind inside."""
        return (group for group in self.groups if group.kind == kind)

    def first(self, kind: str) -> Group | None:
        """Return the first group of one kind inside, or None."""
        return next(self.of(kind), None)

    def number(self, name: str, default: float = 0.0) -> float:
        """Return a numeric attribute, or `default` if it is missing.

        Raises:
            LibertyError: it is not a finite number.
        """
        try:
            value = float(self.values[name]) if name in self.values else default
        except ValueError:
            value = float("nan")
        if not isfinite(value):
            raise LibertyError(f"{name} of {self.kind} {self.name} must be a number, got {self.values[name]!r}")
        return value

    def is_true(self, name: str) -> bool:
        """Return a Boolean attribute; False if it is missing.

        Raises:
            LibertyError: it is neither true nor false.
        """
        value = self.values.get(name, "false").lower()
        if value not in TRUTH:
            raise LibertyError(f"{name} of {self.kind} {self.name} must be true or false, got {self.values[name]!r}")
        return TRUTH[value]

    def words(self, name: str) -> list[str]:
        """Return the names in an attribute, which are separated by spaces or commas."""
        return self.values.get(name, "").replace(",", " ").split()


@contextmanager
def located(path: Path, group: Group) -> Iterator[None]:
    """Prefix the errors of what a group says with the file and the line in which the group begins."""
    try:
        yield
    except ValueError as error:
        raise LibertyError(f"{path}, line {group.line}: {error}") from None


def read_liberty(path: Path) -> Group:
    """Read a Liberty file, plain or gzip.

    Raises:
        LibertyError: it is damaged; the message names the line.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise LibertyError(f"{path} is a damaged gzip file: {error}") from None
    return parse(data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n"), str(path))


def parse(text: str, source: str = "Liberty text") -> Group:
    """Parse Liberty text and return its library.

    Raises:
        LibertyError: it is damaged; the message names the line in `source`.
    """
    # Remove comments and line continuations, but keep the line numbers.
    text = COMMENT.sub(lambda match: match[0] if match[0][0] == '"' else "\n" * match[0].count("\n"), text)
    text = re.sub(r"\\[ \t]*\r?\n", " \r", text)
    root, at, line = Group("file", ()), 0, 1
    open_groups = [root]

    def lines(begin: int, end: int) -> int:
        return text.count("\n", begin, end) + text.count("\r", begin, end)

    def damaged(what: str, where: int) -> LibertyError:
        return LibertyError(f"{source}, line {line + lines(at, where)}: {what}")

    while True:
        statement = STATEMENT.match(text, at)
        if statement is None:
            rest = text[at:].lstrip()
            raise damaged(f"this is not Liberty: {rest[:40].splitlines()[0]!r}", len(text) - len(rest))
        current = open_groups[-1]
        if statement["end"] is not None:
            if len(open_groups) > 1:
                what = f"{current.kind} {current.name} is not closed; the file ends early"
                raise LibertyError(f"{source}, line {current.line}: {what}")
            break
        if statement["close"]:
            if len(open_groups) == 1:
                raise damaged("surplus }", statement.start("close"))
            open_groups.pop()
        elif statement["value"] is not None:
            current.values[statement["name"]] = _unquoted(statement["value"])
        elif statement["open"] == "{":
            arguments = statement["args"].split(",") if statement["args"].strip() else []
            opened = line + lines(at, statement.start("name"))
            group = Group(statement["name"], tuple(_unquoted(name) for name in arguments), line=opened)
            current.groups.append(group)
            open_groups.append(group)
        elif statement["args"] is not None:
            current.values[statement["name"]] = statement["args"].replace('"', " ").strip()
        line += lines(at, statement.end())
        at = statement.end()
    libraries = list(root.of("library"))
    if not libraries:
        raise LibertyError(f"{source} has no group 'library'; is it a Liberty file?")
    if len(libraries) > 1:
        names = ", ".join(library.name for library in libraries)
        raise LibertyError(f"{source} has several libraries ({names}); give a file with one of them")
    if any("include_file" in group.values for group in (root, *libraries)):
        raise LibertyError(f"{source} uses include_file, which is not supported; give a file that contains the text")
    return libraries[0]


def _unquoted(text: str) -> str:
    """Return the contents of a string."""
    return text.strip().removeprefix('"').removesuffix('"').replace('\\"', '"').strip()


def numbers(text: str) -> Array:
    """Return the numbers in an attribute; float64.

    Raises:
        LibertyError: there is something other than finite numbers.
    """
    try:
        values = np.array(text.replace(",", " ").split(), np.float64)
    except ValueError:
        values = np.full(1, np.nan)
    if not np.isfinite(values).all():
        raise LibertyError(f"these are not numbers: {text[:60]!r}")
    return values
