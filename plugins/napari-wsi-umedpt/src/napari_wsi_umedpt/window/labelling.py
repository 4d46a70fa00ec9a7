"""Labels in one window, of tiles or of cells: undone and kept whatever dock is closed, and gone with their slide.

Docks learn from them; a layer that is labelled in must not need a dock, or what is labelled after it is closed would
be lost.

Read top to bottom: `Session` (what is labelled of one slide), `Labelling`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

from napari.layers import Labels, Layer
from qtpy.QtCore import QObject, QTimer, Signal
from wsi_umedpt.annotations import Point
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.store import PALETTE

from napari_wsi_umedpt.layers.build import Colour, shown_by
from napari_wsi_umedpt.logic.autosave_place import Home, Kept
from napari_wsi_umedpt.logic.field import current_store
from napari_wsi_umedpt.logic.kept_labels import KeptLabels, write_kept_labels
from napari_wsi_umedpt.logic.teachable import Teachable
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.autosave import Keeper

MOST_CLASSES = 9
"""A key for each."""
FIRST_CLASSES = ("Tumor", "Other")
State = tuple[dict[int, str], tuple[str, ...]]
"""Labels, and names of classes."""


@dataclass(eq=False)
class Session:
    """The slide whose tiles or cells are labelled, and where their labels are kept."""

    slide: Any
    """A `napari_wsi_umedpt.logic.teachable.Teachable`."""
    home: Home | None
    """None where nothing can be kept of it."""
    file: Kept
    elsewhere: tuple[Point, ...] = ()
    """Labels of places that nothing at hand holds."""


class Labelling(QObject):
    """Labels of the slide that is shown; see `Labelling.of`. What is labelled, and how, is its heirs'."""

    changed = Signal()
    """Something was labelled, or classes named, by hand or by an undo."""
    chosen = Signal(int)
    """A key chose the class of that number."""
    working = Signal(bool)
    """True if a click labels from now on."""

    what: ClassVar[str]
    """That are labelled: tiles, or cells."""
    suffix: ClassVar[str]
    """Suffix of the file that keeps them."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(window_of(viewer))
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self._keeper = Keeper.of(viewer)
        self.session: Session | None = None
        self.layer: Labels | None = None
        """Layer in which labels are seen; None until there are some."""
        self.names: tuple[str, ...] = FIRST_CLASSES
        """Names of the classes; number 1 is the first."""
        self._before: State | None = None
        """As of the last edit."""
        self._left = QTimer(self)
        self._left.setSingleShot(True)
        self._left.timeout.connect(self._look_at_slide)
        self._went: list[Layer] = []
        removed = self._viewer.layers.events.removed
        removed.connect(self._removed)
        # Qt's part goes with the window; napari would call what is gone.
        self.destroyed.connect(partial(disconnect, removed, self._removed))

    @classmethod
    def of(cls, viewer: Any) -> Self:
        """Labelling in a viewer's window."""
        found: Self | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    # ---- what heirs do ----

    @property
    @abstractmethod
    def labels(self) -> dict[int, str]:
        """Labels, by row."""

    @property
    @abstractmethod
    def works(self) -> bool:
        """Return whether a click labels."""

    @abstractmethod
    def work(self, number: int) -> None:
        """Let the user label with a class, 1 the first."""

    @abstractmethod
    def stop(self) -> None:
        """Let a click move the slide."""

    @abstractmethod
    def choose(self, number: int) -> None:
        """Make what is labelled next of a class, 1 the first; 0 takes labels away."""

    @abstractmethod
    def _show(self, labels: Mapping[int, str]) -> None:
        """Show these labels, in the colours of the classes, and no others."""

    def settle(self) -> None:
        """Take notice of what was labelled until now."""

    # ---- the slide ----

    def begin(self, session: Session, kept: KeptLabels) -> None:
        """Label what is on a slide, from what was kept of it on."""
        self.end()
        slide = session.slide
        labels, elsewhere = slide.at(kept.points)
        names = kept.classes or self._first_names(session)
        self.session, self.names = session, _together(names, labels.values())[:MOST_CLASSES]
        # What has no key is kept, and not shown.
        others = {row: name for row, name in labels.items() if name not in self.names}
        session.elsewhere = (*elsewhere, *slide.points_of(others))
        if labels:
            self._show({row: name for row, name in labels.items() if row not in others})
        self._before = self._now()

    def _first_names(self, session: Session) -> tuple[str, ...]:
        """Names of classes on a slide of which nothing was kept."""
        return FIRST_CLASSES

    def end(self) -> None:
        """Take the labels out of the window; they are kept."""
        self.settle()
        layer, self.layer = self.layer, None
        self.session = self._before = None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _removed(self, event: Any) -> None:
        self._went.append(event.value)
        self._left.start()  # once all layers of a slide are gone, or others are there

    def _look_at_slide(self) -> None:
        """Layers went: with their slide, or because somebody removed the one that is labelled in."""
        went, self._went = self._went, []
        session, layer = self.session, self.layer
        if session is None:
            return
        if current_store(self._viewer) != session.slide.store.path:
            self.end()
        elif layer is not None and layer not in self._viewer.layers:
            if any((shown := shown_by(one)) is not None and shown.store is not None for one in went):
                self._viewer.add_layer(layer)  # its slide was closed, and is there again
            else:
                self.layer = None
                self._edited()

    # ---- labels ----

    @property
    def slide(self) -> Teachable | None:
        """Tiles or cells that are labelled."""
        return None if self.session is None else self.session.slide

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of the classes."""
        return tuple(PALETTE[number % len(PALETTE)] for number in range(len(self.names)))

    def label(self, labels: Mapping[int, str]) -> None:
        """Call rows by names; what they were called before is forgotten.

        Raises
        ------
        AnnotationError
            If there are more names than keys.
        """
        if self.session is None:
            return
        names = _together(self.names, labels.values())
        if len(names) > MOST_CLASSES:
            used = _together((), labels.values())
            if len(used) > MOST_CLASSES:
                raise AnnotationError(
                    f"{len(used)} classes are named, {', '.join(used[:3])} and others; there are keys for "
                    f"{MOST_CLASSES}. Merge some, or leave some out."
                )
            names = used
        self.names = names
        self._show(labels)
        self._edited()

    def name_classes(self, names: Iterable[str]) -> None:
        """Call classes by other names, or have more."""
        self.names = tuple(names)
        self._renamed()
        self._edited()

    def _renamed(self) -> None:
        """Classes have other names, or there are more: colours follow."""

    def _bind_keys(self, layer: Layer) -> None:
        """Let the keys 0 to 9 choose, while a layer is the one that is worked on."""
        for number in range(MOST_CLASSES + 1):
            layer.bind_key(str(number), lambda _, to=number: self._key(to), overwrite=True)

    def _key(self, number: int) -> None:
        if number <= len(self.names):
            self.choose(number)
            self.chosen.emit(number)

    # ---- edits ----

    def _now(self) -> State:
        return self.labels, self.names

    def _edited(self) -> None:
        """Keep what was labelled, or how classes are called, as an edit that can be undone."""
        session, before = self.session, self._before
        if session is not None and before is not None:
            now = self._now()
            if now == before:
                return
            self._before = now
            put, place = self._put_back, session.slide.place
            what = f"labelling of {self.what}"
            self._keeper.did(place, what, partial(put, session, before), partial(put, session, now))
            self._keep()
        self.changed.emit()

    def _put_back(self, session: Session, state: State) -> None:
        if self.session is not session:
            return  # its labels are of other features
        labels, self.names = state
        self._show(labels)
        self._before = state
        self._keep()
        self.changed.emit()

    def _keep(self) -> None:
        session = self.session
        if session is None or (home := session.home) is None:
            return
        points = (*session.slide.points_of(self.labels), *session.elsewhere)
        write = partial(write_kept_labels, session.file, home, KeptLabels(self.names, points))
        self._keeper.keep((self.suffix, home.place.fingerprint), f"labels of {self.what} of {home.name}", write)


def _together(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Names, and then those of others that are new."""
    known = tuple(names)
    return (*known, *sorted({*others} - {*known}))


def disconnect(emitter: Any, call: Any, *_: Any) -> None:
    """Call no more, as what is called is gone."""
    emitter.disconnect(call)
