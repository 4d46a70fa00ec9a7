"""The dock that shows the stains of a slide one by one."""

from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QSlider
from wsi_umedpt.slides import STAININGS

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.layers.stains import DARKEST_OD, NAMES, PER_OD, stain_layer
from napari_wsi_umedpt.logic.field import current_slide
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.viewer import add_layers, ours, same_selected

_AS_SCANNED = ""
_LEAST, _MOST = 10, 255
"""Range of the darkest density, in steps of `PER_OD`."""
_NO_SLIDE = "Open the slide itself: its results hold no pixels that stains could be computed of."
_HOW = (
    "Each stain is computed of what is in view (colour deconvolution, Ruifrok and Johnston 2001). Colours of dyes are "
    "those of that paper: scanners and laboratories differ."
)


class StainsDock(Dock):
    """Haematoxylin, eosin or DAB alone."""

    tab = "Stains"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._darkest = {stain: round(od * PER_OD) for stain, od in DARKEST_OD.items()}
        self._place: Place | None = None
        self.chosen = _AS_SCANNED
        """Stain that is shown; empty for the slide as it was scanned."""
        self.staining = QComboBox()
        self.staining.addItems([*STAININGS])
        self.staining.currentTextChanged.connect(self._new_staining)
        self.buttons: dict[str, QPushButton] = {}
        self._row = QHBoxLayout()
        self.contrast, self.darkest = QSlider(Qt.Orientation.Horizontal), QLabel()
        self.contrast.setRange(_LEAST, _MOST)
        self.contrast.setToolTip("Optical density that is drawn darkest")
        self.contrast.valueChanged.connect(self._set_contrast)
        how = QLabel(_HOW)
        how.setWordWrap(True)
        column, form, contrast = self._scrolling(), QFormLayout(), QHBoxLayout()
        form.addRow("Staining", self.staining)
        contrast.addWidget(self.contrast, 1)
        contrast.addWidget(self.darkest)
        form.addRow("Contrast", contrast)
        column.addLayout(self._row)
        column.addLayout(form)
        column.addWidget(how)
        column.addStretch(1)
        self._follow_layers(self._layers_changed)
        self._new_staining()

    def show_stain(self, stain: str) -> None:
        """Show one stain of the slide, or, of an empty name, the slide as it was scanned."""
        found = current_slide(self._viewer)
        for layer in self._layers():
            self._viewer.layers.remove(layer)
        if stain and found is None:
            tell(_NO_SLIDE)
            stain = _AS_SCANNED
        self.chosen, self._place = stain, None if found is None else found.place
        if stain and found is not None:
            darkest = self._darkest[stain] / PER_OD
            made = stain_layer(found.layer.data, found.place, stain, self.staining.currentText(), darkest)
            with same_selected(self._viewer):
                (layer,) = add_layers(self._viewer, [made])
            layers = self._viewer.layers
            layers.move(layers.index(layer), layers.index(found.layer) + 1)
        self._show_chosen()

    def _layers(self) -> list[Any]:
        return [layer for layer, shown in ours(self._viewer) if shown.kind == "stain"]

    def _new_staining(self, *_: Any) -> None:
        while (item := self._row.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        self.buttons = {}
        for stain in (_AS_SCANNED, *STAININGS[self.staining.currentText()]):
            button = self.buttons[stain] = QPushButton(NAMES.get(stain, "As scanned"))
            button.setCheckable(True)
            button.clicked.connect(lambda *_, stain=stain: self.show_stain(stain))
            self._row.addWidget(button)
        if self.chosen:
            self.show_stain(self.chosen if self.chosen in self.buttons else _AS_SCANNED)
        self._show_chosen()

    def _show_chosen(self) -> None:
        for stain, button in self.buttons.items():
            button.setChecked(stain == self.chosen)
        self.contrast.setEnabled(bool(self.chosen))
        self.contrast.blockSignals(True)
        self.contrast.setValue(self._darkest.get(self.chosen, _MOST))
        self.contrast.blockSignals(False)
        self.darkest.setText(f"darkest at {self.contrast.value() / PER_OD:.2f} OD" if self.chosen else "")

    def _set_contrast(self, value: int) -> None:
        if self.chosen:
            self._darkest[self.chosen] = value
            for layer in self._layers():
                layer.contrast_limits = (0, value)
            self._show_chosen()

    def _layers_changed(self, event: Any = None) -> None:
        if not self.chosen:
            return
        found = current_slide(self._viewer)
        if found is not None and self._place is not None and not found.place.same_slide(self._place):
            self._place = found.place
            QTimer.singleShot(0, lambda: self.show_stain(self.chosen))  # the next slide is shown as this one was
        elif not self._layers() and found is not None and found.place == self._place:
            QTimer.singleShot(0, self._forget_if_gone)

    def _forget_if_gone(self) -> None:
        """Somebody took the stain's layer away by hand."""
        if not self._layers():
            self.chosen = _AS_SCANNED
            self._show_chosen()
