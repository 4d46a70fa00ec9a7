"""The learning rate as a pure function of the step."""

import math

FLOOR = 0.01
"""End of the cosine, over its height."""


def lr_factor(step: int, *, warmup: int, steps: int) -> float:
    """Learning rate at `step` over its highest: a linear rise, then half a cosine down to `FLOOR`.

    After Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2
