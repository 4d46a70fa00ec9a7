"""Slide classifiers on bags whose answers are known: every figure of docs/measured/slide-classifiers.md.

    python -m benchmarks.mil.figures --data ../shared/data            # all parts; goes on where it stopped
    python -m benchmarks.mil.figures --data ../shared/data --only digits planted
    python -m benchmarks.mil.figures --report                         # tables of what is there

Settings are the package's own, but for the two learning rates that the inner folds of the small public sets
choose from; none was chosen by what is printed here. Results go to benchmarks/data/mil.jsonl.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks import DATA
from benchmarks.mil.bags import Bags, digits, planted, public, unit_test
from wsi_umedpt.mil.settings import FitSettings, StudySettings
from wsi_umedpt.mil.training.baselines import LINEAR, develop_baselines
from wsi_umedpt.mil.training.ensemble import develop
from wsi_umedpt.mil.training.nested_cv import cross_validate

OUT = DATA / "mil.jsonl"
SEEDS = (0, 1, 2)
MODELS = ("attention", "additive", "clam-sb", "clam-mb", "transformer", "max", "top-k", "mean", "mean-mlp")
TESTS = ("single concept", "two concepts", "false frequency")


def public_set(data: Path, *, name: str, model: str, seed: int) -> dict:
    cohort, reader = public(data / "mil_bags" / f"{name}.npz").cohort()
    base = FitSettings(model=model, epochs=100, patience=20)
    options = [replace(base, lr=lr) for lr in (1e-3, 3e-3)]
    with tempfile.TemporaryDirectory() as folder:
        study = cross_validate(cohort, reader, options, StudySettings(folds=10, seeds=(seed,)), Path(folder))[0]
    truth, said = study.truth[:, 0], {}
    for arm in study.arms:
        key = "" if arm.arm == "model" else f"{arm.arm}: "
        said[f"{key}accuracy"] = float((arm.decided[0, :, 0] == truth).mean())
        said[f"{key}accuracy at 0.5"] = float(((arm.predicted[0, :, 1] >= 0.5) == truth).mean())
        said[f"{key}auc"] = float(roc_auc_score(truth, arm.predicted[0, :, 1]))
    first = study.arms[0]
    assert first.sets is not None
    said["coverage"] = float(first.sets[0, np.arange(len(truth)), truth.astype(int)].mean())
    said["set size"] = float(first.sets[0].sum(1).mean())
    return said


def trained(train: Bags, test: Bags, model: str, seed: int, **settings: int) -> dict:
    """Develop on training bags, and try on bags of their own."""
    cohort, reader = train.cohort("train")
    made = develop(cohort, reader, [FitSettings(model=model, **settings)], StudySettings(), (seed,))
    linear = next(b for b in develop_baselines(cohort, reader, StudySettings(), seed) if b.name == LINEAR)
    bags = [[x.astype(np.float32)] for x in test.features]
    found = [made.forecast(bag)[0].predicted[1] for bag in bags]
    baseline = [linear.forecast(bag)[0][1][1] for bag in bags]
    seen = [made.forecast([x.astype(np.float32)])[0].predicted[1] for x in train.features]
    return {
        "auc": float(roc_auc_score(test.labels, found)),
        "training auc": float(roc_auc_score(train.labels, seen)),
        f"{LINEAR}: auc": float(roc_auc_score(test.labels, baseline)),
    }


def planted_set(share: float, model: str, seed: int) -> dict:
    """Five-fold AUC of slides, and AUC of tiles in held-out positive slides."""
    bags = planted(share, seed)
    cohort, reader = bags.cohort()
    from wsi_umedpt.mil.inference.slide_model import SlideModel

    with tempfile.TemporaryDirectory() as folder:
        study = cross_validate(cohort, reader, [FitSettings(model=model)], StudySettings(seeds=(seed,)), Path(folder))[
            0
        ]
        tiles: dict[str, list[float]] = {"attention": [], "contribution": []}
        for fold in range(5):
            made = SlideModel.load(Path(folder) / f"seed{seed}_fold{fold}.json")
            for row in np.flatnonzero((study.fold[0] == fold) & (bags.labels == 1)):
                shares = made.explain(bags.features[row].astype(np.float32))
                tiles["attention"].append(roc_auc_score(bags.instances[row], shares.attention))
                tiles["contribution"].append(roc_auc_score(bags.instances[row], shares.contribution[:, 0]))
    truth = study.truth[:, 0]
    said = {f"{arm.arm}: auc": float(roc_auc_score(truth, arm.predicted[0, :, 1])) for arm in study.arms}
    return said | {f"tile auc of {name}": float(np.mean(values)) for name, values in tiles.items()}


def glands(data: Path, *, encoder: str, model: str, seed: int) -> dict:
    from benchmarks.mil.glas import glas

    cohort, reader = glas(data, encoder).cohort()
    with tempfile.TemporaryDirectory() as folder:
        study = cross_validate(cohort, reader, [FitSettings(model=model)], StudySettings(seeds=(seed,)), Path(folder))[
            0
        ]
    truth = study.truth[:, 0]
    said = {f"{arm.arm}: auc": float(roc_auc_score(truth, arm.predicted[0, :, 1])) for arm in study.arms}
    return said | {"accuracy": float((study.arms[0].decided[0, :, 0] == truth).mean())}


def digit_bags(bags: int, model: str, seed: int) -> dict:
    return trained(digits(bags, seed, train=True), digits(600, seed, train=False), model, seed)


def algorithmic(test: str, model: str, seed: int) -> dict:
    train, held = unit_test(test, 200, seed, train=True), unit_test(test, 400, seed, train=False)
    return trained(train, held, model, seed, epochs=20, patience=5)


def jobs(data: Path) -> Iterator[tuple[str, dict, Callable[..., dict]]]:
    """Part, what it is of, and what to call with that; the arms beside the main ones for the first seed only."""
    for seed in SEEDS:
        first = seed == SEEDS[0]
        for model in ("attention", "max", "mean-mlp") if first else ("attention",):
            for name in ("musk1", "musk2", "ucsb_breast_cancer"):
                yield "public", {"name": name, "model": model, "seed": seed}, partial(public_set, data)
        for share, model in product((0.01, 0.02, 0.05), ("attention", "mean")):
            yield "planted", {"share": share, "model": model, "seed": seed}, planted_set
        yield "planted", {"share": 0.05, "model": "additive", "seed": seed}, planted_set
        for encoder in ("umedpt_lite0.v1", "efficientnet_lite0.imagenet", "random"):
            for model in ("attention", "mean-mlp") if first else ("attention",):
                yield "glas", {"encoder": encoder, "model": model, "seed": seed}, partial(glands, data)
        for bags in (50, 100, 200, 500):
            yield "digits", {"bags": bags, "model": "attention", "seed": seed}, digit_bags
    for seed, model, test in product(SEEDS, MODELS, TESTS):
        if (test, seed) == (TESTS[0], SEEDS[0]):
            yield "digits", {"bags": 200, "model": model, "seed": seed}, digit_bags
        yield "unit tests", {"test": test, "model": model, "seed": seed}, algorithmic


def read() -> list[dict]:
    return [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.exists() else []


def report() -> None:
    """A table a part: mean over seeds, and from lowest to highest."""
    rows = read()
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        keys = [key for key in mine[0]["of"] if key != "seed"]
        names = list(dict.fromkeys(name for row in mine for name in row["found"]))
        print(f"\n### {part}\n\n| {' | '.join([*keys, *names])} |\n|{'---|' * (len(keys) + len(names))}")
        groups: dict[tuple, list[dict]] = {}
        for row in mine:
            groups.setdefault(tuple(row["of"][key] for key in keys), []).append(row["found"])
        for group, found in sorted(groups.items(), key=str):
            cells = []
            for name in names:
                values = [f[name] for f in found if name in f]
                cells.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "")
            print(f"| {' | '.join([*map(str, group), *cells])} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--part", default="1/1", help="every n-th job, as 1/2 and 2/2, for two processes")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        report()
        return
    OUT.parent.mkdir(exist_ok=True)
    number, of = map(int, options.part.split("/"))
    for n, (part, of_what, call) in enumerate(jobs(options.data)):
        if (options.only and part not in options.only) or n % of != number - 1:
            continue
        if any(row["part"] == part and row["of"] == of_what for row in read()):
            continue
        line = json.dumps({"part": part, "of": of_what, "found": call(**of_what)})
        with OUT.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
