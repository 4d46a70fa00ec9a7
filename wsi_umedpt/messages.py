"""Phrases that messages share: a count with its noun, the first names of a list, a duration."""

from collections.abc import Iterable


def noun(count: int, one: str, many: str | None = None) -> str:
    """Choose the noun that goes with a count.

    Parameters
    ----------
    one
        Singular, with its verb where that differs too.
    many
        Plural, if it is not the singular with an s.

    Examples
    --------
    >>> noun(1, "slide has", "slides have")
    'slide has'
    """
    return one if count == 1 else many or f"{one}s"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Write a count and its noun.

    Parameters
    ----------
    one, many
        See `noun`.

    Examples
    --------
    >>> counted(1, "tile"), counted(12000, "tile")
    ('1 tile', '12,000 tiles')
    """
    return f"{count:,} {noun(count, one, many)}"


def some(names: Iterable[str], most: int = 5) -> str:
    """List the first names, and the number of those left out.

    Examples
    --------
    >>> some("abcdefgh", most=3)
    'a, b, c and 5 more'
    """
    names = [*names]
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def duration(seconds: float) -> str:
    """Write a duration in the unit that fits.

    Examples
    --------
    >>> [duration(seconds) for seconds in (5, 180, 9000, 1e6)]
    ['5 s', '3 min', '2.5 h', '11.6 days']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86_400:.1f} days"
