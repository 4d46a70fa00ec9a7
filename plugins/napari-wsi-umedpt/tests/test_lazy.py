"""What is loaded, and when."""

import contextlib
import gc
import subprocess
import sys
import weakref

import pytest

from napari_wsi_umedpt.layers import software_gl
from napari_wsi_umedpt.layers.software_gl import leave_triton_out
from napari_wsi_umedpt.logic import torch_import
from napari_wsi_umedpt.logic.torch_import import importing_networks

DOCKS = ("alike", "analyse", "cells", "classifier", "few_shot")


@pytest.mark.parametrize("name", DOCKS)
def test_a_dock_is_opened_without_torch(name):
    """Networks are loaded once they are asked for, beside the window."""
    code = f"import sys, napari_wsi_umedpt.docks.{name}; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize(("maps", "refused"), [("libLLVM-15.so.1", True), ("libGLX_nvidia.so", False), (None, False)])
def test_triton_is_left_out_where_opengl_is_drawn_in_software(monkeypatch, tmp_path, maps, refused):
    """And nowhere else; torch then takes it for not installed."""
    monkeypatch.setattr(software_gl, "_MAPS", tmp_path / "maps")
    if maps is not None:
        (tmp_path / "maps").write_text(f"7f00-7f01 r--p 0 00:00 0 /usr/lib/{maps}\n")
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    leave_triton_out()
    assert ("triton" in sys.modules) is refused
    sys.modules.pop("triton", None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells what is loaded by /proc")
def test_the_system_loads_torch_before_python_does():
    """By a call that does not hold Python's lock, as an import would; torch then works as ever."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom napari_wsi_umedpt.logic.torch_import import importing_networks\n"
        "with importing_networks():\n"
        "    assert 'torch' not in sys.modules\n"
        "    assert 'libtorch_cpu' in Path('/proc/self/maps').read_text()\n"
        "    import torch\n"
        "assert (torch.ones(2, 3) @ torch.ones(3)).tolist() == [3.0, 3.0]\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


class Cycle:
    """Found by a search for garbage alone."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def nothing_frozen(monkeypatch):
    """As in a napari of the user's; what tests had frozen is afterwards again."""
    for name in ("_load_libraries", "leave_triton_out"):
        monkeypatch.setattr(torch_import, name, lambda: None)
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("before", [True, False], ids=["usual", "was-off"])
def test_no_search_for_garbage_while_networks_are_imported(nothing_frozen, before):
    """It is on again afterwards if it was before, also where the import fails; garbage is found as ever."""
    gone = weakref.ref(Cycle())
    searched = []
    gc.callbacks.append(lambda phase, info: searched.append(info))
    (gc.enable if before else gc.disable)()
    try:
        with contextlib.suppress(ImportError), importing_networks():
            searched.clear()
            made = [[n] for n in range(100_000)]
            assert not searched
            raise ImportError
        assert gc.isenabled() is before
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
        gc.callbacks.pop()
    assert len(made) == 100_000
    gc.collect()
    assert gone() is None


def test_imports_are_not_looked_at_whenever_a_layer_goes(nothing_frozen, monkeypatch):
    """Where the window froze what it was made of, what the import of torch made is frozen too, and nothing later."""
    gc.freeze()
    window = gc.get_freeze_count()
    with importing_networks():
        made = [[n] for n in range(100_000)]
    assert gc.get_freeze_count() <= window
    monkeypatch.delitem(sys.modules, "torch")
    with importing_networks():
        made += [[n] for n in range(100_000)]
    assert gc.get_freeze_count() >= window + 200_000
