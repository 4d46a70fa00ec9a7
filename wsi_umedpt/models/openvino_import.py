"""OpenVINO, imported so that it reports nothing to anyone, and its one core."""

import sys
from functools import cache
from types import ModuleType
from typing import Any

from wsi_umedpt.errors import EncoderError


def import_openvino(asked: str) -> ModuleType:
    """Import OpenVINO without its reports of use.

    Its converter sends an event to a web service at each conversion, from a process that it forks, where the package
    `openvino_telemetry` can be imported; without that package it does not.

    Parameters
    ----------
    asked
        Feature that needs it, for the message.

    Raises
    ------
    EncoderError
        OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it now fails
    try:
        import openvino
    except ImportError:
        raise EncoderError(f"{asked} needs OpenVINO: pip install 'wsi-umedpt[openvino]'") from None
    module: ModuleType = openvino
    return module


def openvino_core(asked: str) -> Any:
    """Give the one `openvino.Core` of this process; see `import_openvino`.

    A Core's CPU plugin gives its thread a stack for signal handlers, and puts back the one before when it goes. Of two
    that go in the order in which they came, the second puts back the first one's, which is no more: the next signal
    that has a handler ends the process with SIGSEGV (seen in OpenVINO 2026). So there is one, and it never goes.
    """
    return _core(import_openvino(asked))


@cache
def _core(openvino: ModuleType) -> Any:
    return openvino.Core()
