"""JSON taken from a file value by value, so that a list of any length needs no memory.

The standard library's decoder, unlike faster ones, can stop behind a value and takes NaN and Infinity.
Whatever is wrong with a file is a ValueError, or a RecursionError where it nests too deep.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO


class JsonText:
    """JSON of a file, from its beginning; the methods say what comes next and take it."""

    _DECODER = json.JSONDecoder()
    _SPACE = re.compile(r"[ \t\r\n]*")
    _PIECE = 1 << 20
    _LONGEST = 1 << 28
    """Characters at which a value that is still not whole is taken for damaged."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._gone = 0

    def ahead(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            space = self._SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The next value, whole."""
        self.ahead()
        while True:
            try:
                value, end = self._DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) > self._LONGEST or not self._more():
                    raise self._wrong(error.msg, error.pos) from None
            else:
                # A number that touches the end of what was read may go on behind it.
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value

    def items(self) -> Iterator[Any]:
        """The values of the list that begins here."""
        for _ in self._entries("[", "]"):
            yield self.value()

    def names(self) -> Iterator[str]:
        """The names in the object that begins here; who asks takes each one's value before the next."""
        for _ in self._entries("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"a name in an object is {name!r:.40}, which is no text")
            self._take(":")
            yield name

    def _entries(self, opening: str, closing: str) -> Iterator[None]:
        self._take(opening)
        if self.ahead() == closing:
            self._take(closing)
            return
        yield
        while self._take("," + closing) == ",":
            yield

    def _take(self, wanted: str) -> str:
        found = self.ahead()
        if not found or found not in wanted:
            raise self._wrong(f"expected {' or '.join(wanted)}", self._at)
        self._at += 1
        return found

    def _more(self) -> bool:
        # As much again as is held, so that a long value is not tried anew for every piece of it.
        piece = self._file.read(max(self._PIECE, len(self._text) - self._at))
        if piece:
            self._gone += self._at
            self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def _wrong(self, what: str, at: int) -> ValueError:
        found = self._text[at : at + 20]
        return ValueError(f"{what} at character {self._gone + at}, found {repr(found) if found else 'its end'}")
