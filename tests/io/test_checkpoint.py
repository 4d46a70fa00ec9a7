"""A checkpoint is whole, or it is refused; what was there before is left by whatever goes wrong."""

import hashlib
import json
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_umedpt.errors import CheckpointError
from wsi_umedpt.io import checkpoint

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b.half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "b.count": torch.tensor(7),
    "last": torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last),
}
ABOUT = {"step": 40, "history": [{"val": {"t": {"auc": 0.1 + 0.2, "mae": float("nan")}}}], "name": "naïve"}


@pytest.fixture
def saved(tmp_path):
    """A checkpoint, and the file of its tensors."""
    path = tmp_path / "run" / "last.json"
    checkpoint.save(path, TENSORS, ABOUT)
    return path, path.with_name(json.loads(path.read_bytes())["tensors"])


def same(left, right):
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


def test_a_checkpoint_round_trips(saved):
    """Tensors come back with name, dtype, shape and value; what is known of them as it was said."""
    tensors, about = checkpoint.load(saved[0])
    assert same(tensors, TENSORS)
    assert {key: json.dumps(about[key]) for key in ABOUT} == {key: json.dumps(value) for key, value in ABOUT.items()}


def test_a_save_replaces_the_pair_and_leaves_nothing_else(saved):
    """After another save there are two files again, and no other pair or foreign file was touched."""
    path, _ = saved
    other = path.with_name("last.pretrained12.safetensors")
    other.write_bytes(b"of somebody else")
    checkpoint.save(path.with_name("second.json"), {"a": TENSORS["a"]}, {})
    checkpoint.save(path, {"a": TENSORS["a"] + 1}, ABOUT)
    assert torch.equal(checkpoint.load(path)[0]["a"], TENSORS["a"] + 1)
    assert torch.equal(checkpoint.load(path.with_name("second.json"))[0]["a"], TENSORS["a"])
    assert other.exists()
    assert len([*path.parent.iterdir()]) == 5


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), which=st.sampled_from([0, 1]))
def test_a_changed_byte_is_refused_or_changes_nothing(saved, data, which):
    """Any byte of either file may rot: the checkpoint is refused, or it is what was saved."""
    path, expected = saved[which], checkpoint.load(saved[0])
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    rotten = bytearray(whole)
    rotten[at] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(rotten)
        try:
            tensors, about = checkpoint.load(saved[0])
        except CheckpointError:
            return
        assert which == 0, "a byte of the tensors changed and nobody noticed"
        assert same(tensors, expected[0])
        said = {key: json.dumps(about[key]) for key in expected[1] if key != "sha256"}
        assert said == {key: json.dumps(expected[1][key]) for key in said}
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("which", [pytest.param(0, id="json"), pytest.param(1, id="tensors")])
@pytest.mark.parametrize(
    "keep", [pytest.param(None, id="gone"), pytest.param(0, id="empty"), pytest.param(50, id="cut")]
)
def test_half_a_checkpoint_is_refused(saved, which, keep):
    """Either file missing or cut short: refused by name."""
    whole = saved[which].read_bytes()
    saved[which].unlink()
    if keep is not None:
        saved[which].write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match="last"):
        checkpoint.load(saved[0])


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", "", "a\0b", None, ["a"], 7],
    ids=["parent", "absolute", "subfolder", "dots", "dot", "empty", "nul", "null", "list", "number"],
)
def test_the_tensors_lie_beside_the_json(saved, name):
    """A name that leads out of the folder is refused, even where the file there is what the sha256 says."""
    path, tensors = saved
    (path.parents[1] / "secret.safetensors").write_bytes(tensors.read_bytes())
    about = {k: v for k, v in json.loads(path.read_bytes()).items() if k != "sha256"}
    path.write_text(json.dumps({**about, "tensors": name}))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


class _Alarm:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("which", [pytest.param("pickle", id="pickle"), pytest.param("torch", id="torch-save")])
def test_nothing_is_unpickled(tmp_path, which):
    """A pickle in place of the tensors is refused and not run, even if its sha256 is right."""
    file, path = tmp_path / "evil.safetensors", tmp_path / "evil.json"
    if which == "pickle":
        file.write_bytes(pickle.dumps(_Alarm()))
    else:
        torch.save({"a": _Alarm()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    path.write_text(json.dumps({"tensors": file.name, "tensors_sha256": digest}))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        checkpoint.load(path)


def test_a_json_of_an_earlier_version_has_no_sha256_of_its_own(saved):
    """Checkpoints written before the JSON was under a checksum still load."""
    path, _ = saved
    about = json.loads(path.read_bytes())
    del about["sha256"]
    path.write_text(json.dumps(about))
    assert checkpoint.load(path)[1]["step"] == 40


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"[" * 100_000, b"\xff"])
def test_json_of_another_shape_is_refused(tmp_path, content):
    """What is no JSON object is no checkpoint."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.json"):
        checkpoint.load(tmp_path / "a.json")


class _Killed(BaseException):
    pass


def test_killed_before_any_change_of_a_file_the_old_or_the_new_pair_loads(saved, monkeypatch):
    """Death just before the k-th open, rename or remove, for every k: what loads is the old pair or the new one."""
    path, _ = saved
    new = {"a": torch.ones(3)}
    outcomes = []
    for k in range(100):
        left = [k]

        def dying(call, left=left):
            def wrapped(*args, **kwargs):
                if left[0] == 0:
                    raise _Killed
                left[0] -= 1
                return call(*args, **kwargs)

            return wrapped

        checkpoint.save(path, TENSORS, ABOUT)
        with monkeypatch.context() as patch:
            for where, name in ((checkpoint.os, "replace"), (checkpoint.os, "fsync"), (checkpoint.Path, "unlink")):
                patch.setattr(where, name, dying(getattr(where, name)))
            patch.setattr(checkpoint.Path, "open", dying(checkpoint.Path.open))
            try:
                checkpoint.save(path, new, ABOUT)
                finished = True
            except _Killed:
                finished = False
        outcomes.append("new" if same(checkpoint.load(path)[0], new) else "old")
        assert outcomes[-1] == "new" or same(checkpoint.load(path)[0], TENSORS)
        if finished:
            break
    assert finished
    assert outcomes == sorted(outcomes, reverse=True)  # old first, then new
    assert {*outcomes} == {"old", "new"}
    assert len([*path.parent.iterdir()]) == 2, "a save that was not killed clears what earlier ones left"


def test_tensors_under_a_prefix():
    """Only whole parts of names count: 'heads.a' is not a prefix of 'heads.ab.weight'."""
    state = {"heads.a.w": TENSORS["a"], "heads.ab.w": TENSORS["b.half"], "heads.a": TENSORS["b.count"]}
    assert [*checkpoint.tensors_under(state, "heads.a")] == ["w"]
