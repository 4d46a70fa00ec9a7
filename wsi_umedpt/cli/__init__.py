"""The command line: one function a command; each parses, calls the library, prints.

Heavy imports stand inside the functions, so that ``--help`` answers at once.
"""

import re
import sys
from dataclasses import is_dataclass
from pathlib import Path

import cyclopts

from wsi_umedpt import __version__


def _lies_here(_: object, value: object) -> None:
    """Refuse a URL where a path of this machine is asked for, which would name a folder ``s3:`` here."""
    if is_dataclass(value):
        value = list(vars(value).values())
    for path in value if isinstance(value, list | tuple) else [value]:
        if isinstance(path, Path) and (found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", str(path))):
            from wsi_umedpt.errors import RemoteError
            from wsi_umedpt.remote import plain

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
    default_parameter=cyclopts.Parameter(negative=(), validator=_lies_here),
    suppress_keyboard_interrupt=False,  # commands, and `main`, say what Ctrl-C leaves
)
_COMMANDS = {
    "demo": "Embed a real slide and draw it.",
    "info": "Print what slides and stores are.",
    "embed": "Embed slides into stores: the main job.",
    "segment": "Find objects on slides: nuclei, cells.",
    "tissue": "Draw the tissue found on every slide as one picture.",
    "status": "Show how the slides of an output folder stand, while runs are at work or after.",
    "report": "Write one page about an output folder: slides, outliers, failures, speed.",
    "verify": "Check that stores are whole and undamaged.",
    "picture": "Draw a store: tissue, tiles, features as colours.",
    "view": "Open slides and results in napari.",
    "heatmap": "Write scores of tiles: over the slide, as a raster, for QuPath, as a table.",
    "export": "Write objects for QuPath, counts of them, or features for CLAM, TRIDENT, STAMP, AnnData.",
    "encoders": "List the encoders that tiles can be embedded with, or import one.",
    "probe": "Train a tile classifier on few labels, and score slides with it.",
    "mil": "Train slide classifiers, evaluate them honestly, and apply them.",
    "pretrain": "Train an encoder of your own on many tasks.",
    "doctor": "Print versions and devices, and what is known to be bad.",
}
for name, summary in _COMMANDS.items():
    # The summary stands in the list of commands; a command that is asked for is imported,
    # and its docstring is its help.
    app.command(f"wsi_umedpt.cli.{name}:{name}", name=name, help=None if name in sys.argv[1:2] else summary)


def main() -> None:
    """Run the command line; errors of the package and of the system are a line each, not a trace."""
    import logging
    import os

    from wsi_umedpt.cli.terminal import say, say_text
    from wsi_umedpt.errors import WsiError, reason_of
    from wsi_umedpt.stalls import left_behind

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of it is in our errors
    try:
        code = app(sys.argv[1:], result_action="return_value")
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
