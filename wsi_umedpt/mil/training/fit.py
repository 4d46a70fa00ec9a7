"""One network trained on some cases, stopped by others: the whole of training, on one screen.

What is random is a function of the seed alone, so that on a CPU the same cases give the same network.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.cohort import Cohort, Item
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.targets import CLASS_KINDS, Target, spans
from wsi_umedpt.mil.networks.base import SlideNetwork
from wsi_umedpt.mil.networks.factory import build_network
from wsi_umedpt.mil.networks.ragged_pooling import join
from wsi_umedpt.mil.settings import FitSettings
from wsi_umedpt.mil.training.losses import loss_of, terms_of
from wsi_umedpt.mil.training.start import start_from

COX_BATCH = 16
"""Least number of bags in a step where patients are ranked against each other."""
_SEEN_TILES = 256
"""Number of tiles of each slide from which mean and deviation of the features are learned."""
_PIECE_TILES = 16_384
"""Largest number of tiles in one piece of a training batch."""
_BATCH_TILES = 65_536
"""Largest number of tiles in one batch without gradients."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network."""

    network: SlideNetwork
    history: list[tuple[float, float]]
    """(training loss, stopping loss) an epoch"""
    answers: list[Floats]
    """(case, output) logits of the stopping cases, an epoch"""
    epoch: int
    """Epoch of the weights."""


def fit(
    train: Cohort,
    stop: Cohort,
    reader: BagReader,
    settings: FitSettings,
    seed: int,
    *,
    device: str = "cpu",
    watch: Callable[[int], None] | None = None,
) -> Fitted:
    """Train on `train`, and keep the epoch that is best on `stop`.

    Parameters
    ----------
    train, stop
        Their targets are filled in by the training labels; neither may hold what is reported.
    reader
        Reader of their slides.
    settings, seed
        Settings of network and training, and seed of all that is drawn.
    device
        Device of training.
    watch
        Called with each epoch's number.

    Raises
    ------
    MilError
        If a loss is not finite.
    """
    draw = np.random.default_rng(seed)
    # Of the other GPUs nothing is drawn: naming ours neither wakes them nor warns of them.
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        classes = [len(t.classes) for t in train.targets if t.kind in CLASS_KINDS]
        network = build_network(train.kind.dim, spans(train.targets)[-1].stop, settings, classes)
        network.standardise(*_moments(train.items, reader, draw))
        start_from(network, settings)
        network.to(device)
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        items, batch = train.items, settings.batch
        if any(t.kind == "cox" for t in train.targets):
            batch = max(batch, COX_BATCH)
        steps = max(1, len(items) // batch)
        weights = [
            _class_weights(train, n, device) if settings.class_weights else None for n in range(len(train.targets))
        ]
        best, best_epoch, kept = math.inf, 0, copy.deepcopy(network.state_dict())
        history: list[tuple[float, float]] = []
        answers: list[Floats] = []
        for epoch in range(settings.epochs):
            if epoch - best_epoch > settings.patience:
                break
            network.train()
            total = 0.0
            for step, part in enumerate(np.array_split(draw.permutation(len(items)), steps)):
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * rate(epoch + (step + 1) / steps, settings.epochs)
                optimizer.zero_grad(set_to_none=True)
                chosen = [items[n] for n in part]
                parts = [_drawn(item, reader, settings, draw) for item in chosen]
                truths = [truth[[item.case for item in chosen]] for truth in train.truth]
                loss = accumulate(network, parts, train.targets, truths, weights, device)
                torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                optimizer.step()
                total += loss * len(part) / len(items)
            answers.append(case_logits(network, stop, reader))
            found = _stop_loss(stop, answers[-1])
            if not (math.isfinite(total) and math.isfinite(found)):
                raise MilError(f"the loss is not finite in epoch {epoch}; lower `lr` (now {settings.lr:g})")
            history.append((total, found))
            # 0 says that the stopping cases know no labels, or none to rank by: then the last epoch is kept.
            if found < best or found == 0:
                best, best_epoch, kept = found, epoch, copy.deepcopy(network.state_dict())
            if watch:
                watch(epoch)
        network.load_state_dict(kept)
    return Fitted(network.eval().requires_grad_(False), history, answers, best_epoch)


def rate(epoch: float, epochs: int) -> float:
    """Share of the highest learning rate: up over the first epoch, then a cosine to 0."""
    if epoch <= 1:
        return epoch
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - 1) / max(1, epochs - 1))))


@torch.no_grad()
def logits_of(network: SlideNetwork, items: Sequence[Item], reader: BagReader) -> Floats:
    """(item, output) logits, of all tiles of every bag."""
    network.eval()
    device = network.mean.device
    found: list[torch.Tensor] = []
    held: list[torch.Tensor] = []
    tiles = 0
    for number, item in enumerate(items):
        held.append(torch.from_numpy(reader(item.slides)).to(device))
        tiles += len(held[-1])
        if number == len(items) - 1 or tiles >= _BATCH_TILES:
            found.append(network(join(held)).cpu())
            held, tiles = [], 0
    return torch.cat(found).double().numpy()


def case_logits(network: SlideNetwork, cohort: Cohort, reader: BagReader) -> Floats:
    """(case, output) logits; the mean over its slides where a case has several bags."""
    items = cohort.items
    logits = logits_of(network, items, reader)
    of_case = np.array([item.case for item in items])
    sums = np.zeros((len(cohort), logits.shape[1]))
    np.add.at(sums, of_case, logits)
    return np.asarray(sums / np.bincount(of_case)[:, None])


def accumulate(
    network: SlideNetwork,
    parts: Sequence[torch.Tensor],
    targets: Sequence[Target],
    truths: Sequence[Floats],
    weights: Sequence[torch.Tensor | None],
    device: str = "cpu",
) -> float:
    """Add a batch's gradient to the network's, a few bags at a time, and give its loss.

    The graph of a piece is freed before the next is made: less memory, and faster for it. Cox's loss is of
    all bags at once, and needs them in one piece.

    Parameters
    ----------
    network
        In training mode.
    parts : each (tile, dim)
        Bags of the batch.
    targets
        Filled in.
    truths : each (bag, `Target.truth`)
    weights : each (class,) or None
        Weights of classes; see `loss_of`.
    device
        Device of the network.
    """
    labels = [torch.from_numpy(truth).float().to(device) for truth in truths]
    joint = any(target.kind == "cox" for target in targets)
    pieces = [[*range(len(parts))]] if joint else _pieces([len(part) for part in parts])
    share = network.settings.instance_weight if isinstance(network.settings, FitSettings) else 0.0
    answers = [
        terms_of(target, torch.zeros(len(truth), target.outputs, device=device), truth)[1]
        for target, truth in zip(targets, labels, strict=True)
    ]
    whole = 0.0
    for rows in pieces:
        bags = join([parts[row].to(device) for row in rows])
        logits = network(bags)
        loss = logits.sum() * 0
        for target, span, truth, weight, count in zip(targets, spans(targets), labels, weights, answers, strict=True):
            loss = loss + terms_of(target, logits[:, span], truth[rows], weight)[0] / max(count, 1) / len(targets)
        known = [
            torch.nan_to_num(truth[rows, 0], nan=-1).long()
            for target, truth in zip(targets, labels, strict=True)
            if target.kind in CLASS_KINDS
        ]
        beside = network.beside(bags, known) if share else None
        if beside is not None:
            loss = (1 - share) * loss + share * beside * len(rows) / len(parts)
        torch.autograd.backward(loss)
        whole += loss.item()
    return whole


def _pieces(sizes: Sequence[int]) -> list[list[int]]:
    """Rows of neighbouring bags that together hold up to `_PIECE_TILES`, or are one."""
    pieces: list[list[int]] = []
    held = _PIECE_TILES + 1
    for row, size in enumerate(sizes):
        if held + size > _PIECE_TILES:
            pieces.append([])
            held = 0
        pieces[-1].append(row)
        held += size
    return pieces


def _stop_loss(stop: Cohort, answers: Floats) -> float:
    logits = torch.from_numpy(answers).float()
    losses = [
        loss_of(target, logits[:, span], torch.from_numpy(truth).float()).item()
        for target, span, truth in zip(stop.targets, spans(stop.targets), stop.truth, strict=True)
    ]
    return float(np.mean(losses))


def _drawn(item: Item, reader: BagReader, settings: FitSettings, draw: np.random.Generator) -> torch.Tensor:
    """Some tiles of a bag, as a step sees it."""
    features = reader(item.slides)
    count = max(1, round(min(len(features), settings.max_tiles) * (1 - settings.tile_dropout)))
    if count < len(features):
        features = features[np.sort(draw.choice(len(features), count, replace=False))]
    return torch.from_numpy(features)


def _moments(items: Sequence[Item], reader: BagReader, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the features, every slide counting the same."""
    means, squares = [], []
    for item in items:
        features = reader(item.slides)
        if len(features) > _SEEN_TILES:
            features = features[np.sort(draw.choice(len(features), _SEEN_TILES, replace=False))]
        values = features.astype(np.float64)
        means.append(values.mean(0))
        squares.append((values**2).mean(0))
    mean = np.mean(means, 0)
    deviation = np.sqrt(np.maximum(np.mean(squares, 0) - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _class_weights(cohort: Cohort, number: int, device: str) -> torch.Tensor | None:
    target, truth = cohort.targets[number], cohort.truth[number]
    if target.kind not in CLASS_KINDS:
        return None
    known = truth[~np.isnan(truth[:, 0]), 0].astype(int)
    counts = np.bincount(known, minlength=len(target.classes))
    return torch.from_numpy(len(known) / (len(counts) * np.maximum(counts, 1))).float().to(device)
