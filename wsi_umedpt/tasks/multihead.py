"""One pass: tiles in; embeddings, maps, chances of every second pixel, and boxes out, from one pyramid.

Decoders run with norms fixed for a slide (`models.fixednorm`), so that what is found at a place does
not depend on the window that it was seen in; embeddings are those of the encoder as it is.
`find_heads` says what a release can show over a slide; `OnePass` runs it, on CPU or CUDA, as
`models.engines` runs an encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.backbones import STRIDES
from wsi_umedpt.models.bundle import Release
from wsi_umedpt.models.engines import CPU_BATCH, DTYPES, PartDone, Pixels
from wsi_umedpt.models.fixed_norm import Decoder, collect_statistics
from wsi_umedpt.models.folding import folded
from wsi_umedpt.models.head_spec import BORDER as BORDER
from wsi_umedpt.models.head_spec import BOXES
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.store.objects import TileBoxes
from wsi_umedpt.tasks import load_heads
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.tasks.detection import BoxOutputs, Detection
from wsi_umedpt.tasks.segmentation import Segmentation

MAP_STRIDES = (8, 16, 32)
"""Strides of the encoder's maps that objects' vectors are means of."""
CALIBRATION_PX = 128
"""Side of the tiles that norms are fixed by: as large as training images were."""


@dataclass(frozen=True, eq=False)
class ObjectHeads:
    """Heads that find one kind of object: of pixels, of boxes, or both."""

    name: str
    classes: tuple[str, ...]
    """Classes of the objects; background and border left out."""
    border: bool
    """True if the pixels' last class is the border between objects."""
    pixels: Segmentation | None
    boxes: Detection | None
    mpp: float | None
    """um/px of the images that the heads were trained on, where those state it."""

    @property
    def vouched(self) -> bool:
        """True if an object of these heads needs a box, or a likely inner part: they find both boxes and borders."""
        return self.border and self.boxes is not None


class Outputs(NamedTuple):
    """Output of one pass for a batch of tiles."""

    vectors: npt.NDArray[np.float32]
    """(tile, dim) embeddings."""
    chances: dict[str, npt.NDArray[np.uint8]]
    """Probabilities by name of `ObjectHeads`: (tile, class, size / 2, size / 2), 255 is 1, no background."""
    boxes: dict[str, list[TileBoxes]]
    """Boxes of each tile, by name of `ObjectHeads` with boxes."""
    maps: tuple[npt.NDArray[np.float16], ...] = ()
    """The encoder's own maps, (tile, size / stride, size / stride, channel), for each stride of `OnePass.maps`."""


_Raw = tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, BoxOutputs], list[torch.Tensor], dict[str, torch.Tensor]]
"""Vectors, chances, boxes and maps on the device, and whether what is named is finite."""


def find_heads(release: Release, names: Sequence[str]) -> list[ObjectHeads]:
    """The heads asked for; ``NAME`` brings the head of boxes ``NAME_boxes`` with it, where there is one.

    Raises
    ------
    EncoderError
        If a head is not there, or is of a kind that shows nothing over a slide.
    """
    heads = load_heads(release)
    return [_object_heads(name, heads) for name in dict.fromkeys(names)]


def _object_heads(name: str, heads: dict[str, Task]) -> ObjectHeads:
    head, boxes = heads.get(name), heads.get(name + BOXES)
    if isinstance(head, Detection):
        return ObjectHeads(name, head.spec.classes, False, None, head, head.spec.mpp)
    if not isinstance(head, Segmentation) or head.spec.kind != "segmentation":
        fit = sorted(n for n, h in heads.items() if isinstance(h, Segmentation | Detection))
        found = f"is of the kind {head.spec.kind}" if head else "is not there"
        raise EncoderError(f"head {name!r} {found}. Heads that show objects: {', '.join(fit) or 'none'}")
    border = head.spec.classes[-1] == BORDER
    classes = head.spec.classes[1 : -1 if border else None]
    if not classes:
        raise EncoderError(f"head {name!r} has the classes {', '.join(head.spec.classes)}: none of objects")
    return ObjectHeads(
        name, classes, border, head, boxes if isinstance(boxes, Detection) else None, head.spec.mpp
    )  # fmt: skip


class OnePass:
    """A shared model and some of its heads on one device.

    Parameters
    ----------
    release
        The trained model.
    heads
        Heads of `find_heads`.
    size_px
        Side of the tiles, a multiple of 32.
    device, precision
        As for `load_encoder`.
    maps
        Strides of the encoder's maps that are given out.
    """

    def __init__(
        self, release: Release, heads: Sequence[ObjectHeads], *, size_px: int, device: str = "cpu",
        precision: str = "fp32", maps: Sequence[int] = (),
    ) -> None:  # fmt: skip
        if size_px % 32:
            raise EncoderError(f"tiles for heads have a side that is a multiple of 32 px, got {size_px}")
        self.heads = tuple(heads)
        self._device, self._dtype = torch.device(device), DTYPES[precision]
        shared = folded(release.shared, size_px).to(self._device).to(memory_format=torch.channels_last)
        assert isinstance(shared, UMedPT)  # noqa: S101 - folding keeps the class
        self._shared = shared
        self.maps = {stride: shared.encoder.channels[STRIDES.index(stride)] for stride in maps}
        """Channels of the encoder's maps that are given out, by their stride."""
        self._decoders: dict[str, Decoder] = {}
        for head in self._parts().values():
            for task in head:
                task.to(self._device)

    def calibrate(self, tiles: Pixels) -> None:
        """Fix the decoders' norms at the mean statistics of these tiles, of the slide that comes next.

        Parameters
        ----------
        tiles : uint8 (tile, h, w, 3)
            Tiles of about the size of training images, `CALIBRATION_PX`; at least one.
        """
        with torch.inference_mode(), self._autocast(), collect_statistics(self._shared) as collector:
            for part in torch.split(torch.from_numpy(tiles), CPU_BATCH):
                features = self._shared.features(self._shared.normalised(part.to(self._device).permute(0, 3, 1, 2)))
                for name in self._parts():
                    self._shared.get_submodule(name)(features.pyramid)
                collector.ended(len(part))
        statistics = collector.statistics()
        self._decoders = {
            name: Decoder(self._shared, name, statistics).to(self._device).eval() for name in self._parts()
        }

    def embed_pixels(self, pixels: Pixels) -> torch.Tensor:
        """Compute what heads of pixels read: float32 (tile, channel, size / 2, size / 2) of uint8 tiles, on the CPU.

        Call `calibrate` first.
        """
        parts = []
        with torch.inference_mode(), self._autocast():
            for part in torch.split(torch.from_numpy(pixels), CPU_BATCH):
                tiles = part.to(self._device).permute(0, 3, 1, 2)
                raw = self._shared.pyramid(self._shared.normalised(tiles))
                parts.append(self._decoders["pixels"](raw).float().cpu())
        return torch.cat(parts).clone()  # a plain tensor, which a fit may read

    def submit(self, pixels: Pixels, part_done: PartDone = lambda _: None) -> Callable[[], Outputs]:
        """Start a batch, uint8 (tile, size, size, 3); call what is returned to wait for its outputs.

        `part_done`: see `wsi_umedpt.models.engines.Engine.submit`.
        """
        if not self._decoders:
            raise RuntimeError("calibrate comes before submit")
        with torch.inference_mode(), self._autocast():
            tiles = torch.from_numpy(pixels)
            if self._device.type == "cuda":
                tiles = tiles.pin_memory()
            # The CPU allocator gives back what is over 32 MB: small parts are faster (see `TorchEngine`).
            parts = torch.split(tiles, CPU_BATCH) if self._device.type == "cpu" else (tiles,)
            results = []
            for part in parts:
                results.append(self._run(part.to(self._device, non_blocking=True)))
                if self._device.type == "cpu":
                    part_done(len(part))
        return lambda: _joined([self._read(*result) for result in results])

    def _run(self, tiles: torch.Tensor) -> _Raw:
        shared, size = self._shared, (tiles.shape[1], tiles.shape[2])
        raw = shared.pyramid(shared.normalised(tiles.permute(0, 3, 1, 2)))
        vectors = shared.vectors(raw)
        maps = {name: decoder(raw) for name, decoder in self._decoders.items()}
        chances, boxes, finite = {}, {}, {}
        for h in self.heads:
            if h.pixels:
                shares = h.pixels.head(maps["pixels"]).float().softmax(1)[:, 1:]
                chances[h.name] = (shares * 255).round().to(torch.uint8)
                finite[f"head {h.name}"] = shares.isfinite().all()
            if h.boxes:
                boxes[h.name] = read = h.boxes.read(maps["boxes"], size)
                whole = read.logits.isfinite().all() & read.sides.isfinite().all() & read.centres.isfinite().all()
                finite[f"head {h.name}"] = finite.get(f"head {h.name}", whole) & whole
        given = [raw[STRIDES.index(stride)].permute(0, 2, 3, 1).to(torch.float16) for stride in self.maps]
        finite |= {
            f"the encoder's map of stride {s}": m.isfinite().all() for s, m in zip(self.maps, given, strict=True)
        }
        return vectors.float(), chances, boxes, given, finite

    def _read(
        self, vectors: torch.Tensor, chances: dict[str, torch.Tensor], boxes: dict[str, BoxOutputs],
        maps: list[torch.Tensor], finite: dict[str, torch.Tensor],
    ) -> Outputs:  # fmt: skip
        # NaN would be shown as no object at all.
        if lost := [name for name, whole in finite.items() if not whole]:
            raise EncoderError(
                f"{lost[0]} gave numbers that are not finite: its weights are wrong, or too large for the "
                "precision; try `precision` fp32"
            )
        found = {}
        for head in self.heads:
            if head.boxes:
                here = boxes[head.name]
                on_cpu = here._replace(
                    points=type(here.points)(*(t.cpu() for t in here.points)),
                    **{k: getattr(here, k).float().cpu() for k in ("logits", "sides", "centres")},
                )
                found[head.name] = [
                    TileBoxes(d.xyxy.numpy(), d.classes.numpy(), d.scores.numpy())
                    for d in head.boxes.detections(on_cpu)
                ]
        return Outputs(
            vectors.cpu().numpy(), {k: v.cpu().numpy() for k, v in chances.items()}, found,
            tuple(m.contiguous().cpu().numpy() for m in maps),
        )  # fmt: skip

    def _parts(self) -> dict[str, list[nn.Module]]:
        """Heads by the decoder of the shared model that they read."""
        pixels: list[nn.Module] = [h.pixels for h in self.heads if h.pixels]
        boxes: list[nn.Module] = [h.boxes for h in self.heads if h.boxes]
        return {name: heads for name, heads in (("pixels", pixels), ("boxes", boxes)) if heads}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not torch.float32)


def _joined(parts: list[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return Outputs(
        np.concatenate([p.vectors for p in parts]),
        {k: np.concatenate([p.chances[k] for p in parts]) for k in parts[0].chances},
        {k: [tile for p in parts for tile in p.boxes[k]] for k in parts[0].boxes},
        tuple(np.concatenate(same) for same in zip(*(p.maps for p in parts), strict=True)),
    )
