"""The shared model: pyramids of any image size, norms that do not couple images, one squeezer."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.backbones import STRIDES, SWINS, SwinBackbone, TimmBackbone, make_backbone
from wsi_umedpt.models.fcos import BOX_STRIDES, WIDTH
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.norms import batch_norms, rewrite_norms
from wsi_umedpt.models.squeezer import Squeezer
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import make_task

CHANNELS = {
    "swinv2_micro": (48, 96, 192, 384),
    "tf_efficientnet_lite0": (24, 40, 112, 320),
    "convnext_atto": (40, 80, 160, 320),
}


@pytest.fixture(scope="module", params=CHANNELS)
def shared(request) -> UMedPT:
    torch.manual_seed(0)
    return UMedPT(ModelSpec(backbone=request.param, dim=24)).eval()


def random_images(count: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((64, 64), id="multiples-of-32"),
        pytest.param((65, 31), id="no-multiples"),
        pytest.param((1, 1), id="one-pixel"),
        pytest.param((40, 100), id="wide"),
    ],
)
@torch.no_grad()
def test_any_image_size_gives_a_pyramid(shared, size):
    """Maps have strides 4 to 32 of the padded image; the deepest is the squeezed one."""
    features = shared.features(random_images(2, *size))
    padded = [-(-side // 32) * 32 for side in size]
    channels = (*CHANNELS[shared.spec.backbone][:3], 24)
    for level, stride, c in zip(features.pyramid, STRIDES, channels, strict=True):
        assert level.shape == (2, c, padded[0] // stride, padded[1] // stride)
    assert features.vector.shape == (2, 24)
    assert features.size == size
    assert shared.encoder.channels == CHANNELS[shared.spec.backbone]


@torch.no_grad()
def test_the_embedding_may_be_the_means_of_the_maps():
    """With vector = "maps" it is those of strides 8, 16 and 32, standardised, by `forward` and by `features` alike."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="tf_efficientnet_lite0", dim=24, vector="maps")).eval()
    shared.centre.uniform_(-1, 1)
    shared.spread.uniform_(0.5, 2)
    images = random_images(2, 70, 100)
    pyramid = shared.pyramid(images)
    means = torch.cat([m.mean((2, 3)) for m in (pyramid.stride8, pyramid.stride16, pyramid.stride32)], 1)
    features = shared.features(images)
    assert shared.vector_dim == 40 + 112 + 320 == features.vector.shape[1]
    assert torch.equal(features.vector, (means - shared.centre) / shared.spread)
    assert torch.equal(shared(images), features.vector)
    assert torch.equal(features.deepest, pyramid.stride32)
    assert features.pyramid.stride32.shape[1] == 24


@torch.no_grad()
def test_padding_repeats_the_border(shared):
    """An image that was padded by hand at the right and the bottom gives the same maps."""
    images = random_images(1, 40, 50)
    by_hand = images[:, :, [min(y, 39) for y in range(64)]][:, :, :, [min(x, 49) for x in range(64)]]
    assert_same(shared.features(images).pyramid, shared.features(by_hand).pyramid)


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (7, 41)])
@torch.no_grad()
def test_logits_have_the_size_of_the_image_as_given(shared, size):
    """What was padded is cut off again; what is left is where it was."""
    head = make_task(HeadSpec(name="s", kind="segmentation", classes=("a", "b"), modality="x"), 24).eval()
    images = random_images(1, *size)
    logits = head(shared, shared.features(images))
    assert logits.shape == (1, 2, *size)
    bottom, right = -size[0] % 32, -size[1] % 32
    by_hand = F.pad(images, (0, right, 0, bottom), mode="replicate")
    assert_same([logits], [head(shared, shared.features(by_hand))[:, :, : size[0], : size[1]]])


@torch.no_grad()
def test_the_box_decoder_has_five_levels(shared):
    """Strides 8 to 128, rounded up, one shape for classes and sides."""
    found = shared.boxes(shared.features(random_images(1, 96, 160)).pyramid)
    expected = [(1, WIDTH, -(-96 // s), -(-160 // s)) for s in BOX_STRIDES]
    assert [tuple(m.shape) for m in found.classes] == expected
    assert [tuple(m.shape) for m in found.sides] == expected


@torch.no_grad()
def test_our_swin_is_torchvisions():
    """With torchvision's weights loaded by name, all four maps are those of swin_v2_t's stages, bit for bit."""
    torch.manual_seed(0)
    theirs = torchvision.models.swin_v2_t(weights=None).eval()
    ours = SwinBackbone(SWINS["swinv2_tiny"]).eval()
    state = {k: v for k, v in theirs.state_dict().items() if k.startswith("features.")}
    ours.load_state_dict(state, strict=True)
    x = images = random_images(1, 64, 96)
    expected = []
    for i, part in enumerate(theirs.features):
        x = part(x)
        if i in (1, 3, 5, 7):
            expected.append(x.permute(0, 3, 1, 2))
    assert [m.shape[1] for m in expected] == [96, 192, 384, 768]
    for a, b in zip(ours(images), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["mambaout_femto", "resnet10t"])
@torch.no_grad()
def test_maps_of_timm_are_channels_first_whatever_their_size(name):
    """Also where a network gives channels last and a map is as high as it has channels."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name).eval()
    size = 4 * backbone.channels[0]  # the first map is (c, c / 2) px
    images = random_images(1, size, size // 2)
    for level, stride, c in zip(backbone(images), STRIDES, backbone.channels, strict=True):
        assert level.shape == (1, c, size // stride, size // 2 // stride)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("vit_tiny_patch16_224", "vit_tiny_patch16_224 gives no feature maps of strides", id="plain-vit"),
        pytest.param("mixer_s32_224", "mixer_s32_224 gives no feature maps of strides", id="mixer"),
        pytest.param("swinv2_huge", "timm has no model 'swinv2_huge', and it is none of swinv2_micro", id="unknown"),
    ],
)
def test_models_without_a_pyramid_are_refused(name, words):
    """In words that name the model, not by a failure inside timm."""
    with pytest.raises(EncoderError, match=words):
        make_backbone(name)


def norm_weights(network: nn.Module) -> list[str]:
    """Names of weights that belong to a norm of any kind."""
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    return [
        f"{name}.{own}"
        for name, module in network.named_modules()
        if isinstance(module, kinds)
        for own, _ in module.named_parameters(recurse=False)
    ]


@pytest.mark.parametrize("name", CHANNELS)
def test_layernorm_has_no_weights(name):
    """'layernorm' leaves no affine weight in any norm of the encoder; neither kind leaves a BatchNorm."""
    plain, affine = make_backbone(name), make_backbone(name)
    rewrite_norms(plain, "layernorm")
    rewrite_norms(affine, "affinelayernorm")
    assert norm_weights(plain) == []
    assert norm_weights(affine)
    assert not batch_norms(plain)
    assert not batch_norms(affine)


def test_a_batchnorm_keeps_its_activation():
    """A BatchNorm of timm carries an activation, which goes on after it is replaced."""
    norms = make_backbone("tf_efficientnet_lite0")
    before = sum(isinstance(m, nn.ReLU6) for m in norms.modules())
    rewrite_norms(norms, "layernorm")
    assert sum(isinstance(m, nn.ReLU6) for m in norms.modules()) == before > 0


@pytest.mark.parametrize(
    ("groups", "kind", "weights"),
    [
        pytest.param(1, "layernorm", 0, id="one-group-is-a-layernorm"),
        pytest.param(1, "affinelayernorm", 2, id="with-weights"),
        pytest.param(4, "layernorm", 2, id="several-groups-stay"),
    ],
)
def test_group_norms(groups, kind, weights):
    """They are per image already; that of one group, as poolformers have, is a layer norm by another name."""
    network = nn.Sequential(nn.GroupNorm(groups, 8))
    kept = network[0]
    rewrite_norms(network, kind)
    assert network[0] is kept
    assert len(norm_weights(network)) == weights


@pytest.mark.parametrize("norm", ["layernorm", "affinelayernorm", "frozenbatchnorm", "keepnorm"])
@pytest.mark.parametrize("name", CHANNELS)
@torch.no_grad()
def test_images_do_not_know_their_batch(name, norm):
    """In training too (dropped paths aside), all that an image gives is the same alone and among others.

    The one exception proves that the test can fail: BatchNorm in training, kept as it is.
    """
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone=name, dim=24, norm=norm)).train()
    without_chance(shared)
    # Scales of their own, so that statistics over the batch would differ much from an image's.
    images = random_images(3, 64, 64) * torch.tensor([1.0, 0.1, 3.0]).view(3, 1, 1, 1)
    together, alone = everything(shared, images), everything(shared, images[1:2])
    same = all(torch.allclose(a[1:2], b, atol=1e-4, rtol=1e-3) for a, b in zip(together, alone, strict=True))
    assert same == (not (norm == "keepnorm" and name == "tf_efficientnet_lite0"))


def test_frozen_statistics_stay():
    """Training leaves the statistics and weights of frozen BatchNorms as they were; kept ones move."""
    images = random_images(2, 64, 64)
    for norm, moves in (("frozenbatchnorm", False), ("keepnorm", True)):
        shared = UMedPT(ModelSpec(backbone="tf_efficientnet_lite0", dim=24, norm=norm)).eval().train()
        before = {k: v.clone() for k, v in shared.encoder.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in shared.parameters() if p.requires_grad], lr=0.1)
        shared(images).square().sum().backward()
        optimizer.step()
        after = shared.encoder.state_dict()
        parts = [k for k, m in shared.encoder.named_modules() if m in batch_norms(shared.encoder)]
        names = [k for k in after if k.rpartition(".")[0] in parts]
        assert any("running_mean" in k for k in names)
        assert any(not torch.equal(before[k], after[k]) for k in names) == moves
        assert not torch.equal(before["net.conv_stem.weight"], after["net.conv_stem.weight"])


@torch.no_grad()
def test_the_two_orders_of_pooling():
    """'after' is the mean of the squeezed map, 'before' the squeezed mean; the weights fit both, the numbers differ."""
    torch.manual_seed(0)
    deepest = torch.randn(2, 12, 3, 2)
    after, before = (Squeezer(12, 8, "affinelayernorm", pooling).eval() for pooling in ("after", "before"))
    nn.init.normal_(after.norm.weight)
    before.load_state_dict(after.state_dict())

    def squeezed(x: torch.Tensor) -> torch.Tensor:
        """One position's (or map's) convolution, norm over channels and positions, GELU, by hand."""
        y = torch.einsum("oc,nchw->nohw", after.conv.weight[:, :, 0, 0], x) + after.conv.bias[:, None, None]
        mean, var = y.mean((1, 2, 3), keepdim=True), y.var((1, 2, 3), keepdim=True, correction=0)
        return F.gelu((y - mean) / (var + 1e-5).sqrt() * after.norm.weight[:, None, None])

    maps = squeezed(deepest)
    assert_same(after(deepest), (maps, maps.mean((2, 3))))
    assert_same(before(deepest), (maps, squeezed(deepest.mean((2, 3), keepdim=True))[:, :, 0, 0]))
    assert not torch.allclose(after(deepest)[1], before(deepest)[1], atol=1e-2)


@torch.no_grad()
def test_a_constant_map_pools_alike():
    """Where all positions are equal, both orders are: the norm sees the same numbers."""
    deepest = torch.randn(2, 12, 1, 1).expand(-1, -1, 4, 4)
    after, before = (Squeezer(12, 8, "layernorm", pooling) for pooling in ("after", "before"))
    before.load_state_dict(after.state_dict())
    assert_same(after(deepest), before(deepest))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"norm": "batchnorm"}, "norm is one of layernorm", id="norm"),
        pytest.param({"dim": 0}, "dim is from 1 to", id="dim"),
        pytest.param({"std": (1.0, 0.0, 1.0)}, "std is from", id="std"),
    ],
)
def test_impossible_models_are_refused(fields, words):
    """At the door, before anything is built."""
    with pytest.raises(ValueError, match=words):
        ModelSpec(**fields)


def everything(shared: UMedPT, images: torch.Tensor) -> list[torch.Tensor]:
    """All that heads may start from."""
    features = shared.features(images)
    boxes = shared.boxes(features.pyramid)
    return [*features.pyramid, features.vector, shared.pixels(features.pyramid), *boxes.classes, *boxes.sides]


def without_chance(network: nn.Module) -> None:
    """Switch off dropout and dropped paths, and nothing else."""
    for module in network.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth", "DropPath"):
            module.eval()


def assert_same(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
