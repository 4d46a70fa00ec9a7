"""A small UMedPT model as a file, as a finished training run leaves it."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.umedpt import UMedPT


def save_model(folder: Path, shared: UMedPT, tasks: Mapping[str, nn.Module]) -> Path:
    """Round a model's weights to float16 in place, and save it and its heads; the JSON file."""
    for parameter in (p for module in (shared, *tasks.values()) for p in module.parameters()):
        parameter.data = parameter.data.half().float()
    tensors = {f"shared.{k}": v.half() for k, v in shared.state_dict().items()}
    for name, task in tasks.items():
        tensors |= {f"heads.{name}.{k}": v.half() for k, v in task.state_dict().items()}
    about = {
        "schema": 1, "kind": "umedpt", "name": "tiny.v1", "model": shared.spec.to_dict(), "mpp": 0.5,
        "dim": shared.vector_dim, "heads": [task.spec.to_dict() for task in tasks.values()], "licence": "none",
    }  # fmt: skip
    path = folder / "tiny.v1.json"
    checkpoint.save(path, tensors, about)
    return path
