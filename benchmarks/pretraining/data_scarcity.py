"""How few labels suffice: probes on frozen features, and fine-tuning, at 1 to 100 % of the labels.

    python -m benchmarks.pretraining.data_scarcity --data ../shared/data

Every arm sees the same splits: the test set is fixed, or a third of the groups (patients) for
each seed; a stratified share of the rest is trained on. Printed: mean AUC over seeds with its
95 % interval over test sets (bootstrap over groups, the same draws for every arm). Results are
kept in benchmarks/data/scarcity.jsonl with the weights that they are of, so that a run that was
stopped goes on and other weights are measured anew; ``--report`` only prints. Settings are alike
for all arms and were fixed before any trained arm was measured; nothing is chosen on test data.

Read top to bottom: the arms, one measurement, the table.
"""

import argparse
import io
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from benchmarks import DATA
from benchmarks.pretraining.scarcity_targets import TARGETS, Target, mobilenet_weights
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.norms import batch_norms
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.models.weights import load_network, weights_sha256

FRACTIONS = (0.01, 0.05, 0.1, 0.5, 1.0)
SEEDS = 5
DRAWS = 300
RESULTS = DATA / "scarcity.jsonl"
PENALTY = 0.1
STEPS, BATCH, LR, LR_SCRATCH = 40, 16, 1e-4, 1e-3
FINE_PIXELS = 112 * 112
"""Of fine-tuning: alike for all arms; LR_SCRATCH for heads and for arms that begin at random."""
FINE_TUNED = ("chest_pneumonia", "glas")
HALF = (0.5, 0.5, 0.5)


class Arm(nn.Module):
    """A network that embeds uint8 images (image, h, w, 3), with its own normalisation."""

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], *, scratch: bool) -> None:
        super().__init__()
        self.net, self.scratch = net, scratch
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images."""
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        out: torch.Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return out.float()


def _random(backbone: str, norm: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Arm:
    torch.manual_seed(0)
    return Arm(UMedPT(ModelSpec(backbone=backbone, norm=norm)), mean, std, scratch=True)  # type: ignore[arg-type]


def _imagenet_lite0() -> Arm:
    network, card = load_network("efficientnet_lite0.imagenet")
    return Arm(network, card.mean, card.std, scratch=False)


def _mobilenet() -> Arm:
    network = mobilenet_v2()
    network.load_state_dict(torch.load(io.BytesIO(mobilenet_weights()), weights_only=True))
    network.classifier = nn.Identity()
    return Arm(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), scratch=False)


def _release(path: Path) -> Arm:
    shared = load_release(path).shared
    return Arm(shared, shared.spec.mean, shared.spec.std, scratch=False)


def arms(runs: Path) -> dict[str, Callable[[], Arm]]:
    """All arms; those of releases only where the release is there."""
    found: dict[str, Callable[[], Arm]] = {
        "random Swin micro": lambda: _random("swinv2_micro", "affinelayernorm", (0, 0, 0), (1, 1, 1)),
        "random Lite0": lambda: _random("tf_efficientnet_lite0", "affinelayernorm", HALF, HALF),
        "ImageNet MobileNetV2": _mobilenet,
        "ImageNet Lite0": _imagenet_lite0,
    }
    for name, folder in (
        ("one task, Swin micro", "swin_micro_single"),
        ("one task, Lite0", "lite0_single"),
        ("UMedPT Swin micro", "swin_micro"),
        ("UMedPT Lite0", "lite0"),
    ):
        for path in sorted((runs / folder).glob("*.v1.json")):
            found[name] = lambda path=path: _release(path)  # type: ignore[misc]
    return found


def splits(target: Target, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images: a third of the groups is test; of the rest a stratified share, two a class at least."""
    if target.test is None:
        dealer = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
        train, test = next(dealer.split(target.images, target.labels, target.groups))
    else:
        train, test = np.flatnonzero(~target.test), np.flatnonzero(target.test)
    rng = np.random.default_rng(seed)
    kept = []
    for k in np.unique(target.labels):
        mine = rng.permutation(train[target.labels[train] == k])
        kept.append(mine[: max(2, round(fraction * len(mine)))])
    return np.concatenate(kept), test


def auc(labels: np.ndarray, chances: np.ndarray) -> float:
    """AUC; mean of one against the rest for several classes."""
    return float(roc_auc_score(labels, chances[:, 1] if chances.shape[1] == 2 else chances, multi_class="ovr"))


def scores(target: Target, test: np.ndarray, chances: np.ndarray) -> dict:
    """AUC on the test set, and on `DRAWS` draws of the target's groups, the same for every seed and arm.

    A draw is of all groups of the target, of which a seed's test set then sees its own: so what
    is uncertain because patients are few does not average out over seeds that share them.
    """
    labels, groups = target.labels[test], target.groups[test]
    names, rng, drawn = np.unique(target.groups), np.random.default_rng(0), []
    rows = {name: np.flatnonzero(groups == name) for name in names}
    for _ in range(DRAWS):
        chosen = np.concatenate([rows[name] for name in rng.choice(names, len(names))])
        whole = len(np.unique(labels[chosen])) == chances.shape[1]
        drawn.append(round(auc(labels[chosen], chances[chosen]), 4) if whole else None)
    return {"auc": auc(labels, chances), "drawn": drawn}


def interval(rows: list[dict]) -> tuple[float, float]:
    """95 % interval of the mean over seeds; draws without all classes in a seed's test set are left out of it."""
    drawn = np.array([r["drawn"] for r in rows], float)  # (seed, draw), nan where there is no AUC
    low, high = np.nanpercentile(np.nanmean(drawn, axis=0), (2.5, 97.5))
    return float(low), float(high)


@torch.inference_mode()
def embed(arm: Arm, images: np.ndarray) -> np.ndarray:
    """Frozen features."""
    arm.eval()
    return torch.cat([arm(torch.from_numpy(part)) for part in np.array_split(images, -(-len(images) // 8))]).numpy()


def probe(features: np.ndarray, target: Target, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Chances by logistic regression on standardised frozen features."""
    mean, spread = features[train].mean(0), features[train].std(0) + 1e-6
    scaled = (features - mean) / spread
    model = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=1000)
    return model.fit(scaled[train], target.labels[train]).predict_proba(scaled[test])


def fine_tune(
    make: Callable[[], Arm], target: Target, train: np.ndarray, test: np.ndarray, seed: int, *, half: bool
) -> np.ndarray:
    """Chances after training all weights and a linear head for `STEPS` steps on images of `FINE_PIXELS` at most.

    `half` trains under bfloat16 autocast, which is what Swin arms were pretrained with; others are slower so.
    """
    torch.manual_seed(seed)
    arm = make().requires_grad_(True)
    torch.manual_seed(seed)  # arms that begin at random set a seed of their own
    every = math.ceil(math.sqrt(target.images[0, ..., 0].size / FINE_PIXELS))
    images = torch.from_numpy(target.images[:, ::every, ::every].copy())
    labels = torch.from_numpy(target.labels)
    head = nn.Linear(arm(images[:2]).shape[1], int(labels.max()) + 1)
    arm.train()
    for norm in batch_norms(arm):
        norm.eval()
    lr = LR_SCRATCH if arm.scratch else LR
    groups = [{"params": arm.parameters(), "lr": lr}, {"params": head.parameters(), "lr": LR_SCRATCH}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        # Classes alternate, so that few labels do not fall on one class.
        rows = [rng.choice(train[target.labels[train] == k]) for k in np.arange(BATCH) % (int(labels.max()) + 1)]
        batch = images[rows]
        if rng.random() < 0.5:
            batch = batch.flip(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = F.cross_entropy(head(arm(batch)).float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(arm.parameters(), 1.0)
        optimizer.step()
    arm.eval()
    with torch.inference_mode():
        chances = torch.cat([head(arm(images[part])) for part in np.array_split(test, -(-len(test) // 16))]).softmax(1)
    return chances.numpy()


def measure(root: Path, runs: Path, *, fine: bool, targets: list[str], backwards: bool) -> None:
    """Measure what is not yet in `RESULTS`; another process may do so from the other end."""
    for name in targets:
        target = TARGETS[name](root)
        listed = list(arms(runs).items())
        for arm_name, make in reversed(listed) if backwards else listed:
            features, weights = None, weights_sha256(make())[:12]
            for mode in ("probe", "fine-tune") if fine and name in FINE_TUNED else ("probe",):
                if mode == "fine-tune" and "MobileNet" in arm_name:
                    continue  # the same comparison as ImageNet Lite0, left out for its cost
                for fraction in FRACTIONS:
                    for seed in range(SEEDS):
                        entry = {"target": name, "arm": arm_name, "mode": mode, "fraction": fraction, "seed": seed}
                        entry["weights"] = weights
                        if _key(entry) in {_key(r) for r in results()}:
                            continue
                        train, test = splits(target, fraction, seed)
                        if mode == "probe":
                            features = embed(make(), target.images) if features is None else features
                            chances = probe(features, target, train, test)
                        else:
                            chances = fine_tune(make, target, train, test, seed, half="Swin" in arm_name)
                        entry |= {"n": len(train), **scores(target, test, chances)}
                        with RESULTS.open("a") as file:
                            file.write(json.dumps(entry) + "\n")
            print(f"{name}: {arm_name} done", flush=True)


def results() -> list[dict]:
    """All measurements so far, of the weights that each arm was measured with last."""
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    latest = {r["arm"]: r["weights"] for r in found}
    return [r for r in found if r["weights"] == latest[r["arm"]]]


def _key(entry: dict) -> tuple:
    return tuple(entry.get(k) for k in ("target", "arm", "mode", "fraction", "seed", "weights"))


def report() -> None:
    """Print one table a target and mode, arms by row and fractions by column."""
    found = results()
    for name in TARGETS:
        for mode in ("probe", "fine-tune"):
            rows = [r for r in found if (r["target"], r["mode"]) == (name, mode)]
            if not rows:
                continue
            sizes = {f: next((r["n"] for r in rows if r["fraction"] == f), "-") for f in FRACTIONS}
            print(f"\n### {name}, {mode}\n")
            print("| arm | " + " | ".join(f"{f:.0%} (n = {sizes[f]})" for f in FRACTIONS) + " |")
            print("|---|" + "---|" * len(FRACTIONS))
            for arm in dict.fromkeys(r["arm"] for r in rows):
                cells = []
                for f in FRACTIONS:
                    mine = [r for r in rows if (r["arm"], r["fraction"]) == (arm, f)]
                    if not mine:
                        cells.append("not measured")
                        continue
                    low, high = interval(mine)
                    cells.append(f"{np.mean([r['auc'] for r in mine]):.3f} [{low:.3f}, {high:.3f}]")
                print(f"| {arm} | " + " | ".join(cells) + " |")


def plot(path: Path) -> None:
    """Curves of all arms, a panel a target and mode; bands are the 95 % intervals."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = results()
    panels = [
        (t, m)
        for t in TARGETS
        for m in ("probe", "fine-tune")
        if any((r["target"], r["mode"]) == (t, m) for r in found)
    ]
    columns = -(-len(panels) // 2)
    figure, axes = pyplot.subplots(2, columns, figsize=(5 * columns, 9), squeeze=False)
    colours = {arm: f"C{i}" for i, arm in enumerate(dict.fromkeys(r["arm"] for r in found))}
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (name, mode) in zip(axes.flat, panels, strict=False):
        rows = [r for r in found if (r["target"], r["mode"]) == (name, mode)]
        for arm in dict.fromkeys(r["arm"] for r in rows):
            mine = [[r for r in rows if (r["arm"], r["fraction"]) == (arm, f)] for f in FRACTIONS]
            if not all(mine):
                continue
            mean = [np.mean([r["auc"] for r in group]) for group in mine]
            low, high = zip(*(interval(g) for g in mine), strict=True)
            style = "-" if "UMedPT" in arm else "--"
            axis.plot(range(len(FRACTIONS)), mean, style, marker="o", color=colours[arm])
            axis.fill_between(range(len(FRACTIONS)), low, high, color=colours[arm], alpha=0.07)
        axis.set_xticks(range(len(FRACTIONS)), [f"{f:.0%}" for f in FRACTIONS])
        axis.set(title=f"{name}, {mode}", xlabel="labels used", ylabel="AUC")
    lines = [
        pyplot.Line2D([], [], color=c, ls="-" if "UMedPT" in arm else "--", marker="o") for arm, c in colours.items()
    ]
    figure.legend(lines, list(colours), loc="lower center", ncols=4)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the pretraining runs")
    parser.add_argument("--no-fine-tuning", action="store_true")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--backwards", action="store_true", help="begin with the last arm, beside another process")
    parser.add_argument("--report", action="store_true", help="only print what is measured")
    parser.add_argument("--plot", type=Path, help="also draw all curves to this PNG")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not asked.report:
        measure(asked.data, asked.runs, fine=not asked.no_fine_tuning, targets=asked.targets, backwards=asked.backwards)
    report()
    if asked.plot:
        plot(asked.plot)


if __name__ == "__main__":
    main()
