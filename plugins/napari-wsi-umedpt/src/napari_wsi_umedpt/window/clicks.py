"""Clicks on the slide: a press and a release at one place, which moves nothing."""

from collections.abc import Callable, Generator
from typing import Any

from napari_wsi_umedpt.window.viewer import on_slide

LEFT, RIGHT = 1, 2
TAKES_CLICKS = "wsi_umedpt_takes_clicks"
"""In a layer's metadata: whether clicks, while it is the active one, are for it alone."""
_MOVED_PX = 4
"""A click is a press and a release this near, canvas px."""


def on_click(call: Callable[[tuple[float, float]], None], button: int = LEFT) -> Callable[..., Generator[None]]:
    """Make one of a viewer's `mouse_drag_callbacks`, which calls with the place, (y, x) um on the slide, of a click."""

    def pressed(viewer: Any, event: Any) -> Generator[None]:
        start = event.pos
        yield
        while event.type == "mouse_move":
            yield
        near = max(abs(a - b) for a, b in zip(start, event.pos, strict=True)) <= _MOVED_PX
        if near and event.button == button:
            y, x = on_slide(viewer, event.position[-2:]).tolist()
            call((y, x))

    return pressed


def does_something(viewer: Any) -> bool:
    """Return whether a click does something: it draws, selects, paints or labels."""
    active = viewer.layers.selection.active
    if active is None:
        return False
    return getattr(active, "mode", "pan_zoom") != "pan_zoom" or bool(active.metadata.get(TAKES_CLICKS))
