"""Bar of the docks that share one place: a button for each, in groups, of which one is down at a time.

Tabs of more than five docks do not fit beside each other on a laptop's screen: the bar of tabs scrolls, and who looks
for a dock does not see that it is there.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from qtpy.QtCore import Qt
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QMainWindow, QToolBar, QWidget

_STYLE = """
QToolBar { spacing: 1px; padding: 1px 4px; border: 0px; }
QToolBar QToolButton { padding: 3px 9px; border-radius: 2px; }
QToolBar QToolButton:hover { background: #5a626c; }
QToolBar QToolButton:checked { background: #4e66d9; color: white; }
QToolBar::separator { width: 1px; margin: 4px 5px; background: #5a626c; }
"""


class Tool(NamedTuple):
    """A dock, as the bar and the menu have it.

    Attributes
    ----------
    tab
        Its short name: on the bar, and above the dock.
    dock
        Its name in the menu Plugins.
    does
        Purpose, as an entry of a menu.
    """

    tab: str
    dock: str
    does: str


class ToolBar(QToolBar):
    """Buttons that show a dock in place of the one before, or put it away.

    Parameters
    ----------
    window
        At whose top it lies.
    groups
        Docks, those of a group beside each other.
    toggle
        Called with a dock and whether to show it.
    """

    def __init__(
        self, window: QMainWindow, groups: Sequence[Sequence[Tool]], toggle: Callable[[Tool, bool], Any]
    ) -> None:
        super().__init__("Tools", window)
        self.setObjectName("wsi_umedpt tools")
        self.setMovable(False)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextOnly)
        self.setStyleSheet(_STYLE)
        self.buttons: dict[str, QAction] = {}
        """By the short name of the dock."""
        for number, group in enumerate(groups):
            if number:
                self.addSeparator()
            for tool in group:
                button = self.buttons[tool.tab] = self.addAction(tool.tab)
                button.setCheckable(True)
                button.setToolTip(tool.does.removesuffix(" ..."))
                button.triggered.connect(lambda on, tool=tool: toggle(tool, on))
        window.addToolBar(Qt.ToolBarArea.TopToolBarArea, self)

    @classmethod
    def of(cls, window: QWidget) -> "ToolBar | None":
        """The bar of a window; None in a napari that the user opened."""
        found: ToolBar | None = window.findChild(cls)
        return found

    def mark(self, tab: str, shown: bool) -> None:
        """Press the button of a dock down, or let it up."""
        if (button := self.buttons.get(tab)) is not None:
            button.setChecked(shown)

    def button(self, tab: str) -> QWidget:
        """Button that shows a dock."""
        button: QWidget = self.widgetForAction(self.buttons[tab])
        return button
