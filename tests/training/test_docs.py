"""The config in the documentation is one that can be read."""

import re

from tests.support import ROOT
from wsi_umedpt.training.settings import read_pretrain_config
from wsi_umedpt.training.start import initial_model

DOCS = ROOT / "docs" / "how-to" / "train-an-encoder.md"


def test_the_documented_config_is_understood(tmp_path):
    """Every key is known, every value of its type, and its initial weights fit its backbone."""
    (block,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.toml").write_text(block, encoding="utf-8")
    config = read_pretrain_config(tmp_path / "mine.toml")
    assert [task.kind for task in config.task] == ["segmentation", "classification"]
    assert config.task[0].data.images == tmp_path / "nuclei/images"
    assert initial_model(config).spec == config.model
