"""Base of all docks: they follow a viewer, let go of it when they are closed, scroll, and share one place.

Docks one below the other make a window higher than its screen, so that one which is opened becomes a tab of those that
are open; the Navigator alone stays in sight. (napari 0.9 does not heed the manifest's `tabify`.) In a window with a
`ToolBar` the others are hidden instead, with what they hold: the bar says which there are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QDockWidget,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QScrollBar,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from napari_wsi_umedpt.logic.background import Background
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.autosave import Keeper
from napari_wsi_umedpt.window.notifications import tell_error, words_of
from napari_wsi_umedpt.window.tool_bar import ToolBar

PLUGIN = "napari-wsi-umedpt"
_SCROLLED_PX = 60
"""Height at least of a dock: what does not fit is scrolled to."""
_LEAST_WIDE_PX, _MOST_WIDE_PX = 350, 460
"""The names of all tabs are read whole, and the slide does not jump aside when another dock comes to the front."""


class Dock(QWidget):
    """A widget beside a viewer.

    Parameters
    ----------
    napari_viewer
        The name by which napari gives it.
    """

    in_tabs = True
    """True if it shares its place with others."""
    tab = ""
    """Its short name: on the tool bar or its tab, and above it."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer, self._background = napari_viewer, Background(self.tell_error)
        self.notice = Notice(self)
        self.pinned = QVBoxLayout()
        self.pinned.setContentsMargins(8, 0, 8, 6)
        """Below what is scrolled: what must stay in view."""
        self._keeper = Keeper.of(napari_viewer)
        self._letting_go: list[Callable[[], Any]] = [self._background.forget]
        self._size_before: QSize | None = window_of(napari_viewer).size()
        # Qt's part of a widget goes first: what calls it later would meet nothing.
        self.destroyed.connect(partial(_call_all, self._letting_go))

    def showEvent(self, event: Any) -> None:
        """Find a place once it is shown for the first time; take it again later."""
        super().showEvent(event)
        if self._size_before is not None:
            self._name_tab()
            QTimer.singleShot(0, self._become_tab)  # napari is still about to place it
        else:
            self._hide_others()
        self._press_button(True)

    def hideEvent(self, event: Any) -> None:
        """Let its button up."""
        super().hideEvent(event)
        self._press_button(False)

    def _press_button(self, shown: bool) -> None:
        if (bar := ToolBar.of(self.window())) is not None:
            bar.mark(self.tab, shown)

    def minimumSizeHint(self) -> QSize:
        """Next to nothing until it is a tab: napari puts a dock below the others first, and the window would grow."""
        hint = super().minimumSizeHint()
        return hint if self._size_before is None or not self.in_tabs else QSize(hint.width(), 0)

    def _name_tab(self, *_: Any) -> None:
        """Give the dock its short name, where napari writes the plugin's name too; the menus keep theirs."""
        frame = frame_of_dock(self)
        if frame is None or not self.tab:
            return
        frame.setWindowTitle(self.tab)
        if (title := getattr(getattr(frame, "title", None), "title", None)) is not None:
            title.setText(self.tab)
        if self._size_before is not None:
            frame.topLevelChanged.connect(self._name_tab)  # napari then makes another title

    def _become_tab(self) -> None:
        frame, window, size = frame_of_dock(self), self.window(), self._size_before
        self._size_before = None
        self.updateGeometry()
        if not self.in_tabs or size is None or frame is None or not isinstance(window, QMainWindow):
            return  # floating, or in no window of napari's
        others = [other for other in self._others(frame) if other.isVisible()]
        if others and frame not in window.tabifiedDockWidgets(others[-1]):
            window.tabifyDockWidget(others[-1], frame)
            frame.raise_()
            _show_whole_names(window)
            if not window.isMaximized() and not window.isFullScreen():
                # It grew for one dock below the other; it can shrink once they are laid out.
                QTimer.singleShot(0, partial(window.resize, size))
        self._hide_others()

    def _others(self, frame: QDockWidget) -> list[QDockWidget]:
        """Frames of other docks on its side of the window."""
        window = self.window()
        return [
            other
            for dock in window.findChildren(Dock)
            if dock is not self and dock.in_tabs and (other := frame_of_dock(dock)) is not None
            if isinstance(window, QMainWindow) and not other.isFloating()
            if window.dockWidgetArea(other) == window.dockWidgetArea(frame)
        ]

    def _hide_others(self) -> None:
        """Be the only dock in their place, where a bar says which docks there are."""
        frame, bar = frame_of_dock(self), ToolBar.of(self.window())
        if bar is None or frame is None or frame.isFloating() or not self.in_tabs:
            return
        for other in self._others(frame):
            other.hide()

    def _scrolling(self) -> QVBoxLayout:
        """The dock's own column of widgets, which is scrolled where there is less room than it takes."""
        inside, area = QWidget(), _Column()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setMinimumHeight(_SCROLLED_PX)
        area.setWidget(inside)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.notice)
        outer.addWidget(area, 1)
        outer.addLayout(self.pinned)
        _Wide(area, self)
        return QVBoxLayout(inside)

    def tell_error(self, error: Exception) -> None:
        """Tell of an error, and leave it to be read in the dock: a notification is gone after some seconds."""
        if self._letting_go:  # nothing is left of it once the dock is gone
            self.notice.say(words_of(error))
        tell_error(error)

    def _follow(self, call: Callable[..., None], *emitters: Any) -> None:
        """Call a method whenever one of napari's emitters emits."""
        for emitter in emitters:
            emitter.connect(call)
            self._letting_go.append(partial(emitter.disconnect, call))

    def _follow_layers(self, call: Callable[..., None]) -> None:
        """Call a method whenever layers come or go."""
        self._follow(call, self._viewer.layers.events.inserted, self._viewer.layers.events.removed)


def _show_whole_names(window: QMainWindow) -> None:
    """Show names of tabs whole: with little around them, and arrows rather than dots where there are too many."""
    for bar in window.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly):
        bar.setElideMode(Qt.TextElideMode.ElideNone)
        bar.setUsesScrollButtons(True)
        bar.setStyleSheet("QTabBar::tab { padding: 3px; margin: 0px; font-size: 8pt; }")


def open_dock(viewer: Any, name: str) -> Any:
    """Open a dock by its name in the menu Plugins, or show it again if it is open."""
    frame, dock = viewer.window.add_plugin_dock_widget(PLUGIN, name)
    frame.show()
    QTimer.singleShot(0, frame.raise_)  # once it lies among the tabs
    return dock


class Offer(QWidget):
    """Says what is missing, with a button that opens the dock which makes it; shown where that is so.

    Parameters
    ----------
    viewer
        In which the dock is opened.
    dock
        Its name in the menu Plugins.
    text
        Text of the button.
    then
        Called with the dock that was opened.
    """

    def __init__(self, viewer: Any, dock: str, text: str, then: Callable[[Any], Any] = lambda dock: None) -> None:
        super().__init__()
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.button = QPushButton(text)
        self.button.clicked.connect(lambda *_: then(open_dock(viewer, dock)))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.words)
        column.addWidget(self.button)
        self.hide()

    def say(self, words: str) -> None:
        """Show it with these words; none hides it."""
        self.words.setText(words)
        self.setVisible(bool(words))


class Notice(QWidget):
    """Notice of the last error in a dock, until it is put away or the next thing is done there; takes no room before.

    Parameters
    ----------
    dock
        Dock whose buttons, lists and lines are watched.
    """

    def __init__(self, dock: QWidget) -> None:
        super().__init__()
        self._dock = dock
        self._watched: list[QWidget] = []
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.setTextFormat(Qt.TextFormat.PlainText)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.away = QPushButton("x")
        self.away.setToolTip("Put away")
        self.away.setFixedWidth(24)
        self.away.clicked.connect(lambda *_: self.put_away())
        self.setObjectName("notice")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setStyleSheet("#notice { background: #6b2b28; } #notice QLabel { background: transparent; color: white; }")
        row = QHBoxLayout(self)
        row.addWidget(self.words, 1)
        row.addWidget(self.away, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    def say(self, words: str) -> None:
        """Show words in place of those before."""
        self.words.setText(words)
        self.show()
        self._watched = [
            one
            for one in self._dock.findChildren(QWidget)
            if not (self.isAncestorOf(one) or isinstance(one, (QLabel, QScrollBar)))
        ]
        for one in self._watched:
            one.installEventFilter(self)

    def put_away(self) -> None:
        """Show nothing."""
        self.hide()
        while self._watched:
            self._watched.pop().removeEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Go when something is done in the dock; at the release, as a button that moved gets no click."""
        if event.type() in (QEvent.Type.MouseButtonRelease, QEvent.Type.KeyPress):
            self.put_away()
        return False


class _Column(QScrollArea):
    """A column that is scrolled by the wheel, its bar, and keys without Alt: those with it are the viewer's."""

    def keyPressEvent(self, event: Any) -> None:
        """Qt's own scrolls by arrows whatever is held beside them, so that Alt-Right would end here."""
        if event.modifiers() & Qt.KeyboardModifier.AltModifier:
            event.ignore()
        else:
            super().keyPressEvent(event)


class _Wide(QObject):
    """Keeps a column that is scrolled as wide as it must be, its bar beside it; the wheel scrolls, and chooses nothing.

    Over a list to choose from that nobody clicked on the wheel is meant for the column.
    """

    def __init__(self, area: QScrollArea, dock: QWidget) -> None:
        super().__init__(dock)
        self._area = area
        area.widget().installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Look at events of the column, and of the lists in it."""
        kind = event.type()
        if kind == QEvent.Type.LayoutRequest and watched is self._area.widget():
            bar_px = self._area.verticalScrollBar().sizeHint().width()
            needed = watched.minimumSizeHint().width() + bar_px
            self._area.setMinimumWidth(min(max(needed, _LEAST_WIDE_PX), _MOST_WIDE_PX))
            for chooser in watched.findChildren(QComboBox):
                chooser.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                chooser.installEventFilter(self)
        elif kind == QEvent.Type.Wheel and isinstance(watched, QComboBox) and not watched.hasFocus():
            event.ignore()
            return True
        return False


def frame_of_dock(dock: QWidget) -> QDockWidget | None:
    """Qt's dock widget into which napari put a dock."""
    found = dock.parentWidget()
    while found is not None and not isinstance(found, QDockWidget):
        found = found.parentWidget()
    return found


def _call_all(calls: list[Callable[[], Any]], *_: Any) -> None:
    while calls:
        calls.pop()()
