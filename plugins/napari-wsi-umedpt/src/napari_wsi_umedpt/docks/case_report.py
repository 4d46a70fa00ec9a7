"""Content of the window that a report of the case shows: the view, the slide classifier's answer, the results."""

from collections.abc import Sequence
from typing import Any

from qtpy.QtGui import QTextDocument
from wsi_umedpt.annotations import Annotation
from wsi_umedpt.plotting import with_legend

from napari_wsi_umedpt.docks.classifier import ClassifierDock
from napari_wsi_umedpt.logic.field import current_slide, current_store
from napari_wsi_umedpt.logic.measuring import Counted
from napari_wsi_umedpt.logic.snapshot import Seen, legend_of
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.viewer import field_title, seen_pixels


def seen_case(viewer: Any, drawn: Sequence[Annotation], counted: Counted) -> Seen | None:
    """Gather the case that is shown; None where no results are open.

    Parameters
    ----------
    drawn
        Regions on the slide, level-0 px.
    counted
        Objects that are counted in them.
    """
    store, slide = current_store(viewer), current_slide(viewer)
    if store is None:
        return None
    picture = with_legend(seen_pixels(viewer), legend_of(viewer.layers), title=field_title(viewer))
    return Seen(store, drawn, counted, _verdict_words(viewer), picture, None if slide is None else slide.slide)


def _verdict_words(viewer: Any) -> str:
    """Answer of the slide classifier, in lines; empty where none judged this slide."""
    judged = [dock for dock in window_of(viewer).findChildren(ClassifierDock) if dock.judgement is not None]
    if not judged:
        return ""
    text = QTextDocument()
    text.setHtml(judged[-1].words.text())
    return str(text.toPlainText())
