"""List of keys on F1, in a window that is shown."""

import pytest
from qtpy.QtWidgets import QAbstractButton, QShortcut

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.shortcuts import KEYS, KeyList
from napari_wsi_umedpt.window.viewer import add_layers
from tests.test_seen import DOCKS


def listed() -> set[str]:
    return {key.lower() for _, keys in KEYS for key, _ in keys}


def test_f1_shows_the_keys_and_puts_them_away(hands, planted):
    """By keyboard, over a slide that is open, and always the same list."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    hands.press("F1")
    hands.until(lambda: hands.window.findChild(KeyList) is not None and hands.window.findChild(KeyList).isVisible())
    shown = hands.window.findChild(KeyList)
    texts = {shown.table.item(row, 0).text().lower() for row in range(shown.table.rowCount())}
    assert listed() <= texts
    hands.keep_picture("keys")
    hands.press("F1")
    assert not shown.isVisible()
    hands.press("F1")
    assert shown.isVisible()
    assert len(hands.window.findChildren(KeyList)) == 1


def test_every_key_that_the_plugin_binds_is_listed(hands, planted):
    """Those of the viewer, of the window, and of buttons of docks: a key that nobody can find is no help."""
    add_layers(hands.viewer, open_path(planted.store, pytest.fail, slide=planted.slide))
    for name in DOCKS:
        hands.dock(name)
    bound = {str(key).replace("+", "-") for key in hands.viewer.keymap}
    window = hands.window
    bound |= {
        one.key().toString().replace("+", "-") for one in window.findChildren(QShortcut) if one.parent() is window
    }
    for dock in window.findChildren(Dock):
        for button in dock.findChildren(QAbstractButton):
            if not (key := button.shortcut()).isEmpty():
                bound.add(key.toString().replace("+", "-"))
    assert {key.lower() for key in bound} - listed() == set()
    assert {f"alt-{n}" for n in range(7)} | {"alt-right", "alt-b", "ctrl-z"} <= {key.lower() for key in bound}
