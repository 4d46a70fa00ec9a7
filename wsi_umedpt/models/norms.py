"""Norm layers that do not couple images: what makes gradient accumulation over tasks exact.

A batch holds one task, that is one domain. BatchNorm would couple its images, and its running
statistics would be a mixture of domains that fits none of them. With norms per image, the
gradient summed over the batches of T tasks is exactly that of the sum of T losses.
"""

from typing import Literal, get_args

from torch import nn

NormKind = Literal["layernorm", "affinelayernorm", "frozenbatchnorm", "keepnorm"]
"""layernorm: per image, no weights. affinelayernorm: per image, with weights. frozenbatchnorm:
BatchNorm with the statistics and weights that it came with. keepnorm: as the network has it."""

NORMS: tuple[str, ...] = get_args(NormKind)


def rewrite_norms(network: nn.Module, kind: NormKind) -> None:
    """Replace the norms inside `network` by those of `kind`.

    BatchNorm becomes GroupNorm of one group, over channels and positions of one image;
    without affine weights for 'layernorm', where LayerNorm and GroupNorm of one group lose
    theirs too. GroupNorm of several groups is per image already and stays.
    """
    if kind == "frozenbatchnorm":
        for norm in batch_norms(network):
            norm.requires_grad_(False)
        return
    if kind == "keepnorm":
        return
    affine = kind == "affinelayernorm"
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, _per_image(child, affine=affine))
            elif not affine and (isinstance(child, nn.LayerNorm) or getattr(child, "num_groups", 0) == 1):
                child.register_parameter("weight", None)
                child.register_parameter("bias", None)


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """All BatchNorm layers inside `network`."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def one_group(channels: int, kind: NormKind) -> nn.GroupNorm:
    """The norm of our own blocks: one group, per image; its weights only where `kind` has any."""
    return nn.GroupNorm(1, channels, affine=kind != "layernorm")


def _per_image(norm: nn.modules.batchnorm._BatchNorm, *, affine: bool) -> nn.Module:
    made = nn.GroupNorm(1, norm.num_features, eps=norm.eps, affine=affine)
    # timm's BatchNorm may carry its activation.
    tail = [t for part in ("drop", "act") if isinstance(t := getattr(norm, part, None), nn.Module)]
    return nn.Sequential(made, *tail) if tail else made
