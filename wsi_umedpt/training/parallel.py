"""Several processes, one GPU each: tasks are split over them, gradients of the shared model summed.

Started by ``torchrun``; in one process everything here does nothing. Heads live in the process
that has their task.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


def join(device: str) -> tuple[int, int, str]:
    """Join the group that ``torchrun`` announces: (rank, number of processes, this one's device)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, device
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)  # what `gathered` goes through, too
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return distributed.get_rank(), distributed.get_world_size(), device


def mine(items: Sequence[T], rank: int, count: int) -> list[T]:
    """Take this process's share of `items`: every count-th."""
    return [*items[rank::count]]


def sum_gradients(shared: nn.Module) -> None:
    """Add up the gradients of all processes; one that no process has stays None."""
    if not distributed.is_initialized():
        return
    parameters = [p for p in shared.parameters() if p.requires_grad]
    device = parameters[0].device
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=device)
    distributed.all_reduce(there)
    used = [p for p, n in zip(parameters, there.tolist(), strict=True) if n > 0]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
    distributed.all_reduce(flat)
    for p, part in zip(used, torch.split(flat, [p.numel() for p in used]), strict=True):
        p.grad = part.view_as(p).clone()


def gathered(value: Any) -> list[Any]:
    """`value` of every process, in order of rank, on every process."""
    if not distributed.is_initialized():
        return [value]
    out: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(out, value)
    return out
