"""Weights are those of their network and finite, or refused before the network is made."""

import json
import os
import tracemalloc
from collections.abc import Callable

import pytest
import safetensors.torch
import torch

from tests.support.released_models import save_model
from wsi_umedpt.errors import CheckpointError, EncoderError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.io.tensors import misfit, outline
from wsi_umedpt.models import bundle as releases
from wsi_umedpt.models.backbones import make_backbone
from wsi_umedpt.models.bundle import load_release, release_card, release_heads
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.models.weights import create, load_network
from wsi_umedpt.tasks import load_heads, make_task
from wsi_umedpt.tasks.multihead import OnePass, find_heads

SPEC = ModelSpec(backbone="convnext_atto", norm="layernorm", dim=32)
HEADS = (
    HeadSpec(name="nuclei", kind="segmentation", classes=("background", "nucleus", "border"), modality="microscopy"),
    HeadSpec(name="cells", kind="detection", classes=("a", "b"), modality="microscopy"),
    HeadSpec(name="age", kind="regression", classes=("age",), modality="xray", centre=(50.0,), spread=(10.0,)),
)
SEALED = ("tensors", "tensors_sha256", "sha256")
SQUEEZER, HEAD = "shared.squeezer.conv.weight", "heads.nuclei.head.weight"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    tasks = {spec.name: make_task(spec, SPEC.dim).eval() for spec in HEADS}
    tensors, about = checkpoint.load(save_model(tmp_path_factory.mktemp("release"), UMedPT(SPEC).eval(), tasks))
    return tensors, {k: v for k, v in about.items() if k not in SEALED}


def load(path):
    """All that anybody reads of a release."""
    release_card(path)
    release_heads(path)
    return load_heads(load_release(path))


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]):
    return lambda tensors: {**tensors, name: change(tensors[name])}


def one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """One number among many."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.float().clone()
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor

    return change


WEIGHTS = {
    "nan-in-a-head": (changed(HEAD, one(float("nan"))), "NaN or infinite: heads.nuclei.head.weight"),
    "infinite-in-the-squeezer": (changed(SQUEEZER, one(-float("inf"))), "NaN or infinite: shared.squeezer"),
    "too-large-for-float32": (changed(SQUEEZER, lambda t: t.double() + 1e300), "NaN or infinite"),
    "whole-numbers-in-a-head": (changed(HEAD, lambda t: t.int()), "head.weight int32 instead of float32"),
    "whole-numbers": (changed(SQUEEZER, lambda t: t.to(torch.int8)), "int8 instead of float32"),
    "true-and-false": (changed(SQUEEZER, lambda t: t > 0), "bool instead of float32"),
    "complex": (changed(SQUEEZER, lambda t: t.to(torch.complex64)), "numbers of the kind C64"),
    "eight-bits": (changed(SQUEEZER, lambda t: t.to(torch.float8_e4m3fn)), "numbers of the kind F8_E4M3"),
    "another-shape": (changed(SQUEEZER, lambda t: t[:16]), r"\(16, \d+, 1, 1\) instead of \(32, \d+, 1, 1\)"),
    "transposed": (changed(SQUEEZER, lambda t: t.permute(1, 0, 2, 3)), "of another shape"),
    "one-more": (lambda t: {**t, "shared.squeezer.running_mean": torch.zeros(32)}, "1 unknown: shared.squeezer.run"),
    "a-head-that-is-not-listed": (lambda t: {**t, "heads.zz.weight": torch.zeros(3)}, "1 unknown: heads.zz.weight"),
    "more-in-a-head": (lambda t: {**t, "heads.age.extra": torch.zeros(3)}, "1 unknown: extra"),
    "none": (lambda t: {}, "missing"),
}


@pytest.mark.parametrize(("change", "reason"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_are_never_cast_cut_or_filled_up(trained, tmp_path, change, reason):
    """Each would load in silence, and find nothing or something else; each is refused by the weight's name."""
    tensors, about = trained
    checkpoint.save(tmp_path / "m.json", change(tensors), about)
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path / "m.json")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_width_of_number_is_a_weight(trained, tmp_path, dtype):
    """What the tests above refuse is refused for what is wrong with it."""
    tensors, about = trained
    checkpoint.save(tmp_path / "m.json", {k: v.to(dtype) for k, v in tensors.items()}, about)
    assert [*load(tmp_path / "m.json")] == ["nuclei", "cells", "age"]


def test_variances_are_not_below_0(tmp_path):
    """BatchNorm takes their root: NaN for every image."""
    spec = ModelSpec(backbone="resnet18", norm="keepnorm", dim=8)
    state = {f"shared.{k}": v for k, v in UMedPT(spec).state_dict().items()}
    name = next(k for k in state if k.endswith("running_var"))
    state[name] = state[name] - 2
    about = {"schema": 1, "kind": "umedpt", "name": "a", "model": spec.to_dict()}
    checkpoint.save(tmp_path / "m.json", state, about)
    with pytest.raises(CheckpointError, match=f"1 variance is below 0: {name}"):
        load_release(tmp_path / "m.json")


def model(**change):
    return {"model": SPEC.to_dict() | change}


def head(**change):
    return {"heads": [HEADS[0].to_dict() | change]}


SAID = {
    "dim-of-gigabytes": (model(dim=2_000_000), r"dim is from 1 to 16,384"),
    "dim-0": (model(dim=0), "dim is from 1"),
    "dim-true": (model(dim=True), "dim is a whole number, got True"),
    "dim-in-words": (model(dim="32"), "dim is a whole number"),
    "dim-a-fraction": (model(dim=32.5), "dim is a whole number"),
    "std-nan": (model(std=[0.1, float("nan"), 0.1]), "std.* is a number, got nan"),
    "std-0": (model(std=[0.1, 0, 0.1]), "std is from 1e-6"),
    "mean-huge": (model(mean=[1e300, 0, 0]), "mean from -1e6"),
    "mean-of-two": (model(mean=[0, 0]), "mean takes 3 values"),
    "backbone-a-list": (model(backbone=["convnext_atto"]), "backbone is a text"),
    "norm-unknown": (model(norm="batch"), "norm is one of"),
    "no-model": ({"model": None}, "model is a table"),
    "model-a-list": ({"model": [1]}, "model is a table"),
    "size-of-a-gigapixel": ({"size_px": 10**9}, "size_px is from 16 to 2,048"),
    "size-negative": ({"size_px": -3}, "size_px is from 16"),
    "size-in-words": ({"size_px": "big"}, "size_px is a whole number"),
    "size-a-list": ({"size_px": [224]}, "size_px is a whole number"),
    "size-a-fraction": ({"size_px": 224.5}, "size_px is a whole number"),
    "mpp-nan": ({"mpp": float("nan")}, "mpp is a number, got nan"),
    "mpp-0": ({"mpp": 0}, "mpp is from 0.01"),
    "mpp-negative": ({"mpp": -0.5}, "mpp is from 0.01"),
    "mpp-infinite": ({"mpp": float("inf")}, "mpp is a number, got inf"),
    "mpp-in-words": ({"mpp": "0.5"}, "mpp is a number"),
    "mpp-beyond-numbers": ({"mpp": 10**400}, "mpp is a number that is too large"),
    "about-a-number": ({"about": 3}, "about is a text"),
    "licence-a-list": ({"licence": ["mit"]}, "licence is a text"),
    "encoder-only-in-words": ({"encoder_only": "no"}, "encoder_only is true or false"),
    "parts-unknown": ({"parts": ["encoder", "squeezer", "magic"]}, "parts are encoder"),
    "no-squeezer": ({"parts": ["encoder"], "heads": []}, "has an encoder and a squeezer"),
    "a-head-without-its-decoder": ({"encoder_only": True}, "head nuclei reads the decoder 'pixels'"),
    "heads-a-table": ({"heads": {"a": 1}}, "heads is a list"),
    "heads-a-word": ({"heads": "nuclei"}, "heads is a list"),
    "heads-a-number": ({"heads": 3}, "heads is a list"),
    "a-head-that-is-none": ({"heads": [None]}, r"heads\[0\] is a table"),
    "a-head-without-classes": ({"heads": [{"name": "a", "kind": "detection"}]}, "missing classes"),
    "a-head-of-an-unknown-kind": (head(kind="sorcery"), "kind is one of"),
    "a-head-named-twice": ({"heads": [HEADS[0].to_dict()] * 2}, "two heads have one name"),
    "a-class-named-twice": (head(classes=["a", "a", "b"]), "names a class twice"),
    "a-class-that-is-a-number": (head(classes=[1, 2, 3]), "classes.* is a text"),
    "a-hundred-thousand-classes": (head(classes=[str(n) for n in range(100_001)]), "over 100,000 classes"),
    "more-classes-than-weights": (head(classes=["a", "b", "c", "d"]), "of another shape: head.weight"),
    "a-spread-of-too-many": ({"heads": [HEADS[2].to_dict() | {"spread": [1, 2]}]}, "no number for each value"),
    "a-spread-below-0": ({"heads": [HEADS[2].to_dict() | {"spread": [-1]}]}, "spread below 0"),
    "a-head-at-no-scale": (head(mpp=0), "states 0 um/px"),
}


@pytest.mark.parametrize(("change", "reason"), SAID.values(), ids=SAID)
def test_a_release_means_what_it_says_or_is_refused(trained, tmp_path, monkeypatch, change, reason):
    """Whole by its checksums, but edited by somebody who made these anew: a line, before any network is made."""
    tensors, about = trained
    if "heads" in change:  # those that stand there no more
        tensors = {k: v for k, v in tensors.items() if not k.startswith(("heads.cells", "heads.age"))}
    checkpoint.save(tmp_path / "m.json", tensors, about | change)
    made = []
    monkeypatch.setattr(releases, "UMedPT", lambda spec: made.append(torch.empty(0).device.type) or UMedPT(spec))
    with pytest.raises(CheckpointError, match=reason) as caught:
        load(tmp_path / "m.json")
    assert ("cpu" in made) == reason.endswith("head.weight"), "heads are compared when they are loaded"
    assert len(str(caught.value)) < 1500


def test_a_network_that_is_not_the_weights_costs_nothing(trained, tmp_path):
    """A release of 3 MB that says it is a network of 846 million weights is refused without making one."""
    tensors, about = trained
    change = model(backbone="convnext_xxlarge", dim=16_384)
    checkpoint.save(tmp_path / "m.json", tensors, about | change | {"heads": []})
    before = torch.nn.Module.__init__
    sizes = []

    def counted(self, *args, **kwargs):
        before(self, *args, **kwargs)
        sizes.append(torch.empty(1).device.type)

    torch.nn.Module.__init__ = counted
    try:
        with pytest.raises(CheckpointError, match="are not of its model"):
            load_release(tmp_path / "m.json")
    finally:
        torch.nn.Module.__init__ = before
    assert {*sizes} == {"meta"}


@pytest.mark.parametrize("name", ["swinv2_micro", "convnext_atto", "resnet18", "tf_efficientnet_lite0"])
def test_an_outline_is_the_network(name):
    """Names, shapes and kinds are those of the network that is made."""
    state = make_backbone(name).state_dict()
    assert misfit(outline(lambda: make_backbone(name)), state) == ""
    assert misfit(outline(lambda: make_backbone(name)), dict([*state.items()][1:])).startswith("1 missing")


FILES = {
    "nan": (one(float("nan")), "NaN or infinite: layer1.0.conv1.weight"),
    "whole-numbers": (lambda t: t.long(), "int64 instead of float32"),
    "complex": (lambda t: t.to(torch.complex64), "complex64 instead of float32|kind C64"),
    "one-number-that-looks-like-many": (lambda t: torch.zeros(()).expand(t.shape), "not a plain array"),
    "sparse": (lambda t: t.to_sparse(), "not a plain array|cannot be read"),
}


@pytest.mark.parametrize(("change", "reason"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_from_a_file_are_never_cast(tmp_path, change, reason, suffix):
    """Those of timm models too, whoever saved them."""
    state = create("resnet10t").state_dict()
    state["layer1.0.conv1.weight"] = change(state["layer1.0.conv1.weight"])
    if "plain" in reason:  # safetensors holds plain arrays alone
        suffix = "pth"
    path = tmp_path / f"w.{suffix}"
    if suffix.startswith("pt"):
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    with pytest.raises(EncoderError, match=reason):
        load_network(f"timm:resnet10t@{path}")


def test_a_head_whose_numbers_run_over_says_so(trained, tmp_path):
    """Weights that are finite, and outputs that are not: not "no nuclei"."""
    tensors, about = trained
    checkpoint.save(tmp_path / "m.json", changed(HEAD, lambda t: t.float().sign() * 3e38)(tensors), about)
    release = load_release(tmp_path / "m.json")
    made = OnePass(release, find_heads(release, ["nuclei"]), size_px=64)
    tiles = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8).numpy()
    made.calibrate(tiles)
    with pytest.raises(EncoderError, match="head nuclei gave numbers that are not finite"):
        made.submit(tiles)()


def test_descriptions_and_tensors_are_plain_files_of_a_size(tmp_path):
    """A pipe would be waited for without end, and a JSON file of gigabytes read."""
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(CheckpointError, match="a named pipe"):
        load_release(tmp_path / "pipe.json")
    about = {"schema": 1, "kind": "umedpt", "name": "a", "model": SPEC.to_dict(), "tensors": "a.pipe"}
    os.mkfifo(tmp_path / "a.pipe")
    (tmp_path / "a.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="a named pipe"):
        load_release(tmp_path / "a.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="at most 67,108,864 are read"):
        load_release(tmp_path / "large.json")
    assert tracemalloc.get_traced_memory()[1] < 300 << 20
    tracemalloc.stop()
