"""Settings of a pretraining config; `wsi_umedpt.config` turns TOML into these."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wsi_umedpt.config import read_config
from wsi_umedpt.datasets.records import DataSpec
from wsi_umedpt.datasets.task_data import TaskSpec
from wsi_umedpt.errors import ConfigError
from wsi_umedpt.models.umedpt import ModelSpec


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Settings of training."""

    steps: int = 10_000
    """Optimiser steps; each shows one batch of every task."""
    lr: float = 1e-3
    """Highest learning rate, of decoders and heads."""
    encoder_lr_factor: float = 1.0
    """Learning rate of the encoder over `lr`; below 1 where it begins with trained weights."""
    weight_decay: float = 1e-2
    distil: float = 0.0
    """Weight of what keeps the encoder's maps near those it began with, beside every task; see `training.distil`."""
    distil_from: str = ""
    """Encoder that `distil` holds the maps near; empty: the one of `initial`."""
    frozen_stride: Literal[0, 4, 8, 16, 32] = 0
    """Layers of the encoder up to its map of this stride stay as they began; 0 trains all, 32 none of it."""
    warmup: int = 200
    """Steps over which the learning rate rises from 0."""
    clip_norm: float = 1.0
    """Gradients of the shared model, and of each head, are scaled down to this norm."""
    max_pixels: int = 262_144
    """Most pixels in one training batch of one task."""
    precision: Literal["fp32", "bf16", "bf16_decoders"] = "bf16"
    """bf16: autocast of the forward pass; weights and losses stay float32. bf16_decoders: the
    encoder stays float32 too, which is faster on CPU for networks of depthwise convolutions."""
    seed: int = 0
    val: float = 0.15
    """Expected share of groups for validation, where the data states no split."""
    test: float = 0.15
    """Expected share of groups that are never looked at in training."""
    split_seed: int = 0
    """Another seed divides the groups anew."""
    workers: int = 1
    """Processes that load, for all tasks together; 0 loads in the training process."""
    cache_mb: int = 1024
    """Memory for decoded images, for all tasks together."""
    validate_every: int = 500
    """Steps between validations."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "lr", "clip_norm", "max_pixels", "validate_every", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ValueError(f"val and test are shares below 1 together, got {self.val} and {self.test}")
        for name in (
            "encoder_lr_factor",
            "weight_decay",
            "distil",
            "warmup",
            "seed",
            "split_seed",
            "workers",
            "cache_mb",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A whole pretraining config."""

    name: str
    """Names the weights, ``architecture.tag``."""
    model: ModelSpec
    task: tuple[TaskSpec, ...]
    """Tables ``[[task]]``, in the order in which their batches are shown."""
    training: TrainingSpec = field(default_factory=TrainingSpec)
    initial: str = ""
    """Encoder card whose weights the encoder begins with; empty: random."""
    about: str = ""
    """Description in one line, copied to the card."""
    licence: str = "unknown"
    """Licence of the weights, copied to the card."""
    attribution: tuple[str, ...] = ()
    """Attribution of data and weights, copied to the card."""
    notes: tuple[str, ...] = ()
    """Notes for users of the weights, copied to the card."""
    mpp: float | None = None
    """um/px at which slides should be embedded with this encoder."""

    def __post_init__(self) -> None:
        names = [t.name for t in self.task]
        if not names or len({*names}) < len(names):
            raise ValueError(f"tasks need names of their own, got {names}")
        if self.training.distil and not (self.initial or self.training.distil_from):
            raise ValueError("distil keeps the encoder near the weights it began with; name them with initial")
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(f"name is letters, digits, '.', '-' and '_', as it names files; got {self.name!r}")
        for task in self.task:
            if task.bags and not self.model.grouper:
                raise ValueError(
                    f"labels of task {task.name} are of bags of images: [model] needs a grouper, the width of the "
                    "attention over them, such as grouper = 128"
                )
            if task.size_px[1] ** 2 > self.training.max_pixels:
                raise ValueError(
                    f"an image of task {task.name} may have {task.size_px[1]} x {task.size_px[1]} px, more than "
                    f"training.max_pixels = {self.training.max_pixels} allows for a whole batch"
                )


def read_pretrain_config(path: Path, data_root: Path | None = None) -> PretrainConfig:
    """Read a config; its data paths are relative to `data_root`, by default the folder of the file.

    Raises
    ------
    ConfigError
        If anything in it is not understood.
    """
    config = read_config(path, PretrainConfig)
    root = data_root or path.parent
    if not root.is_dir():
        raise ConfigError(f"there is no data folder at {root}")
    return replace(config, task=tuple(_under(task, root) for task in config.task))


def _under(task: TaskSpec, root: Path) -> TaskSpec:
    def moved(data: DataSpec) -> DataSpec:
        paths = ((name, getattr(data, name)) for name in ("images", "labels", "table"))
        return replace(data, **{name: root / path for name, path in paths if path is not None})

    return replace(task, data=moved(task.data), more=tuple(map(moved, task.more)))
