"""Extensions by entry points: found when a package comes, and looked for no more often than packages change."""

import os
import sys

from wsi_umedpt.io import registry
from wsi_umedpt.io.registry import Registry


def install(folder, name: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wsi_umedpt.test]\n{name} = os:sep\n")


def test_a_package_that_is_installed_meanwhile_is_found(tmp_path, monkeypatch):
    """As pip does it from a notebook."""
    things: Registry[str] = Registry("wsi_umedpt.test")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert things.names() == []
    install(tmp_path, "first")
    os.utime(tmp_path, ns=(1, 1))  # clocks of file systems can be coarse
    assert dict(things.items()) == {"first": os.sep}
    install(tmp_path, "second")
    os.utime(tmp_path, ns=(2, 2))
    assert things.names() == ["first", "second"]
    things.add("own", "x")
    assert things.made_here() == ["x"]


def test_entry_points_are_not_looked_up_for_every_slide(tmp_path, monkeypatch):
    """Which reads a file of every package that is installed."""
    things: Registry[str] = Registry("wsi_umedpt.another-test")
    asked = []
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(registry, "entry_points", lambda **given: asked.append(given) or ())
    for _ in range(3):
        assert things.names() == []
        assert things.get("x") is None
        assert things.made_here() == []
    assert asked == [{"group": "wsi_umedpt.another-test"}]
