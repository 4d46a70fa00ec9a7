"""What is loaded, and when."""

import subprocess
import sys

import pytest

from napari_wsi_umedpt import _softwaregl
from napari_wsi_umedpt._softwaregl import leave_triton_out

DOCKS = ("_analyse_dock", "_classifier_dock", "_fewshot_dock")


@pytest.mark.parametrize("name", DOCKS)
def test_a_dock_is_opened_without_torch(name):
    """Networks are loaded once they are asked for, beside the window."""
    code = f"import sys, napari_wsi_umedpt.{name}; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize(("maps", "refused"), [("libLLVM-15.so.1", True), ("libGLX_nvidia.so", False), (None, False)])
def test_triton_is_left_out_where_opengl_is_drawn_in_software(monkeypatch, tmp_path, maps, refused):
    """And nowhere else; torch then takes it for not installed."""
    monkeypatch.setattr(_softwaregl, "_MAPS", tmp_path / "maps")
    if maps is not None:
        (tmp_path / "maps").write_text(f"7f00-7f01 r--p 0 00:00 0 /usr/lib/{maps}\n")
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    leave_triton_out()
    assert ("triton" in sys.modules) is refused
    sys.modules.pop("triton", None)
