"""`wsi-umedpt view`: what it runs, and what it says where it cannot."""

import importlib.util
import subprocess
import sys

import pytest


@pytest.fixture
def ran(monkeypatch):
    """What would be run, and in which environment."""
    calls = []

    def run(command, *, env, check):
        calls.append((command, env))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return calls


@pytest.mark.parametrize(("flags", "slicing"), [([], "1"), (["--sync"], "0")])
def test_the_plugin_is_run_in_a_process_of_its_own(say, ran, small_svs, flags, slicing):
    """With absolute paths; asynchronous slicing by its environment, never by napari's settings."""
    assert say("view", small_svs, *flags)[0] == 0
    ((command, env),) = ran
    assert command == [sys.executable, "-m", "napari_wsi_umedpt", str(small_svs)]
    assert env["NAPARI_ASYNC"] == slicing


def test_a_path_that_is_not_there_is_said_before_a_window_opens(say, ran):
    """In a line."""
    code, _, err = say("view", "nowhere.svs")
    assert (code, ran) == (1, [])
    assert "nowhere.svs: there is no slide and no store" in err


@pytest.mark.parametrize("absent", ["napari", "napari_wsi_umedpt", "PyQt6"])
def test_what_is_not_installed_is_named_with_the_command_that_helps(say, ran, small_svs, monkeypatch, absent):
    """Napari, its plugin or a Qt binding."""
    bindings = {"PyQt6", "PySide6", "PyQt5", "PySide2"}
    gone = bindings if absent == "PyQt6" else {absent}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else name)
    code, _, err = say("view", small_svs)
    assert (code, ran) == (1, [])
    assert "pip install 'napari-wsi-umedpt[qt]'" in err
    assert ("a Qt binding" if absent == "PyQt6" else absent) in err
