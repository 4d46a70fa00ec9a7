"""Runtimes of networks: torch on CPU, CUDA or MPS, or OpenVINO on CPU.

An engine takes uint8 tiles as they were read and normalises them inside the network, so
that a quarter of the bytes travel. `submit` starts work and returns a function that waits
for its result: on CUDA, copies and computing then overlap.

Read top to bottom: `Network` (what every engine runs), `TorchEngine`, `FullBatches` and
`CudaEngine`, `OpenVinoEngine`.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import platformdirs
import safetensors.torch
import torch
from torch import nn

from wsi_umedpt.errors import DeviceMemoryError, EncoderError
from wsi_umedpt.models.building import build_network
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.folding import folded
from wsi_umedpt.models.openvino_import import import_openvino, openvino_core

Pixels = npt.NDArray[np.uint8]
Embeddings = npt.NDArray[np.float32]
Wait = Callable[[], Embeddings]
PartDone = Callable[[int], None]
"""Called with the number of tiles of a batch that just went through the network; may raise to end the batch."""

CPU_BATCH = 8
"""Tiles that go through a network at a time on a CPU: more are slower (docs/measured/speed.md)."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(Protocol):
    """Runs one network at one precision."""

    def submit(self, pixels: Pixels, part_done: PartDone = lambda _: None) -> Wait:
        """Start embedding uint8 (batch, h, w, 3); the result is float32 (batch, dim).

        `part_done` is called by engines that run a batch in parts, on a CPU.
        """
        ...


class Network(nn.Module):
    """A backbone with its normalisation inside: uint8 NHWC in, float32 (batch, dim) out."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.backbone = backbone
        # In the order of the recipes: to [0, 1], less the mean, over the deviation, so that no bit differs.
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1), persistent=False)
        self.dtype = torch.float32

    def at(self, dtype: torch.dtype) -> "Network":
        """Turn weights to `dtype`; the normalisation stays float32, which costs nothing."""
        self.backbone.to(dtype=dtype)
        self.backbone.to(memory_format=torch.channels_last)
        self.dtype = dtype
        return self

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles, uint8 (batch, h, w, 3)."""
        features: torch.Tensor = self.backbone(self.normalised(tiles).to(self.dtype))
        return features.float()

    def normalised(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tiles as the network sees them, float32 (batch, 3, h, w), channels last in memory."""
        return (tiles.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class TorchEngine:
    """Eager torch on CPU (the reference) or MPS."""

    def __init__(self, backbone: nn.Module, card: EncoderCard, device: str, precision: str) -> None:
        self._device = device
        self._network = Network(folded(backbone, card.input_px), card).to(device).eval().at(DTYPES[precision])

    def submit(self, pixels: Pixels, part_done: PartDone = lambda _: None) -> Wait:
        """Embed at once; see `Engine.submit`."""
        parts = []
        with torch.inference_mode():
            for part in self._parts(torch.from_numpy(pixels)):
                parts.append(self._network(part.to(self._device)).cpu())
                if self._device == "cpu":
                    part_done(len(part))
            result: Embeddings = torch.cat(parts).numpy()
        return lambda: result

    def _parts(self, tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The CPU allocator gives back what is over 32 MB, so that every layer of a large batch
        # takes new memory: 1.3 to 1.7 times slower (docs/measured/speed.md).
        return torch.split(tiles, CPU_BATCH) if self._device == "cpu" else (tiles,)


class FullBatches:
    """Shows a network batches of one size alone: each is cut into such, the last one filled up with black tiles.

    A compiled network is compiled anew for every size that it meets: the last batch of each
    slide, one from which a damaged tile was left out, the probe.
    """

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor], size: int) -> None:
        self._network = network
        self._size = size

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles, uint8 (batch, h, w, 3)."""
        missing = -len(tiles) % self._size
        full = torch.cat([tiles, tiles.new_zeros(missing, *tiles.shape[1:])]) if missing else tiles
        return torch.cat([self._network(part) for part in torch.split(full, self._size)])[: len(tiles)]


class CudaEngine:
    """torch on one GPU: pinned staging, copies on a stream of their own, autocast below fp32."""

    def __init__(
        self, backbone: nn.Module, card: EncoderCard, device: str, precision: str, compiled_for: int | None = None
    ) -> None:
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._network: Callable[[torch.Tensor], torch.Tensor]
        network = Network(folded(backbone, card.input_px), card).to(self._device).eval().at(torch.float32)
        self._network = network
        if compiled_for:
            self._network = FullBatches(torch.compile(network, dynamic=False), compiled_for)
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def submit(self, pixels: Pixels, part_done: PartDone = lambda _: None) -> Wait:
        """Queue copy in, network and copy out; see `Engine.submit`."""
        computing = torch.cuda.current_stream(self._device)
        with torch.inference_mode(), _memory_errors(len(pixels)):
            staged = torch.from_numpy(pixels).pin_memory()
            with torch.cuda.stream(self._copies):
                tiles = staged.to(self._device, non_blocking=True)
            computing.wait_stream(self._copies)
            tiles.record_stream(computing)
            with torch.autocast("cuda", self._dtype, enabled=self._dtype is not torch.float32):
                features = self._network(tiles)
            result = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            result.copy_(features, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(computing)

        def wait() -> Embeddings:
            done.synchronize()
            _ = staged  # pinned memory must outlive the copy out of it
            out: Embeddings = result.numpy()
            return out

        return wait


@contextlib.contextmanager
def _memory_errors(tiles: int) -> Iterator[None]:
    """Say what a GPU without memory asks for, and give back what torch keeps of it."""
    try:
        yield
    except torch.OutOfMemoryError:
        short = DeviceMemoryError(
            f"the GPU has no memory left for a batch of {tiles} tiles. Give a smaller `batch_size`, or end what else "
            "uses it."
        )
    else:
        return
    torch.cuda.empty_cache()  # not above: there, the error still holds what it was about to compute
    raise short


class OpenVinoEngine:
    """OpenVINO on CPU: 1.5 to 2.5 times fp32 torch, 5 times in bf16 (docs/measured/speed.md); converted once.

    By default it takes as many threads as torch would, which processes that share a machine limit; of itself it would
    take all cores.
    """

    def __init__(self, backbone: nn.Module, card: EncoderCard, precision: str, threads: int | None = None) -> None:
        core = openvino_core("engine 'openvino'")
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
        options["PERFORMANCE_HINT"] = "LATENCY"
        options["INFERENCE_NUM_THREADS"] = threads or torch.get_num_threads()
        self._model = core.compile_model(str(converted(backbone, card)), "CPU", options)
        self._request = self._model.create_infer_request()

    def submit(self, pixels: Pixels, part_done: PartDone = lambda _: None) -> Wait:
        """Embed at once; see `Engine.submit`."""
        result = np.array(self._request.infer([pixels])[0], np.float32)
        return lambda: result


def converted(backbone: nn.Module, card: EncoderCard) -> Path:
    """The network as OpenVINO IR, from the user's cache or made now.

    Converting takes over 1 GB of memory that is never given back, so another process does it.
    """
    version = importlib.metadata.version("openvino")
    scaling = hashlib.sha256(repr((card.mean, card.std, card.pooling, card.arguments)).encode()).hexdigest()[
        :8
    ]  # it lies inside the network
    name = f"{card.architecture}-{str(card.weights_sha256)[:16]}-{scaling}-{card.input_px}px-ov{version}"
    folder = Path(platformdirs.user_cache_dir("wsi_umedpt")) / "openvino"
    target = folder / name / "network.xml"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=".making-"))
    try:
        weights = made / "weights.safetensors"
        state = {k: v.detach().cpu().contiguous().clone() for k, v in backbone.state_dict().items()}
        safetensors.torch.save_file(state, weights)
        description = made / "card.json"
        description.write_text(json.dumps(card.to_dict()), encoding="utf-8")
        command = [sys.executable, "-m", "wsi_umedpt.models.engines", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EncoderError(
                f"OpenVINO cannot convert {card.name}; use `engine` torch. It says: {done.stderr.strip()[-400:]}"
            )
        weights.unlink()
        description.unlink()
        try:
            os.rename(made, target.parent)
        except OSError:
            if not target.exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _convert(folder: Path) -> None:
    """Runs in the process that `converted` starts."""
    openvino = import_openvino("engine 'openvino'")
    content = json.loads((folder / "card.json").read_bytes())
    card = EncoderCard.from_dict({"mpp": None, **content}, str(folder))
    backbone = build_network(card)
    backbone.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    network = Network(backbone, card).eval()
    example = torch.zeros(2, card.input_px, card.input_px, 3, dtype=torch.uint8)
    with torch.inference_mode():
        model = openvino.convert_model(network, example_input=example)
    model.reshape([-1, card.input_px, card.input_px, 3])
    openvino.save_model(model, folder / "network.xml", compress_to_fp16=False)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]))
