"""An epoch of gated attention over concatenated bags, beside the padded batches that others train on.

    python -m benchmarks.mil.speed            # 200 bags, mean 10,000 tiles of 768 numbers (3 GB of float16)
    python -m benchmarks.mil.speed --quick    # a tenth of it

Both sides see the same bags in the same batches, do the same maths (checked: equal losses) and the same number of
steps, in one process, in turns. Bags differ in size as slides do (log-normal); a second arm has bags
of equal size, where padding wastes nothing. Memory: one bag of 400,000 tiles, forward and backward, in a fresh
process a side. The last line is JSON.
"""

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.networks.attention import GatedAttention
from wsi_umedpt.mil.networks.ragged_pooling import join
from wsi_umedpt.mil.settings import ModelSettings
from wsi_umedpt.mil.training.fit import accumulate

DIM, BATCH = 768, 16
TARGET = Target(name="y", kind="binary", columns=("y",), classes=("no", "yes"))
SETTINGS = ModelSettings(hidden=256, attention=128, dropout=0.0, feature_dropout=0.0)


def sizes(bags: int, mean: int, spread: float) -> list[int]:
    drawn = np.random.default_rng(0).lognormal(0, spread, bags)
    return np.maximum(50, drawn / drawn.mean() * mean).astype(int).tolist()


def padded(network: GatedAttention, bags: list[torch.Tensor]) -> torch.Tensor:
    """Logits of a batch by padding to the largest bag and masking: what MIL code does with batches over one."""
    x = nn.utils.rnn.pad_sequence([bag.float() for bag in bags], batch_first=True)  # (bag, tile, dim)
    there = torch.arange(x.shape[1])[None] < torch.tensor([len(bag) for bag in bags])[:, None]
    values = network.embed(network.scaled(x))
    signal, gate = network.gates(values).chunk(2, dim=-1)
    scores = network.score(torch.tanh(signal) * torch.sigmoid(gate))[..., 0]
    weights = torch.softmax(scores.masked_fill(~there, -torch.inf), 1)
    return network.out(torch.einsum("bt,btv->bv", weights, values))


def ours(network, bags, labels) -> float:
    return accumulate(network, bags, [TARGET], [labels.double().numpy()[:, None]], [None])


def theirs(network, bags, labels) -> float:
    loss = nn.functional.binary_cross_entropy_with_logits(padded(network, bags)[:, 0], labels) / math.log(2)
    loss.backward()
    return loss.item()


def epoch(network, step, bags, labels, order):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    losses, start = [], time.perf_counter()
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        optimizer.zero_grad(set_to_none=True)
        losses.append(step(network, [bags[r] for r in rows], labels[rows]))
        optimizer.step()
    return time.perf_counter() - start, losses


def compare(counts: list[int], rounds: int) -> tuple[float, list[float], list[float]]:
    torch.manual_seed(0)
    whole = torch.empty(sum(counts), DIM, dtype=torch.float16)
    for part in whole.split(100_000):
        part.copy_(torch.randn(part.shape))
    bags = list(whole.split(counts))
    labels = (torch.rand(len(bags)) < 0.5).float()
    first = GatedAttention(DIM, 1, SETTINGS)
    order = torch.randperm(len(bags)).tolist()
    times: dict[str, list[float]] = {"ours": [], "padded": []}
    for _ in range(rounds):
        found = {}
        for name, step in (("ours", ours), ("padded", theirs)):
            seconds, found[name] = epoch(copy.deepcopy(first), step, bags, labels, order)
            times[name].append(seconds)
        assert np.allclose(found["ours"], found["padded"], atol=1e-4), "the two sides do not do the same maths"
    ratio = float(np.median(np.array(times["padded"]) / np.array(times["ours"])))
    return ratio, times["ours"], times["padded"]


def memory(side: str, tiles: int) -> None:
    """Peak resident memory above the bag itself, of one step on one bag."""
    bag = torch.zeros(tiles, DIM, dtype=torch.float16) + 0.5
    network = GatedAttention(DIM, 1, SETTINGS)
    network(join([bag[:64]])).sum().backward()  # what torch itself needs is there
    before = psutil.Process().memory_info().rss
    (ours if side == "ours" else theirs)(network, [bag], torch.ones(1))
    # Not ru_maxrss, which a process inherits from its parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024 - before)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory")
    options = parser.parse_args()
    tiles = 40_000 if options.quick else 400_000
    if options.memory:
        memory(options.memory, tiles)
        return
    bags, rounds = (20, 1) if options.quick else (200, 1)
    said = {"threads": torch.get_num_threads()}
    for name, spread in (("as_slides", 0.8), ("equal", 0.0)):
        ratio, us, them = compare(sizes(bags, 10_000, spread), rounds)
        said[f"speedup_{name}"] = round(ratio, 2)
        print(f"{name}: ours {np.median(us):.1f} s an epoch, padded {np.median(them):.1f} s: {ratio:.2f}x", flush=True)
    for side in ("ours", "padded"):
        flags = ["--quick"] if options.quick else []
        command = [sys.executable, "-m", "benchmarks.mil.speed", "--memory", side, *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        said[f"mb_{side}"] = round(int(done.stdout) / 1e6) if done.returncode == 0 else None
        print(f"memory above a bag of {tiles} tiles, {side}: {said[f'mb_{side}']} MB", flush=True)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
