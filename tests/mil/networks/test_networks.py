"""Every kind of slide classifier: laws of bags, and what each says of its tiles."""

from typing import get_args

import pytest
import torch
from torch import nn

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.networks import ragged_pooling
from wsi_umedpt.mil.networks.factory import build_network
from wsi_umedpt.mil.networks.ragged_pooling import join
from wsi_umedpt.mil.settings import ModelKind, ModelSettings

KINDS = get_args(ModelKind)
DIM, OUTPUTS = 6, 3
ATTENTIVE = ("attention", "clam-sb", "clam-mb", "additive")

every_kind = pytest.mark.parametrize("kind", KINDS)


def network_of(kind, *, seed=0, outputs=OUTPUTS, **changes):
    """A network that has not learned yet, in evaluation mode; its features are standardised by some moments."""
    torch.manual_seed(seed)
    settings = ModelSettings(model=kind, hidden=16, attention=8, **{"top_k": 4, **changes})
    network = build_network(DIM, outputs, settings, [outputs])
    network.standardise(torch.randn(DIM), torch.rand(DIM) + 0.5)
    return network.eval()


def bag_of(tiles, seed=1):
    return torch.randn(tiles, DIM, generator=torch.Generator().manual_seed(seed)) * 2


def sharpened(network, factor):
    """Attention that falls nearly all on one tile."""
    with torch.no_grad():
        network.score.weight *= factor
    return network


def logits_of(network, features):
    with torch.no_grad():
        return network(join([features]))[0]


@every_kind
def test_the_order_of_tiles_changes_nothing(kind):
    """Logits are the same; attention, contributions and what is left without a tile go along with the tiles."""
    network, bag = network_of(kind), bag_of(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    here, there = network.explain(bag), network.explain(bag[order])
    torch.testing.assert_close(there.logits, here.logits)
    torch.testing.assert_close(there.attention, here.attention[order])
    torch.testing.assert_close(there.contribution, here.contribution[order])
    torch.testing.assert_close(network.without_each(bag[order]), network.without_each(bag)[order])


@every_kind
@pytest.mark.parametrize("limit", [0, 10**6], ids=["streamed", "direct"])
def test_a_bag_is_the_same_beside_any_other(kind, limit, monkeypatch):
    """Alone, in a batch of bags of 1 to 40 tiles, and as it is explained."""
    monkeypatch.setattr(ragged_pooling, "STREAM_TILES", limit)
    monkeypatch.setattr(ragged_pooling, "CHUNK_TILES", 7)
    network, bags = network_of(kind), [bag_of(n, n) for n in (1, 40, 8, 9)]
    with torch.no_grad():
        together = network(join(bags))
    for row, bag in zip(together, bags, strict=True):
        torch.testing.assert_close(row, logits_of(network, bag), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(row, network.explain(bag).logits, atol=1e-6, rtol=1e-5)


@every_kind
@pytest.mark.parametrize("tiles", [1, 2, 5, 300])
def test_attention_is_a_share_of_the_whole(kind, tiles):
    """Never below 0, and 1 in all; shapes and numbers hold for a bag of one tile too."""
    network = network_of(kind)
    found = network.explain(bag_of(tiles))
    assert found.attention.min() >= 0
    assert found.attention.sum().item() == pytest.approx(1, abs=1e-5)
    assert found.contribution.shape == (tiles, OUTPUTS)
    assert torch.isfinite(found.contribution).all()


@every_kind
@pytest.mark.parametrize("tiles", [1, 3, 50])
def test_exact_contributions_add_up_to_the_logits(kind, tiles):
    """And the kinds that only approximate them say so."""
    network = network_of(kind)
    found = network.explain(bag_of(tiles))
    assert (network.contributions == "exact") == (kind not in ("mean-mlp", "transformer"))
    if network.contributions == "exact":
        torch.testing.assert_close(found.contribution.sum(0), found.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mean-mlp", "transformer"])
def test_first_order_contributions_are_gradient_times_embedding(kind):
    """By finite differences: a tile whose embedding shrinks by a little takes that share of its contribution along."""
    network, bag = network_of(kind).double(), bag_of(7).double()
    values = network.embedded(bag).detach()
    found = network.double().of_embedded(values)[0]
    shares = torch.stack([torch.autograd.functional.jacobian(lambda v: network.of_embedded(v)[0], values)])[0]
    expected = (shares * values).sum(2).T  # (tile, output)
    network, bag = network.float(), bag.float()
    torch.testing.assert_close(network.explain(bag).contribution, expected.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.explain(bag).logits, found.float(), atol=1e-5, rtol=1e-4)


@every_kind
def test_a_bag_twice_is_the_same_bag(kind):
    """Tiles count by their share; only top-k counts heads, and finds each of its highest twice."""
    network, bag = network_of(kind), bag_of(20)
    twice = logits_of(network, torch.cat([bag, bag]))
    if kind == "top-k":
        network.count //= 2
    torch.testing.assert_close(twice, logits_of(network, bag), atol=1e-5, rtol=1e-5)


@every_kind
def test_a_seed_makes_the_network(kind):
    """The same numbers for the same seed, others for another."""
    bag = bag_of(9)
    first, again, other = (logits_of(network_of(kind, seed=s), bag) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("tiles", [2, 3, 4, 5, 40])
@pytest.mark.parametrize(
    ("kind", "sharpness"),
    [*((kind, 1) for kind in KINDS), *((kind, s) for kind in ATTENTIVE for s in (30, 100, 300, 1000, 30_000))],
)
def test_without_a_tile_is_a_bag_without_it(kind, tiles, sharpness):
    """Each tile left out and predicted anew, also where one has 0.9, 0.999 or all of the weight."""
    network, bag = network_of(kind), bag_of(tiles)
    if sharpness > 1:
        network = sharpened(network, sharpness)
    rows = torch.arange(tiles)
    expected = torch.stack([logits_of(network, bag[rows != row]) for row in range(tiles)])
    torch.testing.assert_close(network.without_each(bag), expected, atol=2e-5, rtol=2e-5)


@every_kind
def test_nothing_is_left_of_a_bag_of_one_tile(kind):
    """Nan, not a number that means something."""
    found = network_of(kind).without_each(bag_of(1))
    assert found.shape == (1, OUTPUTS)
    assert torch.isnan(found).all()


def test_a_transformer_refuses_a_pass_for_each_of_very_many_tiles():
    """And says what to use instead."""
    with pytest.raises(MilError, match=r"leaving each of 2001 tiles out .* Use contributions instead"):
        network_of("transformer").without_each(bag_of(2001))


@every_kind
def test_half_precision_features_are_their_values(kind):
    """Stores hold float16: networks see the same numbers as float32, to the last bit."""
    network, bag = network_of(kind), bag_of(12).half()
    assert torch.equal(logits_of(network, bag), logits_of(network, bag.float()))
    half, full = network.explain(bag), network.explain(bag.float())
    assert torch.equal(half.contribution, full.contribution)
    assert torch.equal(network.without_each(bag), network.without_each(bag.float()))


@every_kind
@pytest.mark.parametrize("value", [1e4, -1e20, 3.4e38])
@pytest.mark.parametrize("limit", [0, 10**6], ids=["streamed", "direct"])
def test_an_outlier_breaks_nothing(kind, value, limit, monkeypatch):
    """A tile of huge numbers, one of them where training tiles never varied: logits and gradients stay finite."""
    monkeypatch.setattr(ragged_pooling, "STREAM_TILES", limit)
    network, bag = network_of(kind), bag_of(10)
    deviation = torch.ones(DIM)
    deviation[2] = 0
    network.standardise(torch.full((DIM,), 5.0), deviation)
    bag[3] = value
    network.train()
    logits = network(join([bag, bag_of(4)]))
    assert torch.isfinite(logits).all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    network.eval()
    assert torch.isfinite(network.explain(bag).contribution).all()
    assert torch.isfinite(network.without_each(bag)).all()


@every_kind
def test_a_number_that_never_varied_says_nothing(kind):
    """What is constant among the training tiles may be anything later."""
    network, bag = network_of(kind), bag_of(10)
    network.standardise(torch.full((DIM,), 1000.0), torch.tensor([1e-4, *[1.0] * (DIM - 1)]))
    other = bag.clone()
    other[:, 0] = torch.randn(10) * 1e6
    assert torch.equal(logits_of(network, bag), logits_of(network, other))


@every_kind
@pytest.mark.parametrize("share", ["dropout", "feature_dropout"])
def test_dropout_is_of_training_alone(kind, share):
    """The same twice in evaluation mode, other each time in training."""
    shares = {"dropout": 0.0, "feature_dropout": 0.0, share: 0.5}
    network, bags = network_of(kind, **shares), join([bag_of(5)])
    assert torch.equal(network(bags), network(bags))
    network.train()
    if kind == "mean" and share == "dropout":
        assert not torch.equal(network(bags), network(bags))
    assert not torch.equal(network(bags), network(bags))


@pytest.mark.parametrize("kind", ["clam-sb", "clam-mb"])
def test_clams_own_loss_is_about_1_at_chance_and_learns_its_instances(kind):
    """Over bags of known classes; a bag of one tile has no least attended."""
    network = network_of(kind).train()
    bags = join([bag_of(n, n) for n in (30, 1, 2, 40)])
    loss = network.beside(bags, [torch.tensor([0, 1, 2, -1])])
    assert 0.5 < loss.item() < 2
    loss.backward()
    assert network.instances.weight.grad[:2].abs().sum() > 0
    for classes in ([-1, -1, -1, -1], [-1, 1, -1, -1]):
        assert network.beside(bags, [torch.tensor(classes)]) is None


def test_clam_without_classes_has_no_instances():
    """Of regression there is nothing that a tile could be in evidence of."""
    network = build_network(DIM, 1, ModelSettings(model="clam-mb", hidden=16), [])
    assert network.beside(join([bag_of(5)]), []) is None


def test_every_output_of_clam_mb_has_an_attention_of_its_own():
    """An output's attention moves its own logit alone."""
    network, bag = network_of("clam-mb"), bag_of(10)
    before = logits_of(network, bag)
    with torch.no_grad():
        network.score.weight[1] *= -5
    changed = (logits_of(network, bag) - before).abs() > 1e-6
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["max", "top-k"])
def test_the_highest_speak_for_the_slide(kind):
    """Tiles below them can be replaced by others below them: one negative tile more changes nothing."""
    network, bag = network_of(kind, outputs=1), bag_of(30)
    order = network.classify(network.scaled(bag))[:, 0].argsort(descending=True)
    torch.testing.assert_close(logits_of(network, bag[order[: network.count]]), logits_of(network, bag))
