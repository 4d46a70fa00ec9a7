"""Windows of `wsi-umedpt view`: maximised, white around the slide, with docks to look at slides and not to edit layers.

Only windows that are made here look so: in a napari that the user opened, all stays as the user has it.
"""

from typing import Any

from qtpy.QtCore import QRect
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QLabel, QMenu, QWidget

from napari_wsi_umedpt.docks.base import PLUGIN, Dock, frame_of_dock, open_dock
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.closing import Closing
from napari_wsi_umedpt.window.context_menu import ContextMenu
from napari_wsi_umedpt.window.one_slide import Showing
from napari_wsi_umedpt.window.shortcuts import add_to_menu
from napari_wsi_umedpt.window.tool_bar import Tool, ToolBar
from napari_wsi_umedpt.window.viewer import current_place, on_slide

DOCKS = ("Navigator", "Legend")
"""Opened from the start; the others are in the bar of tools."""
TOOLS = (
    (
        Tool("Slides", "Slides and results", "Open a slide or results ..."),
        Tool("Cases", "Case list", "Go through a folder of slides ..."),
    ),
    (
        Tool("Analyse", "Analyse", "Find nuclei and other objects ..."),
        Tool("Legend", "Legend", "What is shown, in which colours ..."),
    ),
    (
        Tool("Draw", "Annotations", "Draw regions ..."),
        Tool("Measure", "Measure", "Measure and count ..."),
        Tool("Stains", "Stains", "See stains one by one ..."),
    ),
    (
        Tool("Cells", "Cells", "Teach classes by a few cells ..."),
        Tool("Tiles", "Few-shot classifier", "Teach classes by a few tiles ..."),
        Tool("Alike", "Find alike", "Find more of the same ..."),
        Tool("Map", "Map of tiles", "See tiles as a map ..."),
        Tool("Classify", "Slide classifier", "Classify the slide ..."),
    ),
    (Tool("Two slides", "Two slides", "Link two slides side by side ..."),),
)
"""Docks in the bar of tools and in the menu, in groups."""
_NAPARIS_OWN = ("dockLayerControls", "dockLayerList")
"""Folded away at first; the menu Window brings them back."""


_NARROW_PX = 900
"""Width of a window below which docks would take half of it."""


def window() -> Any:
    """Make a viewer with the docks to look at slides."""
    import napari

    viewer = napari.Viewer(title="wsi_umedpt", show=False)
    if hasattr(viewer, "canvas"):
        viewer.canvas.background_color_override = "white"
        # A napari that draws a box behind the brush's circle leaves it where it painted last.
        if (brush := getattr(viewer.canvas.overlays, "_brush_circle", None)) is not None and hasattr(brush, "box"):
            brush.box = False
    Closing.of(viewer).ours = True
    Showing.of(viewer)
    viewer.events.help.connect(lambda: _no_help(viewer), position="last")
    viewer.events.status.connect(lambda: _tell_status(viewer), position="last")
    qt = viewer.window._qt_viewer
    if hasattr(qt, "show_welcome_screen"):
        qt.show_welcome_screen = False  # it tells of napari, and hides what is being opened
    _add_tools(viewer)
    for name in DOCKS:
        viewer.window.add_plugin_dock_widget(PLUGIN, name)
    ContextMenu.of(viewer)
    viewer.window.show()
    for name in _NAPARIS_OWN:
        getattr(qt, name).setVisible(False)
    _fill(viewer, _room(viewer), maximized=True)
    return viewer


def _add_tools(viewer: Any) -> None:
    """A bar and a menu of what can be done, beside napari's own: its docks lie two menus deep."""
    qt = window_of(viewer)
    ToolBar(qt, TOOLS, lambda tool, on: _toggle(viewer, tool, on))
    bar, menu = qt.menuBar(), QMenu("&Slide", qt)
    for group in TOOLS:
        for tool in group:
            menu.addAction(tool.does).triggered.connect(lambda *_, dock=tool.dock: open_dock(viewer, dock))
        menu.addSeparator()
    menu.addAction("Navigator").triggered.connect(lambda *_: open_dock(viewer, "Navigator"))
    add_to_menu(viewer, menu)
    after = bar.actions()[1] if len(bar.actions()) > 1 else None  # napari's File comes first
    bar.insertMenu(after, menu)


def _toggle(viewer: Any, tool: Tool, on: bool) -> None:
    """Show a dock, or put it away with what it holds."""
    frame = frame_of_dock(open_dock(viewer, tool.dock))
    if not on and frame is not None:
        frame.hide()


def _no_help(viewer: Any) -> None:
    """Keys of napari's, in the status bar, where they would lie beside, and over, what is said of the slide."""
    if viewer.help:
        viewer.help = ""


def _tell_status(viewer: Any) -> None:
    """Say where the pointer is, as the Navigator says it: napari names a layer, its own coordinates, raw values.

    Words are placed anew: napari leaves them where those before were, and wider than their room.
    """
    bar = window_of(viewer).statusBar()
    if isinstance(viewer.status, dict) and hasattr(bar, "setStatusText"):
        bar.setStatusText(_where(viewer))
    for row in bar.findChildren(QWidget):
        if hasattr(row, "do_layout"):
            for label in row.findChildren(QLabel):
                label.setMinimumWidth(0)
            row.do_layout()


def _where(viewer: Any) -> str:
    """Place of the pointer on the slide, level-0 px; empty where it is beside it."""
    if (place := current_place(viewer)) is None:
        return ""
    x, y = place.to_slide(on_slide(viewer, viewer.cursor.position[-2:])[None])[0].tolist()
    return f"x {x:,.0f} y {y:,.0f} px" if 0 <= x < place.size[0] and 0 <= y < place.size[1] else ""


def window_beside(viewer: Any) -> Any:
    """Make another viewer; both share the screen, this one on the left. On a narrow screen it shows no docks yet."""
    room = _room(viewer)
    half = room.width() // 2
    other = window()
    _fill(viewer, QRect(room.left(), room.top(), half, room.height()))
    _fill(other, QRect(room.left() + half, room.top(), room.width() - half, room.height()))
    if half < _NARROW_PX:
        for dock in window_of(other).findChildren(Dock):
            if (frame := frame_of_dock(dock)) is not None:
                frame.hide()  # the slide would be a strip; the bar and the menu bring them back
    return other


def _room(viewer: Any) -> QRect:
    screen = window_of(viewer).screen() or QGuiApplication.primaryScreen()
    return screen.availableGeometry()


def _fill(viewer: Any, room: QRect, *, maximized: bool = False) -> None:
    qt = window_of(viewer)
    qt.showNormal()
    qt.setGeometry(room)  # also where nobody manages windows
    if maximized:
        qt.showMaximized()
