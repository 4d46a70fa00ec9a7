"""Public names have docstrings that numpydoc finds nothing wrong with; public classes describe every field."""

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from numpydoc.validate import validate

import wsi_umedpt
from tests.test_public_api import OPEN_MODULES, PACKAGES

NEVER = {
    "SA01": "a section See Also: sentences name what is beside",
    "EX01": "an example: where it helps",
    "ES01": "an extended summary: where it helps",
    "PR04": "types of parameters: annotations hold them, docstrings shapes and units",
}
IN_ROOMS = {*NEVER, "PR01", "RT01"}
"""What only names of `wsi_umedpt` itself have: all parameters, and a section on what is returned."""

ASKS = re.compile(r"^(What|How|Where|Of|Who|Whom|Whose|Whether|Which|Why)\b")
ASKS_OF_A_PARAMETER = re.compile(rf"^( *)[a-z*].*\n\1    {ASKS.pattern[1:]}", re.MULTILINE)
SOURCES = [
    path
    for folder in ("wsi_umedpt", "plugins/napari-wsi-umedpt/src")
    for path in sorted((Path(wsi_umedpt.__file__).parents[1] / folder).rglob("*.py"))
]


def members(value: object) -> Iterator[str]:
    """A function; or a class with its public methods and properties, those of its bases in this package too."""
    if inspect.isfunction(value):
        yield f"{value.__module__}.{value.__qualname__}"
    if not inspect.isclass(value):
        return
    yield f"{value.__module__}.{value.__qualname__}"
    for base in value.__mro__:
        for name, member in vars(base).items() if base.__module__.startswith("wsi_umedpt") else ():
            member = getattr(member, "__func__", member)
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                yield f"{base.__module__}.{base.__qualname__}.{name}"


def public(package: str) -> list[object]:
    """What a package, or a module whose every name is public, offers of its own."""
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    values = [getattr(module, name) for name in names]
    return [value for value in values if str(getattr(value, "__module__", "")).startswith("wsi_umedpt")]


@pytest.mark.parametrize("package", [*PACKAGES, *OPEN_MODULES])
def test_numpydoc_finds_nothing_wrong(package):
    """Every public function, class, method and property; of classes, fields are checked below."""
    left_out = NEVER if package == "wsi_umedpt" else IN_ROOMS
    found = []
    for name in sorted({name for value in public(package) for name in members(value)}):
        is_class = name.rpartition(".")[2][0].isupper()
        for code, words in validate(name)["errors"]:
            if code not in left_out and not (is_class and code == "PR01"):
                found.append(f"{name}: {code} {words}")
    assert found == []


def fields_without_words(path: Path) -> Iterator[str]:
    """Fields of a module's dataclasses and named tuples that no docstring follows."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not said:
                    yield f"{node.name}.{field.target.id}"


@pytest.mark.parametrize("package", [*PACKAGES, *OPEN_MODULES])
def test_public_settings_describe_every_field(package):
    """By a docstring after it, which the command line and the site show."""
    settings = [value for value in public(package) if dataclasses.is_dataclass(value) and inspect.isclass(value)]
    bare = []
    for value in settings:
        if value.__name__.endswith(("Settings", "Options", "Parameters", "Spec")) or package == "wsi_umedpt":
            for base in value.__mro__:
                if dataclasses.is_dataclass(base):
                    path = Path(inspect.getfile(base))
                    bare += [name for name in fields_without_words(path) if name.split(".")[0] == base.__name__]
    assert sorted({name for name in bare if not name.partition(".")[2].startswith("_")}) == []


def test_docstrings_begin_with_a_noun_or_a_verb():
    """Those of modules, classes, functions, fields, constants and parameters: none is the beginning of a question."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Expr(ast.Constant(str(text))) if ASKS.match(text) or ASKS_OF_A_PARAMETER.search(text):
                    found.append(f"{path.name}:{node.lineno}: {text[:60]}")
    assert found == []


def test_the_rule_on_beginnings_sees_parameters_too():
    """A description stands below its parameter, indented."""
    assert ASKS_OF_A_PARAMETER.search("Open it.\n\n    path\n        Which file.\n")
