"""The dock that finds more of the same: tiles most similar to one, or to a region, of this slide or of all cases."""

from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton
from shapely.geometry.base import BaseGeometry
from wsi_umedpt.errors import WsiError
from wsi_umedpt.messages import counted

from napari_wsi_umedpt.docks.base import Offer
from napari_wsi_umedpt.docks.gallery import Gallery
from napari_wsi_umedpt.docks.going import GoingDock
from napari_wsi_umedpt.logic.alike import Searched, TilesOf, open_search, pictures_of_found
from napari_wsi_umedpt.logic.field import Square, current_slide, current_store, mark_asked
from napari_wsi_umedpt.logic.newest import Newest
from napari_wsi_umedpt.window.context_menu import Asked, ContextMenu
from napari_wsi_umedpt.window.notifications import Reports, tell
from napari_wsi_umedpt.window.tile_labelling import TileLabelling
from napari_wsi_umedpt.window.viewer import current_place

if TYPE_CHECKING:
    from wsi_umedpt.mil import SimilarTile

_HELP = "Click with the right button on a tile, or into a region that you drew, and choose <b>Find tiles like this</b>."
_LACKING = "There is nothing to compare yet: the features of this slide must be computed."
_THIS, _ALL = "this slide", "all slides of the case list"
_ROWS = 5
_MOST_UNASKED = 20
"""Slides of the case list that are searched unasked: the features of more are read when they are asked for."""
_Result: TypeAlias = "tuple[Searched, list[SimilarTile], float, Square | None]"
"""Tiles that were searched and found, the duration in s, and the tile that was asked about; None of a region."""


class AlikeDock(GoingDock):
    """Tiles that look alike."""

    tab = "Alike"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.found: list[SimilarTile] = []
        self.seconds = 0.0
        """Duration of the last search, of slides that were read before."""
        self._searched: dict[tuple[Path, ...], Searched] = {}
        """Search of the slides that were read last."""
        self._asked: tuple[Path, str, Asked] | None = None
        self._scope_chosen = False
        """True once the user chose where to search."""
        self._reports = Reports()
        self._searching, self._reading = Newest(self._cannot_find), Newest(self.tell_error)
        self._letting_go += [self._searching.forget, self._reading.forget]
        self._build()
        ContextMenu.of(napari_viewer)
        self._follow_layers(self._layers_changed)
        self._layers_changed()

    def _build(self) -> None:
        self.scope = QComboBox()
        self.scope.addItems([_THIS, _ALL])
        self.scope.activated.connect(lambda *_: self._choose_scope())
        self.offer = Offer(self._viewer, "Analyse", "Compute features ...")
        self.words = QLabel(_HELP)
        self.words.setWordWrap(True)
        self.words.setMinimumHeight(40)
        title = "Most similar first. Click to go there, Ctrl-click to choose those to label."
        self.gallery = Gallery(title, self._go_to, rows=_ROWS, chosen=self._tell_chosen)
        self.name = QComboBox()
        self.name.setEditable(True)
        self.name.addItems(TileLabelling.of(self._viewer).names)
        self.label_button = QPushButton("Label all")
        self.label_button.setToolTip(
            "Give these tiles, or those chosen by Ctrl-click, this class, for the few-shot classifier; on all slides"
        )
        self.label_button.clicked.connect(lambda *_: self.label_all(self.name.currentText().strip()))
        form = QFormLayout()
        form.addRow("Search", self.scope)
        row = QHBoxLayout()
        row.addWidget(self.name, 1)
        row.addWidget(self.label_button)
        layout = self._scrolling()
        layout.addWidget(self.offer)
        layout.addLayout(form)
        layout.addWidget(self.words)
        layout.addWidget(self.gallery)
        layout.addStretch(1)
        self.pinned.setContentsMargins(8, 0, 8, 6)
        self.pinned.addLayout(row)

    # ---- searching ----

    def find(self, asked: Asked) -> None:
        """Find the tiles most similar to the one at a place of the slide that is shown, or to those of a region."""
        store, place = current_store(self._viewer), current_place(self._viewer)
        if store is None or place is None:
            tell(_LACKING)
            return
        self._asked = store, place.slide_id, asked
        if not self._scope_chosen:
            cases = {*self.case_stores()}
            self.scope.setCurrentText(_ALL if store in cases and 1 < len(cases) <= _MOST_UNASKED else _THIS)
        self._search()

    def _choose_scope(self) -> None:
        self._scope_chosen = True
        self._search()

    def _search(self) -> None:
        if self._asked is None:
            return
        store, slide_id, asked = self._asked
        others = self.case_stores() if self.scope.currentText() == _ALL else []
        if self.scope.currentText() == _ALL and not others:
            tell("There is no case list: open a folder of slides in the dock Case list first. This slide is searched.")
        key = (store, *sorted(path for path in others if path != store))
        known = self._searched.get(key)
        if known is None:
            self.words.setText(f"Reading the features of {len(key)} slide{'s' if len(key) > 1 else ''} ...")

        def work() -> "_Result":
            searched = known or open_search(store, others)
            tile = None if isinstance(asked, BaseGeometry) else searched.tile_at(slide_id, asked)
            began = perf_counter()
            return searched, searched.find(slide_id, asked), perf_counter() - began, tile

        self._searching.ask(work, partial(self._show, key))

    def _show(self, key: tuple[Path, ...], result: "_Result") -> None:
        searched, self.found, self.seconds, tile = result
        place = current_place(self._viewer)
        if self._asked and place is not None and current_store(self._viewer) == self._asked[0]:
            mark_asked(self._viewer, place, tile)
        self._searched = {key: searched}
        what = "this region" if self._asked and isinstance(self._asked[2], BaseGeometry) else "this tile"
        many = len(searched.stores)
        slides = "of this slide" if many == 1 else f"of {many} slides"
        words = f"{len(self.found)} of {len(searched.index):,} tiles {slides}, most like {what}."
        if searched.left_out:
            name, why = next(iter(searched.left_out.items()))
            words += f" {len(searched.left_out)} slides cannot be searched, the first {name}: {why}"
        self.words.setText(words)
        rows, said = range(len(self.found)), [f"{one.similarity:.2f}" for one in self.found]
        names = [one.slide_id for one in self.found] if many > 1 else None
        self.gallery.show_tiles(rows, said, None, names)
        self._tell_chosen()
        found, opened = self.found, current_slide(self._viewer)
        slides_open = {} if opened is None or self._asked is None else {self._asked[1]: opened.slide}

        def read() -> Any:
            return pictures_of_found(found, searched.stores, slides_open, self._reports)

        def show(pictures: Any) -> None:
            if found is self.found:  # else others were found meanwhile
                self.gallery.show_pictures(pictures)

        self._reading.ask(read, show)

    def _cannot_find(self, error: Exception) -> None:
        self.words.setText(_HELP)
        self.tell_error(error)

    # ---- what was found ----

    def _go_to(self, number: int) -> None:
        one = self.found[number]
        (searched,) = self._searched.values()
        self.go_to(searched.stores[one.slide_id], Square(one.x, one.y, one.side))

    def _layers_changed(self, event: Any = None) -> None:
        lacking = current_store(self._viewer) is None and current_slide(self._viewer) is not None
        self.offer.say(_LACKING if lacking else "")

    def _tell_chosen(self) -> None:
        many = len(self.gallery.chosen)
        self.label_button.setText(f"Label {many}" if many else "Label all")

    def label_all(self, name: str) -> None:
        """Give the tiles that were chosen, or all that were found, a class; on slides that are not shown, too."""
        if not self.found or not name:
            tell("Find tiles first, and name their class." if name else "Name the class first.")
            return
        (searched,) = self._searched.values()
        rows: dict[str, list[int]] = {}
        chosen = [self.found[number] for number in self.gallery.chosen] or self.found
        for one in chosen:
            rows.setdefault(one.slide_id, []).append(one.row)
        tiles = [TilesOf(searched.stores[name], searched.grid_ids[name], some) for name, some in rows.items()]
        try:
            TileLabelling.of(self._viewer).label_everywhere(tiles, name)
        except WsiError as error:
            self.tell_error(error)
            return
        many = f" of {len(rows)} slides" if len(rows) > 1 else ""
        tell(f"Labelled {counted(len(chosen), 'tile')}{many} as {name}: the dock Tiles learns from them.")
