"""The dock that learns from a few labelled tiles: paint, and the whole slide is coloured at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.layers import Image, Layer
from qtpy.QtWidgets import QComboBox

from napari_wsi_umedpt.docks.teaching import Buttons, TeachingDock
from napari_wsi_umedpt.layers.build import KEY, Shown
from napari_wsi_umedpt.logic.few_shot import TeachableTiles, colours_of, features_of, open_teachable
from napari_wsi_umedpt.logic.teachable import Taught
from napari_wsi_umedpt.window.tile_labelling import TileLabelling
from napari_wsi_umedpt.window.viewer import add_layer, ours, same_selected

_LIKELIEST = "most likely class"
_MAP = "few-shot"
"""Name of the layer of what was learned."""


class FewShotDock(TeachingDock):
    """Teach a classifier of tiles by example."""

    tab = "Tiles"
    labels_of = TileLabelling
    counted = ("Tiles",)
    from_where = "Features"
    lacking = "This slide has nothing to learn from yet: its features must be computed, for the whole slide."
    remedy = "Compute features ..."
    help = (
        "Press <b>Label tiles</b>, then click on tiles of the first class; press 2 and click on tiles of the second. "
        "0 takes a label away, Ctrl-Z undoes. Press <b>Label tiles</b> again to move the slide."
    )
    tips = (
        "Which of the features in the results are learned from",
        "Click or paint with the brush; keys 1 to 9 choose the class, 0 takes away.\n"
        "Press it again to move the slide; the space bar does so while it is held.",
    )

    def _build(self) -> None:
        super()._build()
        self.column = QComboBox()
        self.column.setToolTip("Tiles are paler where it is less sure")
        self.column.activated.connect(lambda *_: self._show_colours())
        self.options.addRow("Show", self.column)

    def _buttons(self) -> Buttons:
        return (
            ("Open labels ...", "CSV of points, or GeoJSON of regions", self._choose_labels),
            ("Save labels ...", "CSV for `probe fit`, or GeoJSON for QuPath", self._choose_labels_target),
            ("Save classifier ...", "For `wsi-umedpt probe predict` on other slides", self._choose_probe_target),
            ("Keep the map", "Write the probabilities of all tiles into the slide's results", self.write_scores),
        )

    def _open(self, store: Path, choice: Any) -> TeachableTiles:
        return open_teachable(store, *(choice or (None, None)))

    def _choices(self, slide: TeachableTiles) -> tuple[list[tuple[str, Any]], Any]:
        known = features_of(slide.store)
        several = len({grid for grid, _ in known}) > 1
        named = [(f"{encoder}, {grid}" if several else encoder, (grid, encoder)) for grid, encoder in known]
        return named, (slide.bag.grid_id, slide.bag.encoder_id)

    def label(self) -> None:
        """Let the user paint tiles of the chosen class."""
        for layer, shown in ours(self._viewer) if self.slide is not None else ():
            if shown.kind == "tiles" and shown.store == self.slide.store.path and shown.name == self.slide.bag.grid_id:
                layer.visible = True  # what is to be clicked on
        super().label()

    def _learn(self, labels: dict[int, str]) -> Callable[[], Taught] | None:
        slide = self.slide
        return (lambda: slide.teach(labels)) if len({*labels.values()}) > 1 else None

    def _shown_options(self, taught: Taught) -> None:
        shown = self.column.currentText()
        self.column.clear()
        self.column.addItems([_LIKELIEST, *(f"probability of {name}" for name in taught.probe.classes)])
        self.column.setCurrentIndex(max(0, self.column.findText(shown)))

    def _shown_colours(self, slide: TeachableTiles) -> Layer | None:
        return next((layer for layer, shown in ours(self._viewer) if _is_map(shown, slide)), None)

    def _show_colours(self) -> None:
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            return
        only = self.column.currentIndex() - 1
        data = colours_of(taught, slide.cells, self._table, only if only >= 0 else None)
        if self._colours is not None and self._colours in self._viewer.layers:
            self._colours.data = data
            return
        shown = Shown("features", slide.place, slide.store.path, _MAP, tiles=slide.tiles)
        meta = slide.place.meta(slide.cells.step, slide.cells.origin)
        self._colours = Image(data, name=_MAP, rgb=True, opacity=0.45, metadata={KEY: shown}, **meta)
        with same_selected(self._viewer):
            add_layer(self._viewer, self._colours)


def _is_map(shown: Shown, slide: TeachableTiles) -> bool:
    """Return whether a layer is what another dock of this kind showed of a slide."""
    return (shown.kind, shown.store, shown.name) == ("features", slide.store.path, _MAP)
