"""What `make docs` does beside mkdocs: the menu of decisions, names of packages."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = [
    "slides",
    "store",
    "annotations",
    "models",
    "segmentation",
    "batch",
    "mil",
    "heatmaps",
    "plotting",
    "interop",
]


def on_config(config: Any) -> Any:
    """Fill the menu "Decisions"."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # of tutorials: pages show no bars
    docs = Path(config.docs_dir)
    project = next(part["Project"] for part in config.nav if "Project" in part)
    decisions = next(part for part in project if "Decisions" in part)
    decisions["Decisions"] = sorted(path.relative_to(docs).as_posix() for path in (docs / "decisions").glob("*.md"))
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """List what each package exports, where the page asks for it."""
    mark = "<!-- the packages -->"
    return markdown.replace(mark, "\n\n".join(map(_package, PACKAGES))) if mark in markdown else markdown


def _package(name: str) -> str:
    root = import_module("wsi_umedpt")
    package = import_module(f"wsi_umedpt.{name}")
    own = [
        f"::: wsi_umedpt.{name}.{one}\n    options: {{ heading_level: 3 }}"
        for one in package.__all__
        if one not in root.__all__
    ]
    return "\n\n".join([f"## wsi_umedpt.{name}", str(package.__doc__), *own])
