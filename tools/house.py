"""Counts that say how tidy the package is; run it at two commits to compare them.

    python tools/house.py [FOLDER]

Prints one JSON object: rooms (packages), modules at the root, import arrows between rooms and those that point upwards
(by the layers of pyproject.toml), signatures of over 7 parameters (commands of the command line apart: their parameters
are flags), files of over 400 lines, mentions of ``zarr.json`` outside ``store/``, texts that name flags outside
``cli/``, public functions, classes and methods without a docstring, and docstrings that begin as a question does.
"""

import ast
import json
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

MOST_PARAMETERS, MOST_LINES = 7, 400
ASKS = re.compile(r"(What|How|Where|Of|Who|Whom|Whose|Whether|Which|Why)\b")


def arrows(files: dict[Path, ast.Module], package: Path) -> Counter[tuple[str, str]]:
    """Imports between rooms: (from, to), how many modules have one."""
    found: Counter[tuple[str, str]] = Counter()
    for path, tree in files.items():
        here = path.relative_to(package).parts[0].removesuffix(".py")
        there = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package.name:
                parts = node.module.split(".")
                there |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        found.update((here, room) for room in there if room != here and not room.startswith("__"))
    return found


def floors(pyproject: Path) -> dict[str, int]:
    """Floor of each room by the layers contract, the lowest 0."""
    contracts = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {name.strip(): floor for floor, line in enumerate(reversed(layers)) for name in line.split("|")}


def texts(tree: ast.Module) -> list[str]:
    """Strings that are no docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def parameters(function: ast.FunctionDef) -> int:
    """Number of parameters, `self` apart."""
    of = function.args
    return len([a for a in (*of.posonlyargs, *of.args, *of.kwonlyargs) if a.arg not in ("self", "cls")])


def bare(tree: ast.AST) -> int:
    """Number of public functions and classes of a module, and public methods of its public classes, without words."""
    count = 0
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            count += ast.get_docstring(node) is None
            count += bare(node) if isinstance(node, ast.ClassDef) else 0
    return count


def asking(tree: ast.Module) -> int:
    """Number of docstrings, those of fields too, that begin as a question does."""
    return sum(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and bool(ASKS.match(str(node.value.value)))
        for node in ast.walk(tree)
    )


def main() -> None:
    """Count, and print."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    package = root / "wsi_umedpt"
    files = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    library = {path: tree for path, tree in files.items() if "cli" not in path.relative_to(package).parts}
    floor, found = floors(root / "pyproject.toml"), arrows(files, package)
    wide = [
        node.name
        for tree in library.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and parameters(node) > MOST_PARAMETERS
    ]
    figures = {
        "modules": len(files),
        "rooms": len({path.parent for path in files}) - 1,
        "modules_at_root": len([path for path in files if path.parent == package]),
        "floors": len(set(floor.values())),
        "arrows": len(found),
        "arrows_upwards": len([1 for a, b in found if a in floor and b in floor and floor[a] < floor[b]]),
        "signatures_over_7": len(wide),
        "files_over_400_lines": len([1 for path in files if len(path.read_text().splitlines()) > MOST_LINES]),
        "zarr_json_outside_store": sum(
            text.count("zarr.json")
            for path, tree in library.items()
            if path.relative_to(package).parts[0] != "store"
            for text in texts(tree)
        ),
        "texts_with_flags": sum(
            bool(re.search(r"(?<![\w-])--[a-z]", text)) for tree in library.values() for text in texts(tree)
        ),
        "public_names_without_docstring": sum(map(bare, files.values())),
        "docstrings_that_ask": sum(map(asking, files.values())),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
