"""A trained model is one pair of files: as an encoder, with its heads, whole or refused."""

import json

import numpy as np
import pytest
import torch

from tests.support.released_models import save_model
from wsi_umedpt.errors import CheckpointError, EncoderError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.bundle import load_release, release_card
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import load_heads, make_task

SPEC = ModelSpec(backbone="convnext_atto", norm="layernorm", dim=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
HEADS = (
    HeadSpec(name="nuclei", kind="segmentation", classes=("background", "nucleus", "border"), modality="microscopy"),
    HeadSpec(name="cells", kind="detection", classes=("a", "b"), modality="microscopy"),
    HeadSpec(name="age", kind="regression", classes=("age",), modality="xray", centre=(50.0,), spread=(10.0,)),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The JSON file of a model with three heads, and the model itself, its weights rounded to float16."""
    torch.manual_seed(0)
    shared = UMedPT(SPEC).eval()
    tasks = {spec.name: make_task(spec, SPEC.dim).eval() for spec in HEADS}
    return save_model(tmp_path_factory.mktemp("release"), shared, tasks), shared, tasks


def test_an_encoder_gives_the_models_vector(trained):
    """Tiles are normalised by the model's own mean and std; the card says what it is made of."""
    path, shared, _ = trained
    encoder = load_encoder(f"umedpt:{path}")
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    with torch.inference_mode():
        images = torch.from_numpy(tiles).permute(0, 3, 1, 2)
        expected = shared.features(shared.normalised(images)).vector
    np.testing.assert_allclose(encoder.encode(tiles), expected.numpy(), atol=1e-5)
    assert encoder.dim == 32
    assert encoder.card.mpp == 0.5
    assert encoder.made_by["card"]["model"] == SPEC.to_dict()
    assert encoder.name.startswith("tiny.v1."), "what was trained twice under one name is two encoders"


def test_what_tensors_do_not_tell_is_part_of_the_name(trained, tmp_path):
    """The same weights with other pooling or normalisation are another encoder; drawn decoders are not."""
    tensors, about = checkpoint.load(trained[0])
    about = {k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")}
    names = []
    for n, change in enumerate(({}, {"pooling": "before"}, {"mean": [0.1, 0.1, 0.1]})):
        checkpoint.save(tmp_path / f"{n}.json", tensors, about | {"model": SPEC.to_dict() | change})
        names.append(load_encoder(f"umedpt:{tmp_path / f'{n}.json'}").name)
    assert len({*names}) == 3
    encoder = {k: v for k, v in tensors.items() if k.startswith(("shared.encoder", "shared.squeezer"))}
    checkpoint.save(tmp_path / "e.json", encoder, about | {"heads": [], "encoder_only": True})
    first, again = (load_encoder(f"umedpt:{tmp_path / 'e.json'}").name for _ in range(2))
    assert first == again


def test_an_encoder_without_all_its_weights_is_refused(trained, tmp_path):
    """A weight that is missing would stay random."""
    tensors, about = checkpoint.load(trained[0])
    about = {k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")}
    encoder = {k: v for k, v in tensors.items() if k.startswith(("shared.encoder", "shared.squeezer"))}
    del encoder[next(iter(encoder))]
    checkpoint.save(tmp_path / "e.json", encoder, about | {"heads": [], "encoder_only": True})
    with pytest.raises(CheckpointError, match=r"1 missing: shared\.(encoder|squeezer)"):
        load_encoder(f"umedpt:{tmp_path / 'e.json'}")


def test_openvino_gives_the_same(trained):
    """The converted network is the same network, to rounding."""
    pytest.importorskip("openvino")
    tiles = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    found = load_encoder(f"umedpt:{trained[0]}", engine="openvino").encode(tiles)
    np.testing.assert_allclose(found, load_encoder(f"umedpt:{trained[0]}").encode(tiles), atol=1e-3)


def test_heads_come_back_as_they_were(trained):
    """Each gives the outputs that it gave before it was saved."""
    path, shared, tasks = trained
    release = load_release(path)
    heads = load_heads(release)
    assert [*heads] == [spec.name for spec in HEADS]
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        before, after = (m.features(m.normalised(images)) for m in (shared, release.shared))
        assert torch.equal(tasks["nuclei"](shared, before), heads["nuclei"](release.shared, after))
        assert torch.equal(tasks["cells"](shared, before).logits, heads["cells"](release.shared, after).logits)
        years = [
            t["age"].values(t["age"](s, f)) for t, s, f in ((tasks, shared, before), (heads, release.shared, after))
        ]
        assert torch.equal(*years)


def test_the_card_is_read_without_the_weights(trained, tmp_path):
    """Listing encoders opens no tensors."""
    (tmp_path / "tiny.v1.json").write_bytes(trained[0].read_bytes())
    assert release_card(tmp_path / "tiny.v1.json").dim == 32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"kind": "probe"}, "no UMedPT release", id="another-kind"),
        pytest.param({"schema": 2}, "schema 2", id="newer"),
        pytest.param({"model": {"backbone": "convnext_atto", "widht": 3}}, "no key 'widht'", id="unknown-key"),
        pytest.param({"model": SPEC.to_dict() | {"dim": 16}}, "not of its model", id="other-size"),
        pytest.param({"model": SPEC.to_dict() | {"norm": "keepnorm"}}, "not of its model|lacks", id="other-norm"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(trained, tmp_path, change, reason):
    """A release is never loaded as another model than its weights are of."""
    tensors, about = checkpoint.load(trained[0])
    about = {k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")}
    checkpoint.save(tmp_path / "a.json", tensors, about | change)
    with pytest.raises(CheckpointError, match=reason):
        load_release(tmp_path / "a.json")


def test_a_file_that_is_no_release_is_refused(tmp_path):
    """The JSON file is what names a release."""
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    for path, kind in ((tmp_path / "a.safetensors", EncoderError), (tmp_path / "a.json", CheckpointError)):
        with pytest.raises(kind, match="release"):
            load_encoder(f"umedpt:{path}")
