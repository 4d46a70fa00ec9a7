"""`load_encoder`: a name in, an `Encoder` out, which turns uint8 tiles into embeddings."""

import base64
import functools
import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import DEFAULT_ENCODER, EncoderCard, find_card
from wsi_umedpt.models.engines import (
    DTYPES,
    CudaEngine,
    Embeddings,
    Engine,
    OpenVinoEngine,
    PartDone,
    Pixels,
    TorchEngine,
    Wait,
)
from wsi_umedpt.models.names import RANDOM, parse_name
from wsi_umedpt.models.preprocess import prepare_tiles
from wsi_umedpt.models.weights import load_network

_log = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "openvino")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network that embeds tiles, and what is known of it."""

    card: EncoderCard
    """Card of the network: dimension, tiles, licence, source."""
    engine_name: str
    """Runtime: torch, torch compiled, or openvino."""
    device: str
    """Device, such as cpu or cuda:0."""
    precision: str
    """Precision of its arithmetic: fp32, bf16 or fp16."""
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
            RGB, `card.size_px` square, at `card.mpp` where the card states one. Of another size they are
            resized as the card says, where it says how.

        Returns
        -------
        float32 (batch, dim)
            One vector for each tile.
        """
        return self.submit(pixels)()

    def submit(self, pixels: Pixels, part_done: PartDone = lambda _: None) -> Wait:
        """Start embedding a batch without waiting for it.

        Parameters
        ----------
        pixels : uint8 (batch, h, w, 3)
            See `encode`.
        part_done
            Called with the number of tiles of each part that went through the network; see `Engine.submit`.

        Returns
        -------
        callable
            Waits for the embeddings, float32 (batch, dim), and returns them.
        """
        if len(pixels) == 0:
            return lambda: np.empty((0, self.dim), np.float32)
        try:
            return self._engine.submit(prepare_tiles(pixels, self.card), part_done)
        except AssertionError as error:  # how timm says that a network is made for one size
            raise EncoderError(f"{self.card.name} cannot embed tiles of {pixels.shape[1]} px: {error}") from None

    @staticmethod
    def from_module(
        network: torch.nn.Module, *, name: str, mpp: float | None = None, size_px: int = 224,
        mean: Sequence[float] = (0.485, 0.456, 0.406), std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> "Encoder":  # fmt: skip
        """Make an encoder of any torch network that turns images into vectors.

        Parameters
        ----------
        network
            Takes float32 (batch, 3, size_px, size_px), normalised RGB; returns (batch, dim). It stays on its device,
            and is put into evaluation mode.
        name
            Names its features in stores: letters, digits, ``.``, ``_`` and ``-``.
        mpp : um/px
            Resolution that it was trained at; None where it takes any.
        size_px
            Side of its tiles.
        mean, std
            Mean and deviation of the red, green and blue channels: pixels enter as (pixel / 255 - mean) / std.

        Returns
        -------
        Encoder
            Ready to embed, on the network's device.

        Raises
        ------
        EncoderError
            If the name is unfit, or the network returns anything but a vector a tile.

        Examples
        --------
        >>> encoder = Encoder.from_module(torch.nn.Flatten(), name="pixels", size_px=4)
        >>> encoder.encode(np.zeros((2, 4, 4, 3), np.uint8)).shape
        (2, 48)
        """
        from wsi_umedpt.models.own import encoder_from_module

        return encoder_from_module(network, name=name, mpp=mpp, size_px=size_px, mean=mean, std=std)

    @functools.cached_property
    def made_by(self) -> dict[str, Any]:
        """Origin that a store records beside the features."""
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
    engine: str = "auto",
    compiled: bool = False,
    batch_size: int = 64,
) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        A card's name, ``umedpt:FILE.json``, ``timm:NAME``, ...; see `wsi_umedpt.models.names`.
    device
        'auto' (CUDA, else MPS, else CPU), 'cpu', 'cuda', 'cuda:1', 'mps'.
    precision
        'fp32', 'bf16', or 'fp16' (CUDA only).
    engine
        'torch', 'openvino' (CPU only), or 'auto': openvino on a CPU where it is installed, for the shipped encoder and
        those whose card timm or transformers builds; else torch.
    compiled
        Compile the network (CUDA only): slower to start, faster to run.
    batch_size : tiles
        Batch size that a network is compiled for; it takes others too, filled up to this.

    Returns
    -------
    Encoder
        With its weights on the device.

    Raises
    ------
    EncoderError
        If anything of this cannot be had; the message says what can.
    """
    device = pick_device(device, engine)
    _check_choice(device, precision, engine, compiled=compiled)
    if own := _registered(name, device):
        return own
    engine = _pick_engine(engine, name, device, precision)
    in_memory = DTYPES[precision] if engine == "torch" and not device.startswith("cuda") else DTYPES["fp32"]
    backbone, card = load_network(name, in_memory)
    made: Engine
    if engine == "openvino" and card.library in ("file", "remote"):
        raise EncoderError(f"engine openvino converts networks that are built here; {card.name} is not: use torch")
    if engine == "openvino":
        made = OpenVinoEngine(backbone, card, precision)
    elif device.startswith("cuda"):
        made = CudaEngine(backbone, card, device, precision, batch_size if compiled else None)
    else:
        made = TorchEngine(backbone, card, device, precision)
    _log.info("encoder %s: loaded, %s %s on %s", card.name, engine, precision, device)
    return Encoder(card, _engine_name(engine, compiled=compiled), device, precision, made)


def _registered(name: str, device: str) -> Encoder | None:
    from wsi_umedpt.models.names import REGISTERED

    load = REGISTERED.get(name)
    return load(device) if load else None


def describe_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "auto",
    compiled: bool = False,
    weights: bool = True,
) -> Encoder:
    """Describe the encoder that `load_encoder` would load, for plans: no device is touched, and it cannot encode.

    Without `weights` an encoder of a card needs none, and its name lacks their hash.
    """
    device = pick_device(device, engine) if device == "auto" else device
    count_devices(device)
    _check_choice(device, precision, engine, compiled=compiled)
    if own := _registered(name, "cpu"):
        return own
    asked = parse_name(name)
    engine = _pick_engine(engine, name, device, precision)
    card = find_card(asked.name) if asked.source == "card" and not weights else load_network(name)[1]
    return Encoder(card, _engine_name(engine, compiled=compiled), device, precision, _NoEngine())


def _pick_engine(engine: str, name: str, device: str, precision: str) -> str:
    """Settle 'auto': openvino for networks that are known to convert, and not for random weights, which serve tests."""
    if engine != "auto":
        return engine
    asked = parse_name(name)
    converts = asked.source == "release" or (
        asked.source == "card" and find_card(asked.name).library in ("timm", "transformers", "own")
    )
    fits = device == "cpu" and precision != "fp16" and asked.file != RANDOM
    return "openvino" if converts and fits and importlib.util.find_spec("openvino") else "torch"


def _engine_name(engine: str, *, compiled: bool) -> str:
    """Name of the runtime in stores: compiled and eager rows differ in their last bits, and are not to be mixed."""
    return f"{engine}-compiled" if compiled else engine


class _NoEngine:
    def submit(self, pixels: Pixels, part_done: PartDone = lambda _: None) -> Wait:
        raise EncoderError("this encoder was described, not loaded: it has no device. Use load_encoder.")


def pick_device(device: str, engine: str = "auto") -> str:
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
    """Return whether this machine has the device."""
    return count_devices(device) > int(device.partition(":")[2] or 0)


def count_devices(device: str) -> int:
    """Number of devices of this kind in the machine; what is no device is refused."""
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", device):
        raise EncoderError(f"device is 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {device!r}")
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
