"""A run that was stopped, in whatever way, and goes on equals one that was not, bit for bit on CPU."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from wsi_umedpt.errors import CheckpointError, TrainingError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.tasks.classification import Classification
from wsi_umedpt.training import run
from wsi_umedpt.training.release import fingerprint
from wsi_umedpt.training.run import find_data, pretrain
from wsi_umedpt.training.run import head_spec as spec_of
from wsi_umedpt.training.settings import read_pretrain_config
from wsi_umedpt.training.start import initial_model
from wsi_umedpt.training.step import StepSettings, train_step


def test_stopped_and_resumed(config, reference, same, tmp_path):
    """Three steps, new objects, the rest: weights, moments, log, validations and release of an unbroken run."""
    saved = pretrain(config(), tmp_path, device="cpu", until=3)
    assert saved == tmp_path / "checkpoint" / "rank0.json"
    assert not (tmp_path / "small.v1.json").exists()
    torch.manual_seed(999)  # what others did with the generator does not matter
    written = pretrain(config(), tmp_path, device="cpu")
    assert same(tmp_path, reference)
    left, right = checkpoint.load(written)[0], checkpoint.load(reference / "small.v1.json")[0]
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in right)


FIRST_VERSION = "1479fadae568f6b537f80c8d150fe0908886d0ff76fb07c7c65325efe8b0cf12"
"""Fingerprint of the first four tasks, made by the version that had no bags."""


@pytest.mark.parametrize("precision", ["bf16", "bf16_decoders"])
def test_stochastic_depth_and_half_precision(config, same, tmp_path, precision):
    """The same for a transformer that drops whole blocks at random, under autocast."""
    training = {"precision": precision, "steps": 2, "validate_every": 5, "checkpoint_every": 5}
    small = config(("grade", "cells"), "swinv2_micro", **training)
    pretrain(small, tmp_path / "whole", device="cpu")
    pretrain(small, tmp_path / "parts", device="cpu", until=1)
    pretrain(small, tmp_path / "parts", device="cpu")
    assert same(tmp_path / "parts", tmp_path / "whole")


def test_dropout_is_on_and_a_function_of_seed_and_step(config):
    """The laws here are not those of networks without chance: another step or seed drops other numbers."""
    small = config(("grade",))
    [data] = find_data(small)

    def loss(*seeds):
        shared = initial_model(small).train()
        task = Classification(spec_of(data), small.model.dim).train()
        with torch.no_grad():
            task.head[1].weight.copy_(torch.linspace(-1, 1, 64).view(2, 32))
        optimizer = torch.optim.SGD([*shared.parameters(), *task.parameters()], lr=0.0)
        return train_step(
            shared, [task], {"grade": data.batch(0)}, optimizer, StepSettings(total_tasks=1, seeds=seeds)
        )["grade"]

    assert loss(0, 1) == loss(0, 1)
    assert len({loss(0, 1), loss(0, 2), loss(1, 1)}) == 3


def test_every_step_has_its_own_seed(config, tmp_path, monkeypatch):
    """Also after a resume: the seed of a step is the run's and the number of steps done before it."""
    seeds, small = [], config(("grade",))
    monkeypatch.setattr(run, "train_step", lambda *given: seeds.append(given[-1].seeds) or {"grade": 1.0})
    for until in (2, 5):
        pretrain(small, tmp_path, device="cpu", until=until)
    assert seeds == [(5, 0), (5, 1), (5, 2), (5, 3), (5, 4)]


def test_loader_processes_change_nothing(config, reference, same, tmp_path):
    """With two processes that load, and measuring and saving at other steps, the weights are the same."""
    pretrain(config(workers=2), tmp_path, device="cpu", until=4)
    pretrain(config(workers=1), tmp_path, device="cpu")
    assert same(tmp_path, reference)


CHILD = """
import sys
from pathlib import Path
import torch
from wsi_umedpt.training.run import TrainingWatcher, pretrain
from wsi_umedpt.training.settings import read_pretrain_config
torch.set_num_threads(1)
class Loud(TrainingWatcher):
    def stepped(self, step, losses, lr):
        print(step, flush=True)
pretrain(read_pretrain_config(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]), device="cpu", watcher=Loud())
"""


def test_killed_and_resumed(config_file, config, data_folder, reference, same, tmp_path):
    """SIGKILL after the fifth step, past the checkpoint of the fourth: the rest in this process comes to the same."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(config_file), str(data_folder), str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert any(line.strip() == "5" for line in child.stdout), "the run ended before its fifth step"
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert checkpoint.read_about(tmp_path / "checkpoint" / "rank0.json")["step"] in (4, 6)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')  # a line that a kill cut short
    pretrain(config(), tmp_path, device="cpu")
    assert same(tmp_path, reference)


@pytest.mark.parametrize(
    ("changed", "resumes"),
    [
        pytest.param({"lr": 1e-3}, False, id="lr"),
        pytest.param({"steps": 9}, False, id="steps"),
        pytest.param({"seed": 6}, False, id="seed"),
        pytest.param({"split_seed": 6}, False, id="split-seed"),
        pytest.param({"max_pixels": 1 << 17}, False, id="pixel-budget"),
        pytest.param({"precision": "bf16"}, False, id="precision"),
        pytest.param({"workers": 1}, True, id="workers"),
        pytest.param({"cache_mb": 0}, True, id="cache"),
        pytest.param({"validate_every": 2, "checkpoint_every": 5}, True, id="how-often"),
    ],
)
def test_another_config_is_another_run(config, changed, resumes):
    """What decides the weights must be as it was; how they are loaded and how often they are saved need not."""
    assert (fingerprint(config(**changed)) == fingerprint(config())) == resumes


def test_a_run_of_another_config_is_refused(config, reference):
    """The refusal names the folder and the step, and leaves the checkpoint alone."""
    before = (reference / "checkpoint" / "rank0.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"reference0 holds a run of another config, stopped at step 6"):
        pretrain(config(lr=1e-3), reference, device="cpu")
    with pytest.raises(CheckpointError, match="another config"):
        pretrain(config(("grade", "cells")), reference, device="cpu")
    assert (reference / "checkpoint" / "rank0.json").read_bytes() == before


def test_fingerprints_do_not_change_with_the_version(config_file, tmp_path):
    """A checkpoint of the first version resumes: fields that were added since count only where they are used."""
    first = read_pretrain_config(config_file, tmp_path)
    asked = replace(first, task=first.task[:4], model=replace(first.model, grouper=0))
    assert fingerprint(asked) == FIRST_VERSION


def test_data_may_move(config_file, tmp_path):
    """Where the data folder is decides nothing; where in it a task looks does."""
    roots = tmp_path / "here", tmp_path / "far" / "there"
    for root in roots:
        root.mkdir(parents=True)
    here, there = (read_pretrain_config(config_file, root) for root in roots)
    assert fingerprint(here) == fingerprint(there)
    task = replace(here.task[0], data=replace(here.task[0].data, images=roots[0] / "other"))
    assert fingerprint(replace(here, task=(task, *here.task[1:]))) != fingerprint(here)


def test_a_damaged_checkpoint_is_refused(config, tmp_path):
    """A byte of the tensors that changed is not trained on."""
    small = config(("grade",))
    pretrain(small, tmp_path, device="cpu", until=1)
    [file] = (tmp_path / "checkpoint").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        pretrain(small, tmp_path, device="cpu")


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path, monkeypatch):
    """The step is not taken, the task and the step are named, and the last checkpoint goes on."""
    small, plain = config(("grade", "cells")), Classification.loss_of

    def broken(self, outputs, batch):
        return plain(self, outputs, batch) * (math.nan if len(list(tmp_path.glob("checkpoint/*.json"))) else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "loss_of", broken)
        with pytest.raises(TrainingError, match=r"loss of task grade is nan at step 2; a lower lr"):
            pretrain(small, tmp_path, device="cpu")
    tensors, about = checkpoint.load(tmp_path / "checkpoint" / "rank0.json")
    assert about["step"] == 2
    assert all(torch.isfinite(t).all() for t in tensors.values())
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
    pretrain(small, tmp_path, device="cpu", until=3)
    assert checkpoint.read_about(tmp_path / "checkpoint" / "rank0.json")["step"] == 3


def test_until_a_step_that_is_past_changes_nothing(config, tmp_path, state):
    """`until` never goes back and never trains further; 0 is a step like any other."""
    small = config(("grade",))
    for until, step in ((0, 0), (2, 2), (1, 2)):
        pretrain(small, tmp_path, device="cpu", until=until)
        assert checkpoint.read_about(tmp_path / "checkpoint" / "rank0.json")["step"] == step


def test_a_finished_run_is_released_again(config, tmp_path):
    """Running once more trains nothing, and writes the same weights."""
    small = config(("grade",), steps=1)
    first = checkpoint.load(pretrain(small, tmp_path, device="cpu"))
    again = checkpoint.load(pretrain(small, tmp_path, device="cpu"))
    assert first[0].keys() == again[0].keys()
    assert all(torch.equal(first[0][k], again[0][k]) for k in first[0])
    assert first[1]["cost"]["images"] == again[1]["cost"]["images"] == 2
