"""`wsi-umedpt view`: slides and results in napari, in a process of its own."""

from pathlib import Path

_PLUGIN = "napari_wsi_umedpt"
_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")


def view(paths: list[Path], /, *, sync: bool = False) -> int:
    """Open slides, stores or folders of them in napari, with a legend and a navigator.

    Slides are read beside the window ("asynchronous slicing"), for this window only: napari's settings stay
    as they are.

    Examples
    --------
        wsi-umedpt view out/slide.zarr

        wsi-umedpt view slides/

    Parameters
    ----------
    paths
        Slides, stores, or folders, which become lists of cases.
    sync
        Read slides in the window's own thread, as napari does by default.
    """
    import os
    import subprocess
    import sys

    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.io.dicomweb import series_at

    for path in paths:
        if series := series_at(path):
            raise OptionError(
                f"{series} is not shown: napari opens files. `wsi-umedpt picture` draws what embed made of it"
            )
        if not path.exists():
            raise FileNotFoundError(2, "there is no slide and no store", str(path))
    check_installed()
    environment = {**os.environ, "NAPARI_ASYNC": "0" if sync else "1"}
    # In a process of its own: the core never imports the viewer.
    command = [sys.executable, "-m", _PLUGIN, *(str(path.resolve()) for path in paths)]
    return subprocess.run(command, env=environment, check=False).returncode


def check_installed() -> None:
    """Refuse, with the command that helps, if napari, a Qt binding or the plugin is missing."""
    from importlib.util import find_spec

    from wsi_umedpt.errors import OptionError

    missing = [name for name in ("napari", _PLUGIN) if find_spec(name) is None]
    if not any(find_spec(name) for name in _BINDINGS):
        missing.append("a Qt binding")
    if missing:
        raise OptionError(
            f"view needs napari and its plugin; missing here: {', '.join(missing)}. Install them with: "
            "pip install 'napari-wsi-umedpt[qt]' (from a clone of the repository: "
            "pip install -e 'plugins/napari-wsi-umedpt[qt]')"
        )
