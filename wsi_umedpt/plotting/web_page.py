"""HTML pages that need nothing else: one file that makes no request, and whose own policy forbids it.

Names of slides, patients and classes come from files that others made: they are escaped wherever they stand,
and what would not be seen, or would turn the text around it, is replaced.
"""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wsi_umedpt import __version__
from wsi_umedpt.io.printable import printable
from wsi_umedpt.store.zarr_io import whole_file

NOTHING = "\u2013"
"""Stands where there is no value: an en dash."""


def write_webpage(path: Path, package: str, name: str, content: Mapping[str, Any]) -> None:
    """Fill a template and write the page; it is there whole or not at all.

    Parameters
    ----------
    path
        ``.html``; its folder is made.
    package, name
        Package with NAME.html.j2, NAME.css (rules beside those that all pages share), and NAME.js where the page has a
        script, the only one that its policy lets run.
    content
        Variables of the template, beside ``version``, ``policy``, ``style`` and ``script``.
    """
    here = files(package)
    script = here.joinpath(f"{name}.js")
    text = script.read_text(encoding="utf-8") if script.is_file() else ""
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )  # fmt: skip
    made.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    page = made.from_string(here.joinpath(f"{name}.html.j2").read_text(encoding="utf-8")).render(
        **content,
        version=__version__,
        policy=_policy(text),
        style=files(__package__).joinpath("web_page.css").read_text("utf-8")
        + here.joinpath(f"{name}.css").read_text("utf-8"),
        script=text,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(page.encode("utf-8", errors="replace"))


def _policy(script: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if not script:
        return policy
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{policy}; script-src 'sha256-{digest}'"


def _shown(value: Any) -> Any:
    if value is None:
        return NOTHING
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
