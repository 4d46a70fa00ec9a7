"""Importing networks without halting the window; in a thread, by whatever needs them.

Two things halt it while a thread imports torch, and neither lets go of Python's lock. The system loads libraries of
gigabytes: the same loader called as a foreign function runs without the lock, and the import finds them loaded. And
so many new objects set off searches for garbage among all there are: they are put off, as what an import makes is
no garbage.

Nor is it later. napari searches whenever a layer goes, 0.3 s with torch. The window of `wsi-umedpt view` freezes what
it was made of (`gc.freeze`: not looked at any more), and there the import of torch is frozen too. In a napari of the
user's nothing is: what is frozen with its layers is never freed, and those may be large.
"""

import ctypes
import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_wsi_umedpt.layers.software_gl import leave_triton_out


@contextmanager
def importing_networks() -> Iterator[None]:
    """Context in which torch, and what is built on it, is imported; costs nothing once that is done."""
    collects, fresh = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        if fresh:
            leave_triton_out()
            _load_libraries()
        yield
    finally:
        frozen = gc.get_freeze_count() > 0
        if fresh or not frozen:
            gc.freeze()
        if not frozen:
            # Together: all there is now counts as old, and does not set off the search that was put off.
            gc.unfreeze()
        if collects:
            gc.enable()


def _load_libraries() -> None:
    """Load those of torch's libraries that know no Python, as torch does; what fails it says itself."""
    spec = importlib.util.find_spec("torch")
    # On Windows torch itself calls the loader as a foreign function.
    if sys.platform == "win32" or spec is None or spec.origin is None:
        return
    folder, suffix = Path(spec.origin).parent / "lib", ".dylib" if sys.platform == "darwin" else ".so"
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for name, mode in (("libtorch_global_deps", os.RTLD_GLOBAL), ("libtorch", os.RTLD_LOCAL)):
        dlopen(os.fsencode(folder / f"{name}{suffix}"), os.RTLD_NOW | mode)
