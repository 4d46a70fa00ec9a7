"""Pooling: streamed is direct, chunk sizes are nobody's business, and memory stays that of a chunk."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from wsi_umedpt.mil.networks import ragged_pooling
from wsi_umedpt.mil.networks.ragged_pooling import Bags, join, pool, top

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=5)


class Tiles(nn.Module):
    """A network of single tiles: values, and scores by a layer of its own."""

    def __init__(self, dim=3, values=4, heads=2, dropout=0.0, sharpness=1.0):
        super().__init__()
        self.values, self.scores = nn.Linear(dim, values), nn.Linear(dim, heads)
        self.dropout, self.sharpness = dropout, sharpness

    def forward(self, features):
        """(tile, dim) to (tile, value) and (tile, head)."""
        hidden = nn.functional.dropout(features.to(self.values.weight.dtype), self.dropout, self.training)
        return torch.tanh(self.values(hidden)), self.sharpness * self.scores(hidden)


def brute_force(network, bags):
    """The definition, a bag at a time, a head at a time."""
    found = []
    for a, b in zip(bags.offsets, bags.offsets[1:], strict=False):
        values, scores = network(bags.features[a:b])
        weights = [torch.exp(column - column.max()) for column in scores.T]
        found.append(torch.stack([(w[:, None] * values).sum(0) / w.sum() for w in weights]))
    return torch.stack(found)


def with_gradients(network, bags, how, direction):
    """Pooled values, and the gradients of their product with `direction`."""
    network.zero_grad()
    pooled = how(network, bags)
    (pooled * direction).sum().backward()
    return pooled.detach(), [p.grad.clone() for p in network.parameters()]


@examples(max_examples=40)
@given(sizes=SIZES, chunk=st.integers(1, 13), seed=st.integers(0, 99), sharpness=st.sampled_from([1.0, 30.0]))
def test_streamed_pooling_is_the_definition(sizes, chunk, seed, sharpness):
    """Values and gradients of all parameters to 1e-10 in double, in any chunks, also where one tile has all weight."""
    torch.manual_seed(seed)
    network = Tiles(sharpness=sharpness).double()
    bags = join([torch.randn(n, 3) for n in sizes])
    direction = torch.randn(len(sizes), 2, 4, dtype=torch.float64)
    expected = with_gradients(network, bags, brute_force, direction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged_pooling, "CHUNK_TILES", chunk)
        for stream in (True, False):
            found = with_gradients(network, bags, lambda n, b, s=stream: pool(n, b, stream=s), direction)
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)


def test_dropout_drops_the_same_there_and_back():
    """With a chunk a bag, streamed values and gradients are the direct ones for the same random numbers."""
    network = Tiles(dropout=0.5).double()
    bags = join([torch.randn(9, 3)])
    direction = torch.randn(1, 2, 4, dtype=torch.float64)
    found = []
    for stream in (False, True):
        torch.manual_seed(5)
        pooled = with_gradients(network, bags, lambda n, b, s=stream: pool(n, b, stream=s), direction)
        found.append((*pooled, torch.rand(1)))  # the way back draws no numbers that others would get
    torch.testing.assert_close(found[0], found[1])


def test_dropout_in_many_chunks_has_a_gradient_of_its_own_forward(monkeypatch):
    """By finite differences: the random mask is a function of the seed, whatever number of chunks and bags."""
    monkeypatch.setattr(ragged_pooling, "CHUNK_TILES", 4)
    network = Tiles(dropout=0.5).double()
    bags = join([torch.randn(n, 3) for n in (9, 2, 5)])
    direction = torch.randn(3, 2, 4, dtype=torch.float64)

    def value():
        torch.manual_seed(5)
        return (pool(network, bags, stream=True) * direction).sum()

    network.zero_grad()
    value().backward()
    for parameter in network.parameters():
        way, step = torch.randn_like(parameter), 1e-6
        with torch.no_grad():
            parameter += step * way
            above = value()
            parameter -= 2 * step * way
            below = value()
            parameter += step * way
        torch.testing.assert_close((above - below) / (2 * step), (parameter.grad * way).sum(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("frozen", ["values", "scores", "both"])
def test_a_frozen_part_gets_no_gradient_and_hinders_none(frozen):
    """The rest learns as without streaming; a network that is frozen whole can stand below a head that learns."""
    network, head = Tiles(), nn.Linear(4, 1)
    for name in ("values", "scores") if frozen == "both" else (frozen,):
        getattr(network, name).requires_grad_(False)
    bags = join([torch.randn(n, 3) for n in (5, 1)])
    found = []
    for stream in (False, True):
        network.zero_grad()
        head.zero_grad()
        head(pool(network, bags, stream=stream)).sum().backward()
        found.append([p.grad.clone() for p in (*network.parameters(), *head.parameters()) if p.grad is not None])
    assert len(found[0]) == {"values": 4, "scores": 4, "both": 2}[frozen]
    torch.testing.assert_close(found[0], found[1])


def test_without_gradients_streaming_makes_no_graph():
    """As in every prediction."""
    with torch.no_grad():
        assert not pool(Tiles(), join([torch.randn(5, 3)]), stream=True).requires_grad


@examples(max_examples=40)
@given(sizes=SIZES, chunk=st.integers(1, 13), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_highest_are_found_in_chunks_as_in_one(sizes, chunk, count, seed):
    """Mean of the highest of every column, and its gradient, are those of a sort."""
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    bags = join([torch.randn(n, 3) for n in sizes])
    direction = torch.randn(len(sizes), 2)

    def sorted_(network, bags):
        parts = torch.split(network(bags.features), bags.sizes)
        return torch.stack([torch.sort(p, 0, descending=True).values[:count].mean(0) for p in parts])

    expected = with_gradients(network, bags, sorted_, direction)
    for limit in (0, 10**6):  # in chunks, and in one piece
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ragged_pooling, "CHUNK_TILES", chunk)
            patch.setattr(ragged_pooling, "STREAM_TILES", limit)
            found = with_gradients(network, bags, lambda n, b: top(n, b, count), direction)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param((), id="none"),
        pytest.param((0,), id="no-bag"),
        pytest.param((0, 4), id="tiles-left-over"),
        pytest.param((0, 6), id="beyond-the-end"),
        pytest.param((1, 5), id="late-start"),
        pytest.param((0, 2, 2, 5), id="empty-bag"),
        pytest.param((0, 3, 2, 5), id="backwards"),
    ],
)
def test_offsets_that_part_nothing_are_refused(offsets):
    """Every tile is of one bag, and every bag has a tile."""
    with pytest.raises(ValueError, match="do not part 5 tiles"):
        Bags(torch.zeros(5, 2), offsets)


def test_no_bags_are_refused():
    """A batch of none has no logits."""
    with pytest.raises(ValueError, match="do not part 0 tiles"):
        Bags(torch.zeros(0, 2), (0,))


_PEAK = """
import json, resource, torch
from wsi_umedpt.mil.networks.ragged_pooling import join, pool, top
from torch import nn

torch.set_num_threads(1)
embed, score = nn.Linear(64, 128), nn.Linear(128, 1)
def tiles(x):
    values = torch.relu(embed(x))
    return values, score(values)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def both(bags):
    pool(tiles, bags).sum().backward()
    top(lambda x: score(torch.relu(embed(x))), bags, 8).sum().backward()
both(join([torch.randn(20_000, 64)]))  # what torch itself takes once
bags = join([torch.empty(400_000, 64, dtype=torch.float16).normal_()])
before = peak()
both(bags)
print(json.dumps([before, peak()]))
"""


def test_memory_does_not_grow_with_the_bag():
    """400,000 tiles through both poolings and back take less than 80 MB above the bag; direct they would take 700."""
    made = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    before, after = json.loads(made.stdout)
    assert after - before < 80e6
