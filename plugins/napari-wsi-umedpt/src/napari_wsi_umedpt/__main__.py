"""``python -m napari_wsi_umedpt PATH ...``: a napari window with slides or results, and the docks to look at them.

`wsi-umedpt view` runs this. Nothing here changes napari's settings.
"""

import sys
from pathlib import Path
from typing import Any

DOCKS = ("Navigator", "Legend")
"""Opened from the start; the others are in the menu Plugins."""
_PLUGIN = "napari-wsi-umedpt"


def show(paths: list[Path]) -> Any:
    """Make a viewer with paths opened; a folder of slides becomes a list of cases."""
    viewer = window()
    open_in(viewer, paths)
    return viewer


def window() -> Any:
    """Make a viewer with the docks to look at slides."""
    import napari

    viewer = napari.Viewer(title="wsi_umedpt")
    for name in DOCKS:
        viewer.window.add_plugin_dock_widget(_PLUGIN, name)
    return viewer


def open_in(viewer: Any, paths: list[Path]) -> None:
    """Open paths in a viewer."""
    from napari_wsi_umedpt._reader import get_reader
    from napari_wsi_umedpt._telling import tell_error

    for path in paths:
        if path.is_dir() and get_reader(path) is None:
            _, cases = viewer.window.add_plugin_dock_widget(_PLUGIN, "Case list", tabify=True)
            cases.open(path)
            continue
        try:
            viewer.open(path, plugin=_PLUGIN)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user sees it and the window stays
            tell_error(error)


def main() -> None:
    """Show what the command line names, until the window is closed."""
    import napari
    from qtpy.QtCore import QTimer

    viewer = window()
    viewer.window.activate()
    # Once the window lives, so that it does while they are read.
    QTimer.singleShot(0, lambda: open_in(viewer, [Path(text) for text in sys.argv[1:]]))
    napari.run()


if __name__ == "__main__":
    main()
