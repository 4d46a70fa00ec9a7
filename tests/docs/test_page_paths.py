"""Files and modules that pages name are there, and pages that the source names."""

import re

import pytest

from tests.support import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")])
PAGES.remove(ROOT / "CHANGELOG.md")  # it tells of what was, too
PATHS = re.compile(r"(?<![\w/.~-])(?:tests|benchmarks|examples|docs|tools|wsi_umedpt)/[\w/.-]*\w/?")
MODULES = re.compile(r"python\s+-m\s+((?:benchmarks|tests)\.[\w.]+)")
SOURCES = sorted([*ROOT.glob("wsi_umedpt/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])
MADE = ("benchmarks/data", "examples/out")
"""Folders that runs make."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(page):
    """A benchmark's command can be typed as the page shows it, and a file that it names can be opened."""
    text = page.read_text(encoding="utf-8")
    paths = {path for path in PATHS.findall(text) if not path.startswith(MADE)}
    paths |= {module.rstrip(".").replace(".", "/") + ".py" for module in MODULES.findall(text)}
    folders = (ROOT, ROOT / "plugins" / "napari-wsi-umedpt", page.parent)
    assert [path for path in sorted(paths) if not any((folder / path).exists() for folder in folders)] == []


def test_pages_that_the_source_names_exist():
    """Who reads a docstring, a message or a help text finds the page that it sends them to."""
    named = {(path.name, page) for path in SOURCES for page in PATHS.findall(path.read_text(encoding="utf-8"))}
    assert sorted(one for one in named if one[1].startswith("docs/") and not (ROOT / one[1]).exists()) == []
