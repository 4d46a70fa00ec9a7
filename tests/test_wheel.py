"""What is built is what is installed: the wheel works from an empty folder."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support import ROOT


def build(target: str, root: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return next(out.glob("*.whl" if target == "wheel" else "*.tar.gz"))


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (n for n in file.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(file.read(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """Types marker and licences included; no tests, no data."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {n.split("/")[0] for n in names} == {"wsi_umedpt", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert "wsi_umedpt/py.typed" in names
    assert sum(n.endswith(".py") for n in names) == len(list((ROOT / "wsi_umedpt").rglob("*.py")))


def test_the_wheel_says_its_licences_and_holds_their_texts(wheel):
    """The code is Apache-2.0, the weights are CC-BY-SA-4.0."""
    about = metadata(wheel)
    assert about["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0"
    with zipfile.ZipFile(wheel) as file:
        texts = [
            file.read(f"{wheel.name.rsplit('-', 3)[0]}.dist-info/licenses/{name}")
            for name in about.get_all("License-File")
        ]
    assert [b"Apache License" in text for text in texts] == [True, False]
    assert [b"Attribution-ShareAlike 4.0 International" in text for text in texts] == [False, True]


def test_the_plugin_is_of_the_cores_version_and_takes_no_other_minor(wheel, tmp_path):
    """They are released together; its own licence is in its wheel."""
    plugin = build("wheel", ROOT / "plugins" / "napari-wsi-umedpt", tmp_path)
    about, version = metadata(plugin), Version(metadata(wheel)["Version"])
    assert about["Version"] == metadata(wheel)["Version"]
    (core,) = (one for one in map(Requirement, about.get_all("Requires-Dist")) if one.name == "wsi-umedpt")
    assert core.specifier.contains(version, prereleases=True)
    assert not core.specifier.contains(f"{version.major}.{version.minor + 1}")
    with zipfile.ZipFile(plugin) as file:
        (licence,) = (name for name in file.namelist() if name.endswith("licenses/LICENSE"))
        assert file.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_a_copy_without_git_has_a_version(wheel, tmp_path):
    """That of the sdist it was unpacked from; a bare copy of the files is a development version of 0.1."""
    sdist = build("sdist", ROOT, tmp_path)
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert metadata(build("wheel", unpacked, tmp_path / "again"))["Version"] == metadata(wheel)["Version"]
    (unpacked / "PKG-INFO").unlink()
    assert metadata(build("wheel", unpacked, tmp_path / "bare"))["Version"] == "0.1.dev0"


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
