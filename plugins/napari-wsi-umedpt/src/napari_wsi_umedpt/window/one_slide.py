"""One slide at a time: a new slide takes the place of the one before, and its name stands where it is looked at.

Whoever opens something (a drop, a dock, a script, the case list) asks `change_for` what comes, what goes, and
whether that is another slide; layers of two slides never lie on each other. `Showing` writes the slide's name into
the window's title and onto the canvas, with a word where the zoom shows no more than the slide holds.

Read top to bottom: `Change`, `change_for`, `finish` (what was drawn follows its slide), `Showing`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from napari.layers import Layer
from qtpy.QtCore import QObject

from napari_wsi_umedpt.layers.build import KEY, LayerTuple, Place, Shown, shown_by
from napari_wsi_umedpt.logic.navigation import empty_magnification
from napari_wsi_umedpt.opening.opener import Opener, window_of
from napari_wsi_umedpt.window.closing import Closing
from napari_wsi_umedpt.window.viewer import camera, current_place, ours, slide_name, text_overlay

_PIXELS = ("slide", "thumbnail")
_APP = "wsi_umedpt"
_BRUSHES = ("paint", "erase")
_TEXT_PT = 11
_DOING = "Opening "
"""Begin of the status while something is read."""
_NOTHING_OPEN = "Drag a slide here, or open one with the menu Slide."
_HIDDEN = "wsi_umedpt_hidden"
"""Flag in a layer's metadata: it was hidden with its slide, and not by somebody."""

Item = TypeVar("Item", Layer, LayerTuple)


class Change(NamedTuple, Generic[Item]):
    """Change of a window when something is opened."""

    come: list[Item]
    """Layers to add, lowest first."""
    go: list[Layer]
    """Layers to remove before."""
    instead_of: Place | None = None
    """The slide that goes, if what comes is of another."""


def change_for(viewer: Any, layers: Sequence[Item]) -> Change[Item]:
    """Plan the layers to add and remove for layers that were read; nothing is done yet.

    Parameters
    ----------
    viewer
        Viewer that is to show them.
    layers
        Layers of one slide: its pixels, its results, or both; or drawn regions, which change nothing else.
    """
    there = list(ours(viewer))
    news = [(layer, shown) for layer in layers if (shown := _shown_of(layer)) is not None]
    place = next((shown.place for _, shown in news if _is_of_slide(shown)), None)
    if place is None:
        return Change(list(layers), [])
    current = next((shown.place for _, shown in reversed(there) if _is_of_slide(shown)), None)
    if current is not None and not current.same_slide(place):
        gone = [layer for layer, shown in there if shown.kind != "annotations"]
        return Change(list(layers), gone, current)
    known = {shown.kind for _, shown in there}
    come, go = [], []
    for layer, shown in news:
        if shown.kind in _PIXELS:
            if "slide" in known or shown.kind in known:
                continue  # it is open already
            go += [old for old, was in there if was.kind in _PIXELS]
        else:
            go += [old for old, was in there if same_thing(was, shown) and old not in go]
        come.append(layer)
    return Change(come, go)


def same_thing(one: Shown, other: Shown) -> bool:
    """Return whether two layers show the same part of the same store."""
    return (one.kind, one.store, one.name) == (other.kind, other.store, other.name)


def finish(viewer: Any) -> None:
    """Once layers came: the slide lies below its results, what was drawn on it above, and what was not is hidden."""
    layers, place = viewer.layers, current_place(viewer)
    if place is None:
        return
    mine = [(layer, shown) for layer, shown in ours(viewer) if shown.place.same_slide(place)]
    for layer, shown in reversed(mine):  # channels of a slide keep their order
        if shown.kind in _PIXELS:
            layers.move(layers.index(layer), min(layers.index(other) for other, _ in mine))
    for layer, shown in list(ours(viewer)):
        if shown.kind == "annotations":
            if not shown.place.same_slide(place):
                layer.metadata[_HIDDEN] = layer.metadata.get(_HIDDEN, False) or layer.visible
                layer.visible = False
                continue
            if layer.metadata.pop(_HIDDEN, False):
                layer.visible = True
            layers.move(layers.index(layer), len(layers))


def _is_of_slide(shown: Shown) -> bool:
    return shown.kind in _PIXELS or shown.store is not None


def _shown_of(item: Layer | LayerTuple) -> Shown | None:
    if isinstance(item, Layer):
        return shown_by(item)
    found = item[1].get("metadata", {}).get(KEY) if len(item) > 1 else None
    return found if isinstance(found, Shown) else None


class Showing(QObject):
    """Writes which slide is shown; one for each window, see `Showing.of`."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(window_of(viewer))
        self._viewer, self._title = viewer, str(viewer.title)
        self._words = ""
        events, seen = viewer.layers.events, camera(viewer).events
        followed = [
            (events.inserted, self._named), (events.removed, self._named), (seen.zoom, self._zoomed),
            (events.removing, self._lay_down_brush), (viewer.events.status, self._told),
        ]  # fmt: skip
        for emitter, call in followed:
            emitter.connect(call)
        # Qt's part goes with the window; napari would call what is gone.
        self.destroyed.connect(partial(_disconnect, followed))
        self._named()

    @classmethod
    def of(cls, viewer: Any) -> "Showing":
        """Controller of a viewer's window."""
        found: Showing | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    def _named(self, event: Any = None) -> None:
        name = slide_name(self._viewer)
        self._viewer.title = f"{name} - {_APP}" if name else self._title
        self._zoomed()

    def _lay_down_brush(self, event: Any) -> None:
        """A layer that goes while it is painted on would leave the brush's circle on the canvas."""
        layer = self._viewer.layers[event.index]
        if getattr(layer, "mode", "pan_zoom") in _BRUSHES:
            layer.mode = "pan_zoom"

    def _told(self, event: Any) -> None:
        if not self._viewer.layers:
            self._zoomed()

    def _doing(self) -> str:
        """Description of what is being opened; empty where nothing is."""
        opener, status = window_of(self._viewer).findChild(Opener), self._viewer.status
        if opener is not None and opener.doing:
            return f"{opener.doing} ..."
        return status if isinstance(status, str) and status.startswith(_DOING) else ""

    def _zoomed(self, event: Any = None) -> None:
        name, place = slide_name(self._viewer), current_place(self._viewer)
        empty = "" if place is None else empty_magnification(camera(self._viewer).zoom, place)
        words = "\n".join(part for part in (name, empty) if part)
        if not self._viewer.layers and Closing.of(self._viewer).ours:
            words = self._doing() or _NOTHING_OPEN
        if words == self._words:
            return
        self._words = words
        overlay = text_overlay(self._viewer)
        overlay.text, overlay.visible = words, bool(words)
        overlay.position, overlay.font_size = "top_left", _TEXT_PT
        overlay.box, overlay.box_color, overlay.color = True, (1.0, 1.0, 1.0, 0.75), "black"


def _disconnect(followed: list[tuple[Any, Any]], *_: Any) -> None:
    for emitter, call in followed:
        emitter.disconnect(call)
