"""The dock that learns from a few clicked cells: click, and all cells are coloured and counted at once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from qtpy.QtWidgets import QFileDialog
from wsi_umedpt.errors import WsiError
from wsi_umedpt.store import found_names

from napari_wsi_umedpt.docks.cases import CasesDock
from napari_wsi_umedpt.docks.teaching import Buttons, TeachingDock
from napari_wsi_umedpt.layers.build import Shown, field_layer, show_field
from napari_wsi_umedpt.logic.background import Background
from napari_wsi_umedpt.logic.cells import NAME, TeachableCells, classify_slides, open_cells
from napari_wsi_umedpt.logic.teachable import Taught
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.cell_labelling import CellLabelling
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.viewer import add_layer, ours, same_selected

if TYPE_CHECKING:
    from wsi_umedpt.mil import Labelled

_NO_CASES = "There is no case list: open a folder of slides in the dock Case list first."


class CellsDock(TeachingDock):
    """Teach a classifier of cells by example."""

    tab = "Cells"
    labels_of = CellLabelling
    counted = ("Clicked", "Cells")
    from_where = "Objects"
    lacking = "There are no cells to classify yet: nuclei must be found on this slide first."
    remedy = "Find nuclei ..."
    help = (
        "Press <b>Label cells</b>, then click on cells of the first class; press 2 and click on cells of the second. "
        "Click on what is coloured wrongly. 0 takes a label away, Ctrl-Z undoes."
    )
    tips = (
        "Which objects in the results are classified",
        "Click on cells; keys 1 to 9 choose the class, 0 takes away. Dragging moves the slide.\n"
        "Press it again to ask by a click what lies there.",
    )

    def __init__(self, napari_viewer: Any) -> None:
        self._known: dict[str, Labelled] = {}
        """Labelled cells of the slides that were shown in this window, by slide."""
        self._hidden: list[Layer] = []
        """Layers of the same cells in the classes of the head, while what was learned is shown."""
        super().__init__(napari_viewer)
        self._elsewhere = Background(self.tell_error)
        self._letting_go.append(self._elsewhere.forget)

    def _buttons(self) -> Buttons:
        return (
            ("Open labels ...", "CSV of points, or cells that were classified in QuPath", self._choose_labels),
            ("Save labels ...", "CSV for `probe fit --objects`, or GeoJSON for QuPath", self._choose_labels_target),
            ("Save classifier ...", "For `wsi-umedpt probe predict` on other slides", self._choose_probe_target),
            ("Keep the classes", "Write the probabilities of all cells into the slide's results", self.write_scores),
            ("Export cells ...", "All cells of the slide as classified detections, for QuPath", self._choose_export),
            ("Classify all cases", "Write the classes into the results of the case list's slides", self.classify_all),
        )

    def _prepare_remedy(self, analyse: Any) -> None:
        analyse.tick_first()

    def _open(self, store: Path, choice: Any) -> TeachableCells:
        return open_cells(store, choice)

    def _choices(self, slide: TeachableCells) -> tuple[list[tuple[str, Any]], Any]:
        return [(name, name) for name in found_names(slide.store)], slide.kind

    def _show_slide(self, slide: TeachableCells) -> None:
        super()._show_slide(slide)
        if not slide.features.has_vectors:
            self.words.setText(
                f"{self.help}<br>These objects have no vectors, only measures to learn from: size, shape and stains. "
                "Find them anew for more."
            )

    def _learn(self, labels: dict[int, str]) -> Callable[[], Taught] | None:
        slide = self.slide
        self._known[slide.store.slide_id] = slide.labelled(labels)
        same = [one for one in self._known.values() if one.made_of == slide.features.made_of]
        if len({name for one in same for name in one.labels}) < 2:
            return None
        return lambda: slide.teach(same, labels)

    # ---- what was learned ----

    def _shown_colours(self, slide: TeachableCells) -> Layer | None:
        return next((layer for layer, shown in ours(self._viewer) if _is_map(shown, slide)), None)

    def _show_colours(self) -> None:
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            return
        objects, colours = slide.classified(taught), tuple(self._table)
        field = slide.field.of_classes(objects)
        numbers = np.bincount(objects.class_index, minlength=len(objects.classes)).tolist()
        counts = dict(zip(objects.classes, numbers, strict=True))
        self.classes.show_counts(counts, 1)
        if unlisted := [f"{n:,} {name}" for name, n in counts.items() if n and name not in self.classes.names]:
            self.words.setText(f"{taught.words} Of classes that other slides have: {', '.join(unlisted)}.")
        shown = Shown(
            "objects", slide.place, slide.store.path, NAME, objects.classes, colours, objects=field,
            tissue_mm2=slide.tissue_mm2, about={"scores": NAME},
        )  # fmt: skip
        if self._colours is not None and self._colours in self._viewer.layers:
            show_field(self._colours, shown)
            return
        self._hide_those_of_the_head(slide)
        self._colours = Layer.create(*field_layer(shown))
        with same_selected(self._viewer):
            add_layer(self._viewer, self._colours)

    def _hide_those_of_the_head(self, slide: TeachableCells) -> None:
        """The same cells in other colours would lie over each other."""
        for layer, shown in ours(self._viewer):
            same = (shown.kind, shown.store, shown.name) == ("objects", slide.store.path, slide.kind)
            if same and layer.visible:
                layer.visible = False
                self._hidden.append(layer)

    def _take_away_colours(self) -> None:
        super()._take_away_colours()
        self.classes.show_counts({}, 1)
        while self._hidden:
            self._hidden.pop().visible = True

    # ---- other slides, other programs ----

    def export(self, path: Path) -> None:
        """Write all cells of the slide as classified detections for QuPath."""
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            self._tell_nothing()
            return
        colours = dict(zip(taught.probe.classes, self._table, strict=True))
        said = f"Saved {len(slide.field):,} cells: {path.name}. In QuPath, drag the file onto the slide. ({path})"
        self._elsewhere.run(
            lambda: slide.export(taught, path, colours), lambda _: tell(said), doing=f"Writing {path.name}"
        )

    def classify_all(self) -> None:
        """Classify the cells of all slides of the case list, and write their classes into their results."""
        if self.taught is None:
            self._tell_nothing()
            return
        docks = window_of(self._viewer).findChildren(CasesDock)
        cases = docks[0].cases.cases if docks and docks[0].cases is not None else ()
        stores = [case.store for case in cases if case.store is not None]
        if not stores:
            tell("No slide of the case list has results." if cases else _NO_CASES)
            return
        probe, doing = self.taught.probe, f"Classifying the cells of {len(stores)} slides"
        self._elsewhere.run(lambda: classify_slides(stores, probe), self._classified, doing=doing)

    def _classified(self, found: tuple[Mapping[str, Mapping[str, int]], Mapping[str, WsiError]]) -> None:
        counts, failed = found
        lines = [
            f"{slide}: " + ", ".join(f"{count:,} {name}" for name, count in of.items()) for slide, of in counts.items()
        ]
        lines += [f"{slide}: {error}" for slide, error in failed.items()]
        tell("\n".join([f"Classified the cells of {len(counts)} of {len(lines)} slides.", *lines[:20]]))

    def _choose_export(self) -> None:
        of = "" if self.slide is None else f"{self.slide.store.slide_id}."  # or the next slide's would take its place
        name, _ = QFileDialog.getSaveFileName(
            self, "Export cells", self._proposed(f"{of}cells.geojson.gz"), "QuPath GeoJSON (*.geojson.gz *.geojson)"
        )
        if name:
            self.export(Path(name))


def _is_map(shown: Shown, slide: TeachableCells) -> bool:
    """Return whether a layer is what another dock of this kind showed of a slide."""
    return (shown.kind, shown.store, shown.name) == ("objects", slide.store.path, NAME)
