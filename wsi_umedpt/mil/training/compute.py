"""Resources of training: device, networks at a time, and a watcher."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Resources of training; results do not depend on them but for the arithmetic of the device."""

    device: str = "cpu"
    """Device that networks are trained on: cpu, cuda or mps."""
    jobs: int = 1
    """Networks or folds trained at a time, a process each."""
    network_done: Callable[[str], None] | None = None
    """Called after each network with a description of it; not where whole folds run in processes of their own."""
    fold_done: Callable[[int, int], None] | None = None
    """Called after each fold with the number of folds done and of all folds."""

    def of_one_fold(self) -> Self:
        """Return what one of several folds is trained with: one network at a time."""
        told = self.network_done if self.jobs == 1 else None  # another process cannot call it
        return replace(self, jobs=1, network_done=told, fold_done=None)


ON_CPU = Compute()
"""One network at a time, on the CPU."""
