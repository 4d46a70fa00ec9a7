"""The command line: one function a command; each parses, calls the library, prints.

Heavy imports stand inside the functions, so that ``--help`` answers at once.
"""

import re
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from wsi_umedpt import __version__


def _lies_here(_: object, value: object) -> None:
    """Refuse a URL where a path of this machine is asked for, which would name a folder ``s3:`` here."""
    if is_dataclass(value):
        value = list(vars(value).values())
    for path in value if isinstance(value, list | tuple) else [value]:
        if isinstance(path, Path) and (found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", str(path))):
            from wsi_umedpt.errors import RemoteError
            from wsi_umedpt.io.remote import plain

            url = plain(f"{found[1]}://{str(path)[found.end() :]}")
            raise RemoteError(
                f"{url} lies elsewhere, and what is named there must be a file or folder of this machine. Of stores "
                "that were published, `status` and `report` take the work folder (--work)."
            )


app = cyclopts.App(
    name="wsi-umedpt",
    version=__version__,
    help=(
        "Whole-slide images to embeddings that can be trusted.\n\n"
        "Typical use:\n\n"
        "    wsi-umedpt info SLIDE.svs\n\n"
        "    wsi-umedpt embed SLIDES/ -o OUT/\n\n"
        "    wsi-umedpt verify OUT/"
    ),
    help_format="markdown",
    default_parameter=Parameter(negative_bool=(), negative_iterable=(), negative_none=(), validator=_lies_here),
    suppress_keyboard_interrupt=False,  # commands, and `main`, say what Ctrl-C leaves
)
_COMMANDS = (
    "demo", "info", "embed", "segment", "tissue", "status", "report", "verify", "picture", "view", "heatmap", "export",
    "encoders", "probe", "similar", "map", "correct", "mil", "pretrain", "doctor",
)  # fmt: skip
for name in _COMMANDS:
    app.command(f"wsi_umedpt.cli.{name}:{name}", name=name)  # imported once it is asked for
app.register_install_completion_command(help="Make your shell complete commands and options with the Tab key.")

app.meta.suppress_keyboard_interrupt = False
_MESSAGES = cyclopts.Group("Messages, of every command")


@app.meta.default
def launch(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], group=_MESSAGES)] = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], group=_MESSAGES)] = False,
) -> int | None:
    """Run a command.

    Parameters
    ----------
    words
        The command and what it is given.
    quiet
        Print errors and failures alone.
    verbose
        Also print what is logged: every step, with the time.
    """
    from wsi_umedpt.cli.terminal import set_verbosity
    from wsi_umedpt.errors import OptionError

    if quiet and verbose:
        raise OptionError("--quiet and --verbose contradict each other; give one")
    set_verbosity(quiet=quiet, verbose=verbose)
    return app(words, result_action="return_value")  # type: ignore[no-any-return]


def main() -> None:
    """Run the command line; errors of the package and of the system are a line each, not a trace."""
    import logging
    import os

    from wsi_umedpt.cli.terminal import say, say_text
    from wsi_umedpt.errors import WsiError, reason_of
    from wsi_umedpt.io.stalls import left_behind

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of it is in our errors
    words = sys.argv[1:]
    try:
        if {*words[:1]} <= {"--help", "-h"}:
            for name in _COMMANDS:
                app[name]  # imported, so that the list says what each does
        code = app.meta(words, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (WsiError, OSError) as error:
        say_text(f"wsi-umedpt: {reason_of(error)}", error=True)
        code = 1
    except KeyboardInterrupt:
        say(error=True)
        say("wsi-umedpt: stopped by Ctrl-C. Run the same command again.", error=True)
        code = 130
    if left_behind():  # a thread that hangs in native code would be waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)
