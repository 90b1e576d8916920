"""Functions of cells, as Liberty writes them: read once, then used by simulators and by Verilog."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

TOKEN = re.compile(r"\s*([A-Za-z_]\w*|[01]|[!'*&+|^()])")


class Expression:
    """A function of pins.

    Args:
        text: in Liberty's language: ! and ' for not, * and & (or nothing) for and, ^ for xor, + and | for or.

    Attributes:
        source: the same as Verilog writes it.
        names: the pins in it, in order.

    Raises:
        ValueError: it cannot be read.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self._tokens = self._split(text)
        self._at = 0
        self.source = self._or()
        if self._at != len(self._tokens):
            raise ValueError(f"{text!r} is no function of pins; it ends at {self._tokens[self._at]!r}")
        # No pin starts with two underscores here, so that none is a word of Python.
        arguments = ", ".join(["one", *(f"__{name}" for name in self.names)])
        body = re.sub(r"\b[A-Za-z_]\w*", lambda found: f"__{found[0]}", self.source)
        body = re.sub(r"\b1\b", "one", re.sub(r"\b0\b", "(one ^ one)", body)).replace("~", "one ^ ")
        self._call: Callable[..., Any] = eval(f"lambda {arguments}: {body}")

    def __call__(self, one: Any, pins: dict[str, Any]) -> Any:
        """Return its value, bit by bit; `one` has all bits set."""
        return self._call(one, *(pins[name] for name in self.names))

    def truth(self, inputs: Sequence[str]) -> tuple[int, ...]:
        """Return its value for every input, the first of which is the lowest bit."""
        rows = range(1 << len(inputs))
        return tuple(self(1, {name: (row >> bit) & 1 for bit, name in enumerate(inputs)}) for row in rows)

    @property
    def plain(self) -> str:
        """The name of the pin where it is one pin and nothing else, whatever brackets are around it; else its text."""
        return self.source if self.source in self.names else self.text

    @staticmethod
    def _split(text: str) -> list[str]:
        tokens, at = [], 0
        while text[at:].strip():
            found = TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"{text!r} is no function of pins; it cannot be read from {text[at:]!r} on")
            tokens.append(found[1])
            at = found.end()
        return tokens

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _or(self) -> str:
        terms = [self._and()]
        while self._next() in ("+", "|"):
            self._at += 1
            terms.append(self._and())
        return terms[0] if len(terms) == 1 else f"({' | '.join(terms)})"

    def _xor(self) -> str:
        terms = [self._not()]
        while self._next() == "^":
            self._at += 1
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else f"({' ^ '.join(terms)})"

    def _and(self) -> str:
        terms = [self._xor()]
        while self._next() and self._next() not in ("+", "|", ")"):
            self._at += self._next() in ("*", "&")
            terms.append(self._xor())
        return terms[0] if len(terms) == 1 else f"({' & '.join(terms)})"

    def _not(self) -> str:
        token = self._next()
        self._at += 1
        if token == "!":
            found = f"(~{self._not()})"
        elif token == "(":
            found = self._or()
            if self._next() != ")":
                raise ValueError(f"{self.text!r} is no function of pins; a ) is missing")
            self._at += 1
        elif token in ("0", "1"):
            found = token
        elif re.match(r"\w", token):
            if token not in self.names:
                self.names.append(token)
            found = token
        else:
            raise ValueError(f"{self.text!r} is no function of pins; a pin is missing")
        while self._next() == "'":
            self._at += 1
            found = f"(~{found})"
        return found


@cache
def expression(text: str) -> Expression:
    """Return a function that is read once."""
    return Expression(text)
