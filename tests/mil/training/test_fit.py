"""Training one network: a function of the seed, stopped by others, and what it reads."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.support.mil_cohorts import AGE, BINARY, COX, MARKERS, QUICK, TARGETS, THREE, Bank, cohort_of, same
from wsi_umedpt.errors import ConfigError, MilError
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.targets import spans
from wsi_umedpt.mil.networks.factory import build_network
from wsi_umedpt.mil.networks.ragged_pooling import join
from wsi_umedpt.mil.settings import FitSettings, varied
from wsi_umedpt.mil.training import fit as fitting
from wsi_umedpt.mil.training.ensemble import filled
from wsi_umedpt.mil.training.fit import accumulate, case_logits, fit, logits_of, rate
from wsi_umedpt.mil.training.losses import loss_of


def halves(*targets, **options):
    """Cases to train on, cases to stop by, and a reader of all."""
    cohort, banks = cohort_of(*targets, **options)
    cohort, rows = filled(cohort), np.arange(len(cohort))
    return cohort.only(rows[::2]), cohort.only(rows[1::2]), BagReader(banks)


def weights_of(fitted):
    return {k: v.numpy() for k, v in fitted.network.state_dict().items()}


# ------------------------------------------------------------------ the network


@pytest.mark.parametrize("model", ["attention", "clam-sb", "transformer", "top-k"])
def test_a_seed_trains_the_same_network(model):
    """Bit for bit, whatever was drawn before; another seed another one; nobody else's random numbers change."""
    train, stop, reader = halves()
    settings = replace(QUICK, model=model, dropout=0.3)
    first = fit(train, stop, reader, settings, 7)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = fit(train, stop, reader, settings, 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights_of(first), weights_of(again))
    assert first.history == again.history
    assert not same(weights_of(first), weights_of(fit(train, stop, reader, settings, 8)))


@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_of_target_is_learned(kind):
    """Where a number says the label, the training loss falls well below that of who knows nothing."""
    signal = 0.1 if kind in ("regression", "cox", "discrete") else 3  # of ages and times, or of a class
    train, stop, reader = halves(TARGETS[kind], cases=60, signal=signal, tiles=(3, 9))
    fitted = fit(train, stop, reader, replace(QUICK, epochs=15, patience=15, lr=0.05), 0)
    assert fitted.history[0][1] == pytest.approx(1, abs=0.4)
    assert min(loss for _, loss in fitted.history) < (0.95 if kind == "cox" else 0.7)


@pytest.mark.parametrize(
    "settings",
    [
        *(
            FitSettings(model=m, epochs=12, lr=3e-3)
            for m in ("attention", "clam-sb", "clam-mb", "additive", "max", "top-k")
        ),
        FitSettings(model="transformer", epochs=12, lr=1e-3, hidden=32),
    ],
    ids=lambda settings: settings.model,
)
def test_few_telling_tiles_are_found(settings):
    """Two tiles of twenty say the class: models that weigh tiles rank slides that they were not trained on."""
    rng = np.random.default_rng(3)
    cohort, banks = cohort_of(cases=80, tiles=(20, 21), seed=3)
    for case, label in zip(cohort.cases, cohort.truth[0][:, 0], strict=True):
        banks[case.slides[0]].features[rng.choice(20, 2, replace=False), 1] = 5 * label
    rows = np.arange(80)
    train, stop, held = (cohort.only(r) for r in (rows[:40], rows[40:55], rows[55:]))
    fitted = fit(train, stop, BagReader(banks), settings, 0)
    found = case_logits(fitted.network, held, BagReader(banks))
    assert roc_auc_score(held.truth[0][:, 0], found[:, 0]) > 0.9


def test_the_best_epoch_is_kept():
    """The network gives the least stopping loss of all epochs; training stops some epochs after it."""
    train, stop, reader = halves(cases=40)
    epochs = []
    fitted = fit(train, stop, reader, replace(QUICK, epochs=40, patience=3, lr=0.1), 0, watch=epochs.append)
    losses = [found for _, found in fitted.history]
    assert fitted.epoch == int(np.argmin(losses))
    assert len(losses) == fitted.epoch + 1 + 3
    assert epochs == [*range(len(losses))]
    logits = torch.from_numpy(case_logits(fitted.network, stop, reader))
    assert loss_of(BINARY, logits, torch.from_numpy(stop.truth[0])).item() == pytest.approx(
        losses[fitted.epoch], abs=1e-5
    )
    assert not any(p.requires_grad for p in fitted.network.parameters())
    assert not fitted.network.training


@pytest.mark.parametrize("target", [BINARY, COX], ids=["no-labels", "no-events"])
def test_where_nothing_says_when_to_stop_all_epochs_count(target):
    """Stopping cases without a label, or survivors alone, would otherwise keep the first epoch."""
    train, stop, reader = halves(target)
    truth = stop.truth[0].copy()
    truth[:] = [np.nan] if target is BINARY else [5.0, 0.0]
    fitted = fit(train, replace(stop, truth=(truth,)), reader, replace(QUICK, epochs=5, patience=1), 0)
    assert (fitted.epoch, len(fitted.history)) == (4, 5)


def test_a_loss_that_is_not_finite_is_said():
    """With the flag that mends it."""
    train, stop, reader = halves()
    with pytest.raises(MilError, match=r"the loss is not finite in epoch \d+; lower `lr` \(now 1\)"):
        fit(train, stop, reader, replace(QUICK, lr=1.0, weight_decay=10.0, epochs=60, patience=60), 0)


# ------------------------------------------------------------------ a step


@pytest.mark.parametrize("model", ["attention", "clam-mb", "mean-mlp", "max"])
@pytest.mark.parametrize("piece", [1, 9, 10**6])
def test_a_batch_in_pieces_has_the_gradient_of_the_batch(model, piece, monkeypatch):
    """Several targets, some labels missing: whatever fits into a piece."""
    monkeypatch.setattr(fitting, "_PIECE_TILES", piece)
    targets = tuple(TARGETS[kind] for kind in ("binary", "ordinal", "multilabel", "regression", "discrete"))
    cohort, banks = cohort_of(*targets, cases=12)
    cohort = filled(cohort)
    for truth in cohort.truth:
        truth[np.random.default_rng(0).random(12) < 0.3] = np.nan
    settings = replace(QUICK, model=model, dropout=0.0, feature_dropout=0.0, instance_weight=0.0)
    network = build_network(6, spans(cohort.targets)[-1].stop, settings, [2, 3])
    parts = [torch.from_numpy(banks[c.slides[0]].features) for c in cohort.cases]
    weights = [torch.tensor([0.5, 1.5]), None, None, None, None]
    whole = accumulate(network, parts, cohort.targets, cohort.truth, weights)
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    logits = network(join(parts))
    expected = sum(
        loss_of(target, logits[:, span], torch.from_numpy(truth).float(), weight)
        for target, span, truth, weight in zip(
            cohort.targets, spans(cohort.targets), cohort.truth, weights, strict=True
        )
    ) / len(targets)
    expected.backward()
    assert whole == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        found, [p.grad for p in network.parameters() if p.grad is not None], atol=1e-5, rtol=1e-4
    )


def test_cox_ranks_the_whole_batch(monkeypatch):
    """Its loss is of all bags at once, however small a piece may be; and of 32 bags or more."""
    monkeypatch.setattr(fitting, "_PIECE_TILES", 1)
    cohort, banks = cohort_of(COX, cases=10)
    network = build_network(6, 1, replace(QUICK, feature_dropout=0.0), [])
    parts = [torch.from_numpy(banks[c.slides[0]].features) for c in cohort.cases]
    whole = accumulate(network, parts, cohort.targets, cohort.truth, [None])
    expected = loss_of(COX, network(join(parts)), torch.from_numpy(cohort.truth[0]).float())
    assert whole == pytest.approx(expected.item(), rel=1e-5)


def test_the_learning_rate_rises_then_falls_to_nothing():
    """Linear over the first epoch, a cosine from there."""
    steps = [rate(t, 10) for t in np.linspace(0.05, 10, 200)]
    top = int(np.argmax(steps))
    assert steps[top] == pytest.approx(1, abs=1e-3)
    assert (np.diff(steps[: top + 1]) > 0).all()
    assert (np.diff(steps[top:]) < 0).all()
    assert steps[-1] == pytest.approx(0, abs=1e-9)
    assert rate(1, 1) == 1


@pytest.mark.parametrize(
    ("tiles", "most", "dropped", "seen"),
    [
        (100, 1000, 0.0, 100),
        (100, 1000, 0.1, 90),
        (100, 40, 0.0, 40),
        (100, 40, 0.5, 20),
        (1, 40, 0.9, 1),
        (2, 9, 0.9, 1),
    ],
)
def test_a_step_sees_some_tiles(tiles, most, dropped, seen):
    """Others each time, never none, each once."""
    reader = BagReader({"s": Bank("s", np.arange(tiles, dtype=np.float32)[:, None])})
    settings, draw = replace(QUICK, max_tiles=most, tile_dropout=dropped), np.random.default_rng(0)
    item = cohort_of(cases=1)[0].items[0]
    drawn = [fitting._drawn(replace(item, slides=("s",)), reader, settings, draw)[:, 0] for _ in range(3)]
    for part in drawn:
        assert (len(part), len({*part.tolist()})) == (seen, seen)
    assert seen in (tiles, 1) or not torch.equal(drawn[0], drawn[1])


def test_class_weights_have_a_mean_of_1():
    """Over the bags that have a label; rarer classes weigh more."""
    cohort, _ = cohort_of(THREE, cases=12)
    cohort.truth[0][:, 0] = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, np.nan, np.nan]
    weights = fitting._class_weights(cohort, 0, "cpu").numpy()
    np.testing.assert_allclose(weights * [6, 3, 1], 10 / 3, rtol=1e-6)
    assert fitting._class_weights(cohort_of(AGE)[0], 0, "cpu") is None


# ------------------------------------------------------------------ what is read


def test_features_are_centred_by_slides_not_by_tiles():
    """A slide of a thousand tiles does not outvote one of ten."""
    banks = {
        "a": Bank("a", np.full((10, 2), [0, 3], np.float32)),
        "b": Bank("b", np.full((1000, 2), [2, 3], np.float32)),
    }
    cohort, _ = cohort_of(cases=2)
    items = [replace(item, slides=(slide,)) for item, slide in zip(cohort.items, "ab", strict=True)]
    mean, deviation = fitting._moments(items, BagReader(banks), np.random.default_rng(0))
    assert (mean.tolist(), deviation.tolist()) == ([1, 3], [1, 0])


def test_logits_are_the_same_in_any_batch(monkeypatch):
    """A case at a time or all at once; of several slides averaged late they are the mean."""
    cohort, banks = cohort_of(cases=6, slides=3, unit="late")
    network, reader = build_network(6, 1, QUICK, [2]).eval(), BagReader(banks)
    whole = logits_of(network, cohort.items, reader)
    monkeypatch.setattr(fitting, "_BATCH_TILES", 1)
    np.testing.assert_allclose(logits_of(network, cohort.items, reader), whole, atol=1e-6)
    np.testing.assert_allclose(case_logits(network, cohort, reader), whole.reshape(6, 3, 1).mean(1), atol=1e-6)


LOADS = []


class Counted(Bank):
    """Notes who is read."""

    def load(self):
        """A copy, so that what was read anew is not what was kept."""
        LOADS.append(self.slide_id)
        bag = super().load()
        return replace(bag, features=bag.features.copy())


def test_a_reader_of_some_slides_gives_no_others():
    """Not even those that are in memory already; what it reads, the first one need not read again."""
    LOADS.clear()
    reader = BagReader({s: Counted(s, np.zeros((2, 2), np.float32)) for s in "abc"})
    reader("a")
    some = reader.only("bc")
    with pytest.raises(MilError, match="'a' is not among those that may be read here"):
        some("a")
    some("bc")
    assert some.only("b")("b") is reader("b")
    assert LOADS == ["a", "b", "c"]
    assert pickle.loads(pickle.dumps(reader.only("b")))("b").shape == (2, 2)  # noqa: S301 - our own
    with pytest.raises(KeyError):
        reader.only("x")


def test_memory_holds_what_was_used_last():
    """Beyond the budget slides are read again, and a slide larger than it is read all the same."""
    banks = {s: Counted(s, np.full((10, 10), n, np.float32)) for n, s in enumerate("abcd")}
    reader = BagReader(banks, budget_bytes=850)  # two slides of 400 bytes
    first = {s: reader(s) for s in "ab"}
    assert reader("a") is first["a"]
    reader("c")
    assert reader("a") is first["a"]
    assert reader("b") is not first["b"]
    assert BagReader(banks, budget_bytes=1)("a").sum() == 0


@pytest.mark.parametrize(
    ("features", "why"),
    [
        pytest.param(np.zeros((0, 6), np.float32), "has no tiles", id="empty"),
        pytest.param(np.array([[np.nan]], np.float32), "has features that are not finite", id="nan"),
        pytest.param(np.array([[np.inf]], np.float16), "has features that are not finite", id="overflown-half"),
    ],
)
def test_slides_that_cannot_be_used_are_named(features, why):
    """Before anything is computed with them."""
    with pytest.raises(MilError, match=f"slide 's' {why}"):
        BagReader({"s": Bank("s", features)})("s")


def test_features_that_cannot_be_written_to_are_read():
    """As those of a memory map, or a view of every other number."""
    features = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)[:, ::2]
    features.flags.writeable = False
    found = torch.from_numpy(BagReader({"s": Bank("s", features)})("s"))
    np.testing.assert_array_equal(found.numpy(), features)


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lr", "write NAME=VALUE"), ("lr=high", "is a number"), ("lr=0", "`lr` is from 0 to 1"),
        ("lr=nan", "is a number"), ("leaning=3", "no key 'leaning'"), ("model=attn", "there are mean, max"),
        ("hidden=0", "from 1 to 65,536"), ("hidden=2.5", "a whole number"), ("dropout=1", "from 0 to below 1"),
        ("model=transformer,hidden=6", "multiple of 4"), ("class-weights=maybe", "true or false"), ("", "write NAME"),
    ],
)  # fmt: skip
def test_a_variation_that_cannot_be_is_refused(text, why):
    """With what can."""
    with pytest.raises((MilError, ConfigError), match=why):
        varied(FitSettings(), text)


def test_a_variation_changes_what_it_names():
    """And nothing else."""
    found = varied(FitSettings(), "lr=0.003, model=clam-mb,top-k=3,class-weights=true,epochs=5")
    assert found == FitSettings(lr=0.003, model="clam-mb", top_k=3, class_weights=True, epochs=5)


def test_labels_of_several_targets_train_one_network():
    """Each target's loss counts the same; a label that a case lacks is no obstacle."""
    train, stop, reader = halves(BINARY, AGE, MARKERS, cases=24)
    train.truth[0][:6] = np.nan
    train.truth[1][6:9] = np.nan
    fitted = fit(train, stop, reader, QUICK, 0)
    assert case_logits(fitted.network, stop, reader).shape == (12, 4)
    assert fitted.history[0][0] == pytest.approx(1, abs=0.3)
