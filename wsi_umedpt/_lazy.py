"""Names of a package that are imported when they are first used, so that importing it is instant and loads no torch.

Types come from the stub (``__init__.pyi``) beside each package; a test holds that the two agree.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

_ROOT = __name__.partition(".")[0]


def lazily(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Parameters
    ----------
    package
        Its ``__name__``.
    where
        Module of each name below the root package; ``module:other`` where the name is another there, ``module:`` where
        it is the module itself.
    """

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, named, other = where[name].partition(":")
        found = import_module(f"{_ROOT}.{module}")
        value = found if named and not other else getattr(found, other or name)
        setattr(sys.modules[package], name, value)
        return value

    return (
        find,
        lambda: sorted({*vars(sys.modules[package]), *where}),
        sorted(name for name in where if not name.startswith("_")),
    )
