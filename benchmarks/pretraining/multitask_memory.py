"""Memory against the number of tasks: one backward pass for each task, and one for all.

    python -m benchmarks.pretraining.multitask_memory [--tasks N ...] [--backbone NAME]

Two arms: `train_step` as it is, and a joint graph, whose only difference is that losses are summed
before one backward pass. Tasks of all kinds take turns, all with batches of the same size, and the
first is of the kind that saves the most: one task alone needs what the largest needs, so that any
growth is due to the number of tasks. Each number of tasks and arm runs in a process of its own.

Saved activations: bytes of tensors that autograd keeps for the backward pass, each storage
counted once, weights not counted; the peak over two steps. RSS: the most memory that the
process ever had, PyTorch and the data included (Linux). Weights: shared model and heads with gradients
and AdamW's two moments; these do grow, by what a head weighs. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsi_umedpt.datasets.samples import Batch, Boxes
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import make_task
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.training.step import StepSettings, train_step

COUNTS = (1, 2, 4, 8, 16, 32)
LIMIT = 1.02
"""Most that saved activations may grow from the fewest tasks to the most."""
# The largest first; `main` checks that it is.
KINDS = (
    "multilabel_segmentation",
    "detection",
    "classification",
    "segmentation",
    "multilabel",
    "regression",
    "survival",
    "bags",
)
CLASSES, IMAGES, SIDE_PX, DIM = 4, 2, 96, 128
ARMS = ("accumulated", "joint")


@dataclass
class Saved:
    """What autograd has saved and not released."""

    without: set[int]
    """Storages that are there anyway."""
    bytes: int = 0
    peak: int = 0
    _holders: dict[int, int] = field(default_factory=dict)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor until autograd drops what this returns."""
        held = tensor.detach()  # a tensor of its own: an output that held itself would never be freed
        storage = held.untyped_storage()
        if storage.data_ptr() not in self.without:
            self._hold(storage.data_ptr(), storage.nbytes())
            weakref.finalize(held, self._release, storage.data_ptr(), storage.nbytes())
        return held

    def _hold(self, key: int, size: int) -> None:
        count = self._holders[key] = self._holders.get(key, 0) + 1
        if count == 1:
            self.bytes += size
            self.peak = max(self.peak, self.bytes)

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if self._holders[key] == 0:
            del self._holders[key]
            self.bytes -= size


@contextmanager
def counted(*networks: nn.Module) -> Iterator[Saved]:
    """Count what is saved inside; weights of `networks` are left out."""
    own = {t.untyped_storage().data_ptr() for n in networks for t in (*n.parameters(), *n.buffers())}
    saved = Saved(own)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held):
        yield saved


def joint_step(shared: UMedPT, tasks: list[Task], batches: dict[str, Batch], optimizer: torch.optim.Optimizer) -> None:
    """What `train_step` does, with one graph for all tasks."""
    optimizer.zero_grad(set_to_none=True)
    losses = [task.loss(shared, batches[task.name]) for task in tasks]
    (torch.stack(losses).sum() / len(tasks)).backward()
    for part in (shared, *tasks):
        nn.utils.clip_grad_norm_(part.parameters(), 1.0)
    optimizer.step()


def batch_of(kind: str) -> Batch:
    """Random images and labels."""
    images = torch.randint(0, 256, (IMAGES, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8)
    labels: dict[str, Any] = {
        "classification": {"labels": torch.randint(0, CLASSES, (IMAGES,))},
        "multilabel": {"labels": torch.randint(0, 2, (IMAGES, CLASSES)).float()},
        "regression": {"labels": torch.randn(IMAGES, CLASSES)},
        "survival": {"labels": torch.tensor([[1.0, 1.0], [2.0, 0.0]])},
        "bags": {"labels": torch.tensor([1]), "bags": torch.zeros(IMAGES, dtype=torch.int64)},
        "segmentation": {"masks": torch.randint(0, CLASSES, (IMAGES, SIDE_PX, SIDE_PX))},
        "multilabel_segmentation": {"masks": torch.randint(0, 2, (IMAGES, CLASSES, SIDE_PX, SIDE_PX))},
        "detection": {"boxes": (Boxes(torch.tensor([[9.0, 8, 60, 70]]), torch.tensor([1])),) * IMAGES},
    }[kind]
    return Batch(images=images, **labels)


def measure(count: int, arm: str, backbone: str, kinds: tuple[str, ...] = KINDS) -> dict[str, float]:
    """Train two steps on `count` tasks; MB of saved activations, RSS and weights."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone=backbone, dim=DIM, grouper=DIM // 4)).train()
    tasks, batches = [], {}
    for number in range(count):
        kind, name = kinds[number % len(kinds)], f"task{number}"
        classes = tuple(f"c{k}" for k in range(2 if kind == "survival" else CLASSES))
        of = "classification" if kind == "bags" else kind
        spec = HeadSpec(name=name, kind=of, classes=classes, modality="histology", bags=kind == "bags")  # type: ignore[arg-type]
        tasks.append(make_task(spec, DIM).train())
        batches[name] = batch_of(kind)
    weights = [p for part in (shared, *tasks) for p in part.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    step: Callable[[int], Any] = (
        (lambda n: train_step(shared, tasks, batches, optimizer, StepSettings(total_tasks=count, seeds=(0, n))))
        if arm == "accumulated"
        else (lambda n: joint_step(shared, tasks, batches, optimizer))
    )
    with counted(shared, *tasks) as saved:
        for n in range(2):
            step(n)
    if saved.bytes:
        raise RuntimeError(f"{saved.bytes} bytes are still held after the last backward pass")
    return {
        "saved_mb": saved.peak / 1e6,
        "rss_mb": peak_rss_mb(),
        "weights_mb": sum(p.numel() for p in weights) * 4 * 4 / 1e6,
    }


def peak_rss_mb() -> float:
    """Most memory that this process had; ru_maxrss would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def in_a_process(count: int, arm: str, backbone: str) -> dict[str, float]:
    """`measure` in a fresh process."""
    module = [sys.executable, "-m", "benchmarks.pretraining.multitask_memory"]
    done = subprocess.run(
        [*module, "--one", str(count), arm, "--backbone", backbone], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=COUNTS, help="numbers of tasks, in rising order")
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--one", nargs=2, metavar=("TASKS", "ARM"), help="measure in this process, and print JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.one:
        print(json.dumps(measure(int(asked.one[0]), asked.one[1], asked.backbone)))
        return
    alone = {kind: measure(1, "accumulated", asked.backbone, (kind,))["saved_mb"] for kind in KINDS}
    print(f"{asked.backbone}, {IMAGES} images of {SIDE_PX} px for each task; saved activations of one task, MB:")
    print(", ".join(f"{kind} {mb:.1f}" for kind, mb in alone.items()))
    if max(alone.values()) > alone[KINDS[0]]:
        raise RuntimeError(f"{KINDS[0]} must come first as the largest kind, and is not: {alone}")
    found = {arm: {count: in_a_process(count, arm, asked.backbone) for count in asked.tasks} for arm in ARMS}
    print("\n| tasks | saved, ours, MB | saved, joint, MB | RSS, ours, MB | RSS, joint, MB | weights and AdamW, MB |")
    print("|---|---|---|---|---|---|")
    for count in asked.tasks:
        ours, joint = (found[arm][count] for arm in ARMS)
        cells = (ours["saved_mb"], joint["saved_mb"], ours["rss_mb"], joint["rss_mb"], ours["weights_mb"])
        print(f"| {count} | {' | '.join(f'{mb:.1f}' for mb in cells)} |")
    first, last = asked.tasks[0], asked.tasks[-1]
    ratio = {arm: found[arm][last]["saved_mb"] / found[arm][first]["saved_mb"] for arm in ARMS}
    print(f"\nSaved activations of {last} tasks over {first}: ours {ratio['accumulated']:.4f} (at most {LIMIT})")
    print(
        json.dumps(
            {
                f"peak_ratio_{last}_to_{first}": ratio["accumulated"],
                f"joint_ratio_{last}_to_{first}": ratio["joint"],
                "backbone": asked.backbone,
                "mb": found,
            }
        )
    )
    sys.exit(ratio["accumulated"] > LIMIT)


if __name__ == "__main__":
    main()
