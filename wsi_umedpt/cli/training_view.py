"""Progress of a training run: a bar, losses, and a table at each validation."""

from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from wsi_umedpt.datasets.task_data import TaskData
from wsi_umedpt.training.evaluate import Figures
from wsi_umedpt.training.run import TrainingWatcher
from wsi_umedpt.training.settings import PretrainConfig

_SMOOTH = 0.95


class TrainingView(TrainingWatcher):
    """Shows a run on a console; as plain lines where that is no terminal."""

    def __init__(self, config: PretrainConfig, console: Console, tensorboard: Path | None) -> None:
        self._config, self._console = config, console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[loss]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._bars: dict[str, Any] = {}
        self._smooth: dict[str, float] = {}
        self._board: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise SystemExit("tensorboard is missing: pip install 'wsi-umedpt[train]'") from None
            self._board = SummaryWriter(str(tensorboard))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    def checking(self, done: int, total: int) -> None:
        """See `TrainingWatcher.checking`."""
        self._advance("checking", done, total, "")

    def stepped(self, step: int, losses: dict[str, float], lr: float) -> None:
        """See `TrainingWatcher.stepped`."""
        for name, loss in losses.items():
            self._smooth[name] = _SMOOTH * self._smooth.get(name, loss) + (1 - _SMOOTH) * loss
        mean = sum(self._smooth.values()) / len(self._smooth)
        self._advance("training", step, self._config.training.steps, f"loss {mean:.3f}")
        if not self._console.is_terminal and step % 20 == 0:
            shown = " ".join(f"{k} {v:.2f}" for k, v in self._smooth.items())
            self._console.print(f"step {step} lr {lr:.2e} loss {mean:.3f}: {shown}", soft_wrap=True)
        if self._board is not None:
            self._board.add_scalar("lr", lr, step)
            for name, loss in losses.items():
                self._board.add_scalar(f"loss/{name}", loss, step)

    def validated(self, step: int, figures: dict[str, Figures]) -> None:
        """See `TrainingWatcher.validated`."""
        table = _table("task", "loss", "validation", title=f"step {step}")
        for name, found in figures.items():
            table.add_row(
                name, f"{found['loss']:.3f}", ", ".join(f"{k} {v:.3f}" for k, v in found.items() if k != "loss")
            )
            if self._board is not None:
                for key, value in found.items():
                    self._board.add_scalar(f"val/{name}/{key}", value, step)
        self._console.print(table)

    def describe(self, data: list[TaskData]) -> None:
        """Print how many records and groups each task has in each split."""
        table = _table("task", "kind", "modality", *(f"{s}: images (groups)" for s in ("train", "val", "test")))
        for one in data:
            counts = [f"{len(r)} ({len({x.group for x in r})})" for r in one.splits.values()]
            table.add_row(one.spec.name, one.spec.kind, one.spec.modality, *counts)
        self._console.print(table)

    def _advance(self, what: str, done: int, total: int, loss: str) -> None:
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=total, loss="")
        self._progress.update(self._bars[what], completed=done, loss=loss)


def _table(*columns: str, title: str | None = None) -> Table:
    # Names that do not fit go on in the next line: cut off, they could not be told apart.
    return Table(*(Column(name, overflow="fold") for name in columns), title=title)
