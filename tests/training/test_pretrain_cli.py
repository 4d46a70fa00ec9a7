"""`wsi-umedpt pretrain`: checks, errors in a line, Ctrl-C, and what is seen of a run."""

import io
import signal
import sys

import pytest
from rich.console import Console

from wsi_umedpt.cli import main
from wsi_umedpt.cli.training_view import TrainingView


@pytest.fixture
def cli(monkeypatch, capsys, config_file, data_folder, tmp_path):
    """Runs the command in this process; (exit code, standard output, standard error)."""

    def run(*more, config=config_file, data=data_folder):
        argv = ["wsi-umedpt", "pretrain", f"{config}", "--data", f"{data}", "-o", f"{tmp_path / 'out'}", *more]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    return run


def test_check_lists_the_splits_and_trains_nothing(cli, tmp_path):
    """Images and groups of every task in every split, and no folder is made."""
    code, out, _ = cli("--check")
    assert code == 0
    rows = {cells[1]: cells[4:7] for line in out.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 6}
    assert {name: rows[name] for name in ("grade", "cells", "boxes", "density", "slides")} == {
        **{name: ["8 (8)", "2 (2)", "2 (2)"] for name in ("grade", "cells", "boxes", "density")},
        "slides": ["8 (4)", "2 (1)", "2 (1)"],
    }
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(lambda t: t.replace("steps", "stepps", 1), "did you mean 'steps'?", id="unknown-key"),
        pytest.param(lambda t: t.replace("index.csv", "gone.csv"), "there is nothing at", id="no-table"),
        pytest.param(lambda t: t.replace('"low", "high"', '"low", "top"'), "class 'high' is none of low", id="class"),
        pytest.param(lambda t: t.replace("test_convnext", "convnxt"), "timm has no model 'convnxt'", id="backbone"),
    ],
)
def test_errors_are_one_message(cli, config_file, tmp_path, text, said):
    """Exit code 1, and on standard error what is wrong; no trace."""
    broken = tmp_path / "broken.toml"
    broken.write_text(text(config_file.read_text()))
    code, _, err = cli(config=broken)
    assert code == 1
    assert err.startswith("wsi-umedpt: ")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("config", "data"), [("gone.toml", None), (None, "gone")], ids=["config", "data"])
def test_files_that_are_missing_are_named(cli, tmp_path, config, data):
    """A config or a data folder that is not there."""
    given = {"config": config and tmp_path / config, "data": data and tmp_path / data}
    code, _, err = cli("--check", **{k: v for k, v in given.items() if v})
    assert code == 1
    assert "gone" in err


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(cli, monkeypatch, reference, same, tmp_path):
    """Exit code 130; run again, the command ends with the weights of an unbroken run."""
    stepped = TrainingView.stepped
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainingView,
            "stepped",
            lambda self, step, *rest: stepped(self, step, *rest) or (step == 5 and signal.raise_signal(signal.SIGINT)),
        )
        code, _, err = cli("--device", "cpu", "--threads", "1")
    assert code == 130
    assert "Run the same command again" in err
    code, out, _ = cli("--device", "cpu", "--threads", "1")
    assert code == 0
    assert "small.v1.json" in out.replace("\n", "")
    assert same(tmp_path / "out", reference)


def test_validations_and_what_was_written_are_seen(cli):
    """A table of every task's figures, and at the end the file to go on with."""
    code, out, _ = cli("--device", "cpu", "--until", "3")
    assert code == 0
    assert "dice_cell" in out
    assert "rank0.json" in out.replace("\n", "")


def test_without_a_terminal_every_twentieth_step_is_a_line(config):
    """Losses are smoothed over steps; a log is not flooded."""
    console = Console(file=io.StringIO(), width=80)
    with TrainingView(config(steps=40), console, None) as view:
        for step in range(1, 41):
            view.stepped(step, {"grade": 1.0, "cells": 0.0 if step < 21 else 1.0}, 1e-3)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("step")]
    assert lines[0] == "step 20 lr 1.00e-03 loss 0.500: grade 1.00 cells 0.00"
    assert lines[1].startswith("step 40 lr 1.00e-03 loss 0.821: grade 1.00 cells 0.64")
    assert len(lines) == 2


def test_tensorboard(cli, tmp_path):
    """With --tensorboard, rate, losses and validations are written as events."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, _ = cli("--device", "cpu", "--until", "3", "--tensorboard")
    assert code == 0
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"lr", "loss/grade", "loss/slides", "val/cells/dice"} <= {*tags}
    assert [e.step for e in events.Scalars("loss/grade")] == [1, 2, 3]
    assert [e.step for e in events.Scalars("val/cells/dice")] == [3]
