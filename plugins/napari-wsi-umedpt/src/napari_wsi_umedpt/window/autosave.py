"""Keeps what is drawn and labelled in one window: every edit is written at once, can be undone, and is found again.

What people draw over a slide is read when that slide is shown, and written beside its results at every change
(`_keeping` says where). When another slide is shown, layers of the last one go, once they are in their file.

Read top to bottom: `Work` (of one slide), `Keeper`; changes, writing, reading, undoing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from napari.layers import Labels, Shapes
from qtpy.QtCore import QEvent, QObject, QTimer, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QShortcut

from napari_wsi_umedpt.layers.build import Place, shown_by
from napari_wsi_umedpt.layers.kept_regions import Sheet, read_sheets, write_sheets
from napari_wsi_umedpt.layers.shapes import PASSING, Drawing, end_shape
from napari_wsi_umedpt.logic.annotations import shapes_layer
from napari_wsi_umedpt.logic.autosave_place import ANNOTATIONS, Home, Kept
from napari_wsi_umedpt.logic.background import Background
from napari_wsi_umedpt.logic.file_writer import Writer
from napari_wsi_umedpt.logic.history import Edit, History
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.closing import Closing, Unsaved
from napari_wsi_umedpt.window.notifications import tell, tell_error, words_of
from napari_wsi_umedpt.window.shape_edits import ShapeWatch
from napari_wsi_umedpt.window.viewer import add_layers, camera, ours, same_selected

_SHOWN_MS = 120
"""Milliseconds after the last layer of a slide came: results come one after the other."""
_END_S = 3.0


@dataclass(eq=False)
class Work:
    """Drawings on one slide, and the state of their saving."""

    home: Home
    kept: Kept = field(default_factory=lambda: Kept(ANNOTATIONS))
    read: bool = False
    """True once it is known what was drawn before."""
    edits: int = 0
    written: int = 0
    """Number of the edits that are in the file."""
    reader: Background = field(default_factory=Background)
    trouble: str = ""
    """Reason why the last ones are not; empty where there is none."""

    @property
    def saved(self) -> bool:
        """True if all edits are in the file."""
        return self.written == self.edits


class Keeper(QObject):
    """Keeps work in one window, and ends with it; see `Keeper.of`."""

    changed = Signal()
    """Work was written, or could not be, or another slide is shown."""
    _ended = Signal(object, int, str)
    _kept = Signal(object, str, str)

    def __init__(self, viewer: Any) -> None:
        super().__init__(window_of(viewer))
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self.history, self.writer = History(), Writer()
        self._works: dict[str, Work] = {}
        self._troubles: dict[Any, str] = {}
        self._shown: Work | None = None
        self._quiet = False
        self._watch = ShapeWatch(self._viewer, self)
        self._watch.edited.connect(self._edited)
        self._watch.came.connect(self._came)
        self._watch.went.connect(self._went)
        self._ended.connect(self._wrote)
        self._kept.connect(self._was_kept)
        self._gone: list[Shapes] = []
        self._look, self._going = QTimer(self), QTimer(self)
        for timer, wait, call in ((self._look, _SHOWN_MS, self._look_at_slide), (self._going, 0, self._all_gone)):
            timer.setSingleShot(True)
            timer.setInterval(wait)
            timer.timeout.connect(call)
        for keys, does in (("Ctrl+Z", self.undo), ("Ctrl+Shift+Z", self.redo), ("Ctrl+Y", self.redo)):
            QShortcut(QKeySequence(keys), self.parent()).activated.connect(does)
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.connect(self._layers_changed)
        self.parent().installEventFilter(self)
        Closing.of(viewer).ask(self._lost)
        self.destroyed.connect(partial(_let_go, self.writer, self._works))
        self._look.start()

    @classmethod
    def of(cls, viewer: Any) -> "Keeper":
        """The keeper of a viewer's window."""
        found: Keeper | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    @property
    def shapes(self) -> ShapeWatch:
        """Shapes that are drawn in the window, and their edits."""
        return self._watch

    @property
    def where(self) -> str:
        """File in which the annotations of the slide that is shown are kept; empty where none is yet."""
        return str(self._shown.kept.written or "") if self._shown is not None else ""

    @property
    def trouble(self) -> str:
        """Reason why they are not kept; empty where they are."""
        return next((work.trouble for work in self._works.values() if work.trouble), "")

    # ---- changes ----

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Write what is not written yet before the window closes."""
        if event.type() == QEvent.Type.Close:
            self.unsaved()
        return False

    def _layers_changed(self, event: Any) -> None:
        self._look.start()

    def _work_of(self, layer: Shapes) -> Work | None:
        """Work on the slide that a layer lies on; None where nothing can be kept of it."""
        place = layer_place(layer)
        if not place.fingerprint or layer.metadata.get(PASSING):
            return None
        if place.fingerprint not in self._works:
            self._works[place.fingerprint] = Work(self.home(place))
        return self._works[place.fingerprint]

    def _edited(self, layer: Shapes, before: Drawing, after: Drawing) -> None:
        if after is not before and not self._quiet:
            what = f"change of {layer.name}"
            if len(before) != len(after):
                what = f"{'drawing in' if len(after) > len(before) else 'removal from'} {layer.name}"
            put = self._put
            self.did(layer_place(layer), what, partial(put, layer, before), partial(put, layer, after), layer)
        self._write_layer(layer)

    def _came(self, layer: Shapes) -> None:
        if not self._quiet and not layer.metadata.get(PASSING):
            self._did_layer(layer, f"opening of {layer.name}", here=True)
            self._write_layer(layer)

    def _went(self, layer: Shapes, last: Drawing) -> None:
        if self._quiet or not len(last) or layer.metadata.get(PASSING):
            return
        # Once it is seen whether its slide goes too: then it is no edit, and both may come again.
        self._gone.append(layer)
        self._going.start()

    def _all_gone(self) -> None:
        gone, self._gone = self._gone, []
        place = self._watch.shown_place()
        for layer in gone:
            of = layer_place(layer)
            if place is not None and of.same_slide(place):
                self._did_layer(layer, f"removal of {layer.name}", here=False)
                self._write_layer(layer)
            else:
                self._forget(of)

    def _forget(self, place: Place) -> None:
        """Forget the drawings on a slide that are gone: they are read anew when it is shown again."""
        if (work := self._works.get(place.fingerprint)) is not None:
            work.read = False
            self._look.start()

    def _write_layer(self, layer: Shapes) -> None:
        if (work := self._work_of(layer)) is not None:
            work.edits += 1
            self._write(work)

    # ---- writing ----

    def _write(self, work: Work) -> None:
        """Write what is drawn on a slide, in the thread that writes."""
        if not work.read or work.saved:
            return  # what is there already is not known yet: it is written once that is
        sheets = [
            Sheet(layer.name, drawing, drawing.meta(layer))
            for layer, drawing in self._watch.drawings.items()
            if len(drawing) and self._work_of(layer) is work
        ]
        if not sheets and not work.kept.known:
            work.written = work.edits  # nothing is there, and nothing was
            return
        edits, write = work.edits, partial(write_sheets, work.kept, work.home, sheets)
        self.writer.put(work, lambda: self._ended.emit(work, edits, _trouble(write)))

    def _wrote(self, work: Work, edits: int, trouble: str) -> None:
        if trouble and trouble != work.trouble:
            tell(f"What was drawn on {work.home.name} could not be kept: {trouble}", severity="error")
        work.trouble = trouble
        if not trouble:
            work.written = max(work.written, edits)
        if work is not self._shown:
            self._look.start()  # its layers may go now
        self.changed.emit()

    def keep(self, key: Any, what: str, write: Callable[[], Any]) -> None:
        """Write something else in the thread that writes; a failure is reported, naming `what`.

        Parameters
        ----------
        key
            Key of the work: what waits under the same one is not needed any more.
        """
        self.writer.put(key, lambda: self._kept.emit(key, what, _trouble(write)))

    def _was_kept(self, key: Any, what: str, trouble: str) -> None:
        before = self._troubles.pop(key, "")
        if trouble:
            self._troubles[key] = f"{what}: {trouble}"
            if self._troubles[key] != before:
                tell(f"Could not be kept: {self._troubles[key]}", severity="error")

    def unsaved(self) -> list[str]:
        """Describe what would be lost now; waits for what is being written. Empty where all is kept."""
        self._watch.settle()
        for work in self._works.values():
            self._write(work)
        done = self.writer.flush(_END_S)
        troubled = [f"annotations of {work.home.name}: {work.trouble}" for work in self._works.values() if work.trouble]
        troubled += self._troubles.values()
        return troubled or ([] if done else ["what was drawn last"])

    def _lost(self) -> list[Unsaved]:
        return [Unsaved(what, lambda: not self.unsaved()) for what in self.unsaved()]

    def home(self, place: Place) -> Home:
        """Place where work on a slide that is shown is kept."""
        of = [shown for _, shown in ours(self._viewer) if shown.place.same_slide(place)]
        stores = [shown.store for shown in of if shown.store is not None]
        slides = [shown.slide.path for shown in of if shown.slide is not None]
        return Home(place, stores[-1] if stores else None, slides[-1] if slides else None)

    # ---- reading ----

    def _look_at_slide(self) -> None:
        """Read what was drawn on the slide that is shown now, and put away what was drawn on others."""
        self._watch.settle()
        place = self._watch.shown_place()
        if place is None or not place.fingerprint:
            self._shown = None
            self.history.clear()
            return
        home = self.home(place)
        work = self._works.setdefault(place.fingerprint, Work(home))
        if work is not self._shown:
            self._shown = work
            self.history.clear()
            self.changed.emit()
        if self._put_away(work):
            return  # layers of one name would get another; it looks again once they are in their file
        if work.read and work.home.store == home.store:
            return
        kept = work.kept if work.read else Kept(ANNOTATIONS)
        work.home, work.read = home, False

        def read() -> Any:
            self.writer.flush()  # what was drawn on it before it went
            return read_sheets(kept, home)

        work.reader.run(read, partial(self._show, work, kept), tell_error)

    def _put_away(self, shown: Work) -> bool:
        """Take layers of other slides out of the list, once they are in their file; whether some wait for that."""
        self._quiet, waiting = True, False
        for layer in [*self._watch.drawings]:
            work = self._work_of(layer)
            if work is None or work is shown:
                continue
            if work.saved:
                self._viewer.layers.remove(layer)
                work.read = False
            else:
                waiting |= not work.trouble and (work.read or work.reader.busy)
        self._quiet = False
        return waiting

    def _show(self, work: Work, kept: Kept, found: Any) -> None:
        layers, refused = found
        for error in refused:
            tell_error(error)
        work.kept, work.read = kept, True
        if work is not self._shown and work.saved:
            return  # another slide is shown by now, and nothing was drawn on this one
        known = {one for layer in self._watch.drawings for one in layer.features.get("id", [])}
        self._quiet = True
        for name, some in layers.items():
            if fresh := [one for one in some if one.id not in known]:
                made = shapes_layer(fresh, work.home.place, name, camera(self._viewer).zoom)
                with same_selected(self._viewer):
                    (layer,) = add_layers(self._viewer, [made])
                layer.visible = work is self._shown
        self._quiet = False
        self._write(work)  # what was drawn meanwhile

    # ---- undoing ----

    def did(
        self, place: Place, what: str, undo: Callable[[], None], redo: Callable[[], None], layer: Any = None
    ) -> None:
        """Note an edit that can be undone as long as its slide, and the layer it was made in, are there."""

        def in_view() -> bool:
            shown = self._watch.shown_place()
            there = layer is None or layer in self._viewer.layers
            return there and shown is not None and shown.same_slide(place)

        self.history.did(Edit(what, undo, redo, in_view))

    def _did_layer(self, layer: Shapes, what: str, *, here: bool) -> None:
        """Note that a layer with all that is drawn in it came, or went; it holds that still."""

        def quietly(does: Callable[[Any], Any]) -> None:
            self._quiet = True
            does(layer)
            self._quiet = False
            self._write_layer(layer)

        go, come = partial(quietly, self._viewer.layers.remove), partial(quietly, self._viewer.add_layer)
        self.did(layer_place(layer), what, *((go, come) if here else (come, go)))

    def _put(self, layer: Shapes, drawing: Drawing) -> None:
        self._quiet = True
        self._watch.put(layer, drawing)
        self._quiet = False
        self._viewer.layers.selection.active = layer

    def undo(self) -> None:
        """Undo what was done last on the slide that is shown."""
        self._step(self.history.undo, "undo")

    def redo(self) -> None:
        """Do again what was undone last."""
        self._step(self.history.redo, "redo")

    def _step(self, step: Callable[[], str | None], name: str) -> None:
        active = self._viewer.layers.selection.active
        if isinstance(active, Labels) and shown_by(active) is None:
            getattr(active, name)()  # of somebody else's: napari's own
            return
        if isinstance(active, Shapes):
            end_shape(active)
        self._watch.settle()
        what = step()
        self._viewer.status = f"{name}: {what}" if what else f"There is nothing to {name}."


def layer_place(layer: Any) -> Place:
    """The slide that a layer of ours lies on."""
    shown = shown_by(layer)
    assert shown is not None  # noqa: S101 - those that are watched say it
    return shown.place


def _let_go(writer: Writer, works: dict[str, Work], *_: Any) -> None:
    for work in works.values():
        work.reader.forget()
    writer.flush(_END_S)


def _trouble(write: Callable[[], Any]) -> str:
    """Write, and say what went wrong; empty where nothing did."""
    try:
        write()
    except Exception as error:  # noqa: BLE001 - any failure is shown, and the next edit is written
        return words_of(error)
    return ""
