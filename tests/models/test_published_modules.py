"""Published weights as their authors ship them: zips of whole modules, read as data, and giving the same numbers."""

import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.support.published_modules import (
    AttentionPooling,
    Classifier,
    Encoder,
    Fpn,
    Pool,
    Squeezer,
    Unet,
    maps_of,
    publish,
    saved,
    swin,
)
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.io.tensors import misfit, outline
from wsi_umedpt.models.backbones import SWINS, SwinBackbone, SwinSize
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.import_published.convert import import_published
from wsi_umedpt.models.import_published.files import Block, read_blocks
from wsi_umedpt.models.import_published.parts import find_encoder

DEEPEST, DIM = 384, 24
CHANNELS = (48, 96, 192, 384)


@pytest.fixture(scope="module")
def net():
    return swin()


@pytest.fixture(scope="module")
def encoder(net):
    return saved(Encoder(net))


def squeezer(**options):
    torch.manual_seed(1)
    made = Squeezer(DEEPEST, DIM, **options).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def imported(path, out, **options):
    made = import_published([path], out, name="theirs", **{"pooling": "after", **options})
    return load_release(made), checkpoint.read_about(made)["imported"]


@pytest.mark.parametrize("pooling", ["before", "after"])
def test_a_zip_of_modules_gives_their_numbers(tmp_path, net, encoder, pooling):
    """In both orders of pooling, through the encoder that it becomes, without their classes."""
    theirs = squeezer()
    path = publish(tmp_path / "encoder-1.0.4.pt.zip", encoder=encoder, squeezer=theirs)
    made = import_published([path], tmp_path / "out", name="theirs", pooling=pooling)
    assert not [name for name in sys.modules if name.startswith("theirlibrary")]
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    with torch.inference_mode():
        deepest = maps_of(net, torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255)[3]
        before = theirs.layers(deepest.mean((2, 3), keepdim=True)).flatten(1)
        expected = before if pooling == "before" else theirs.layers(deepest).mean((2, 3))
    found = load_encoder(f"umedpt:{made}", device="cpu")
    np.testing.assert_allclose(found.encode(tiles), expected.numpy(), atol=1e-5)
    assert found.card.model["pooling"] == pooling


def test_an_identity_squeezer_is_the_mean_of_the_deepest_map(tmp_path, net, encoder):
    """Their default: out_channels -1, and nothing is learned; the file says so."""
    path = publish(tmp_path / "a.pt.zip", encoder=encoder, squeezer=Squeezer(DEEPEST, -1))
    release, _ = imported(path, tmp_path / "out")
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        deepest = maps_of(net, images)[3]
        found = release.shared.features(images)
        torch.testing.assert_close(found.vector, deepest.mean((2, 3)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.pyramid.stride32, deepest, atol=1e-5, rtol=1e-5)
    assert (release.shared.spec.squeezer, release.shared.spec.dim) == ("none", DEEPEST)


def test_a_model_without_a_squeezer_is_said_to_have_none(tmp_path, net):
    """A state dict cannot say it: whoever imports it does."""
    torch.save({f"encoder.{k}": v for k, v in net.state_dict().items()}, tmp_path / "e.pt")
    with pytest.raises(EncoderError, match="say `squeezer` none"):
        imported(tmp_path / "e.pt", tmp_path / "out")
    release, _ = imported(tmp_path / "e.pt", tmp_path / "out", squeezer="none")
    assert release.shared.spec.dim == DEEPEST


def test_one_of_several_squeezers_is_chosen_by_name(tmp_path, net, encoder):
    """Never the first, and the others are listed."""
    first, second = squeezer(), squeezer()
    nn.init.normal_(second.layers[0].weight, std=0.5)
    path = publish(tmp_path / "a.pt.zip", encoder=encoder, squeezer_a=first, squeezer_b=second)
    with pytest.raises(EncoderError, match=r"2 squeezers were found.*`squeezer`: squeezer_a, squeezer_b"):
        imported(path, tmp_path / "out")
    with pytest.raises(EncoderError, match="no squeezer 'c'; there are squeezer_a, squeezer_b"):
        imported(path, tmp_path / "out", squeezer="c")
    images = torch.rand(1, 3, 64, 64)
    for name, theirs in (("squeezer_a", first), ("squeezer_b", second)):
        release, said = imported(path, tmp_path / "out", squeezer=name)
        with torch.inference_mode():
            expected = theirs.layers(maps_of(net, images)[3]).mean((2, 3))
            torch.testing.assert_close(release.shared(images), expected, atol=1e-5, rtol=1e-5)
        assert said["taken"]["squeezer"] == name
        assert [*said["left_out"].values()] == ["another squeezer"]


OTHERS = {
    "batch-norm": (lambda: squeezer(norm=nn.BatchNorm2d(DIM)), "running_mean|a BatchNorm2d"),
    "instance-norm": (lambda: squeezer(norm=nn.InstanceNorm2d(DIM)), "InstanceNorm2d"),
    "no-norm": (lambda: squeezer(norm=nn.Identity()), "has 0 norms"),
    "norm-of-groups": (lambda: squeezer(norm=nn.GroupNorm(4, DIM)), "GroupNorm of 4 groups"),
    "norm-of-another-eps": (lambda: squeezer(norm=nn.GroupNorm(1, DIM, eps=1e-3)), "eps 0.001"),
    "relu": (lambda: squeezer(act=nn.ReLU()), "a ReLU"),
    "approximate-gelu": (lambda: squeezer(act=nn.GELU("tanh")), "approximated by tanh"),
    "max-by-its-settings": (lambda: squeezer(pool=Pool.MAX), "pooling 'max'"),
    "max-by-its-layer": (lambda: with_pool(nn.AdaptiveMaxPool2d(1)), "an? AdaptiveMaxPool2d"),
    "attention": (lambda: with_pool(AttentionPooling(DIM)), "AttentionPooling|pool.query"),
}


def with_pool(pool):
    made = squeezer()
    made.pool = pool
    return made


@pytest.mark.parametrize(("make", "reason"), OTHERS.values(), ids=OTHERS)
def test_a_squeezer_that_computes_something_else_is_refused_by_name(tmp_path, encoder, make, reason):
    """Each would have been read as convolution, norm, GELU and mean, and given other numbers in silence."""
    path = publish(tmp_path / "a.pt.zip", encoder=encoder, squeezer=make())
    with pytest.raises(EncoderError, match=reason):
        imported(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_decoders_that_are_ours_are_taken(tmp_path, net, encoder):
    """U-Net and feature pyramid give the maps that theirs give, from the squeezed map; parts of others are listed."""
    torch.manual_seed(2)
    theirs, unet, fpn = squeezer(), Unet(CHANNELS, DIM).eval(), Fpn(CHANNELS, DIM).eval()
    for parameter in (*unet.parameters(), *fpn.parameters()):
        nn.init.normal_(parameter, std=0.05)
    path = publish(
        tmp_path / "a.pt.zip", encoder=encoder, squeezer=theirs, decoder=unet, fcosfpn=fpn, imgnetclf=Classifier(DIM)
    )
    release, said = imported(path, tmp_path / "out")
    assert release.parts == ("encoder", "squeezer", "pixels", "boxes")
    assert said["taken"] == {"encoder": "encoder", "squeezer": "squeezer", "pixels": "decoder", "boxes": "fcosfpn"}
    assert [*said["left_out"]] == ["imgnetclf"]
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        maps = maps_of(net, images)
        maps[3] = theirs.layers(maps[3])
        pyramid = release.shared.features(images).pyramid
        torch.testing.assert_close(release.shared.pixels(pyramid), unet(maps), atol=1e-4, rtol=1e-4)
        boxes = release.shared.boxes(pyramid)
        for found, expected in zip((boxes.classes, boxes.sides), fpn(maps), strict=True):
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


UNLIKE = {
    "narrower": ({"decoder": lambda: Unet(CHANNELS, DIM, widths=(64, 64, 32, 16))}, "decoder", "of another shape"),
    "of-another-map": ({"decoder": lambda: Unet(CHANNELS, DEEPEST)}, "decoder", "of another shape"),
    "with-more": ({"decoder": lambda: with_more(Unet(CHANNELS, DIM))}, "decoder", "1 weight more: scale"),
    "pyramid-of-another-map": ({"fcosfpn": lambda: Fpn(CHANNELS, 32)}, "fcosfpn", "of another shape"),
    "no-decoder": ({"imgnetclf": lambda: Classifier(DIM)}, "imgnetclf", "not a part that is known here"),
}


def with_more(module):
    module.scale = nn.Parameter(torch.ones(1))
    return module


@pytest.mark.parametrize(("blocks", "name", "reason"), UNLIKE.values(), ids=UNLIKE)
def test_parts_that_are_not_ours_are_left_out_by_name(tmp_path, encoder, blocks, name, reason):
    """The vector does not need them; the release says which and why."""
    made = {key: make() for key, make in blocks.items()}
    path = publish(tmp_path / "a.pt.zip", encoder=encoder, squeezer=squeezer(), **made)
    release, said = imported(path, tmp_path / "out")
    assert release.parts == ("encoder", "squeezer")
    assert [*said["left_out"]] == [name]
    assert reason in said["left_out"][name]


@pytest.mark.parametrize("affine", [(True, False), (False, True), (False, False)])
def test_norms_with_and_without_weights_may_meet(tmp_path, affine):
    """Each block has its own; a norm without weights is one of ones and zeros."""
    net = swin()
    if not affine[0]:
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.register_parameter("weight", None)
                module.register_parameter("bias", None)
    theirs = squeezer(norm=nn.GroupNorm(1, DIM, affine=affine[1]))
    path = publish(tmp_path / "a.pt.zip", encoder=Encoder(net), squeezer=theirs)
    release, _ = imported(path, tmp_path / "out")
    assert release.shared.spec.norm == ("affinelayernorm" if any(affine) else "layernorm")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs.layers(maps_of(net, images)[3]).mean((2, 3))
        torch.testing.assert_close(release.shared(images), expected, atol=1e-5, rtol=1e-5)


def test_a_timm_encoder_is_known_by_what_the_file_says(tmp_path):
    """Maps by timm's names; a state dict is told by --backbone."""
    torch.manual_seed(0)
    net = timm.create_model("convnext_atto", features_only=True).eval()
    theirs = Squeezer(320, DIM).eval()
    path = publish(tmp_path / "a.pt.zip", encoder=Encoder(net), squeezer=theirs)
    torch.save(net.state_dict(), tmp_path / "encoder.pt")
    torch.save(theirs.layers.state_dict(), tmp_path / "squeezer.pt")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs.layers(net(images)[3]).mean((2, 3))
        release, _ = imported(path, tmp_path / "out")
        torch.testing.assert_close(release.shared(images), expected, atol=1e-5, rtol=1e-5)
        files = [tmp_path / "encoder.pt", tmp_path / "squeezer.pt"]
        with pytest.raises(EncoderError, match="name it with `backbone`"):
            import_published(files, tmp_path / "o", name="a", pooling="after")
        made = import_published(files, tmp_path / "o", name="a", pooling="after", backbone="convnext_atto")
        torch.testing.assert_close(load_release(made).shared(images), expected, atol=1e-5, rtol=1e-5)


def test_other_networks_are_refused_with_what_they_are(tmp_path):
    """A ResNet of torchvision, in a part that is named."""
    from torchvision.models import resnet18

    path = publish(tmp_path / "a.pt.zip", encoder=Encoder(resnet18()), squeezer=squeezer())
    with pytest.raises(EncoderError, match=r"no encoder was found among encoder \(theirlibrary.blocks.Encoder\)"):
        imported(path, tmp_path / "out")


@pytest.mark.parametrize("name", [n for n in SWINS if n != "swinv2_micro"])
def test_every_size_is_told_by_its_weights(name):
    """Tiny to large, a window of 16 for large, as torchvision builds them; no memory is taken."""
    with torch.device("meta"):
        state = swin(name).state_dict()
    found = find_encoder([Block("e", "e", {f"net.{k}": v for k, v in state.items()})], None)
    assert found.backbone == name
    assert misfit(outline(lambda: SwinBackbone(SWINS[name])), found.weights) == ""


def test_a_window_of_16_computes_what_torchvision_does(tmp_path, monkeypatch):
    """That of the large size, on a network that is small enough to run."""
    monkeypatch.setitem(SWINS, "swinv2_micro", SwinSize(48, (2, 2, 4, 2), (3, 6, 12, 24), 0.1, window=16))
    net = swin("swinv2_micro")
    path = publish(tmp_path / "a.pt.zip", encoder=Encoder(net), squeezer=Squeezer(DEEPEST, -1))
    release, _ = imported(path, tmp_path / "out")
    images = torch.rand(1, 3, 96, 160)
    with torch.inference_mode():
        torch.testing.assert_close(release.shared(images), maps_of(net, images)[3].mean((2, 3)), atol=1e-5, rtol=1e-5)


def test_a_swin_that_is_set_otherwise_is_refused(tmp_path):
    """Weights of the same shapes that another window, or another epsilon, would run."""
    for change, reason in (
        (lambda net: setattr(net.features[1][0].norm1, "eps", 1e-3), "norm1 has eps 0.001"),
        (lambda net: setattr(net.features[1][1].attn, "shift_size", [0, 0]), r"shift_size \[0, 0\]"),
    ):
        net = swin()
        change(net)
        path = publish(tmp_path / "a.pt.zip", encoder=Encoder(net), squeezer=squeezer())
        with pytest.raises(EncoderError, match=reason):
            imported(path, tmp_path / "out")
    with pytest.raises(EncoderError, match="a window of 4 is not known"):
        imported(publish(tmp_path / "b.pt.zip", encoder=Encoder(swin(window=4))), tmp_path / "out")


def test_what_a_module_is_read_as_is_what_torch_says(tmp_path, net):
    """The names and numbers of every weight and buffer, those that are not saved left out; and settings."""
    theirs = squeezer()
    theirs.register_buffer("passing", torch.ones(3), persistent=False)
    theirs.register_buffer("lasting", torch.arange(3))
    theirs.half()
    (tmp_path / "s.pt").write_bytes(saved(theirs))
    (block,) = read_blocks(tmp_path / "s.pt")
    expected = theirs.state_dict()
    assert {*block.tensors} == {*expected}
    assert all(torch.equal(block.tensors[k], v) for k, v in expected.items())
    assert all(block.tensors[k].dtype == v.dtype for k, v in expected.items())
    assert block.settings["args.out_channels"] == DIM
    assert block.settings["args.pooling"] == "avg"
    assert block.layers["layers.1"].kind.endswith("GroupNorm")


KEYS = {
    "running-mean": {"squeezer.1.running_mean": torch.zeros(DIM)},
    "batches": {"squeezer.1.num_batches_tracked": torch.tensor(3)},
    "attention": {"squeezer.pool.weight": torch.zeros(1, DIM)},
    "in-the-encoder": {"encoder.features.1.0.extra": torch.zeros(3)},
    "beside-the-encoder": {"encoder.adapter.weight": torch.zeros(3)},
    "elsewhere": {"head.layers.weight": torch.zeros(10, DIM)},
    "a-norm-of-another-width": {"encoder.norm.running_mean": torch.zeros(DEEPEST)},
}


@pytest.mark.parametrize("more", KEYS.values(), ids=KEYS)
def test_a_name_that_is_not_understood_is_refused(tmp_path, net, more):
    """In one file of all, wherever it stands."""
    theirs = nn.Sequential(nn.Conv2d(DEEPEST, DIM, 1), nn.GroupNorm(1, DIM), nn.GELU())
    state = {f"encoder.{k}": v for k, v in net.state_dict().items()}
    state |= {f"squeezer.{k}": v for k, v in theirs.state_dict().items()}
    torch.save(state, tmp_path / "all.pt")
    assert imported(tmp_path / "all.pt", tmp_path / "out")[1]["unused"] == ["encoder.norm.bias", "encoder.norm.weight"]
    torch.save(state | more, tmp_path / "more.pt")
    with pytest.raises(EncoderError, match=next(iter(more)).split(".")[-1]):
        imported(tmp_path / "more.pt", tmp_path / "none")


WEIGHTS = {
    "nan": (lambda t: t * float("nan"), "NaN or infinite"),
    "whole-numbers": (lambda t: t.int(), "int32 instead of float32"),
    "complex": (lambda t: t.to(torch.complex64), "complex64|ComplexFloatStorage"),
    "one-number-that-looks-like-many": (lambda t: torch.zeros(()).expand(t.shape), "in a storage of 1 numbers"),
}


@pytest.mark.parametrize(("change", "reason"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_no_numbers_are_refused(tmp_path, net, change, reason):
    """Here too nothing is cast."""
    theirs = nn.Sequential(nn.Conv2d(DEEPEST, DIM, 1), nn.GroupNorm(1, DIM), nn.GELU()).state_dict()
    theirs["0.weight"] = change(theirs["0.weight"])
    torch.save(net.state_dict(), tmp_path / "e.pt")
    torch.save(theirs, tmp_path / "s.pt")
    with pytest.raises(EncoderError, match=reason):
        import_published([tmp_path / "e.pt", tmp_path / "s.pt"], tmp_path / "out", name="a", pooling="after")
