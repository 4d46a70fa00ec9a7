"""Functions that `module:` names in tests."""

import torch
from torch import nn


def means():
    """A network whose vector is the mean of each channel."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def maps():
    """A network that gives no vector."""
    return nn.Identity()


def fails():
    """A function that does not get there."""
    raise RuntimeError("no weights here")


def tensor():
    """No network at all."""
    return torch.zeros(3)
