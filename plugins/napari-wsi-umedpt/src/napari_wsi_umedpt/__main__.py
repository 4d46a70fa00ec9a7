"""``python -m napari_wsi_umedpt PATH ...``: a napari window with slides or results, and the docks to look at them.

`wsi-umedpt view` runs this. Nothing here changes napari's settings. Until the window is there, a small picture says
that it is coming: what is imported here first is what shows that.
"""

import gc
import sys
from pathlib import Path
from typing import Any

_PLUGIN = "napari-wsi-umedpt"


def show(paths: list[Path]) -> Any:
    """Make a viewer with paths opened; a folder of slides becomes a list of cases."""
    from napari_wsi_umedpt.window.window import window

    viewer = window()
    open_in(viewer, paths)
    return viewer


def open_in(viewer: Any, paths: list[Path]) -> None:
    """Open paths in a viewer: one slide with its results, or a folder of slides."""
    from napari_wsi_umedpt.reader import get_reader
    from napari_wsi_umedpt.window.notifications import tell_error

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
    import napari  # before Qt: it chooses where Qt draws

    from napari_wsi_umedpt.window.splash import Splash

    paths = [Path(text) for text in sys.argv[1:]]
    splash = Splash(paths)
    from qtpy.QtCore import QTimer

    from napari_wsi_umedpt.window.closing import end_at_once
    from napari_wsi_umedpt.window.window import window

    end_at_once()
    viewer = window()
    splash.finish(viewer)
    gc.freeze()  # see `napari_wsi_umedpt.logic.torch_import`
    # Once the window lives, so that it does while they are read.
    QTimer.singleShot(0, lambda: open_in(viewer, paths))
    napari.run()


if __name__ == "__main__":
    main()
