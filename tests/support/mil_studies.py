"""Studies made up for the tests of figures and reports: what is predicted is the truth and noise."""

import numpy as np

from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.evaluation.heldout import HeldOut, Study

CLASSES = {
    "binary": ("negative", "positive"),
    "multiclass": ("LUAD", "LUSC", "other"),
    "ordinal": ("G1", "G2", "G3", "G4"),
    "multilabel": ("er", "pr", "her2"),
}


def softmax(x):
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    return y / y.sum(axis=-1, keepdims=True)


def simulated(
    kind="binary",
    cases=120,
    *,
    seeds=2,
    folds=5,
    skill=1.5,
    baseline_skill=0.7,
    slides_a_patient=1,
    seed=0,
    classes=None,
    unknown=0,
    name=None,
    sites=("North", "South"),
):
    """A study of one model and two baselines, one that knows a little and one that knows nothing.

    Parameters
    ----------
    skill, baseline_skill
        How far apart the scores of the classes are, in standard deviations of the noise.
    slides_a_patient
        Cases of a patient; they share truth and most of the noise.
    unknown
        Cases without a label.
    """
    rng = np.random.default_rng(seed)
    names = classes or CLASSES.get(kind, ())
    patient = np.arange(cases) // slides_a_patient
    people = patient.max() + 1
    target = {
        "cox": Target(name=name or "os", kind="cox", columns=("days", "event")),
        "discrete": Target(name=name or "os", kind="discrete", columns=("days", "event"), edges=(300.0, 700.0, 1200.0)),
    }.get(kind, Target(name=name or "status", kind=kind, columns=("status",), classes=tuple(names)))
    truth, signal = _truth(kind, len(names), people, rng)
    truth, signal = truth[patient], signal[patient]
    fold = np.stack([rng.permutation(people) % folds for _ in range(seeds)])[:, patient]
    shared = rng.normal(size=(people, signal.shape[1]))[patient]
    if unknown:
        truth[rng.choice(cases, unknown, replace=False)] = np.nan

    def arm(label, strength, extra):
        own = rng.normal(size=(seeds, cases, signal.shape[1]))
        noise = shared * 0.8 + own * 0.6
        score = strength * signal + noise if strength else np.zeros_like(noise)
        predicted, decided = _predicted(kind, score, target)
        sets = None
        if kind in ("binary", "multiclass", "ordinal") and extra:
            sets = predicted >= np.minimum(0.2, predicted.max(axis=-1, keepdims=True))
        intervals = predicted + np.array([-10.0, 10.0]) if kind == "regression" and extra else None
        return HeldOut(
            arm=label,
            predicted=predicted,
            decided=decided,
            sets=sets,
            intervals=intervals,
            unlike=rng.random((seeds, cases)) if extra else None,
        )

    return Study(
        target=target,
        case_ids=tuple(f"case-{k:04d}" for k in range(cases)),
        patients=tuple(f"patient-{p:04d}" for p in patient),
        sites=tuple(sites[p % len(sites)] if sites else "" for p in patient),
        tiles=rng.integers(200, 5000, cases),
        slides=np.ones(cases, np.int64),
        truth=truth,
        fold=fold,
        seeds=tuple(range(seeds)),
        arms=(
            arm("gated attention", skill, True),
            arm("mean + logistic regression", baseline_skill, False),
            arm("majority", 0.0, False),
        ),
        coverage=0.9 if kind in ("binary", "multiclass", "ordinal", "regression") else None,
        notes=("3 slides have no features and were left out.",) if unknown else (),
    )


def _truth(kind, classes, people, rng):
    """Truth and signal, (patient, t) and (patient, d)."""
    if kind == "multilabel":
        yes = rng.random((people, classes)) < np.linspace(0.5, 0.2, classes)
        return yes.astype(float), yes * 2.0 - 1
    if kind == "regression":
        value = rng.normal(60, 12, (people, 1))
        return value, (value - 60) / 12
    if kind in ("cox", "discrete"):
        hazard = rng.normal(size=(people, 1))
        time = rng.exponential(900 * np.exp(-hazard[:, 0]))
        censor = rng.uniform(100, 2500, people)
        truth = np.column_stack([np.minimum(time, censor), time <= censor])
        return np.round(np.maximum(truth, [1, 0])), hazard
    share = np.array([0.6, 0.4]) if kind == "binary" else np.linspace(1.5, 0.5, classes) / classes
    index = rng.choice(classes, people, p=share / share.sum())
    if kind == "binary":
        return index[:, None].astype(float), index[:, None] * 2.0 - 1
    if kind == "ordinal":
        return index[:, None].astype(float), index[:, None] - (classes - 1) / 2
    return index[:, None].astype(float), np.eye(classes)[index] * 2 - 1


def _predicted(kind, score, target):
    if kind == "regression":
        value = 60 + 12 * score / max(1, np.abs(score).max() / 3)
        return value, value
    if kind == "cox":
        return score, np.full(score.shape, np.nan)
    if kind == "discrete":
        edges = np.array(target.edges)
        return np.exp(-edges / 900 * np.exp(score)), np.full(score.shape, np.nan)
    if kind == "multilabel":
        chance = 1 / (1 + np.exp(-score))
        return chance, (chance >= 0.5).astype(float)
    if kind == "binary":
        chance = 1 / (1 + np.exp(-1.5 * score[..., 0]))
        predicted = np.stack([1 - chance, chance], axis=-1)
    elif kind == "ordinal":
        steps = np.arange(len(target.classes)) - (len(target.classes) - 1) / 2
        predicted = softmax(-((score - steps) ** 2))
    else:
        predicted = softmax(1.5 * score)
    return predicted, predicted.argmax(axis=-1)[..., None].astype(float)
