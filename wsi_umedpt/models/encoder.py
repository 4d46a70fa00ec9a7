"""`load_encoder`: a name in, an `Encoder` out, which turns uint8 tiles into embeddings."""

import base64
import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import DEFAULT_ENCODER, EncoderCard
from wsi_umedpt.models.engines import CudaEngine, Embeddings, Engine, OpenVinoEngine, Pixels, TorchEngine, Wait
from wsi_umedpt.models.weights import load_network

ENGINES = ("torch", "openvino")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network that embeds tiles, and what is known of it."""

    card: EncoderCard
    engine_name: str
    device: str
    precision: str
    _engine: Engine

    @property
    def name(self) -> str:
        """Names the features in a store. Precisions other than fp32 are features of their own."""
        return self.card.name if self.precision == "fp32" else f"{self.card.name}.{self.precision}"

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.card.dim

    def encode(self, pixels: Pixels) -> Embeddings:
        """Embed tiles.

        Parameters
        ----------
        pixels : uint8 (batch, h, w, 3)
            RGB, `card.size_px` square, at `card.mpp` where the card states one.

        Returns
        -------
        float32 (batch, dim)
        """
        return self.submit(pixels)()

    def submit(self, pixels: Pixels) -> Wait:
        """Start embedding; call what is returned to wait for the result."""
        if len(pixels) == 0:
            return lambda: np.empty((0, self.dim), np.float32)
        try:
            return self._engine.submit(pixels)
        except AssertionError as error:  # how timm says that a network is made for one size
            raise EncoderError(f"{self.card.name} cannot embed tiles of {pixels.shape[1]} px: {error}") from None

    @functools.cached_property
    def made_by(self) -> dict[str, Any]:
        """What a store records beside the features."""
        return {
            "card": self.card.to_dict(),
            "weights_sha256": self.card.weights_sha256,
            "engine": self.engine_name,
            "device": self.device.split(":")[0],
            "precision": self.precision,
            "probe": encode_probe(self.encode(probe_tile(self.card.size_px))[0]),
        }


def load_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "torch",
    compiled: bool = False,
    batch_size: int = 64,
) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        A card of `ENCODERS`, or ``timm:NAME``, ``timm:NAME@FILE``, ``timm:NAME@random``.
    device
        'auto' (CUDA, else MPS, else CPU), 'cpu', 'cuda', 'cuda:1', 'mps'.
    precision
        'fp32', 'bf16', or 'fp16' (CUDA only).
    engine
        'torch', or 'openvino' (CPU only).
    compiled
        Compile the network (CUDA only): slower to start, faster to run.
    batch_size : tiles
        What a compiled network is compiled for; it takes others too, filled up to this.

    Raises
    ------
    EncoderError
        If anything of this cannot be had; the message says what can.
    """
    device = pick_device(device, engine)
    _check_choice(device, precision, engine, compiled=compiled)
    backbone, card = load_network(name)
    made: Engine
    if engine == "openvino":
        made = OpenVinoEngine(backbone, card, precision)
    elif device.startswith("cuda"):
        made = CudaEngine(backbone, card, device, precision, batch_size if compiled else None)
    else:
        made = TorchEngine(backbone, card, device, precision)
    return Encoder(card, _engine_name(engine, compiled=compiled), device, precision, made)


def describe_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "torch",
    compiled: bool = False,
) -> Encoder:
    """What `load_encoder` would load, its device untouched and perhaps not there: for plans. It cannot encode."""
    device = pick_device(device, engine) if device == "auto" else device
    count_devices(device)
    _check_choice(device, precision, engine, compiled=compiled)
    return Encoder(load_network(name)[1], _engine_name(engine, compiled=compiled), device, precision, _NoEngine())


def _engine_name(engine: str, *, compiled: bool) -> str:
    """What a store records: compiled and eager rows differ in their last bits, and are not to be mixed."""
    return f"{engine}-compiled" if compiled else engine


class _NoEngine:
    def submit(self, pixels: Pixels) -> Wait:
        raise EncoderError("this encoder was described, not loaded: it has no device. Use load_encoder.")


def pick_device(device: str, engine: str = "torch") -> str:
    """Settle 'auto', and refuse a device that is not there."""
    if device == "auto":
        if engine == "openvino":
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if not is_here(device):
        raise EncoderError(
            f"device {device!r} was asked for, but {count_devices(device)} {device.split(':')[0]} device(s) are there "
            "(wsi-umedpt doctor)"
        )
    return device


def is_here(device: str) -> bool:
    """Whether this machine has the device."""
    return count_devices(device) > int(device.partition(":")[2] or 0)


def count_devices(device: str) -> int:
    """How many of this kind of device the machine has; what is no device is refused."""
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", device):
        raise EncoderError(
            f"device is 'auto', 'cpu', 'cuda', 'cuda:N', 'mps', or 'cuda:all' of wsi-umedpt embed, got {device!r}"
        )
    if device.startswith("cuda"):
        return torch.cuda.device_count()
    return int(device.startswith("cpu") or torch.backends.mps.is_available())


def _check_choice(device: str, precision: str, engine: str, *, compiled: bool) -> None:
    kind = device.split(":")[0]
    if engine not in ENGINES:
        raise EncoderError(f"engine is one of {', '.join(ENGINES)}, got {engine!r}")
    if precision not in PRECISIONS:
        raise EncoderError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and kind != "cuda":
        raise EncoderError(f"precision fp16 needs CUDA; on {kind} use fp32 or bf16")
    if engine == "openvino" and kind != "cpu":
        raise EncoderError(f"engine openvino runs on cpu, not on {kind}")
    if compiled and kind != "cuda":
        raise EncoderError(f"compiling is for CUDA, not for {kind}")


def probe_tile(size_px: int) -> Pixels:
    """A fixed picture, uint8 (1, size_px, size_px, 3), made of whole-number arithmetic alone."""
    y, x, c = np.ogrid[:size_px, :size_px, :3]
    checks = ((x // 16 + y // 16) % 2) * 60
    tile: Pixels = ((x * y // 32 + checks + x * (c + 1) + 40 * c) % 256).astype(np.uint8)[None]
    return tile


def encode_probe(embedding: Embeddings) -> str:
    """A probe embedding as JSON can hold it: base64 of float32."""
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def probe_distance(a: str, b: str) -> float:
    """1 - cosine of two stored probe embeddings; over 0.01, features must not be mixed."""
    u, v = (np.frombuffer(base64.b64decode(p), "<f4").astype(np.float64) for p in (a, b))
    if u.shape != v.shape:
        return 1.0
    norms = float(np.linalg.norm(u) * np.linalg.norm(v))
    return 1 - float(u @ v) / max(norms, 1e-12)
