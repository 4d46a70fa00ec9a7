"""Release of a finished run: weights in float16, their description, and a card to read.

``NAME.json`` names the tensors file and holds the model's spec, the heads, the config, the
validation history and the cost; `models.release` loads the pair. ``NAME.md`` says it to people.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from wsi_umedpt import __version__
from wsi_umedpt.io import checkpoint
from wsi_umedpt.messages import counted
from wsi_umedpt.models.bundle import stored_tensors
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.training.settings import PretrainConfig

Head = tuple[HeadSpec, dict[str, torch.Tensor]]


def release(
    config: PretrainConfig, out: Path, shared: UMedPT, heads: dict[str, Head], history: list[dict[str, Any]],
    seconds: float, images: int,
) -> Path:  # fmt: skip
    """Write the weights of a finished run; returns their JSON file."""
    tensors = stored_tensors(shared)
    for name, (_, state) in heads.items():
        tensors |= {f"heads.{name}.{k}": v for k, v in state.items()}
    about = {
        "schema": 1,
        "kind": "umedpt",
        "name": config.name,
        "model": dataclasses.replace(config.model, grouper=0).to_dict(),
        **({"grouper": dataclasses.asdict(shared.grouper.spec)} if shared.grouper else {}),
        "dim": shared.vector_dim,
        "heads": [spec.to_dict() for spec, _ in heads.values()],
        "mpp": config.mpp,
        "about": config.about,
        "licence": config.licence,
        "attribution": [*config.attribution],
        "notes": [*config.notes],
        "cost": {"cpu_hours": round(seconds / 3600, 2), "images": images, "device": _device(shared)},
        "validation": history[-1] if history else {},
        "config": config_dict(config),
        "versions": {"wsi_umedpt": __version__, "torch": torch.__version__},
    }
    path = out / f"{config.name}.json"
    checkpoint.save(path, {k: _narrow(v) for k, v in tensors.items()}, about)
    path.with_suffix(".md").write_text(card_text(about, sum(p.numel() for p in shared.parameters())), encoding="utf-8")
    return path


def _narrow(value: torch.Tensor) -> torch.Tensor:
    """Convert to float16, unless a number is too large for that."""
    half = value.half() if value.is_floating_point() else value
    return half if not value.is_floating_point() or bool(half.isfinite().all()) else value


def _device(shared: UMedPT) -> str:
    device = next(shared.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def config_dict(config: PretrainConfig) -> dict[str, Any]:
    """A config as JSON can hold it; paths begin where all its data lies, so that nobody's folders are told."""
    every = [data for task in config.task for data in task.collections]
    paths = [p for data in every for p in (data.images, data.labels, data.table) if p]
    root = os.path.commonpath([os.path.abspath(p) for p in paths])
    content = json.loads(
        json.dumps(dataclasses.asdict(config), default=lambda p: Path(os.path.relpath(p, root)).as_posix())
    )
    content["training"]["distil_from"] = _without_folder(config.training.distil_from)
    return {**content, "initial": _without_folder(config.initial)}


def _without_folder(encoder: str) -> str:
    """The name of an encoder, of whose file the name alone stays."""
    name, at, weights = encoder.partition("@")  # timm:NAME@FILE
    if name.startswith("umedpt:"):
        name = f"umedpt:{Path(name.removeprefix('umedpt:')).name}"
    return name + at + Path(weights).name


def fingerprint(config: PretrainConfig) -> str:
    """sha256 of all that decides what is trained; words, how often to save or measure, and how many loaders do not."""
    content = config_dict(config)
    del content["notes"]
    for key in ("workers", "cache_mb", "validate_every", "checkpoint_every"):
        del content["training"][key]
    content["model"] = config.model.to_dict()  # which leaves out what is younger and as it always was
    absent = {"distil": 0.0, "distil_from": "", "frozen_stride": 0}
    younger: list[tuple[dict[str, Any], dict[str, Any]]] = [(content["training"], absent)]
    for task in content["task"]:
        del task["about"]
        absent = {"bag_column": "", "patient_block": 0, "point_px": 0.0, "rename": {}, "zoom": None}
        younger += [(task, {"more": [], "weight": 1.0}), *((data, absent) for data in (task["data"], *task["more"]))]
    for part, fields in younger:  # than the first checkpoints, which do not have them
        for name, value in fields.items():
            if part[name] == value:
                del part[name]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def card_text(about: dict[str, Any], parameters: int) -> str:
    """Text of a release's card, Markdown."""
    model, val = about["model"], about["validation"].get("val", {})
    rows = []
    for head in about["heads"]:
        figures = val.get(head["name"], {})
        shown = ", ".join(f"{k} {v:.3f}" for k, v in figures.items() if k != "loss")
        rows.append(
            f"| {head['name']} | {head['kind']} | {head['modality']} | {', '.join(head['classes'])} | {shown} |"
        )
    lines = [
        f"# {about['name']}",
        "",
        about["about"],
        "",
        f"- Backbone {model['backbone']}, norm {model['norm']}, {parameters / 1e6:.2f} M parameters without heads; "
        f"embedding of {about['dim']} numbers",
        f"- Input: RGB in [0, 1], mean {model['mean']}, std {model['std']}"
        + (f"; slides at {about['mpp']} um/px" if about["mpp"] else ""),
        f"- Trained on {counted(about['cost']['images'], 'image')} in "
        f"{counted(about['config']['training']['steps'], 'step')}, {about['cost']['cpu_hours']} CPU hours without the "
        f"processes that load; device {about['cost']['device']}"
        + (f"; begun from {begun}" if (begun := about["config"]["initial"]) else ""),
        f"- Licence: {about['licence']}",
        "",
        "Not a medical device. Figures are of the validation split, which the model was chosen by.",
        "",
        *(f"- {note}" for note in about["notes"]),
        *([""] if about["notes"] else []),
        "| head | kind | modality | classes | validation |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "Made of:",
        "",
        *(f"- {line}" for line in about["attribution"]),
        "",
    ]
    return "\n".join(lines)
