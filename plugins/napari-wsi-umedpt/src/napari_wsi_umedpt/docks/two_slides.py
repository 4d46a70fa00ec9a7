"""The dock that links the views of two slides side by side, as an IHC section beside its H&E."""

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton
from wsi_umedpt.errors import WsiError

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.layers.measures import PAIRS, pairs_layer
from napari_wsi_umedpt.logic.registration import Rigid, as_they_lie, rigid
from napari_wsi_umedpt.window.linked_views import Link, is_open, viewer_beside
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place, on_slide, ours, same_selected

_PAIRS = 3
_MOVED_PX = 4
_INVITATION = (
    "Open a second slide beside this one (dock Slides: “In a second window”), then click three points that show the "
    "same tissue on both: first on one slide and then, in the same order, on the other."
)
_NO_OTHER = (
    "There is no second window with a slide. Open one with the dock Slides: “In a second window, beside this one”."
)


class TwoSlidesDock(Dock):
    """Three points on each of two slides, and their views move together."""

    tab = "Two slides"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.link: Link | None = None
        self.points: list[list[tuple[float, float]]] = [[], []]
        """Places that were clicked on this slide and on the other, (y, x) um."""
        self._picking: list[tuple[Any, Any]] = []
        self.words = QLabel(_INVITATION)
        self.words.setWordWrap(True)
        self.pick_button, self.lie_button, self.unlink_button = (
            QPushButton(text) for text in ("Click three points", "Link as they lie", "Unlink")
        )
        self.lie_button.setToolTip("What is in the middle of both windows now is the same place; nothing is turned")
        for button, does in (
            (self.pick_button, self.pick), (self.lie_button, self.link_as_they_lie), (self.unlink_button, self.unlink),
        ):  # fmt: skip
            button.clicked.connect(lambda *_, does=does: does())
        column, row = self._scrolling(), QHBoxLayout()
        column.addWidget(self.words)
        column.addWidget(self.pick_button)
        for button in (self.lie_button, self.unlink_button):
            row.addWidget(button)
        column.addLayout(row)
        column.addStretch(1)
        self._letting_go += [self._stop_picking, self._undo_link]

    def pick(self) -> None:
        """Take the next three clicks on each slide for pairs of points."""
        other = viewer_beside(self._viewer)
        if other is None or current_place(self._viewer) is None:
            tell(_NO_OTHER)
            return
        self.unlink()
        self.points = [[], []]
        mine = getattr(self._viewer, "__wrapped__", self._viewer)
        for number, viewer in enumerate((mine, other)):
            call = partial(self._clicked, number)
            viewer.mouse_drag_callbacks.append(call)
            self._picking.append((viewer, call))
        self._tell_count()

    def link_as_they_lie(self) -> None:
        """Link what is in the middle of both windows."""
        if (other := viewer_beside(self._viewer)) is None:
            tell(_NO_OTHER)
            return
        self.unlink()
        middles = [on_slide(one, camera(one).center[-2:]) for one in (self._viewer, other)]
        self._link(other, as_they_lie(*middles))

    def unlink(self) -> None:
        """Let each window move alone."""
        self._stop_picking()
        self._undo_link()
        self.words.setText(_INVITATION)

    def _undo_link(self) -> None:
        if self.link is not None:
            self.link.undo()
            self.link = None

    def _stop_picking(self) -> None:
        while self._picking:
            viewer, call = self._picking.pop()
            if call in viewer.mouse_drag_callbacks:
                viewer.mouse_drag_callbacks.remove(call)
            self._unmark(viewer)

    def _unmark(self, viewer: Any) -> None:
        if is_open(viewer):
            for layer, shown in list(ours(viewer)):
                if shown.name == PAIRS:
                    viewer.layers.remove(layer)

    def _clicked(self, number: int, viewer: Any, event: Any) -> Generator[None]:
        start = event.pos
        yield
        while event.type == "mouse_move":
            yield
        near = max(abs(a - b) for a, b in zip(start, event.pos, strict=True)) <= _MOVED_PX
        if near and event.button == 1 and len(self.points[number]) < _PAIRS:
            y, x = on_slide(viewer, event.position[-2:]).tolist()
            self.points[number].append((y, x))
            self._mark(viewer, self.points[number])
            self._tell_count()
            if min(map(len, self.points)) == _PAIRS:
                self._register()

    def _mark(self, viewer: Any, points: list[tuple[float, float]]) -> None:
        place = current_place(viewer)
        if place is None:
            return
        self._unmark(viewer)
        with same_selected(viewer):
            add_layers(viewer, [pairs_layer(place, points, camera(viewer).zoom)])

    def _register(self) -> None:
        other = self._picking[1][0]
        try:
            found = rigid(*(np.array(points) for points in self.points))
        except WsiError as error:
            self.unlink()
            self.tell_error(error)
            return
        self._stop_picking()
        self._link(other, found)

    def _link(self, other: Any, registration: Rigid) -> None:
        self.link = Link(self._viewer, other, registration)
        how = "as they lie"
        if registration.residual_um is not None:
            apart = f"the points lie {registration.residual_um:.1f} um apart (root mean square)"
            how = f"turned on the screen by {registration.degrees:.1f} degrees; {apart}"
        self.words.setText(f"Linked: {how}. Where one window goes, the other follows.")

    def _tell_count(self) -> None:
        mine, others = map(len, self.points)
        self.words.setText(f"Points: {mine} of {_PAIRS} on this slide, {others} of {_PAIRS} on the other.")
