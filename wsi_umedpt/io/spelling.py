"""Comparison of names that people wrote: patients, classes, slides and columns of tables.

`spelled` takes out what a reader of a printed page cannot see or would not count as a difference; `identity`
also takes out what spreadsheets do to numbers. Neither is shown to anyone: names are compared by them, and
printed as they were written (`quoted`).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

_IGNORED = {
    *map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0)),
    *map(chr, range(0xFE00, 0xFE10)),
}
"""Characters without a shape that are neither controls nor marks of format: fillers and variation selectors."""
_NOT_A_NUMBERS_OWN = re.compile(r"(?<![\d.,])0+(?=\d)")
_WHOLE = re.compile(r"(\d+)\.0+")
_NO_VALUE = frozenset(
    (
        "na",
        "n/a",
        "n.a.",
        "#na",
        "#n/a",
        "nan",
        "nat",
        "nil",
        "null",
        "#null!",
        "#value!",
        "#ref!",
        "#div/0!",
        "#name?",
        "#num!",
        "-",
        "--",
        "---",
        ".",
        "?",
        "??",
    )
)
_NOT_KNOWN = frozenset(
    (
        "none",
        "unknown",
        "unk",
        "missing",
        "discrepancy",
        "not reported",
        "not available",
        "not applicable",
        "not known",
        "not evaluated",
        "not provided",
        "not recorded",
        "no data",
        "not allowed to collect",
    )
)


def spelled(name: str) -> str:
    r"""Form of a name that is the same for all spellings which look alike.

    Compatibility forms (NFKC), case, invisible characters, kinds of dash, and blanks are made alike.

    Examples
    --------
    >>> spelled("P\u2013 1\u200b") == spelled("p-  1")
    True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    kept = []
    for sign in folded:
        kind = unicodedata.category(sign)
        if sign.isspace():
            kept.append(" ")
        elif kind == "Pd" or sign == "\u2212":
            kept.append("-")
        elif kind not in ("Cf", "Cc", "Cn", "Co") and sign not in _IGNORED:
            kept.append(sign)
    return " ".join("".join(kept).split())


def identity(name: str) -> str:
    """Form of an identifier that is the same for all spellings of one: as `spelled`, without leading zeros.

    Spreadsheets take the zeros off what they take for a number, and add ``.0`` where a column has gaps.

    Examples
    --------
    >>> identity("P007") == identity("p7"), identity("0012.0") == identity("12"), identity("10") == identity("1")
    (True, True, False)
    """
    plain = spelled(name)
    if whole := _WHOLE.fullmatch(plain):
        plain = whole[1]
    return _NOT_A_NUMBERS_OWN.sub("", plain)


def is_missing(cell: str, *, words: bool = True) -> bool:
    """Return whether a cell states nothing, as ``NA``, ``#N/A``, ``'--``, ``Unknown`` or ``[Not Available]``.

    An empty cell is none of these.

    Parameters
    ----------
    cell
        As it is written.
    words
        Also words of everyday language, as ``none``, which might name something.
    """
    plain = spelled(cell).strip("'\"[]() ")
    return plain in _NO_VALUE or (words and plain in _NOT_KNOWN)


def several_spellings(names: Iterable[str], form: Callable[[str], str] = identity) -> list[list[str]]:
    """Names that are one but for how they are spelled, together; each name once, in the order of appearance."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(form(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def quoted(names: Iterable[str]) -> str:
    """Names in quotation marks; escaped where two would look the same in print."""
    names = [*names]
    alike = len({unicodedata.normalize("NFKC", name) for name in names}) < len(names)
    return " and ".join(ascii(name) if alike else repr(name) for name in names)
