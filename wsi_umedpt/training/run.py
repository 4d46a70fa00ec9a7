"""`pretrain`: the loop around `train_step`; checkpoints, resume, validation, weights at the end.

Everything random is a function of the seed and the step (`TaskData.batch`, `train_step`), so a
checkpoint (see `state`) is weights, optimiser and step number, and a run that was stopped and
resumed equals one that was not, bit for bit on CPU.
"""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from wsi_umedpt.datasets.samples import Batch
from wsi_umedpt.datasets.tables import refuse
from wsi_umedpt.datasets.task_data import TaskData
from wsi_umedpt.datasets.validation import check
from wsi_umedpt.errors import ConfigError, DataError
from wsi_umedpt.messages import counted
from wsi_umedpt.models.backbones import STRIDES, Backbone
from wsi_umedpt.models.encoder import pick_device
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.tasks import make_task
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.training.distillation import Distiller
from wsi_umedpt.training.evaluate import Figures, evaluate, main_scores, mean_score
from wsi_umedpt.training.parallel import gathered, join, mine
from wsi_umedpt.training.release import release
from wsi_umedpt.training.schedule import lr_factor
from wsi_umedpt.training.settings import PretrainConfig
from wsi_umedpt.training.start import initial_heads, initial_model, kept_near
from wsi_umedpt.training.state import TrainingRun, restore, save
from wsi_umedpt.training.step import StepSettings, train_step

_log = logging.getLogger(__name__)

_STANDARD = 2
"""Batches of each task that the embedding is standardised by."""


class TrainingWatcher:
    """Watcher of a training run; this one is silent."""

    def checking(self, done: int, total: int) -> None:
        """Records read at the door."""

    def stepped(self, step: int, losses: dict[str, float], lr: float) -> None:
        """A step is done."""

    def validated(self, step: int, figures: dict[str, Figures]) -> None:
        """Every task was measured on the validation split."""


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    device: str = "auto",
    until: int | None = None,
    watcher: TrainingWatcher | None = None,
) -> Path:
    """Train a shared model and its heads, or go on where an earlier call stopped.

    Parameters
    ----------
    config
        Tasks, their data, and settings of training.
    out
        Folder for log, checkpoint and weights; an unfinished run in it is continued.
    device
        'auto', 'cpu', 'cuda', ...
    until
        Stop after this step, with a checkpoint; None trains to the end.
    watcher
        Told of progress; of several processes, the first one's.

    Returns
    -------
    Path
        The weights' JSON file, or the checkpoint's if `until` came first.

    Raises
    ------
    DataError
        If labelled images cannot be used; they are listed.
    ConfigError
        If there are more processes than tasks.
    CheckpointError
        If `out` holds the run of another config, or a damaged one.
    TrainingError
        If a loss is not finite.
    """
    rank, processes, device = join(pick_device(device))
    if processes > len(config.task):
        raise ConfigError(
            f"{counted(processes, 'process shares', 'processes share')} {counted(len(config.task), 'task')}; start no "
            "more than one for each task"
        )
    watcher = watcher if watcher is not None and rank == 0 else TrainingWatcher()
    data = find_data(config)
    check(data, cache_bytes=config.training.cache_mb << 20, progress=watcher.checking)
    run = _begin(config, mine(data, rank, processes), device, rank)
    saved = out / "checkpoint" / "rank0.json"
    restore(run, saved, config)
    last = config.training.steps if until is None else min(config.training.steps, until)
    log = out / "log.jsonl"
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        _forget_after(log, run.step)
    _train(config, run, data, last, saved, log if rank == 0 else None, watcher)
    save(run, saved, config)
    if run.step < config.training.steps:
        return saved
    heads = {t.name: (t.spec, {k: v.cpu() for k, v in t.state_dict().items()}) for t in run.tasks}
    everyone = {name: head for part in gathered(heads) for name, head in part.items()}
    ordered = {d.spec.name: everyone[d.spec.name] for d in data}
    seconds, images = run.cost()
    path = release(config, out, run.shared, ordered, run.history, seconds, images) if rank == 0 else None
    written: Path = gathered(path)[0]
    return written


def find_data(config: PretrainConfig) -> list[TaskData]:
    """Records of all tasks, split; nothing is read yet."""
    t = config.training
    found, problems = [], []
    for spec in config.task:
        try:
            found.append(
                TaskData.find(
                    spec, val=t.val, test=t.test, split_seed=t.split_seed, seed=t.seed, max_pixels=t.max_pixels
                )
            )
        except DataError as error:
            problems.append(f"{spec.name}: {error}")
    refuse(problems, "tasks whose data cannot be used")
    return found


def head_spec(data: TaskData) -> HeadSpec:
    """Specification of a task's head."""
    spec = data.spec
    centre, spread = data.label_moments() if spec.kind == "regression" else ((), ())
    return HeadSpec(
        name=spec.name, kind=spec.kind, classes=spec.classes, modality=spec.modality,
        centre=centre, spread=spread, mpp=spec.mpp, bags=spec.bags, about=spec.about,
    )  # fmt: skip


def _begin(config: PretrainConfig, data: list[TaskData], device: str, rank: int) -> TrainingRun:
    shared = initial_model(config).to(device).train()
    shared = shared.to(memory_format=torch.channels_last)
    begun = initial_heads(config)
    if config.model.vector == "maps" and not begun:
        standardise(shared, data)
    freeze(shared.encoder, config.training.frozen_stride)
    shared.float32_encoder = config.training.precision == "bf16_decoders"
    tasks = []
    for one in data:
        torch.manual_seed(config.training.seed)  # a head begins alike whatever other tasks there are
        task = make_task(head_spec(one), shared.vector_dim)
        if one.spec.name in begun:
            task.load_state_dict(begun[one.spec.name].state_dict())
        tasks.append(task.to(device).train())
    t = config.training
    encoder = [p for p in shared.encoder.parameters() if p.requires_grad]
    others = [part for part in shared.children() if part is not shared.encoder]
    rest = [p for part in (*others, *tasks) for p in part.parameters()]
    groups = [{"params": encoder, "factor": t.encoder_lr_factor}, {"params": rest, "factor": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=t.lr, weight_decay=t.weight_decay)
    distiller = Distiller(kept_near(config, shared).to(device), t.distil) if t.distil else None
    return TrainingRun(shared, tasks, optimizer, rank, distiller)


@torch.no_grad()
def standardise(shared: UMedPT, data: list[TaskData]) -> None:
    """Fix what the embedding is standardised by: its mean and deviation over the first training batches."""
    device = shared.centre.device
    vectors = [
        shared(shared.normalised(one.batch(number).images.to(device))) for one in data for number in range(_STANDARD)
    ]
    every = torch.cat([v.cpu() for part in gathered(vectors) for v in part])
    shared.centre.copy_(every.mean(0))
    shared.spread.copy_(every.std(0).clamp(min=1e-3))


def freeze(encoder: Backbone, stride: int) -> None:
    """Keep the layers that the map of `stride` is made by as they are."""
    if not stride:
        return
    made = encoder(torch.zeros(1, 3, 64, 64, device=next(encoder.parameters()).device))[STRIDES.index(stride)]
    wanted = [p for p in encoder.parameters() if p.requires_grad]
    for parameter, gradient in zip(wanted, torch.autograd.grad(made.sum(), wanted, allow_unused=True), strict=True):
        parameter.requires_grad_(gradient is None)


class _Stream(Dataset[Batch]):
    """Batches of all tasks as one sequence: batch k is task k mod T, number k div T."""

    def __init__(self, data: list[TaskData]) -> None:
        self._data = data

    def __getitem__(self, k: int) -> Batch:
        number, task = divmod(k, len(self._data))
        return self._data[task].batch(number)


def _batches(data: list[TaskData], first: int, last: int, workers: int) -> Iterator[dict[str, Batch]]:
    """One batch of each task for each step; one pool of processes loads for all tasks."""
    count = len(data)
    loader = DataLoader(
        _Stream(data), batch_size=None, sampler=range(first * count, last * count), num_workers=workers,
        prefetch_factor=count if workers else None,
    )  # fmt: skip
    stream = iter(loader)
    for _ in range(first, last):
        yield {one.spec.name: next(stream) for one in data}


def _train(
    config: PretrainConfig,
    run: TrainingRun,
    data: list[TaskData],
    last: int,
    saved: Path,
    log: Path | None,
    watcher: TrainingWatcher,
) -> None:
    device = str(next(run.shared.parameters()).device)
    t, names = config.training, {task.name for task in run.tasks}
    own = [d for d in data if d.spec.name in names]
    began, before = time.process_time(), run.seconds
    for batches in _batches(own, run.step, last, t.workers):
        factor = lr_factor(run.step, warmup=t.warmup, steps=t.steps)
        for group in run.optimizer.param_groups:
            group["lr"] = t.lr * group["factor"] * factor
        how = StepSettings(
            total_tasks=len(data), seeds=(t.seed, run.step), clip_norm=t.clip_norm, autocast=t.precision != "fp32",
            distiller=run.distiller, weights={one.spec.name: one.spec.weight for one in data},
        )  # fmt: skip
        own_batches = {k: b.to(device) for k, b in batches.items()}
        losses = train_step(run.shared, run.tasks, own_batches, run.optimizer, how)
        run.step += 1
        run.images += sum(len(b.images) for b in batches.values())
        run.seconds = before + time.process_time() - began
        losses = {k: v for part in gathered(losses) for k, v in part.items()}
        watcher.stepped(run.step, losses, t.lr * factor)
        if log is not None:
            _write_line(log, {"step": run.step, "lr": t.lr * factor, "loss": losses})
        if run.step % t.validate_every == 0 or run.step == t.steps:
            figures = validate(run.shared, run.tasks, own, "val", device, autocast=t.precision != "fp32")
            every = {k: v for part in gathered(figures) for k, v in part.items()}
            scores = [score for part in gathered(main_scores(figures, run.tasks)) for score in part]
            run.history.append({"step": run.step, "seconds": run.seconds, "val": every})
            watcher.validated(run.step, every)
            _log.info("step %d: validation score %.4f over %d tasks", run.step, mean_score(scores), len(every))
            if log is not None:
                _write_line(log, {"step": run.step, "score": mean_score(scores), "val": every})
        if run.step % t.checkpoint_every == 0:
            save(run, saved, config)


def validate(
    shared: UMedPT, tasks: list[Task], data: list[TaskData], split: str, device: str, *, autocast: bool
) -> dict[str, Figures]:
    """Figures of every task on a split."""
    sources = {d.spec.name: d for d in data}
    return {t.name: evaluate(shared, t, sources[t.name].evaluated(split), device, autocast=autocast) for t in tasks}


def _forget_after(log: Path, step: int) -> None:
    """Drop what a run that was killed logged after its last checkpoint: those steps are done again."""
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # the kill cut this line short
            break
    log.write_text("".join(kept), encoding="utf-8")


def _write_line(path: Path, content: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
