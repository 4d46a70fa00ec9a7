"""Going to a tile of any slide: the one that is shown, or one of the case list, which is opened first."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.docks.cases import CasesDock
from napari_wsi_umedpt.logic.field import Square, current_store, go_to_square
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.viewer import current_place


class GoingDock(Dock):
    """A dock that shows tiles of several slides."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._going: tuple[Path, Square | None] | None = None
        self._follow_layers(self._came_somewhere)

    def go_to(self, store: Path, square: Square | None) -> None:
        """Go to a tile, or to a slide where there is none; nothing happens where the slide is in no case list."""
        self._going = store, square
        if current_store(self._viewer) == store:
            self._arrive()
            return
        docks = window_of(self._viewer).findChildren(CasesDock)
        cases = docks[0].cases.cases if docks and docks[0].cases is not None else ()
        at = next((n for n, case in enumerate(cases) if case.store == store), None)
        if at is not None:
            docks[0].show_case(at)

    def case_stores(self) -> list[Path]:
        """Stores of the slides of the case list that have one."""
        docks = window_of(self._viewer).findChildren(CasesDock)
        cases = docks[0].cases.cases if docks and docks[0].cases is not None else ()
        return [case.store for case in cases if case.store is not None]

    def _came_somewhere(self, event: Any = None) -> None:
        if self._going is not None and current_store(self._viewer) == self._going[0]:
            QTimer.singleShot(0, self._arrive)  # once the layers of the slide are all there

    def _arrive(self) -> None:
        place = current_place(self._viewer)
        if self._going is None or place is None or current_store(self._viewer) != self._going[0]:
            return
        (_, square), self._going = self._going, None
        if square is not None:
            go_to_square(self._viewer, place, square, 0)
