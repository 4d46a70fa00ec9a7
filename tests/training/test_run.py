"""What a run leaves: weights in float16, all that is known of them, a card, and a log; and what it refuses to begin."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from wsi_umedpt.errors import CheckpointError, DataError, EncoderError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.grouper import Grouper, GrouperSpec
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import make_task
from wsi_umedpt.training.release import config_dict
from wsi_umedpt.training.run import find_data, pretrain

NAMES = ["grade", "cells", "boxes", "density", "slides", "time"]


def test_the_release_is_the_last_weights_in_float16(reference, state):
    """Shared model and heads as the last checkpoint has them, rounded; no moments, nothing else."""
    found, _ = checkpoint.load(reference / "small.v1.json")
    last = {k: v for k, v in state(reference)[1].items() if not k.startswith("adam.")}
    last = {k.removeprefix("shared.") if k.startswith("shared.grouper.") else k: v for k, v in last.items()}
    assert found.keys() == last.keys()
    for key, value in found.items():
        assert torch.equal(value, last[key].half() if last[key].is_floating_point() else last[key])
    assert {v.dtype for v in found.values() if v.is_floating_point()} == {torch.float16}


def test_the_release_can_be_built_again_from_what_it_says(reference):
    """The JSON alone says the architecture of the shared model and of every head, and the weights fit."""
    tensors, about = checkpoint.load(reference / "small.v1.json")
    shared = UMedPT(ModelSpec(**about["model"]))
    shared.load_state_dict(checkpoint.tensors_under(tensors, "shared"))
    Grouper(GrouperSpec(**about["grouper"])).load_state_dict(checkpoint.tensors_under(tensors, "grouper"))
    assert [head["name"] for head in about["heads"]] == NAMES
    for head in about["heads"]:
        spec = HeadSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in head.items()})
        make_task(spec, about["model"]["dim"]).load_state_dict(checkpoint.tensors_under(tensors, f"heads.{spec.name}"))
    assert about["heads"][3]["centre"] != []
    assert sorted(about["validation"]["val"]) == sorted(NAMES)
    assert about["cost"]["images"] == 6 * (4 * 2 + 2 * 2 * 2)  # two images a batch; two bags of two images


def test_nobodys_folders_are_told(reference, data_folder):
    """No file that a run leaves names the folder of the data or of the run."""
    text = [p for p in reference.rglob("*") if p.is_file()]
    assert len(text) == 6
    for file in text:
        content = file.read_bytes()
        for folder in (data_folder, reference, *data_folder.parents[:3]):
            assert str(folder).encode() not in content
            assert folder.name.encode() not in content, (file, folder)


def test_files_of_weights_are_told_by_name_alone(config, tmp_path):
    """An encoder's weights may lie in somebody's folder; the release names the file."""
    begun = replace(config(("grade",)), initial=f"timm:resnet10t@{tmp_path}/mine.safetensors")
    assert config_dict(begun)["initial"] == "timm:resnet10t@mine.safetensors"
    assert (
        config_dict(replace(begun, initial="efficientnet_lite0.imagenet"))["initial"] == "efficientnet_lite0.imagenet"
    )


def test_the_card_says_what_people_ask(reference):
    """Backbone, licence, whose data, every head with its figures, and that it is no medical device."""
    card = (reference / "small.v1.md").read_text(encoding="utf-8")
    for part in ("# small.v1", "test_convnext", "CC0-1.0", "Hand-made pictures", "6 steps", "Not a medical device"):
        assert part in card
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["head", *NAMES]
    assert "dice" in rows[2]


def test_the_log_has_every_step_and_validation(reference):
    """One line a step with every task's loss, one a validation with every task's figures and their mean."""
    lines = [json.loads(line) for line in (reference / "log.jsonl").read_text().splitlines()]
    assert [("loss" in line, line["step"]) for line in lines] == [
        (True, 1), (True, 2), (True, 3), (False, 3), (True, 4), (True, 5), (True, 6), (False, 6),
    ]  # fmt: skip
    assert all(sorted(line.get("loss", line.get("val"))) == sorted(NAMES) for line in lines)
    assert {line["lr"] for line in lines[:1]} == {1e-3}  # half of the highest: the first of two steps of warm-up


def test_every_task_trains_the_encoder_and_its_head(config, tmp_path, state):
    """After one step no weight of the encoder or of any head is what it began as, whatever the task."""
    for name in NAMES:
        out = tmp_path / name
        for until in (0, 1):
            pretrain(config((name,)), out, device="cpu", until=until)
            if until == 0:
                shutil.copytree(out, tmp_path / f"{name}.before")
        before, after = state(tmp_path / f"{name}.before")[1], state(out)[1]
        weights = [k for k in before if k.startswith("heads.") or (k.startswith("shared.encoder.") and "weight" in k)]
        still = [k for k in weights if torch.equal(before[k], after[k])]
        assert [k for k in still if "attention.bias" not in k and "scales" not in k] == []


def test_problems_of_all_tasks_are_listed_together(config, tmp_path):
    """Before anything is trained; and no folder of a run is made."""
    broken = config()
    tasks = [replace(t, data=replace(t.data, images=tmp_path / "gone")) for t in broken.task[1:3]]
    with pytest.raises(DataError, match=r"(?s)\(2\).*cells: there is no folder.*boxes: there is no folder"):
        pretrain(replace(broken, task=(broken.task[0], *tasks)), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_encoder_weights_of_another_architecture_are_refused(config, tmp_path):
    """Weights to begin with must be of the config's backbone."""
    with pytest.raises(EncoderError, match="no encoder for backbone test_convnext"):
        pretrain(replace(config(("grade",)), initial="timm:resnet10t@random"), tmp_path, device="cpu")


def test_a_checkpoint_of_another_network_is_refused(config, tmp_path):
    """Should the code of a network have changed since, the refusal says which version wrote the checkpoint."""
    small = config(("grade",))
    saved = pretrain(small, tmp_path, device="cpu", until=1)
    tensors, about = checkpoint.load(saved)
    del tensors["heads.grade.head.1.bias"]
    checkpoint.save(saved, tensors, about)
    with pytest.raises(CheckpointError, match=r"\(version .*\) is of another network"):
        pretrain(small, tmp_path, device="cpu")


def test_splits_are_the_same_in_every_task(config):
    """Tasks of one collection agree on every group."""
    data = find_data(config())
    assert [[len({r.group for r in d.splits[s]}) for s in ("train", "val", "test")] for d in data] == [
        [4, 1, 1] if d.spec.bags else [8, 2, 2] for d in data
    ]
