"""Part of the dock Draw in which nuclei that the user put right teach a head: correct, learn, read the gain, use it."""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Layer, Shapes
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)
from wsi_umedpt.errors import AnnotationError, OptionError, WsiError
from wsi_umedpt.messages import counted

from napari_wsi_umedpt.layers.build import FILLED, Place, Shown, objects_pyramid
from napari_wsi_umedpt.layers.corrections import fields_of_layer, is_of_corrections, joined
from napari_wsi_umedpt.layers.shapes import CORRECTED, PASSING, Drawing
from napari_wsi_umedpt.logic.analysis import Request, region_of
from napari_wsi_umedpt.logic.annotations import shapes_layer
from napari_wsi_umedpt.logic.background import Background
from napari_wsi_umedpt.logic.corrections import (
    Correcting,
    HeadChoice,
    LessonProgress,
    areas_of,
    corrections_of,
    free_name,
    heads_to_teach,
    save,
    teach,
    without,
)
from napari_wsi_umedpt.logic.field import current_slide, seen_channels, seen_part
from napari_wsi_umedpt.logic.legend import Legend
from napari_wsi_umedpt.window.autosave import Keeper
from napari_wsi_umedpt.window.runs import Runs
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place, field_of, ours

if TYPE_CHECKING:
    from wsi_umedpt.pipeline import Lesson

_HOW_TO = (
    "Go to where nuclei are found badly, and press the button. Then put right <b>all</b> nuclei in the orange frame: "
    "draw around one that is missing or wrong (a new outline replaces the one that it covers); Select and the key "
    "Delete remove one; Reshape moves corners."
)
_NAME = "{} (corrections)"
_POLL_MS = 150
_LEFT_OUT = "wsi_umedpt_left_out"
"""Key in a layer's metadata: bounds of the fields whose objects its picture leaves out."""


class CorrectPanel(QWidget):
    """Corrected nuclei in, a head of the user's own out.

    Parameters
    ----------
    viewer
        Its slide is corrected.
    dock
        The dock that the panel is in: its tools and classes are used.
    """

    def __init__(self, viewer: Any, dock: Any) -> None:
        super().__init__()
        self._viewer, self._dock = viewer, dock
        self._keeper, self._runs = Keeper.of(viewer), Runs.of(viewer)
        self._learning, self._listing = Background(dock.tell_error), Background(dock.tell_error)
        self._order: Correcting | None = None
        """Order of the last lesson."""
        self._progress: LessonProgress | None = None
        self.lesson: Lesson | None = None
        """Last lesson."""
        self.saved: Path | None = None
        """Model in which its head is saved."""
        self._poll = QTimer(self)
        self._poll.setInterval(_POLL_MS)
        self._poll.timeout.connect(self._show_progress)
        self._build()
        self._keeper.shapes.edited.connect(self._count)
        self._keeper.changed.connect(self._count)
        dock._follow_layers(self._count)
        dock._letting_go += [self.let_go]

    def _build(self) -> None:
        self.words = QLabel(_HOW_TO)
        self.heads = QComboBox()
        self.heads.setToolTip("What is taught; the head itself stays as it is")
        self.heads.setMinimumContentsLength(12)
        self.heads.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.correct_button = _button("Correct those in view", self.correct)
        self.learn_button, self.cancel_button = _button("Learn", self.learn), _button("Cancel", self.cancel)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.drawn, self.verdict = QLabel(), QLabel()
        self.name = QLineEdit()
        self.name.setPlaceholderText("name of your head")
        self.save_button = _button("Save head", self.save)
        self.view_button = _button("in view", partial(self.find, in_view=True))
        self.slide_button = _button("on slide", self.find)
        for label in (self.words, self.drawn, self.verdict):
            label.setWordWrap(True)
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        form = QFormLayout()
        form.addRow("Teach", self.heads)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.words)
        column.addWidget(self.correct_button)
        column.addWidget(self.drawn)
        column.addLayout(form)
        column.addLayout(_row(self.learn_button, self.cancel_button))
        column.addWidget(self.bar)
        column.addWidget(self.verdict)
        column.addLayout(_row(self.name, self.save_button))
        column.addLayout(_row(QLabel("Find nuclei with it"), self.view_button, self.slide_button))
        self._show_lesson()

    def showEvent(self, event: Any) -> None:
        """List the heads once they are asked for: networks are imported for it."""
        super().showEvent(event)
        self._count()
        if not self.heads.count() and not self._listing.busy:
            self._listing.run(heads_to_teach, self._list)

    def let_go(self) -> None:
        """Stop, as the dock is closed."""
        self.cancel()
        for background in (self._learning, self._listing):
            background.forget()

    def _list(self, found: list[HeadChoice]) -> None:
        for one in found:
            self.heads.addItem(one.words, one)
            self.heads.setItemData(
                self.heads.count() - 1, f"<p>{escape(str(one.release))}</p>", Qt.ItemDataRole.ToolTipRole
            )
        if (shown := self._objects()) is not None:
            self._choose_head(shown[1].name)
        self._show_lesson()

    def _choose_head(self, name: str) -> None:
        for row in range(self.heads.count()):
            if self.heads.itemData(row).head == name:
                self.heads.setCurrentIndex(row)

    # ---- what is corrected ----

    def _objects(self) -> tuple[Layer, Shown] | None:
        """The uppermost layer of objects that is seen, with results of a store."""
        found = [(layer, shown) for layer, shown in ours(self._viewer) if shown.objects is not None and layer.visible]
        return found[-1] if found else None

    def _layers(self) -> list[Shapes]:
        """Layers of corrections on the slide that is shown, lowest first."""
        place = current_place(self._viewer)
        return [
            layer
            for layer, shown in ours(self._viewer)
            if isinstance(layer, Shapes) and shown.kind == "annotations" and not layer.metadata.get(PASSING)
            if place is not None and shown.place.same_slide(place) and is_of_corrections(layer)
        ]

    def correct(self) -> None:
        """Make shapes of the nuclei in view, in a frame in which all are to be put right."""
        objects, place = self._objects(), current_place(self._viewer)
        layers = self._layers()
        try:
            if place is None or (objects is None and not layers):
                raise AnnotationError(
                    "no nuclei are shown that could be corrected: find some first, in the dock Analyse"
                )
            if objects is not None:
                self._add(*objects, layers)
        except WsiError as error:
            self._dock.tell_error(error)
            return
        layer = self._layers()[-1]
        self._viewer.layers.selection.active = layer
        names = [name for name in layer.features["class"] if name != CORRECTED]
        self._dock.choose_class(names[-1] if names else "nucleus")
        self._dock.take_tool("add_polygon_lasso")
        self._count()

    def _add(self, seen: Layer, shown: Shown, layers: list[Shapes]) -> None:
        """Add what is in view to the layer of corrections, or make it."""
        place = shown.place
        known = [area for layer in layers for area in _areas(layer, place)]
        colours = [entry.colour for entry in Legend(seen).entries()]
        found = corrections_of(shown, field_of(self._viewer, place), colours, known)
        made = shapes_layer(found, place, _NAME.format(shown.name), camera(self._viewer).zoom)
        if layers:
            self._keeper.shapes.put(layers[-1], joined(Drawing.of(layers[-1]), Drawing.of(Layer.create(*made))))
        else:
            add_layers(self._viewer, [made])
        self._choose_head(shown.name)

    def _drawn(self) -> list[tuple[str, Any]]:
        """Class and area of all shapes of layers of corrections."""
        place = current_place(self._viewer)
        if place is None:
            return []
        self._keeper.shapes.settle()
        return [one for layer in self._layers() for one in _areas(layer, place)]

    def _leave_out(self) -> None:
        """Leave what is corrected out of the picture of what was found: what was removed would still be seen."""
        layers = self._layers()
        for layer, shown in ours(self._viewer):
            if shown.objects is None:
                continue
            mine = [one for one in layers if one.name.startswith(_NAME.format(shown.name))]  # of these very objects
            fields = [field for one in mine for field in fields_of_layer(one, shown.place)]
            bounds = [field.bounds for field in fields]
            if layer.metadata.get(_LEFT_OUT, []) != bounds:
                layer.metadata[_LEFT_OUT] = bounds
                rest = without(shown.objects, fields)
                layer.data = objects_pyramid(rest, shown.place, filled=bool(layer.metadata.get(FILLED, False)))

    def _count(self, *_: Any) -> None:
        """Say how much is drawn."""
        if not self.isVisible():
            return
        self._leave_out()
        names = [name for layer in self._layers() for name in layer.features["class"].iloc[: layer.nshapes]]
        fields = names.count(CORRECTED)
        objects = len(names) - fields
        words = f"{counted(objects, 'nucleus', 'nuclei')} in {counted(fields, 'region')}; kept as you draw."
        self.drawn.setText(words if fields else "Nothing is corrected yet.")
        self._show_buttons()

    # ---- the lesson ----

    def order(self) -> Correcting:
        """Order of a lesson, as things are now.

        Raises
        ------
        OptionError, AnnotationError
            If nothing is corrected, no slide is open, or no head can be taught.
        """
        slide, chosen = current_slide(self._viewer), self.heads.currentData()
        if slide is None:
            raise OptionError("no slide is open: open one, as the pixels themselves are read")
        if chosen is None:
            raise OptionError("the heads are still being listed" if self._listing.busy else "no head can be taught")
        areas = self._drawn()
        if not areas:
            raise AnnotationError("nothing is corrected yet: press Correct those in view")
        return Correcting(
            slide=slide.slide.path,
            mpp=slide.slide.mpp if slide.slide.mpp_source == "user" else None,
            channels=seen_channels(self._viewer),
            areas=areas,
            release=chosen.release,
            head=chosen.head,
        )

    def learn(self) -> None:
        """Teach the chosen head by all corrections of this slide, beside the window."""
        if self._progress is not None:
            return
        try:
            order = self.order()
        except WsiError as error:
            self._dock.tell_error(error)
            return
        self._order, self._progress, self.lesson, self.saved = order, LessonProgress(), None, None
        work = partial(teach, order, self._progress)
        self._learning.run(work, self._learned, self._failed)
        self.verdict.setText(f"Learning from {counted(order.objects, 'nucleus', 'nuclei')} ...")
        self._poll.start()
        self._show_lesson()

    def cancel(self) -> None:
        """Stop the lesson; nothing of it is kept, and all corrections are."""
        if self._progress is not None:
            self._progress.stop()

    def _learned(self, lesson: "Lesson | None") -> None:
        self._ended()
        self.lesson = lesson
        order = self._order
        if lesson is None or order is None:
            self.verdict.setText("Stopped. Your corrections are as they were.")
        else:
            self.verdict.setText(f"{lesson.words} It took {lesson.seconds:.0f} s.")
            self.name.setText(free_name(order.release, order.head))
        self._show_lesson()
        QTimer.singleShot(0, self._scroll_to_verdict)

    def _scroll_to_verdict(self) -> None:
        """Bring into view what the lesson gained, and what can be done with it: on a laptop they are further down."""
        area: Any = self.parentWidget()
        while area is not None and not isinstance(area, QScrollArea):
            area = area.parentWidget()
        if area is not None:
            area.ensureWidgetVisible(self.slide_button)

    def _failed(self, error: Exception) -> None:
        self._ended()
        self.verdict.setText("")
        self._show_lesson()
        self._dock.tell_error(error)

    def _ended(self) -> None:
        self._progress = None
        self._poll.stop()

    def _show_progress(self) -> None:
        if (progress := self._progress) is not None:
            self.bar.setRange(0, progress.total)  # 0 to 0 moves without an end
            self.bar.setValue(progress.done)

    def _show_lesson(self) -> None:
        self.bar.setVisible(self._progress is not None)
        self._show_progress()
        self._show_buttons()

    def _show_buttons(self) -> None:
        learning, taught = self._progress is not None, self.lesson is not None
        self.learn_button.setEnabled(not learning and self.heads.count() > 0 and bool(self._layers()))
        self.cancel_button.setEnabled(learning)
        for button in (self.save_button, self.view_button, self.slide_button):
            button.setEnabled(taught)
        self.save_button.setEnabled(taught and self.saved is None)
        self.name.setEnabled(taught and self.saved is None)

    # ---- the head ----

    def save(self) -> Path | None:
        """Save the head as the user's own, and offer it in the dock Analyse."""
        order, lesson = self._order, self.lesson
        if order is None or lesson is None or self.saved is not None:
            return self.saved
        try:
            self.saved = save(order, lesson, self.name.text().strip())
        except (WsiError, OSError) as error:
            self._dock.tell_error(error)
            return None
        self.verdict.setText(f"{self.verdict.text()} Saved as your head {self.saved.stem}: {self.saved}")
        self._runs.model_made.emit(self.saved)
        self._show_lesson()
        return self.saved

    def find(self, *, in_view: bool = False) -> None:
        """Find nuclei by the head that was taught, on the whole slide or in what is seen of it."""
        slide = current_slide(self._viewer)
        try:
            if slide is None:
                raise OptionError("no slide is open")
            if self._runs.current is not None:
                raise OptionError(f"{self._runs.current.name} is being analysed: one slide at a time")
            region: tuple[tuple[tuple[float, float], ...], ...] = ()
            if in_view:
                left, top, right, bottom = seen_part(self._viewer, slide.place)
                region = region_of([[(left, top), (right, top), (right, bottom), (left, bottom)]])
            if (saved := self.save()) is None:
                return
            request = Request(
                slide=slide.slide.path, mpp=slide.slide.mpp if slide.slide.mpp_source == "user" else None,
                channels=seen_channels(self._viewer), out=Path(self._runs.folder_of(slide.slide.path)),
                model=f"umedpt:{saved}", embed=False, heads=(saved.stem,), region=region, corner=slide.place.corner,
            )  # fmt: skip
        except WsiError as error:
            self._dock.tell_error(error)
            return
        self._runs.start(request)


def _areas(layer: Shapes, place: Place | None) -> list[tuple[str, Any]]:
    """Class and area of each shape of a layer."""
    drawing = Drawing.of(layer)
    return [] if place is None else areas_of(drawing, drawing.meta(layer), place)


def _button(text: str, does: Callable[[], Any]) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda *_: does())
    return button


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row
