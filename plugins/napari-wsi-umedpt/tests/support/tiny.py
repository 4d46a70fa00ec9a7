"""Models small enough to be made in a test: a slide classifier that was not trained, a UMedPT release."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from wsi_umedpt.geometry import Box
from wsi_umedpt.io import checkpoint
from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.mil.networks.factory import build_network
from wsi_umedpt.mil.settings import ModelSettings
from wsi_umedpt.mil.training.calibration import Calibration
from wsi_umedpt.mil.training.ood import typical_of
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.features import FeatureKind
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks import make_task
from wsi_umedpt.testing import tissue_image, write_pyramid

PLANTED_KIND = FeatureKind(encoder="enc", mpp=0.5, size_px=128, dim=4)
"""Of the features in the planted store."""
STATUS = Target(name="status", kind="binary", columns=("status",), classes=("normal", "tumour"))


def slide_classifier(path: Path, kind: FeatureKind = PLANTED_KIND, *, networks: int = 2, unit: str = "slide") -> Path:
    """Save a slide classifier whose numbers are random and always the same."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    settings = ModelSettings(hidden=8, attention=4)
    made = [build_network(kind.dim, 1, settings, [2]).eval().requires_grad_(False) for _ in range(networks)]
    model = SlideModel(
        targets=(STATUS,),
        kind=kind,
        networks=tuple(made),
        calibrations=(Calibration(1.0, (0.4,), np.linspace(0, 1, 30)),),
        typical=typical_of(rng.random((30, kind.dim)), [f"p{n}" for n in range(30)]),
        coverage=0.9,
        about={"trained_on": {"unit": unit}, "settings": dataclasses.asdict(settings)},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path


def colour_store(path: Path, slide_path: Path, spec: TileSpec, unreadable: int = 3) -> Path:
    """A store whose features are the mean colour of each tile and a little noise, as if an encoder had made them."""
    with open_slide(slide_path) as slide:
        width, height = slide.size
        mask = TissueMask(np.ones((-(-height // 32), -(-width // 32)), bool), 32, None, "all", {})
        grid = lay_grid(slide.size, slide.mpp, spec, within=mask)
        side = round(grid.side)
        colours = [slide.read(Box(x, y, side, side)).mean(axis=(0, 1)) for x, y in grid.xy.tolist()]
        noise = np.random.default_rng(0).normal(size=(len(grid), 4))
        features = np.column_stack([np.array(colours) / 64, np.zeros(len(grid))]) + noise / 4
        made_by = {"card": {"name": "colours"}, "weights_sha256": "1" * 64, "precision": "fp32"}
        ok = np.arange(len(grid)) != unreadable
        with SlideStore.create(path, slide, mask, grid) as store:
            writer = store.writer("colours", spec.grid_id, 4, made_by)
            writer.append(features.astype(np.float32), ok)
            writer.finish()
            store.set_status(spec.grid_id, (~ok).astype(np.uint8))
            store.commit()
    return path


def tissue_slide(path: Path, side: int = 1600) -> Path:
    """A slide that is tissue but for a margin."""
    image, _ = tissue_image(side, side)
    return write_pyramid(path, image, mpp=0.5)


def release(path: Path, size_px: int = 32) -> Path:
    """Save a UMedPT model that was not trained, with a head for nuclei; its encoder takes tiles of `size_px`."""
    torch.manual_seed(0)
    spec = ModelSpec(backbone="convnext_atto", norm="layernorm", dim=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    shared = UMedPT(spec).eval()
    head = HeadSpec(name="nuclei", kind="segmentation", classes=("background", "nucleus"), modality="microscopy")
    xray = HeadSpec(name="lungs", kind="segmentation", classes=("background", "lung"), modality="xray")
    tasks = {one.name: make_task(one, spec.dim).eval() for one in (head, xray)}
    for parameter in (p for module in (shared, *tasks.values()) for p in module.parameters()):
        parameter.data = parameter.data.half().float()
    tensors = {f"shared.{k}": v.half() for k, v in shared.state_dict().items()}
    for name, task in tasks.items():
        tensors |= {f"heads.{name}.{k}": v.half() for k, v in task.state_dict().items()}
    about = {
        "schema": 1, "kind": "umedpt", "name": "tiny.v1", "model": spec.to_dict(), "mpp": 0.5, "size_px": size_px,
        "heads": [task.spec.to_dict() for task in tasks.values()], "licence": "none", "about": "a tiny model",
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, tensors, about)
    return path
