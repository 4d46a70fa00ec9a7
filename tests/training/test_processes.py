"""Several processes train what one would, whatever tasks each has, and leave one checkpoint and one release."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.training.parallel import sum_gradients
from wsi_umedpt.training.run import pretrain

CHILD = """
import json, shutil, sys
from dataclasses import replace
from pathlib import Path
import torch
import torch.distributed as dist
from wsi_umedpt.errors import WsiError
from wsi_umedpt.training.run import TrainingWatcher, pretrain
from wsi_umedpt.training.settings import read_pretrain_config
torch.set_num_threads(1)
class Loud(TrainingWatcher):
    def stepped(self, step, losses, lr):
        print(json.dumps([step, sorted(losses)]), flush=True)
file, data, out = map(Path, sys.argv[1:4])
config = read_pretrain_config(file, data)
def run(name, until=None, config=config):
    try:
        print(pretrain(config, out / name, device="cpu", until=until, watcher=Loud()).name, flush=True)
    except WsiError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
run("parts", until=3)
if not dist.get_rank():
    shutil.copytree(out / "parts", out / "begun")
dist.barrier()
run("parts")
run("from_one")
run("few", config=replace(config, task=config.task[:1]))
run("damaged")
"""


@pytest.fixture(scope="module")
def two(config_file, data_folder, config, tmp_path_factory):
    """What two processes left and printed: a run in two parts, the rest of one process's run, and refusals."""
    out = tmp_path_factory.mktemp("two")
    pretrain(config(), out / "from_one", device="cpu", until=3)
    pretrain(config(), out / "damaged", device="cpu", until=1)
    [file] = (out / "damaged" / "checkpoint").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(config_file), str(data_folder), str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={
                **os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    printed = []
    for child in ranks:
        text, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors
        printed.append(text.splitlines())
    return out, printed


def apart(left, right):
    """The largest difference of two sets of tensors, and the norm of all differences over that of all values."""
    assert left.keys() == right.keys()
    # Softmax does not see this bias: its gradient is rounding, which AdamW scales up to a whole step.
    seen = [k for k in left if "grouper.score.bias" not in k and left[k].numel()]
    differ = torch.cat([(left[k].double() - right[k].double()).flatten() for k in seen])
    norm = torch.cat([right[k].double().flatten() for k in seen]).norm()
    return float(differ.abs().max()), float(differ.norm() / norm)


@pytest.mark.parametrize("name", ["parts", "from_one"])
def test_two_processes_equal_one(two, reference, state, name):
    """All tasks over two processes, stopped and resumed, or begun by one process: the same weights and moments.

    To the order in which floats are summed: 1e-5 of their norm, and for each to a hundredth of what it moved.
    """
    found, expected = state(two[0] / name), state(reference)
    assert found[0] == expected[0] == 6
    largest, relative = apart(weights(found), weights(expected))
    assert relative < 1e-5
    assert largest < 1e-4
    assert found[4] == expected[4], "images of all processes are counted"
    logs = [[json.loads(text) for text in (state_[2], state_[3])] for state_ in (found, expected)]
    for left, right in zip(*logs, strict=True):
        assert [entry["step"] for entry in left] == [entry["step"] for entry in right]
        for a, b in zip(left, right, strict=True):
            assert figures(a) == pytest.approx(figures(b), abs=1e-4, nan_ok=True)


def weights(state):
    return {k: v for k, v in state[1].items() if not k.endswith(".step")}


def figures(entry):
    """All numbers of a line of the log, by name; of all tasks."""
    flat = {"score": entry.get("score", 0.0), **entry.get("loss", {})}
    return flat | {f"{task}.{k}": v for task, found in entry.get("val", {}).items() for k, v in found.items()}


def test_one_process_goes_on_where_two_stopped(two, config, reference, state, tmp_path):
    """The checkpoint does not depend on how many processes wrote it: one pair of files."""
    shutil.copytree(two[0] / "begun", tmp_path, dirs_exist_ok=True)
    assert sorted(p.suffix for p in (tmp_path / "checkpoint").iterdir()) == [".json", ".safetensors"]
    assert state(tmp_path)[0] == 3
    pretrain(config(), tmp_path, device="cpu")
    found, expected = state(tmp_path), state(reference)
    assert found[0] == expected[0]
    assert apart(found[1], expected[1])[1] < 1e-5


def test_the_release_holds_all_heads(two, reference):
    """Heads lived in two processes; the released file has them all, in the order of the config."""
    found, about = checkpoint.load(two[0] / "parts" / "small.v1.json")
    expected, one = checkpoint.load(reference / "small.v1.json")
    assert [h["name"] for h in about["heads"]] == ["grade", "cells", "boxes", "density", "slides", "time"]
    assert about["heads"] == one["heads"]
    assert apart(found, expected)[1] < 1e-3  # float16
    assert about["cost"]["images"] == one["cost"]["images"]
    assert sorted(about["validation"]["val"]) == sorted(one["validation"]["val"])


def test_only_the_first_process_speaks(two):
    """Progress is told once, with the losses of all tasks; every process returns the same file."""
    first, second = two[1]
    names = ["boxes", "cells", "density", "grade", "slides", "time"]
    steps = [json.loads(line) for line in first if line.startswith("[")]
    assert steps == [[i, names] for i in (1, 2, 3, 4, 5, 6, 4, 5, 6)]
    assert [line for line in first if not line.startswith("[")] == second
    assert second[:3] == ["rank0.json", "small.v1.json", "small.v1.json"]


def test_refusals_reach_every_process(two):
    """No process is left waiting for one that gave up: each says why."""
    for printed in two[1]:
        assert printed[-2] == "ConfigError: 2 processes share 1 task; start no more than one for each task"
        assert "CheckpointError" in printed[-1]
        assert "damaged" in printed[-1]


def test_one_process_sums_nothing():
    """In one process nothing happens: gradients stay, those that are None stay None."""
    shared = UMedPT(ModelSpec(backbone="test_convnext", dim=32))
    first, *others = shared.parameters()
    first.grad = torch.ones_like(first)
    sum_gradients(shared)
    assert bool((first.grad == 1).all())
    assert all(p.grad is None for p in others)
