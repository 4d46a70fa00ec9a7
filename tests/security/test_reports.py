"""Libraries that report their use are kept from it."""

import subprocess
import sys

import pytest


def test_openvino_reports_nothing():
    """In a process of its own, as these tests prevent it too: its converter has the stand-in that sends nothing."""
    pytest.importorskip("openvino")
    code = (
        "from wsi_umedpt.models.openvino_import import import_openvino; import_openvino('this'); "
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
