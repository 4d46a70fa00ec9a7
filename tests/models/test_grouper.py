"""The grouper: gated attention over the images of each bag, and embeddings of bags."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.grouper import Grouper, GrouperSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT

DIM, WIDTH = 12, 5

bag_lists = st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=6), min_size=1, max_size=4)
"""Bags of instances; an instance is a seed."""


def make(scale: float = 1.0) -> Grouper:
    torch.manual_seed(1)
    grouper = Grouper(GrouperSpec(dim=DIM, attention=WIDTH)).double()
    grouper.score.weight.data *= scale
    return grouper


def instance(seed: int) -> torch.Tensor:
    # Scales differ from instance to instance; the largest saturate the attention.
    return torch.randn(DIM, generator=torch.Generator().manual_seed(seed)) * 10 ** (seed % 4)


@torch.no_grad()
def weighed(grouper: Grouper, bags: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Embedding of each bag and the weights in each."""
    vectors = torch.stack([instance(seed) for bag in bags for seed in bag]).double()
    index = torch.tensor([i for i, bag in enumerate(bags) for _ in bag])
    return grouper.pooled(vectors, index), list(grouper(vectors, index).split([len(bag) for bag in bags]))


@given(bag_lists, st.sampled_from([0.1, 1.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_in_each_bag(bags, scale):
    """And none of them is negative, also where scores are so high that their exponentials overflow."""
    for weights in weighed(make(scale), bags)[1]:
        assert weights.sum().item() == pytest.approx(1, abs=1e-12)
        assert weights.min() >= 0


@given(bag_lists, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_bag_does_not_know_its_order_nor_other_bags(bags, random):
    """Embedding and weights are those of the bag alone, in any order of its instances."""
    grouper = make()
    pooled, weights = weighed(grouper, bags)
    for i, bag in enumerate(bags):
        order = random.sample(range(len(bag)), len(bag))
        alone, shuffled = weighed(grouper, [[bag[j] for j in order]])
        torch.testing.assert_close(alone[0], pooled[i], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(shuffled[0], weights[i][order], atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_interleaved_bags():
    """Instances of a bag need not stand together."""
    grouper = make()
    vectors = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0)).double()
    bags = torch.tensor([0, 1, 0, 1, 0])
    pooled, weights = grouper.pooled(vectors, bags), grouper(vectors, bags)
    for bag in (0, 1):
        mine = vectors[bags == bag]
        torch.testing.assert_close(grouper.pooled(mine, torch.zeros(len(mine), dtype=torch.int64))[0], pooled[bag])
        torch.testing.assert_close(grouper(mine), weights[bags == bag])


@torch.no_grad()
def test_gated_attention_is_that_of_its_paper():
    """Ilse et al. 2018, eqs. 8 and 9, instance by instance."""
    grouper = make()
    vectors = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0)).double()
    value, gate = grouper.gates.weight.split(WIDTH)
    of_value, of_gate = grouper.gates.bias.split(WIDTH)
    scores = [
        float(grouper.score(torch.tanh(value @ v + of_value) * torch.sigmoid(gate @ v + of_gate))) for v in vectors
    ]
    expected = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
    assert grouper(vectors).tolist() == pytest.approx(expected)
    mixed = sum(a * v for a, v in zip(expected, vectors, strict=True))
    torch.testing.assert_close(grouper.pooled(vectors, torch.zeros(4, dtype=torch.int64))[0], mixed)


@pytest.mark.parametrize("vector", ["squeezed", "maps"])
def test_a_bag_has_one_embedding(vector):
    """The weighted mean of those of its images, whatever an embedding is made of; maps stay those of the images."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="test_convnext", dim=DIM, vector=vector, grouper=WIDTH)).eval()
    images = shared.normalised(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    with torch.inference_mode():
        alone, bags = shared.features(images), shared.features(images, torch.tensor([0, 1, 1]))
        weights = shared.grouper(alone.vector[1:])
    assert bags.vector.shape == (2, shared.vector_dim)
    torch.testing.assert_close(bags.vector[0], alone.vector[0])
    torch.testing.assert_close(bags.vector[1], weights @ alone.vector[1:])
    assert bags.pyramid.stride4.shape[0] == 3


def test_bags_need_a_grouper():
    """A model without one says so."""
    shared = UMedPT(ModelSpec(backbone="test_convnext", dim=DIM))
    with pytest.raises(EncoderError, match="no grouper for bags"):
        shared.features(torch.zeros(2, 3, 32, 32), torch.tensor([0, 0]))
