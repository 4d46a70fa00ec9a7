"""Guard for OpenGL in software: torch must not load triton there, as the process would end without a word.

Mesa's software renderer (remote desktops, virtual machines, continuous integration) and triton each bring
LLVM, and the second to be loaded crashes. Triton only compiles for CUDA, which nothing here asks for, so
it is left out: to torch it is as if it were not installed. Where OpenGL is a graphics card's, nothing is changed.
"""

import sys
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_LLVM = "libLLVM"


def leave_triton_out() -> None:
    """Keep triton from being loaded; call it before networks are imported. It does nothing where there is no danger."""
    if "triton" not in sys.modules and _draws_in_software():
        sys.modules["triton"] = None  # type: ignore[assignment] # how Python says: not to be imported


def _draws_in_software() -> bool:
    try:
        return _LLVM in _MAPS.read_text()
    except OSError:
        return False  # no Linux, where alone the two meet
