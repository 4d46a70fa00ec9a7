"""Checks of weights before they are used: names, shapes and number types of their network, and finite values.

`outline` says what a network has without making it, `misfit` compares that with what a file says it
holds, `flaw` looks at the numbers themselves, and `unstorable` at how a foreign file holds them. A file
is never cast, cut or filled up to fit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from wsi_umedpt.messages import counted, some

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that weights may be saved as; narrower ones need scales that no file of ours holds."""
_SHOWN = 3


class Described(Protocol):
    """A tensor, or what a file's header says of one."""

    @property
    def dtype(self) -> torch.dtype:
        """Kind of its numbers."""

    @property
    def shape(self) -> Sequence[int]:
        """Its sides."""


Outline = Mapping[str, Described]


def outline(make: Callable[[], nn.Module]) -> dict[str, torch.Tensor]:
    """Names, kinds and shapes of a network's weights; the network is made without memory for them.

    Parameters
    ----------
    make
        Makes the network, with random weights.
    """
    with torch.device("meta"):
        return make().state_dict()


def misfit(expected: Outline, found: Outline) -> str:
    """Reason why weights are not those of a network, in words; empty if they are.

    Parameters
    ----------
    expected
        Outline of the network; see `outline`.
    found
        Tensors, or what their file says of them. Numbers with a fraction may be of any kind of
        `FLOATS`; whole numbers are of the very kind that the network has.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    both = [name for name in expected if name in found]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in both
        if tuple(found[name].shape) != tuple(expected[name].shape)
    ]
    kinds = [
        f"{name} {_word(found[name])} instead of {_word(expected[name])}"
        for name in both
        if not _alike(expected[name].dtype, found[name].dtype)
    ]
    parts = ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"), (kinds, "of another kind"))
    return "; ".join(f"{len(names)} {what}: {some(names, _SHOWN)}" for names, what in parts if names)


def flaw(state: Mapping[str, torch.Tensor]) -> str:
    """Reason why weights are unusable, in words; empty if they are usable.

    Looked for are numbers that are NaN or infinite (in float32, which networks are run in) and variances
    below 0.
    """
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if bad:
        return (
            f"{counted(len(bad), 'weight holds', 'weights hold')} numbers that are NaN or infinite: {some(bad, _SHOWN)}"
        )
    bad = [name for name, value in state.items() if name.endswith("running_var") and bool((value < 0).any())]
    return f"{counted(len(bad), 'variance is', 'variances are')} below 0: {some(bad, _SHOWN)}" if bad else ""


def unstorable(state: Mapping[str, torch.Tensor]) -> str:
    """Tensors of a foreign file that are not plain arrays that hold all the numbers they claim; empty if none."""
    strange = [
        name
        for name, value in state.items()
        if value.layout != torch.strided
        or value.is_quantized
        or value.device.type != "cpu"
        # Strides of 0 make one number look like many.
        or value.untyped_storage().nbytes() < value.numel() * value.element_size()
    ]
    if not strange:
        return ""
    are = counted(len(strange), "tensor is not a plain array", "tensors are not plain arrays")
    return f"{are} of numbers: {some(strange, _SHOWN)}"


def _alike(expected: torch.dtype, found: torch.dtype) -> bool:
    return found in FLOATS if expected.is_floating_point else found == expected


def _word(described: Described) -> str:
    return str(described.dtype).removeprefix("torch.")
