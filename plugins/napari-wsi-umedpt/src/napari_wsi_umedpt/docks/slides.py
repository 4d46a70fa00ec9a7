"""The dock that opens slides and results, finds lost slides, and shows what else a store holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.layers import Layer
from napari.settings import get_settings
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout
from wsi_umedpt.errors import OptionError
from wsi_umedpt.slides import slide_suffixes
from wsi_umedpt.store import SlideStore, is_store

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.layers.build import LayerTuple
from napari_wsi_umedpt.logic.field import current_store
from napari_wsi_umedpt.logic.newest import Newest
from napari_wsi_umedpt.opening.load import further, open_pixels, open_with_results, place_of
from napari_wsi_umedpt.opening.opener import Opener
from napari_wsi_umedpt.reader import ask_for_slide
from napari_wsi_umedpt.window.notifications import Reports, tell
from napari_wsi_umedpt.window.viewer import add_layers, ours

_FILTER = f"Slides ({' '.join(f'*{suffix}' for suffix in slide_suffixes())});;All files (*)"
_ASYNC = "Moving around is smoothest with napari's setting for reading beside the window (asynchronous slicing)."


class SlidesDock(Dock):
    """Open slides and results."""

    tab = "Slides"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._reports = Reports()
        self._choices: dict[str, Any] = {}
        self._looking = Newest(self._nothing_to_offer)
        self._letting_go.append(self._looking.forget)
        self.mpp = QLineEdit()
        self.mpp.setPlaceholderText("as the slide states")
        self.mpp.setToolTip("Size of a pixel in um, of slides that state none, such as PNG files")
        self.beside = QCheckBox("In a second window, beside this one")
        self.more = QComboBox()
        self.show_button = QPushButton("Show")
        self.show_button.clicked.connect(self.show_more)
        self.locate_button = QPushButton("Where is the slide?")
        self.locate_button.clicked.connect(self.locate)
        open_slide, open_results = QPushButton("Open slide ..."), QPushButton("Open results ...")
        open_slide.setToolTip("With its results, where they lie beside it or in the folder out")
        open_results.setToolTip("A folder SLIDE.zarr")
        open_slide.clicked.connect(self._choose_slide)
        open_results.clicked.connect(self._choose_store)
        form = QFormLayout()
        form.addRow("um per px", self.mpp)
        form.addRow("More to show", self.more)
        layout = self._scrolling()
        layout.addWidget(open_slide)
        layout.addWidget(open_results)
        layout.addWidget(self.beside)
        layout.addLayout(form)
        layout.addWidget(self.show_button)
        layout.addWidget(self.locate_button)
        self._add_advice(layout)
        layout.addStretch(1)
        self._follow_layers(self._refresh)
        self._refresh()

    def _add_advice(self, layout: QVBoxLayout) -> None:
        if get_settings().experimental.async_:
            return
        text, button = QLabel(_ASYNC), QPushButton("Turn it on")
        text.setWordWrap(True)

        def turn_on() -> None:
            get_settings().experimental.async_ = True
            text.setText("It is on from the next start of napari. File > Preferences turns it off.")
            button.hide()

        button.clicked.connect(turn_on)
        layout.addWidget(text)
        layout.addWidget(button)

    # ---- opening ----

    def open(self, path: Path) -> None:
        """Open a slide or a store, beside the window."""
        try:
            mpp = self._given_mpp()
        except OptionError as error:
            self.tell_error(error)
            return
        Opener.of(self._viewer).open(
            lambda: lambda: open_with_results(path, self._reports, mpp=mpp, missing=ask_for_slide),
            f"Opening {path.name}",
            beside=self.beside.isChecked(),
            failed=self.tell_error,
            results=is_store(path),
        )

    def _given_mpp(self) -> float | None:
        text = self.mpp.text().strip()
        try:
            return float(text) if text else None
        except ValueError:
            raise OptionError(f"um per px is a number, as in 0.25; got {text!r}") from None

    def _choose_slide(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open a slide", "", _FILTER)
        if name:
            self.open(Path(name))

    def _choose_store(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Open results: a folder SLIDE.zarr")
        if name:
            self.open(Path(name))

    # ---- what else there is ----

    def _refresh(self, event: Any = None) -> None:
        path = current_store(self._viewer)
        has_slide = any(shown.kind == "slide" for _, shown in ours(self._viewer))
        self.locate_button.setVisible(path is not None and not has_slide)
        self._looking.ask(lambda: {} if path is None else further(SlideStore.open(path)), self._offer)

    def _offer(self, choices: dict[str, Any]) -> None:
        self._choices = choices
        self.more.clear()
        self.more.addItems(list(choices))
        self.more.setEnabled(bool(choices))
        self.show_button.setEnabled(bool(choices))

    def _nothing_to_offer(self, error: Exception) -> None:
        self._reports(error)
        self._offer({})

    def show_more(self) -> None:
        """Show what is chosen among what else the results hold."""
        make = self._choices.get(self.more.currentText())
        if make is not None:
            self._background.run(make, self._add_one)

    def _add_one(self, layer: LayerTuple) -> None:
        add_layers(self._viewer, [layer])

    def locate(self) -> None:
        """Ask where the slide of the results is."""
        path = current_store(self._viewer)
        if path is not None:
            locate_slide(self._viewer, SlideStore.open(path))


def locate_slide(viewer: Any, store: SlideStore, path: Path | None = None) -> None:
    """Put a store's slide under its results.

    Parameters
    ----------
    viewer
        Viewer that shows the results.
    store
        Store whose slide it is.
    path
        Path of the slide; None asks the user.
    """
    if path is None:
        title = f"Where is the slide of {store.path.name}?"
        name, _ = QFileDialog.getOpenFileName(None, title, str(store.path.parent), _FILTER)
        if not name:
            return
        path = Path(name)
    slide = path
    bring_slide(viewer, store, lambda: slide, f"Opening {slide.name}")


def bring_slide(viewer: Any, store: SlideStore, find: Callable[[], Path], doing: str) -> None:
    """Put a store's slide under its results, once it is to be had.

    Parameters
    ----------
    viewer, store
        As for `locate_slide`.
    find
        Gives its path; may take its time, as it is called beside the window.
    doing
        Words for the user meanwhile.
    """
    Opener.of(viewer).open(
        lambda: lambda: open_pixels(find(), Reports(), store=store),
        doing,
        _tell_found,
        below=place_of(store),
    )


def _tell_found(added: list[Layer]) -> None:
    for layer in added:
        tell(f"{layer.name} is shown below its results; it will be found there again.")
