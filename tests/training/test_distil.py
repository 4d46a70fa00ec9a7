"""Against forgetting: the encoder's maps stay near those it began with, and layers may be frozen."""

import json
from dataclasses import replace

import pytest
import torch

from wsi_umedpt.models.bundle import load_release, release_card
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import load_heads
from wsi_umedpt.training.distillation import DISTILLED, Distiller
from wsi_umedpt.training.run import pretrain


@pytest.fixture(scope="module")
def begun(config, reference):
    """The config of all tasks, begun from the release of an earlier run; embeddings are means of maps."""

    def made(**training):
        found = config()
        return replace(
            found,
            model=replace(found.model, vector="maps"),
            initial=f"umedpt:{reference / 'small.v1.json'}",
            training=replace(found.training, **training),
        )

    return made


@torch.no_grad()
def test_the_loss_counts_deviations_of_each_channel():
    """0 for the encoder as it began; one channel of one map off by its own deviation adds 1 over channels and maps."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="test_convnext", dim=16)).eval()
    distiller = Distiller(shared.encoder, 1.0)
    images = torch.rand(2, 3, 64, 64)
    features = shared.features(images)
    assert float(distiller.loss(images, features)) == 0
    deepest = features.deepest.clone()
    deepest[:, 3] += deepest[:, 3].var().clamp(min=1e-4).sqrt()
    apart = float(distiller.loss(images, features._replace(deepest=deepest)))
    assert apart == pytest.approx(1 / deepest.shape[1] / 3, rel=1e-4)


@torch.no_grad()
def test_a_distilled_encoder_stays_nearer_to_where_it_began(begun, reference, tmp_path):
    """With a large weight its maps move less than half as far; the log has how far they have gone."""
    distiller, apart, logged = Distiller(load_release(reference / "small.v1.json").shared.encoder, 1.0), {}, {}
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for weight in (0.0, 100.0):
        with torch.enable_grad():
            written = pretrain(begun(distil=weight), tmp_path / str(weight), device="cpu")
        apart[weight] = float(distiller.loss(images, load_release(written).shared.features(images)))
        lines = [json.loads(line) for line in (written.parent / "log.jsonl").read_text().splitlines()]
        logged[weight] = [line["loss"].get(DISTILLED) for line in lines if "loss" in line]
    assert 0 < apart[100.0] < apart[0.0] / 2
    assert set(logged[0.0]) == {None}
    assert logged[100.0][0] < 1e-3 < logged[100.0][-1]  # weights of a release are float16: nearly 0 at first


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_frozen_layers_are_those_that_make_the_map(begun, reference, tmp_path, stride):
    """The map of the frozen stride, and those before it, stay what they were; the next one does not."""
    written = pretrain(begun(frozen_stride=stride, steps=2, lr=1e-2), tmp_path, device="cpu")
    before, after = (load_release(p).shared for p in (reference / "small.v1.json", written))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for level, a, b in zip((4, 8, 16, 32), before.pyramid(images), after.pyramid(images), strict=True):
        assert torch.equal(a, b) == (level <= stride)


def test_resumed_with_distillation(begun, same, tmp_path):
    """Stopped and resumed, a distilled run with frozen layers equals an unbroken one, bit for bit."""
    asked = begun(distil=0.5, frozen_stride=4)
    pretrain(asked, tmp_path / "whole", device="cpu")
    pretrain(asked, tmp_path / "parts", device="cpu", until=3)
    pretrain(asked, tmp_path / "parts", device="cpu")
    assert same(tmp_path / "parts", tmp_path / "whole")


def test_a_release_embeds_by_the_means_of_its_maps(begun, tmp_path):
    """Its card, its encoder and its heads agree on the length, which is that of three maps."""
    written = pretrain(begun(steps=2), tmp_path, device="cpu")
    release = load_release(written)
    length = sum(release.shared.encoder.channels[1:])
    assert release_card(written).dim == length == release.shared.vector_dim
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8).numpy()
    assert load_encoder(f"umedpt:{written}", device="cpu").encode(pixels).shape == (3, length)
    assert load_heads(release)["grade"].head[1].in_features == length
    assert float(release.shared.spread.min()) > 0
    assert float(release.shared.centre.abs().max()) > 0


def test_distillation_needs_weights_to_begin_with(config):
    """Holding an encoder near random weights is refused."""
    with pytest.raises(ValueError, match="name them with initial"):
        config(distil=0.5)
