"""`TrainingRun`: the state of a run, and its one checkpoint, whatever the number of processes.

The first process writes what all of them have: the shared model (alike everywhere), every head,
and AdamW's moments, numbered as one process that had all tasks would number them. So no two
files can be of different steps, and a run may go on with another number of processes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wsi_umedpt import __version__
from wsi_umedpt.errors import CheckpointError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.training.distillation import Distiller
from wsi_umedpt.training.parallel import gathered
from wsi_umedpt.training.release import config_dict, fingerprint
from wsi_umedpt.training.settings import PretrainConfig


@dataclass
class TrainingRun:
    """The state of a run in one process."""

    shared: UMedPT
    tasks: list[Task]
    """This process's tasks."""
    optimizer: torch.optim.Optimizer
    rank: int = 0
    """This process, counted from 0; the first writes all files."""
    distiller: Distiller | None = None
    """Loss that keeps the encoder near its start; it has no state of its own."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """CPU seconds of this process spent training; those before a resume count for the first process."""
    images: int = 0
    """Images shown by this process, and before a resume by all, counted likewise."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Losses and metrics of each validation."""

    def cost(self) -> tuple[float, int]:
        """CPU seconds and images of all processes."""
        every = gathered((self.seconds, self.images))
        return sum(s for s, _ in every), sum(n for _, n in every)


def save(run: TrainingRun, path: Path, config: PretrainConfig) -> None:
    """Write the checkpoint; when it returns in any process, the file is there."""
    places = _places(run, config)
    state = {places[i]: entry for i, entry in run.optimizer.state_dict()["state"].items()}
    shared = len(places) - sum(len([*t.parameters()]) for t in run.tasks)
    heads = {f"heads.{task.name}.{k}": v.cpu() for task in run.tasks for k, v in task.state_dict().items()}
    heads |= {f"adam.{i}.{k}": v.cpu() for i, entry in state.items() if i >= shared for k, v in entry.items()}
    every, (seconds, images) = gathered(heads), run.cost()
    if run.rank == 0:
        tensors = {f"shared.{k}": v for k, v in run.shared.state_dict().items()}
        tensors |= {f"adam.{i}.{k}": v for i, entry in state.items() if i < shared for k, v in entry.items()}
        for part in every:
            tensors |= part
        about = {
            "schema": 1, "kind": "checkpoint", "version": __version__, "torch": torch.__version__,
            "config": config_dict(config), "config_sha256": fingerprint(config), "step": run.step,
            "seconds": seconds, "images": images, "history": run.history,
        }  # fmt: skip
        checkpoint.save(path, tensors, about)
    gathered(None)  # nobody goes on before it is written


def restore(run: TrainingRun, path: Path, config: PretrainConfig) -> None:
    """Take the state of a checkpoint, if there is one.

    Raises
    ------
    CheckpointError
        If it is damaged or of another config, or not all processes see it.
    """
    seen = gathered(path.exists())
    if len({*seen}) > 1:
        raise CheckpointError(f"{path} is there for some processes only; all need the same folder")
    if not seen[0]:
        return
    tensors, about = checkpoint.load(path)
    if about.get("config_sha256") != fingerprint(config):
        raise CheckpointError(
            f"{path.parent.parent} holds a run of another config, stopped at step {about.get('step')}. "
            "Train into another folder, or remove that one."
        )
    places = {place: i for i, place in enumerate(_places(run, config))}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in checkpoint.tensors_under(tensors, "adam").items():
        number, _, name = key.partition(".")
        if int(number) in places:
            state.setdefault(places[int(number)], {})[name] = value
    try:
        run.shared.load_state_dict(checkpoint.tensors_under(tensors, "shared"))
        for task in run.tasks:
            task.load_state_dict(checkpoint.tensors_under(tensors, f"heads.{task.name}"))
    except RuntimeError as error:
        raise CheckpointError(f"{path} (version {about.get('version')}) is of another network: {error}") from None
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": state})
    run.step, run.history = int(about["step"]), list(about["history"])
    if run.rank == 0:
        run.seconds, run.images = float(about["seconds"]), int(about["images"])


def _places(run: TrainingRun, config: PretrainConfig) -> list[int]:
    """Number of each parameter of this process's optimiser, where one process has all tasks."""
    own = {task.name: len([*task.parameters()]) for task in run.tasks}
    every = {name: n for part in gathered(own) for name, n in part.items()}
    at = shared = sum(len(group["params"]) for group in run.optimizer.param_groups) - sum(own.values())
    first = {}
    for spec in config.task:
        first[spec.name] = at
        at += every[spec.name]
    return [*range(shared), *(first[name] + j for name, n in own.items() for j in range(n))]
