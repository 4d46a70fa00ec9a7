"""Which numbers of a network are its embedding: read-outs of the same maps, by the same probe.

    python -m benchmarks.pretraining.readouts --data ../shared/data
    python -m benchmarks.pretraining.readouts --data ../shared/data --weights runs/arm/checkpoint/rank0.json

A read-out is the mean (and deviation) over the image of the maps of some strides, the 1,280
numbers before ImageNet's classifier, or a squeezed vector. Targets, splits and probe are those of
`data_scarcity.py`. Printed: AUC for each target and read-out at 1, 10 and 100 % of the labels, mean over
seeds, and the mean over targets. Features are kept in benchmarks/data, by the weights' hash.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import DATA
from benchmarks.pretraining.data_scarcity import SEEDS, probe, scores, splits
from benchmarks.pretraining.scarcity_targets import TARGETS, Target
from wsi_umedpt.config import build
from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.bundle import load_release, shipped
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.models.weights import load_network, weights_sha256

FRACTIONS = (0.01, 0.1, 1.0)
GROUND = "ImageNet Lite0"
READOUTS = {
    "32": ("mean32",),
    "16 32": ("mean16", "mean32"),
    "8 16 32": ("mean8", "mean16", "mean32"),
    "4 8 16 32": ("mean4", "mean8", "mean16", "mean32"),
    "8 16 32, deviations": ("mean8", "mean16", "mean32", "std8", "std16", "std32"),
    "16 32, deviations": ("mean16", "mean32", "std16", "std32"),
    "vector": ("vector",),
    "8 16 32, vector": ("mean8", "mean16", "mean32", "vector"),
    "1280": ("final",),
}


def imagenet() -> tuple[UMedPT, nn.Module]:
    """EfficientNet-Lite0 as it came: its maps, and the network whose 1,280 numbers are also read."""
    network, card = load_network("efficientnet_lite0.imagenet")
    shared = UMedPT(ModelSpec(backbone="tf_efficientnet_lite0", norm="frozenbatchnorm", mean=card.mean, std=card.std))
    given, own = network.state_dict(), shared.encoder.state_dict()
    shared.encoder.load_state_dict({key: given[key.removeprefix("net.")] for key in own})
    return shared.eval(), network.eval()


def trained(path: Path) -> UMedPT:
    """The shared model of a release or of a checkpoint."""
    about = checkpoint.read_about(path)
    if about["kind"] == "umedpt":
        return load_release(path).shared
    shared = UMedPT(build(ModelSpec, about["config"]["model"], "model"))
    tensors, _ = checkpoint.load(path)
    shared.load_state_dict(checkpoint.tensors_under(tensors, "shared"))
    return shared.eval()


@torch.inference_mode()
def parts(shared: UMedPT, final: nn.Module | None, images: np.ndarray) -> dict[str, np.ndarray]:
    """All that read-outs are made of, float32 (image, k) each."""
    out: dict[str, list[torch.Tensor]] = {}
    for some in np.array_split(images, -(-len(images) // 16)):
        x = shared.normalised(torch.from_numpy(some).permute(0, 3, 1, 2))
        pyramid = shared.pyramid(x)
        for stride, found in zip((4, 8, 16, 32), pyramid, strict=True):
            out.setdefault(f"mean{stride}", []).append(found.mean((2, 3)))
            out.setdefault(f"std{stride}", []).append(found.std((2, 3)))
        if final is None:
            out.setdefault("vector", []).append(shared.features(x).vector)
        else:
            out.setdefault("final", []).append(final(x))
    return {name: torch.cat(some).float().numpy() for name, some in out.items()}


def features(target_name: str, root: Path, shared: UMedPT, final: nn.Module | None) -> dict[str, np.ndarray]:
    """Parts of a target, kept by the hash of the weights."""
    kept = DATA / "readouts" / f"{target_name}.{weights_sha256(shared)[:12]}.npz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **parts(shared, final, TARGETS[target_name](root).images))
    return dict(np.load(kept))


def difference(found: list[np.ndarray], ground: list[np.ndarray]) -> str:
    """Mean over seeds of the difference of AUC, and its interval; the first number of each array is the AUC itself."""
    apart = np.nanmean(np.array(found) - np.array(ground), axis=0)
    low, high = np.nanpercentile(apart[1:], (2.5, 97.5))
    return f"{apart[0]:+.3f} [{low:+.3f}, {high:+.3f}]"


def measured(x: np.ndarray, target: Target, fraction: float) -> list[np.ndarray]:
    """AUC of every seed, followed by that of each draw of groups (nan where a class is missing)."""
    found = []
    for seed in range(SEEDS):
        train, test = splits(target, fraction, seed)
        if len(np.unique(target.labels[test])) == len(np.unique(target.labels)):
            told = scores(target, test, probe(x, target, train, test))
            found.append(np.array([told["auc"], *told["drawn"]], float))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="releases or checkpoints to show too")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--readouts", nargs="+", choices=READOUTS, default=list(READOUTS))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    networks: dict[str, tuple[UMedPT, nn.Module | None]] = {GROUND: imagenet()}
    for path in [*shipped().values(), *asked.weights]:
        networks[path.stem if path.parent.name != "checkpoint" else path.parent.parent.name] = trained(path), None
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    every: dict[tuple[str, str, str], list[list[np.ndarray]]] = {}
    for name in asked.targets:
        target = TARGETS[name](asked.data)
        print(f"\n### {name}: {len(target.images)} images, {len(np.unique(target.groups))} groups", flush=True)
        for arm, (shared, final) in networks.items():
            made = features(name, asked.data, shared, final)
            for readout in asked.readouts:
                if not {*READOUTS[readout]} <= {*made}:
                    continue
                x = np.concatenate([made[p] for p in READOUTS[readout]], 1)
                drawn = [measured(x, target, fraction) for fraction in FRACTIONS]
                means = [float(np.mean([seed[0] for seed in seeds])) for seeds in drawn]
                rows.setdefault((arm, readout), {})[name] = means
                every[arm, readout, name] = drawn
                print(
                    f"| {arm} | {readout} | {x.shape[1]} | " + " | ".join(f"{m:.3f}" for m in means) + " |", flush=True
                )
    print(f"\n### difference from {GROUND} by the same read-out")
    for (arm, readout, name), drawn in every.items():
        if arm != GROUND and (GROUND, readout, name) in every:
            cells = map(difference, drawn, every[GROUND, readout, name])
            print(f"| {name} | {arm} | {readout} | " + " | ".join(cells) + " |")
    print("\n### mean over targets")
    for (arm, readout), by_target in rows.items():
        mean = np.mean(list(by_target.values()), 0)
        print(f"| {arm} | {readout} | " + " | ".join(f"{m:.3f}" for m in mean) + " |")


if __name__ == "__main__":
    main()
