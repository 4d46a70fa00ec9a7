"""What is built is what is installed: the wheel works from an empty folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """Types marker and licence included; no tests, no data."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {n.split("/")[0] for n in names} == {"wsi_umedpt", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert "wsi_umedpt/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert sum(n.endswith(".py") for n in names) == len(list((ROOT / "wsi_umedpt").rglob("*.py")))


def test_the_wheel_runs_from_an_empty_folder(wheel, tmp_path, small_svs):
    """With nothing of the repository on the path."""
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(unpacked)
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); sys.argv[1:] = ['info', {str(small_svs)!r}]; "
        "import wsi_umedpt; assert 'site' in wsi_umedpt.__file__; from wsi_umedpt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1500 x 1100 px" in done.stdout
