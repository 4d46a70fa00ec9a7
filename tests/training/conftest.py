"""A pretraining config of six kinds of task on a dozen pictures of 40 x 36 px, and what its run comes to."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from wsi_umedpt.io import checkpoint
from wsi_umedpt.training.run import pretrain
from wsi_umedpt.training.settings import read_pretrain_config

STEPS = 6
CONFIG = """
name = "small.v1"
about = "A model for tests"
licence = "CC0-1.0"
attribution = ["Hand-made pictures"]
[model]
backbone = "BACKBONE"
dim = 32
grouper = 8
[training]
steps = 6
lr = 2e-3
warmup = 2
precision = "fp32"
validate_every = 3
checkpoint_every = 2
workers = 0
seed = 5
"""
TASK = """
[[task]]
name = "{name}"
kind = "{kind}"
classes = {classes}
modality = "microscopy"
size_px = [32, 64]
batch_size = 2
[task.data]
collection = "made"
images = "images"
split_column = "split"
"""
TABLE = 'source = "table"\nlabels = "index.csv"\n'
MASKS = 'source = "masks"\nlabels = "masks"\ntable = "index.csv"\ninstances = true\n'
TASKS = {
    "grade": ("classification", ["low", "high"], TABLE + 'label_column = "grade"\n'),
    "cells": ("segmentation", ["background", "cell", "border"], MASKS),
    "boxes": ("detection", ["cell"], MASKS),
    "density": ("regression", ["area_fraction", "count"], MASKS),
    "slides": ("classification", ["low", "high"], TABLE + 'label_column = "of_slide"\nbag_column = "slide"\n'),
    "time": ("survival", ["days", "died"], TABLE + 'bag_column = "slide"\n'),
}


def config_text(names=tuple(TASKS), backbone="test_convnext"):
    """TOML of a config with these tasks."""
    text = CONFIG.replace("BACKBONE", backbone)
    for name in names:
        kind, classes, data = TASKS[name]
        text += TASK.format(name=name, kind=kind, classes=json.dumps(classes)) + data
    return text


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """Pictures, masks of instances, and a table of both."""
    path, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    rows = ["image,grade,slide,of_slide,split,days,died"]
    for i in range(12):
        image, mask = rng.integers(0, 90, (36, 40, 3), np.uint8), np.zeros((36, 40), np.uint8)
        for n in range(1 + i % 3):
            y, x = (int(v) for v in rng.integers(0, 24, 2))
            image[y : y + 11, x : x + 12, i % 2] += 120
            mask[y : y + 11, x : x + 12] = n + 1
        for folder, array in (("images", image), ("masks", mask)):
            (path / folder).mkdir(exist_ok=True)
            assert cv2.imwrite(str(path / folder / f"{i}.png"), array)
        slide = i // 2
        split = "train" if slide < 4 else "val" if slide < 5 else "test"
        of_slide = "high" if slide % 2 else "low"
        grade = "high" if i % 2 else "low"
        rows.append(f"{i},{grade},S{slide},{of_slide},{split},{slide + 1},{slide % 3 and 1}")
    (path / "index.csv").write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def config(data_folder, tmp_path_factory):
    """The config of all tasks, or of others."""

    def made(names=tuple(TASKS), backbone="test_convnext", **training):
        file = tmp_path_factory.mktemp("config") / "tasks.toml"
        file.write_text(config_text(names, backbone))
        found = read_pretrain_config(file, data_folder)
        return replace(found, training=replace(found.training, **training))

    return made


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """The config of all tasks as a file; its data is elsewhere."""
    file = tmp_path_factory.mktemp("config") / "tasks.toml"
    file.write_text(config_text())
    return file


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Sums are in one order only on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference(config, tmp_path_factory):
    """The folder of a run of all tasks that nothing interrupted."""
    out = tmp_path_factory.mktemp("reference")
    pretrain(config(), out, device="cpu")
    return out


@pytest.fixture(scope="session")
def state():
    """A run's last checkpoint: step, tensors, log, validations; all but the time it took."""

    def read(out):
        tensors, about = checkpoint.load(out / "checkpoint" / "rank0.json")
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in about["history"]]
        return about["step"], tensors, json.dumps(log), json.dumps(history), about["images"]

    return read


@pytest.fixture(scope="session")
def same(state):
    """Whether two folders hold the same state, bit for bit."""

    def asked(left, right):
        a, b = state(left), state(right)
        assert a[0] == b[0]
        assert a[1].keys() == b[1].keys()
        differ = [k for k in a[1] if not torch.equal(a[1][k], b[1][k])]
        assert differ == []
        assert a[2:] == b[2:]
        return True

    return asked
