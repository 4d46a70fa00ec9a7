"""Messages of the library name settings as Python does; the command line alone knows flags."""

import ast
import re
from pathlib import Path

import pytest

import wsi_umedpt
from wsi_umedpt.cli.words import with_flags_named
from wsi_umedpt.errors import SlideError

PACKAGE = Path(wsi_umedpt.__file__).parent
OTHERS_FLAGS = {"image.py", "sample_data.py", "dask.py"}
"""Modules that name flags of other programs: vips, pip, Dask."""


def texts_of(path: Path) -> list[str]:
    """Strings of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_no_text_of_the_library_names_a_flag():
    """Outside the command line; other programs' flags are theirs."""
    found = [
        (path.name, text)
        for path in PACKAGE.rglob("*.py")
        if "cli" not in path.parts and path.name not in OTHERS_FLAGS
        for text in texts_of(path)
        if re.search(r"(?<![\w-])--[a-z]", text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("allow more with `max_unreadable`", "allow more with --max-unreadable"),
        ("`stall_s` must be over 0", "--stall-timeout must be over 0"),
        ("name one with `encoder_id`", "name one with -m"),
        ("`tile_mpp` 1 or more", "--tile-mpp 1 or more"),
        ("see `docs/store.md`", "see `docs/store.md`"),
    ],
)
def test_the_command_line_says_flags(text, expected):
    """What is no setting stays as it is."""
    assert with_flags_named(text) == expected


def test_an_error_says_what_helps_apart_from_what_is_wrong():
    """Its text holds both; a viewer may show its own remedy."""
    error = SlideError("no scale.", remedy="Give `mpp` 0.25.", setting="mpp")
    assert (str(error), error.message, error.setting) == ("no scale. Give `mpp` 0.25.", "no scale.", "mpp")
