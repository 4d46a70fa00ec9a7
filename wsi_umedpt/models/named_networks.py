"""Networks of one's own: TorchScript and ONNX files, and what a function returns."""

import hashlib
import importlib
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.names import Asked
from wsi_umedpt.models.openvino_import import openvino_core
from wsi_umedpt.models.weight_files import weights_sha256


def load(asked: Asked, _: torch.dtype) -> tuple[nn.Module, EncoderCard]:
    """The network that was asked for, and the card that its options make.

    Raises
    ------
    EncoderError
        If it cannot be loaded, or gives no vector a tile.
    """
    network = {"torchscript": _torchscript, "onnx": _onnx, "module": _module}[asked.source](asked.name)
    size = int(asked.options["size"])
    network = network.eval()
    try:
        with torch.inference_mode():
            found = network(torch.zeros(1, 3, size, size))
    except Exception as error:  # noqa: BLE001 - a network of somebody's can fail in any way
        raise EncoderError(f"{asked.name} does not take one tile of {size} px: {str(error)[-300:]}") from None
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 1:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise EncoderError(f"{asked.name} gives {shape} for one tile, not one vector (1, dim)")
    path = Path(asked.name)
    stem = path.stem if asked.source != "module" else asked.name.replace(":", ".")
    # What is whole in a file is what the file is; of what a function made, its weights are.
    digest = weights_sha256(network) if asked.source == "module" else hashlib.sha256(path.read_bytes()).hexdigest()
    card = EncoderCard(
        name=f"{asked.source}_{stem}.{digest[:8]}", library="file", architecture=asked.source, dim=found.shape[1],
        mpp=asked.options.get("mpp"), size_px=size, mean=tuple(asked.options["mean"]), std=tuple(asked.options["std"]),
        licence="unknown: that of its author", source=f"file {path.name}" if asked.source != "module" else asked.name,
        weights_sha256=digest,
    )  # fmt: skip
    return network, card


def _torchscript(name: str) -> nn.Module:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch would rather have such files made anew
            return cast("nn.Module", torch.jit.load(name, map_location="cpu"))  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        raise EncoderError(f"{name} cannot be read as TorchScript: {str(error).splitlines()[0][:200]}") from None


class OnnxNetwork(nn.Module):
    """An ONNX file run by OpenVINO; its input is float (image, 3, h, w), its first output the vector."""

    def __init__(self, path: str) -> None:
        super().__init__()
        core = openvino_core("onnx:")
        try:
            model = core.read_model(path)
            self._request: Any = core.compile_model(model, "CPU").create_infer_request()
        except RuntimeError as error:
            raise EncoderError(f"{path} cannot be read as ONNX: {str(error)[-200:]}") from None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (image, 3, h, w), one at a time: files may be made for one."""
        parts = [np.array(self._request.infer([one.float().cpu().numpy()])[0]) for one in torch.split(images, 1)]
        return torch.from_numpy(np.concatenate(parts)).to(images.device)


def _onnx(name: str) -> nn.Module:
    return OnnxNetwork(name)


def _module(name: str) -> nn.Module:
    package, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(package), function)()
    except Exception as error:  # noqa: BLE001 - a function of somebody's can fail in any way
        raise EncoderError(f"module:{name} failed: {type(error).__name__}: {str(error)[:300]}") from None
    if not isinstance(made, nn.Module):
        raise EncoderError(f"module:{name} returned a {type(made).__name__}, not a torch module")
    return made
