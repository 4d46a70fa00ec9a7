"""What is public: names that are there, lazy, documented, and all that the plugin and the examples use."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import wsi_umedpt as wu

ROOT = Path(wu.__file__).parents[1]
ROOMS = (
    "annotations", "batch", "heatmaps", "interop", "io", "mil", "models", "pipeline", "plotting", "segmentation",
    "slides", "store",
)  # fmt: skip
OPEN_MODULES = (
    "wsi_umedpt.errors", "wsi_umedpt.geometry", "wsi_umedpt.messages", "wsi_umedpt.settings", "wsi_umedpt.testing",
)  # fmt: skip
"""Modules whose every public name is public."""
PACKAGES = ("wsi_umedpt", *(f"wsi_umedpt.{room}" for room in ROOMS))


def test_importing_the_package_imports_nothing_heavy():
    """Nor does looking at what it holds."""
    heavy = ("torch", "cv2", "openslide", "numpy", "zarr", "dask", "pandas", "matplotlib")
    code = f"import sys, wsi_umedpt; dir(wsi_umedpt); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_typed(package):
    """It can be imported, has a docstring if it is code, and its stub names the same."""
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and getattr(value, "__module__", "").startswith("wsi_umedpt"):
            assert value.__doc__, f"{package}.{name} has no docstring"
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname or alias.name for node in imports for alias in node.names}
    assert typed == set(module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_the_kind'"):
        module.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_that_of_a_module_beside_it(package):
    """Whoever imports that module would find it under the name, in the place of what was meant."""
    module = importlib.import_module(package)
    files = {path.stem for path in Path(module.__file__).parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not files.intersection(module.__all__)


def imports_of(path: Path) -> list[tuple[str, str]]:
    """(module, name) of all that a file imports of the package."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "wsi_umedpt"
        for alias in node.names
    ]


@pytest.mark.parametrize("folder", ["plugins/napari-wsi-umedpt/src", "examples"])
def test_the_plugin_and_the_examples_use_public_names_alone(folder):
    """Of the package and its rooms; no module below them."""
    files = sorted((ROOT / folder).rglob("*.py"))
    if not files:
        pytest.skip(f"{folder} is not here")
    private = [
        f"{path.name}: from {module} import {name}"
        for path in files
        for module, name in imports_of(path)
        if module not in OPEN_MODULES
        and (module not in PACKAGES or name not in [*importlib.import_module(module).__all__, "__version__"])
    ]
    assert private == []
