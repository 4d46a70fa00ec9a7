"""Stand-ins for published models: torchvision's networks and plain layers under the authors' names, saved whole.

Their classes lie in a package that is there while they are saved and gone when they are read, as it is for
whoever does not have the authors' library.
"""

import contextlib
import enum
import io
import sys
import types
import zipfile

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from wsi_umedpt.models.backbones import SWINS

PACKAGE = "theirlibrary.blocks"


class Pool(enum.Enum):
    """A setting that is no number and no text."""

    AVERAGE = "avg"
    MAX = "max"


class Settings:
    """What a block was made with."""

    def __init__(self, **values):
        self.__dict__.update(values)


class Encoder(nn.Module):
    """Maps of an image."""

    def __init__(self, net):
        super().__init__()
        self.args = Settings(name="swin", augment=None)
        self.net = net


class Squeezer(nn.Module):
    """Convolution, norm, GELU."""

    def __init__(self, channels, dim, norm=None, pool=Pool.AVERAGE, act=None):
        super().__init__()
        self.args = Settings(out_channels=dim, pooling=pool)
        norm = nn.GroupNorm(1, max(dim, 1)) if norm is None else norm
        self.layers = nn.Sequential(nn.Conv2d(channels, dim, 1), norm, act or nn.GELU()) if dim > 0 else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)


class AttentionPooling(nn.Module):
    """A pooling with weights."""

    def __init__(self, dim):
        super().__init__()
        self.query = nn.Linear(dim, 1)


class UnetBlock(nn.Module):
    """Two convolutions, named as segmentation-models-pytorch names them."""

    def __init__(self, before, after, affine):
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Sequential(
                nn.Conv2d(n, after, 3, padding=1, bias=False), nn.GroupNorm(1, after, affine=affine), nn.ReLU()
            )
            for n in (before, after)
        )


class Unet(nn.Module):
    """Blocks, and a last convolution."""

    def __init__(self, channels, dim, affine=True, widths=(96, 64, 32, 16)):
        super().__init__()
        before = (dim, *widths[:-1])
        skips = (channels[2], channels[1], channels[0], 0)
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList(
            UnetBlock(b + s, w, affine) for b, s, w in zip(before, skips, widths, strict=True)
        )
        self.last = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.GroupNorm(1, widths[-1], affine=affine), nn.GELU()
        )

    def forward(self, maps):  # noqa: D102
        x = maps[3]
        for block, skip in zip(self.decoder.blocks, (maps[2], maps[1], maps[0], None), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block.conv2(block.conv1(x if skip is None else torch.cat([x, skip], 1)))
        return self.last(x)


class ConvNorm(nn.Module):
    """Named as mmdetection names them."""

    def __init__(self, before, after, size, stride=1, norm=False):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride=stride, padding=size // 2)
        if norm:
            self.gn = nn.GroupNorm(32, after)


class Fpn(nn.Module):
    """A feature pyramid and two towers."""

    def __init__(self, channels, dim):
        super().__init__()
        self.fpn = nn.Module()
        self.fpn.lateral_convs = nn.ModuleList(ConvNorm(c, 128, 1) for c in (channels[1], channels[2], dim))
        self.fpn.fpn_convs = nn.ModuleList(ConvNorm(128, 128, 3, stride=1 if n < 3 else 2) for n in range(5))
        self.cls_convs = nn.ModuleList(ConvNorm(128, 128, 3, norm=True) for _ in range(4))
        self.reg_convs = nn.ModuleList(ConvNorm(128, 128, 3, norm=True) for _ in range(4))

    def forward(self, maps):  # noqa: D102
        levels = [conv.conv(m) for conv, m in zip(self.fpn.lateral_convs, maps[1:], strict=True)]
        for n in (1, 0):
            levels[n] = levels[n] + F.interpolate(levels[n + 1], size=levels[n].shape[2:], mode="nearest")
        out = [conv.conv(m) for conv, m in zip(self.fpn.fpn_convs[:3], levels, strict=True)]
        out.append(self.fpn.fpn_convs[3].conv(out[-1]))
        out.append(self.fpn.fpn_convs[4].conv(F.relu(out[-1])))
        towers = []
        for tower in (self.cls_convs, self.reg_convs):
            through = []
            for x in out:
                for part in tower:
                    x = F.gelu(part.gn(part.conv(x)))
                through.append(x)
            towers.append(through)
        return towers


class Grouper(nn.Module):
    """Attention over a bag's images; as many heads as asked for, and a layer that brings them back together."""

    def __init__(self, dim, width, heads=1, gated=True, back=True):
        super().__init__()
        self.V = nn.Sequential(nn.Linear(dim, width), nn.Tanh())
        if gated:
            self.U = nn.Sequential(nn.Linear(dim, width), nn.Sigmoid())
        self.weights = nn.Linear(width, heads)
        if back:
            self.back = nn.Linear(dim * heads, dim)

    def forward(self, x):  # noqa: D102
        return torch.softmax(self.weights(self.V(x) * self.U(x)), 0)[:, 0]


class WeightedGrouper(nn.Module):
    """Each image weighed by itself."""

    def __init__(self, dim):
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(dim, 1), nn.Sigmoid())


class Classifier(nn.Module):
    """A part that is none of ours."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, 10)


_CLASSES = (
    Pool,
    Settings,
    Encoder,
    Squeezer,
    AttentionPooling,
    UnetBlock,
    Unet,
    ConvNorm,
    Fpn,
    Grouper,
    WeightedGrouper,
    Classifier,
)


@contextlib.contextmanager
def installed():
    """Their package is there, and the classes above are its."""
    parent, module = types.ModuleType(PACKAGE.partition(".")[0]), types.ModuleType(PACKAGE)
    homes = {}
    for one in _CLASSES:
        homes[one], one.__module__ = one.__module__, PACKAGE
        setattr(module, one.__name__, one)
    sys.modules |= {parent.__name__: parent, PACKAGE: module}
    try:
        yield
    finally:
        del sys.modules[PACKAGE], sys.modules[parent.__name__]
        for one, home in homes.items():
            one.__module__ = home


def saved(module) -> bytes:
    """A whole module, as torch saves it."""
    content = io.BytesIO()
    with installed():
        torch.save(module, content)
    return content.getvalue()


def publish(path, **blocks):
    """A zip of whole modules, one a block."""
    with zipfile.ZipFile(path, "w") as file:
        for name, block in blocks.items():
            file.writestr(f"{name}.pt", block if isinstance(block, bytes) else saved(block))
    return path


def swin(name="swinv2_micro", *, head=False, window=None):
    """Torchvision's network with random weights that are not small."""
    size = SWINS[name]
    torch.manual_seed(0)
    net = SwinTransformer(
        patch_size=[4, 4], embed_dim=size.embed_dim, depths=[*size.depths], num_heads=[*size.heads],
        window_size=[window or size.window] * 2, stochastic_depth_prob=size.drop_path, num_classes=10,
        block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    if not head:
        del net.head
    return net.eval()


def maps_of(net, images):
    """The maps of torchvision's network, strides 4 to 32."""
    maps, x = [], images
    for n, stage in enumerate(net.features):
        x = stage(x)
        if n % 2:
            maps.append(x.permute(0, 3, 1, 2))
    return maps
