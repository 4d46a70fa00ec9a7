"""What the command line prints: lines go through `say`, so that no file's name or table's cell steers a terminal."""

import sys

from wsi_umedpt.printable import printable_line


def say(line: object = "", *, error: bool = False) -> None:
    """Print one line; what would begin another, or steer the terminal, is replaced.

    Parameters
    ----------
    line
        Shown as `str` gives it.
    error
        Print it to stderr.
    """
    print(printable_line(str(line)), file=sys.stderr if error else sys.stdout, flush=True)


def say_text(text: str, *, error: bool = False) -> None:
    """Print a message of several lines, all but the first set in: none can be taken for one of the program's own."""
    for number, line in enumerate(text.split("\n")):
        say(f"  {line}" if number and line else line, error=error)
