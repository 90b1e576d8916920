"""Cell functions in Liberty notation: parsed once, then evaluated in Python or written as Verilog."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

TOKEN = re.compile(r"\s*([A-Za-z_]\w*|[01]|[!'*&+|^()])")


class Expression:
    """A Boolean function of pins.

    Args:
        text: in Liberty notation: ! and ' for NOT, *, & or a space for AND, ^ for XOR, + and | for OR.

    Attributes:
        source: the function as Verilog.
        names: its pins, in order of appearance.

    Raises:
        ValueError: the text cannot be parsed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self._tokens = self._split(text)
        self._at = 0
        try:
            self.source = self._or()
            self._call = self._compiled()
        except (RecursionError, SyntaxError, MemoryError):  # the limits of this parser and of Python's
            raise ValueError(f"{text[:40]!r}... is not a function of pins; it is nested too deeply") from None

    def __call__(self, one: Any, pins: dict[str, Any]) -> Any:
        """Return the value of the function, bitwise, from those of its pins; `one` has all bits set."""
        return self._call(one, *(pins[name] for name in self.names))

    def truth(self, inputs: Sequence[str]) -> tuple[int, ...]:
        """Return the truth table; the first of `inputs` is the lowest bit of the row number."""
        rows = range(1 << len(inputs))
        return tuple(self(1, {name: (row >> bit) & 1 for bit, name in enumerate(inputs)}) for row in rows)

    def _compiled(self) -> Callable[..., Any]:
        """Return the parsed function as Python's."""
        if self._at != len(self._tokens):
            raise ValueError(f"{self.text!r} is not a function of pins; unexpected {self._tokens[self._at]!r}")
        # The prefix keeps pins from clashing with Python keywords.
        arguments = ", ".join(["one", *(f"__{name}" for name in self.names)])
        body = re.sub(r"\b[A-Za-z_]\w*", lambda match: f"__{match[0]}", self.source)
        body = re.sub(r"\b1\b", "one", re.sub(r"\b0\b", "(one ^ one)", body)).replace("~", "one ^ ")
        function: Callable[..., Any] = eval(f"lambda {arguments}: {body}")
        return function

    @property
    def plain(self) -> str:
        """The pin if the function is a single pin, with any brackets removed; otherwise the text."""
        return self.source if self.source in self.names else self.text

    @staticmethod
    def _split(text: str) -> list[str]:
        tokens, at = [], 0
        while text[at:].strip():
            match = TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"{text!r} is not a function of pins; it cannot be parsed from {text[at:]!r} on")
            tokens.append(match[1])
            at = match.end()
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
            term = f"(~{self._not()})"
        elif token == "(":
            term = self._or()
            if self._next() != ")":
                raise ValueError(f"{self.text!r} is not a function of pins; a ) is missing")
            self._at += 1
        elif token in ("0", "1"):
            term = token
        elif re.match(r"\w", token):
            if token not in self.names:
                self.names.append(token)
            term = token
        else:
            raise ValueError(f"{self.text!r} is not a function of pins; a pin is missing")
        while self._next() == "'":
            self._at += 1
            term = f"(~{term})"
        return term


@cache
def expression(text: str) -> Expression:
    """Return a parsed function, from a cache."""
    return Expression(text)
