"""How a child process ended, in words."""

import signal

import pytest

from wsi_umedpt.io.exit_codes import signal_of


@pytest.mark.parametrize(
    ("code", "name"),
    [
        pytest.param(-signal.SIGKILL, "SIGKILL", id="signal"),
        pytest.param(-60, "", id="a-signal-without-a-name"),
        pytest.param(3, "", id="exit"),
        pytest.param(0, "", id="well"),
        pytest.param(None, "", id="alive"),
    ],
)
def test_the_signal_that_ended_a_process(code, name):
    """By name; empty where none did, or it has none, which must not be an error of its own."""
    assert signal_of(code) == name
