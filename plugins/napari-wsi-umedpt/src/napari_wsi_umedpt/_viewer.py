"""What the plugin asks of a napari viewer, in one place: camera, scale bar, layers of ours, words for the user.

Names that napari 0.9 moved are looked for where they are, so that no deprecated one is used.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from napari.layers import Layer
from napari.utils.notifications import Notification, NotificationSeverity, notification_manager
from wsi_umedpt.errors import reason_of

from napari_wsi_umedpt._layers import LayerTuple, Place, Shown, shown_by


def camera(viewer: Any) -> Any:
    """The camera: `zoom` is canvas px per um, `center` ends in (y, x) um."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def scale_bar(viewer: Any) -> Any:
    """The scale bar, whose unit comes from the layers."""
    return viewer.canvas.overlays.scale_bar if hasattr(viewer, "canvas") else viewer.scale_bar


def canvas_size(viewer: Any) -> tuple[int, int]:
    """(height, width) of the canvas, in the px that the camera's zoom means."""
    size = viewer.canvas.size if hasattr(viewer, "canvas") and hasattr(viewer.canvas, "size") else viewer._canvas_size
    height, width = size
    return int(height), int(width)


def tell(text: str, *, severity: str = "info", actions: Iterable[tuple[str, Any]] = ()) -> None:
    """Show a notification, with buttons if there are actions; may be called from any thread."""
    notification_manager.dispatch(Notification(text, NotificationSeverity(severity), tuple(actions)))


def tell_error(error: BaseException) -> None:
    """Show an error in its own words; may be called from any thread."""
    tell(reason_of(error), severity="error")


class Reports:
    """Tells of errors, of each only once: a damaged part of a slide is met with every look at it."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, error: Exception) -> None:
        """Tell of an error; may be called from any thread."""
        words = reason_of(error)
        place = words.split(":")[0]  # of a damaged slide, its name: one word a slide is enough
        key = f"{type(error).__name__} {place}"
        if key not in self._told:
            self._told.add(key)
            tell(words, severity="error")


def add_layers(viewer: Any, layers: Iterable[LayerTuple]) -> list[Layer]:
    """Add layers in order, lowest first; in the window's own thread."""
    added = [viewer.add_layer(Layer.create(*layer)) for layer in layers]
    if added:
        scale_bar(viewer).visible = True
    return added


def ours(viewer: Any) -> Iterator[tuple[Layer, Shown]]:
    """Layers of this plugin and what they show, lowest first."""
    for layer in viewer.layers:
        if (shown := shown_by(layer)) is not None:
            yield layer, shown


def current_place(viewer: Any) -> Place | None:
    """The slide that is looked at: that of the uppermost layer of ours; None if there is none."""
    found = [shown.place for _, shown in ours(viewer)]
    return found[-1] if found else None
