"""Output of the command line: lines go through `say`, so that no file's name or table's cell steers a terminal.

How much is printed is the level of the logger ``wsi_umedpt``: `set_verbosity` sets it from --quiet and --verbose.
"""

import json
import logging
import sys
from typing import Any

from wsi_umedpt.cli.words import with_flags_named
from wsi_umedpt.io.printable import printable_line

_LOGGER = logging.getLogger("wsi_umedpt")


def shown(line: object) -> str:
    """A line as it is shown: settings as flags, and nothing that begins another line or steers the terminal."""
    return printable_line(with_flags_named(str(line)))


def say(line: object = "", *, error: bool = False, always: bool = False) -> None:
    """Print one line; what would begin another, or steer the terminal, is replaced.

    Parameters
    ----------
    line
        Shown as `str` gives it.
    error
        Print it to stderr.
    always
        Print it with --quiet too, as errors are.
    """
    if error or always or not is_quiet():
        print(shown(line), file=sys.stderr if error else sys.stdout, flush=True)


def say_text(text: str, *, error: bool = False) -> None:
    """Print a message of several lines, all but the first set in: none can be taken for one of the program's own."""
    for number, line in enumerate(text.split("\n")):
        say(f"  {line}" if number and line else line, error=error)


def say_json(content: Any) -> None:
    """Print a JSON document, with --quiet too; in ASCII, so that nothing in it steers a terminal."""
    print(json.dumps(content, indent=1), flush=True)


class _Lines(logging.Handler):
    """Prints what the library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), error=True)


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Print errors alone, or also what the library logs; neither is as usual."""
    for handler in [h for h in _LOGGER.handlers if isinstance(h, _Lines)]:
        _LOGGER.removeHandler(handler)
    if verbose:
        _LOGGER.addHandler(_Lines())
    _LOGGER.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.NOTSET)


def is_quiet() -> bool:
    """Return whether only errors are printed."""
    return _LOGGER.level >= logging.WARNING
