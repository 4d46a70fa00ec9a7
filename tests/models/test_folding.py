"""Norms folded into convolutions: the same features, or the network as it was."""

import pytest
import timm
import torch
from torch import nn

from wsi_umedpt.models.folding import fold_norms, folded
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT


def with_statistics(network: nn.Module) -> nn.Module:
    """The network with running statistics that are not 0 and 1."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def norms(network: nn.Module) -> int:
    """How many BatchNorms it has."""
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: timm.create_model("tf_efficientnet_lite0", num_classes=0), id="lite0"),
        pytest.param(lambda: timm.create_model("resnet10t", num_classes=0), id="resnet"),
        pytest.param(
            lambda: UMedPT(ModelSpec(backbone="tf_efficientnet_lite0", norm="frozenbatchnorm")), id="umedpt-lite0"
        ),
    ],
)
def test_features_stay_and_norms_go(make):
    """All norms that features pass are folded; features differ by rounding alone, and the original is untouched."""
    network = with_statistics(make())
    count = norms(network)
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        before = network(images)
        made = folded(network, 96)
        torch.testing.assert_close(made(images), before, atol=1e-5 * float(before.abs().max()), rtol=1e-4)
        assert torch.equal(network(images), before)
    assert norms(made) == 0
    assert norms(network) == count > 0


class Around(nn.Module):
    """A convolution whose output goes through a norm and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (image, 4)."""
        x = self.conv(images)
        return (x + self.norm(x)).mean((2, 3))


def test_a_convolution_used_around_its_norm_is_left_alone():
    """Folding would change the features; the network is given back as it was."""
    network = with_statistics(Around())
    assert folded(network, 32) is network


def test_a_convolution_that_runs_twice_is_left_alone():
    """Its weights serve two norms, and can serve only one."""
    shared = nn.Conv2d(3, 3, 3, padding=1)
    network = with_statistics(nn.Sequential(shared, nn.BatchNorm2d(3), shared, nn.BatchNorm2d(3)))
    assert fold_norms(network, torch.rand(1, 3, 8, 8)) == 0


def test_a_network_without_norms_is_given_back():
    """There is nothing to do."""
    network = nn.Conv2d(3, 4, 3)
    assert folded(network, 8) is network
