"""Published encoders can be imported, and give the numbers that torchvision's network gives."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import swin_v2_s, swin_v2_t

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.import_published.convert import import_published


def published(folder, make=swin_v2_t, dim=512, *, affine=True, prefix="encoder."):
    """Files as the authors' modules would be saved: random weights, torchvision's names, a prefix."""
    torch.manual_seed(0)
    swin = make(weights=None)
    with torch.no_grad():
        for parameter in swin.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    squeezer = nn.Sequential(nn.Conv2d(768, dim, 1), nn.GroupNorm(1, dim, affine=affine), nn.GELU())
    norms = [name for name, module in swin.named_modules() if isinstance(module, nn.LayerNorm)]
    if not affine:
        for name in norms:
            nn.init.ones_(swin.get_submodule(name).weight)
            nn.init.zeros_(swin.get_submodule(name).bias)
    kept = {k: v for k, v in swin.state_dict().items() if affine or k.rpartition(".")[0] not in norms}
    state = {f"{prefix}{k}": v for k, v in kept.items()}
    files = [folder / "encoder.pt", folder / "squeezer.pt"]
    torch.save(state, files[0])
    torch.save(squeezer.state_dict(), files[1])
    return files, swin.eval(), squeezer.eval()


@pytest.mark.parametrize(
    ("make", "dim", "affine"),
    [
        pytest.param(swin_v2_t, 512, True, id="tiny-512"),
        pytest.param(swin_v2_t, 512, False, id="tiny-without-norm-weights"),
        pytest.param(swin_v2_s, 512, True, id="small-512"),
    ],
)
def test_an_imported_encoder_gives_torchvisions_features(tmp_path, make, dim, affine):
    """Maps and vector equal those of torchvision's Swin V2 and the squeezer, to 1e-5."""
    files, swin, squeezer = published(tmp_path, make, dim, affine=affine)
    path = import_published(files, tmp_path / "out", name="theirs", pooling="after")
    shared = load_release(path).shared
    images = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        deepest = swin.features(images).permute(0, 3, 1, 2)
        expected = squeezer(deepest)
        found = shared.features(images)
        torch.testing.assert_close(found.pyramid.stride32, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.vector, expected.mean((2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["before", "after"])
def test_the_pooling_order_is_kept_and_recorded(tmp_path, pooling):
    """Both orders of the authors' versions are computed as they were, and stand in the encoder's card."""
    files, swin, squeezer = published(tmp_path)
    path = import_published(files, tmp_path / "out", name="theirs", pooling=pooling, mpp=0.5)
    encoder = load_encoder(f"umedpt:{path}")
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    with torch.inference_mode():
        deepest = swin.features(torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255).permute(0, 3, 1, 2)
        pooled = squeezer(deepest.mean((2, 3), keepdim=True))[:, :, 0, 0]
        expected = pooled if pooling == "before" else squeezer(deepest).mean((2, 3))
    np.testing.assert_allclose(encoder.encode(tiles), expected.numpy(), atol=1e-5)
    assert encoder.card.model["pooling"] == pooling
    assert encoder.made_by["card"]["mpp"] == 0.5


def test_what_is_no_published_encoder_is_refused_with_the_remedy(tmp_path):
    """A file without a Swin, without a squeezer, or of another network is refused, saying what was looked for."""
    files, _, _ = published(tmp_path)
    with pytest.raises(EncoderError, match=r"0 squeezers were found.*name both files"):
        import_published(files[:1], tmp_path, name="a", pooling="after")
    with pytest.raises(EncoderError, match=r"no encoder was found among squeezer.*`backbone`"):
        import_published(files[1:], tmp_path, name="a", pooling="after")
    state = torch.load(files[0])
    del state["encoder.features.1.0.attn.qkv.weight"]
    torch.save(state, files[0])
    with pytest.raises(EncoderError, match=r"1 missing.*qkv"):
        import_published(files, tmp_path, name="a", pooling="after")
