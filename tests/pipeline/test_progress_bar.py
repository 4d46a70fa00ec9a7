"""The bar of `wsi_umedpt.embed`."""

import sys
from types import ModuleType

import pytest

from wsi_umedpt.pipeline import progress_bar
from wsi_umedpt.pipeline.progress_bar import ProgressBar


@pytest.mark.parametrize("widgets", [None, "a module"], ids=["without-ipywidgets", "with-ipywidgets"])
def test_a_notebook_without_widgets_is_not_filled_with_lines(monkeypatch, capsys, widgets):
    """There a bar would be a line for each of its states; a notebook says that it has colours, as a terminal does."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(progress_bar, "find_spec", lambda _: widgets)
    with ProgressBar("embedding") as bar:
        bar.started(3)
        bar.tiles_done(3, 3)
    assert bool("".join(capsys.readouterr())) == bool(widgets)
