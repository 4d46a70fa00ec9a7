"""Texts of others as they may be shown: names of files, cells of tables, what a slide's header says.

What steers a terminal, would not be seen, or turns the text around it is replaced; a line
stays one line. Everything that the command line prints goes through here (`cli.terminal`),
and so do pages and tables that people read.
"""

from unicodedata import category

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_STRANGE = frozenset(["Cc", "Cs", "Zl", "Zp"])
"""Control characters, halves of surrogates (bytes of a name that are no text), separators of lines and paragraphs."""


def printable(text: str) -> str:
    """A text as it may be shown; its lines and tabs stay."""
    return "".join(c if c in "\n\t" or (category(c) not in _STRANGE and c not in _TURNING) else "\ufffd" for c in text)


def printable_line(text: str) -> str:
    """The same, on one line."""
    return printable(text).replace("\n", " ").replace("\t", " ")
