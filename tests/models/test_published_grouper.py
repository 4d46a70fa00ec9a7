"""The grouper of published weights: taken where it is gated attention over embeddings, else left out by name."""

import pytest
import torch
from torch import nn

from tests.support.published_modules import Encoder, Grouper, Squeezer, WeightedGrouper, publish, saved, swin
from wsi_umedpt.errors import CheckpointError, EncoderError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.bundle import load_grouper, load_release
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.import_published.convert import import_published

DEEPEST, DIM, WIDTH = 384, 24, 8


@pytest.fixture(scope="module")
def net():
    return swin()


@pytest.fixture(scope="module")
def encoder(net):
    return saved(Encoder(net))


def random(module):
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def import_one(path, out):
    return import_published([path], out, name="theirs", pooling="after")


@pytest.mark.parametrize("dim", [512, 768])
def test_a_grouper_weighs_images_as_theirs_does(tmp_path, encoder, dim):
    """Of 512 and of 768 numbers; what follows its sum is said to be left out, and the encoder is the same without."""
    squeezer, theirs = random(Squeezer(DEEPEST, dim)), random(Grouper(dim, dim // 3))
    path = publish(tmp_path / "wsc.pt.zip", encoder=encoder, squeezer=squeezer, grouper=theirs)
    made = import_one(path, tmp_path / "out")
    embeddings = torch.randn(5, dim)
    with torch.inference_mode():
        torch.testing.assert_close(load_grouper(made)(embeddings), theirs(embeddings))
    said = checkpoint.read_about(made)
    assert (said["grouper"], said["imported"]["taken"]["grouper"]) == ({"dim": dim, "attention": dim // 3}, "grouper")
    assert said["imported"]["left_out"] == {
        "grouper.back": "the layer that follows the grouper's sum: slide classifiers learn their own"
    }
    alone = publish(tmp_path / "alone.pt.zip", encoder=encoder, squeezer=squeezer)
    cards = [load_encoder(f"umedpt:{p}", device="cpu").card for p in (made, import_one(alone, tmp_path / "b"))]
    assert cards[0].weights_sha256 == cards[1].weights_sha256


def wide(**options):
    return Grouper(DIM, DIM, **options)


GROUPERS = {
    "plain": lambda: Grouper(DIM, WIDTH, back=False),
    "with-a-layer-after": lambda: Grouper(DIM, WIDTH),
    "as-wide-as-an-embedding": lambda: wide(back=False),
    "as-wide-with-a-layer-after": wide,
}


@pytest.mark.parametrize("whole", [True, False], ids=["module", "state-dict"])
@pytest.mark.parametrize("make", GROUPERS.values(), ids=GROUPERS)
def test_every_form_of_it_is_understood(tmp_path, net, encoder, make, whole):
    """Whole modules say which layer a tanh follows, state dicts by the letters V and U of its paper."""
    theirs, squeezer = random(make()), random(Squeezer(DEEPEST, DIM))
    path = tmp_path / "a.pt"
    if whole:
        publish(path, encoder=encoder, squeezer=squeezer, grouper=theirs)
    else:
        parts = {"encoder": net, "squeezer": squeezer.layers, "grouper": theirs}
        torch.save({f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}, path)
    embeddings = torch.randn(5, DIM)
    with torch.inference_mode():
        found = load_grouper(import_one(path, tmp_path / "out"))(embeddings)
        torch.testing.assert_close(found, theirs(embeddings))


def unnamed():
    """Layers whose names and places say nothing."""
    made = Grouper(DIM, WIDTH, back=False)
    made.a, made.b = made.V[0], made.U[0]
    del made.V, made.U
    return made


OTHERS = {
    "weighed-each-by-itself": (lambda: WeightedGrouper(DIM), r"this one has weigh.0 \(1, 24\)"),
    "without-a-gate": (lambda: Grouper(DIM, WIDTH, gated=False), "two layers of"),
    "several-heads": (lambda: Grouper(DIM, WIDTH, heads=4), r"weights \(4, 8\)"),
    "of-other-embeddings": (lambda: Grouper(32, WIDTH), "over embeddings of 24 numbers"),
    "not-said-which-is-which": (unnamed, "which of a and b is followed by tanh"),
    "nan": (lambda: with_nan(Grouper(DIM, WIDTH)), "NaN"),
    "with-a-norm": (lambda: with_norm(Grouper(DIM, WIDTH)), "gated attention does not have: norm"),
}


def with_nan(module):
    module.V[0].weight.data[0, 0] = float("nan")
    return module


def with_norm(module):
    module.norm = nn.LayerNorm(DIM)
    return module


@pytest.mark.parametrize(("make", "reason"), OTHERS.values(), ids=OTHERS)
def test_a_grouper_that_is_another_is_left_out_by_name(tmp_path, encoder, make, reason):
    """The embedding does not need it; an error says why a classifier cannot start from it."""
    path = publish(tmp_path / "a.pt.zip", encoder=encoder, squeezer=random(Squeezer(DEEPEST, DIM)), grouper=make())
    made = import_one(path, tmp_path / "out")
    assert load_release(made).parts == ("encoder", "squeezer")
    with pytest.raises(EncoderError, match=f"has no grouper.*{reason}"):
        load_grouper(made)


def test_a_state_dict_with_another_grouper_is_refused(tmp_path, net):
    """There nothing is left out."""
    squeezer = random(Squeezer(DEEPEST, DIM))
    parts = {"encoder": net, "squeezer": squeezer.layers, "grouper": WeightedGrouper(DIM)}
    state = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    torch.save(state, tmp_path / "all.pt")
    with pytest.raises(EncoderError, match="is not one that slide classifiers have"):
        import_one(tmp_path / "all.pt", tmp_path / "out")


def test_a_damaged_grouper_is_refused(tmp_path, encoder):
    """As every part of a release is: shapes against what it says."""
    path = publish(
        tmp_path / "a.pt.zip", encoder=encoder, squeezer=random(Squeezer(DEEPEST, DIM)), grouper=Grouper(DIM, WIDTH)
    )
    made = import_one(path, tmp_path / "out")
    tensors, about = checkpoint.load(made)
    checkpoint.save(made, tensors, about | {"grouper": {"dim": DIM, "attention": WIDTH + 1}})
    for read in (load_grouper, load_release):
        with pytest.raises(CheckpointError, match=r"grouper\.gates\.weight .* instead of"):
            read(made)
