"""A config file is understood completely, or refused with the file, the key, and what to do."""

from pathlib import Path

import pytest

from wsi_umedpt.config import read_config
from wsi_umedpt.errors import ConfigError
from wsi_umedpt.training.settings import PretrainConfig, read_pretrain_config

WHOLE = """
name = "small.v1"
mpp = 1
[model]
backbone = "swinv2_micro"
norm = "layernorm"
mean = [0.5, 0.5, 0.5]
[training]
steps = 10
lr = 0.01
workers = 0
[[task]]
name = "grade"
kind = "classification"
classes = ["low", "high"]
modality = "microscopy"
size_px = [32, 64]
[task.data]
source = "table"
images = "images"
labels = "labels.csv"
label_column = "grade"
where = { site = "b" }
"""


def read(tmp_path, text):
    path = tmp_path / "tasks.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, PretrainConfig)


def test_a_whole_config_is_read(tmp_path):
    """Every value arrives as its type: tuples, paths, nested tables, a whole number where a number is meant."""
    config = read(tmp_path, WHOLE)
    assert (config.name, config.mpp, type(config.mpp)) == ("small.v1", 1.0, float)
    assert (config.model.backbone, config.model.mean, config.model.dim) == ("swinv2_micro", (0.5, 0.5, 0.5), 512)
    assert (config.training.steps, config.training.lr, config.training.clip_norm) == (10, 0.01, 1.0)
    [task] = config.task
    assert (task.classes, task.size_px, task.data.images) == (("low", "high"), (32, 64), Path("images"))
    assert (task.data.where, task.data.table) == ({"site": "b"}, None)


REFUSED = [
    pytest.param("steps = 10", "stepps = 10", ["training", "'stepps'", "did you mean 'steps'"], id="unknown-key"),
    pytest.param("[training]", "[trainig]", ["'trainig'", "did you mean 'training'"], id="unknown-table"),
    pytest.param("classes =", "clases =", ["task[0]", "'clases'", "did you mean 'classes'"], id="unknown-in-a-list"),
    pytest.param("images =", "image =", ["task[0]: data", "'image'", "did you mean 'images'"], id="unknown-nested"),
    pytest.param('name = "small.v1"', "", ["missing name"], id="missing-key"),
    pytest.param('kind = "classification"', "", ["task[0]", "missing kind"], id="missing-in-a-list"),
    pytest.param("steps = 10", 'steps = "ten"', ["training: steps", "whole number", "'ten'"], id="text-for-int"),
    pytest.param("steps = 10", "steps = 10.0", ["training: steps", "whole number", "10.0"], id="float-for-int"),
    pytest.param("workers = 0", "workers = true", ["training: workers", "whole number", "True"], id="bool-for-int"),
    pytest.param("lr = 0.01", "lr = nan", ["training: lr", "number", "nan"], id="not-a-number"),
    pytest.param("lr = 0.01", "lr = inf", ["training: lr", "number", "inf"], id="infinite"),
    pytest.param("mpp = 1", 'mpp = "0.5"', ["mpp", "number", "'0.5'"], id="text-for-optional-float"),
    pytest.param('images = "images"', "images = 3", ["data: images", "path", "3"], id="int-for-path"),
    pytest.param('classes = ["low", "high"]', 'classes = "low"', ["classes", "a list"], id="text-for-list"),
    pytest.param('"low", "high"', '"low", 2', ["classes[1]", "a text", "2"], id="int-in-a-list-of-texts"),
    pytest.param("[0.5, 0.5, 0.5]", "[0.5, 0.5]", ["mean", "3 values"], id="too-short-a-tuple"),
    pytest.param("[model]", "[model.more]", ["model"], id="table-where-none-is"),
    pytest.param('where = { site = "b" }', 'where = "b"', ["where", "a table"], id="text-for-table"),
    pytest.param('where = { site = "b" }', "where = { site = 2 }", ["where.site", "a text"], id="int-in-a-table"),
    pytest.param('"classification"', '"classificaton"', ["kind", "one of classification"], id="no-such-kind"),
    pytest.param('source = "table"', 'source = "csv"', ["source", "class_folders, table"], id="no-such-source"),
    pytest.param('"layernorm"', '"batchnorm"', ["model", "norm", "batchnorm"], id="no-such-norm"),
    pytest.param("steps = 10", "steps = 0", ["training", "steps", "positive", "0"], id="no-steps"),
    pytest.param("lr = 0.01", "lr = -1", ["training", "lr", "positive"], id="negative-lr"),
    pytest.param("workers = 0", "workers = -1", ["workers", "negative", "-1"], id="negative-workers"),
    pytest.param("workers = 0", "seed = -1", ["seed", "negative", "-1"], id="negative-seed"),
    pytest.param("workers = 0", "val = 0.6\ntest = 0.4", ["val and test", "0.6"], id="nothing-left-to-train-on"),
    pytest.param("[32, 64]", "[33, 64]", ["size_px", "multiples of 32", "33"], id="odd-size"),
    pytest.param("[32, 64]", "[64, 32]", ["size_px", "(64, 32)"], id="least-above-greatest"),
    pytest.param("[32, 64]", "[32, 544]", ["grade", "544", "max_pixels"], id="one-image-above-the-budget"),
    pytest.param("size_px", "zoom = [0, 1]\nsize_px", ["zoom", "positive"], id="zoom-of-0"),
    pytest.param("size_px", "batch_size = 0\nsize_px", ["batch_size", "positive"], id="empty-batches"),
    pytest.param('"low", "high"', '"low", "low"', ["classes", "names of their own"], id="one-class-twice"),
    pytest.param('name = "grade"', 'name = "a.b"', ["task[0]", "letters", "'a.b'"], id="dot-in-a-task's-name"),
    pytest.param('name = "small.v1"', 'name = "../small"', ["name", "'../small'"], id="name-leads-elsewhere"),
    pytest.param("labels =", 'patient_pattern = "(\\\\d"\nlabels =', ["pattern", "no regular"], id="bad-pattern"),
    pytest.param("labels =", 'patient_pattern = "\\\\d+"\nlabels =', ["pattern", "brackets"], id="pattern-no-group"),
    pytest.param("labels =", 'separator = ""\nlabels =', ["separator", "empty"], id="no-separator"),
    pytest.param("labels =", 'table = "more.csv"\nlabels =', ["labels is the table"], id="two-tables"),
    pytest.param("labels =", 'bag_column = "slide"\nlabels =', ["bags", "[model]", "grouper = 128"], id="no-grouper"),
    pytest.param('"classification"', '"survival"\nbatch_size = 1', ["survival", "at least 2"], id="survival-of-one"),
    pytest.param(
        'kind = "classification"\nclasses = ["low", "high"]',
        'kind = "survival"\nclasses = ["days"]',
        ["survival", "columns of time and event"],
        id="survival-without-event",
    ),
    pytest.param('"table"', '"masks"', ["need a table"], id="where-without-a-table"),
    pytest.param("labels =", "instances = true\nlabels =", ["instances", "masks"], id="instances-in-a-table"),
]


@pytest.mark.parametrize(("good", "bad", "said"), REFUSED)
def test_what_is_not_understood_is_refused(tmp_path, good, bad, said):
    """A key or value that is not understood is refused, naming the file, the key, and what was found."""
    assert good in WHOLE
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, WHOLE.replace(good, bad, 1))
    for part in ["tasks.toml", *said]:
        assert part in str(caught.value)


def test_tasks_have_names_of_their_own(tmp_path):
    """Heads are found by their task's name, so two tasks cannot share one."""
    with pytest.raises(ConfigError, match=r"names of their own.*grade.*grade"):
        read(tmp_path, WHOLE + WHOLE[WHOLE.index("[[task]]") :])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"name = ", id="no-toml"),
        pytest.param(b"name = '\xff'", id="no-text"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path, content):
    """A file that is missing, or no TOML, or no text, is named."""
    path = tmp_path / "tasks.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"tasks\.toml cannot be read as TOML"):
        read_config(path, PretrainConfig)


def test_data_paths_are_relative_to_the_config_or_to_a_data_folder(tmp_path):
    """Without a data folder, paths begin at the config's; with one, there."""
    read(tmp_path, WHOLE)
    here, there = tmp_path / "tasks.toml", tmp_path / "data"
    assert read_pretrain_config(here).task[0].data.images == tmp_path / "images"
    with pytest.raises(ConfigError, match="no data folder"):
        read_pretrain_config(here, there)
    there.mkdir()
    data = read_pretrain_config(here, there).task[0].data
    assert (data.images, data.labels, data.table) == (there / "images", there / "labels.csv", None)
