"""The packages that results depend on, which have to be the same wherever a run is worked on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

SAME = ("ndpass", "openvino", "onnxruntime", "numpy", "scipy")


def here() -> dict[str, str | None]:
    """Of this process."""
    return {name: _version(name) for name in SAME}


def difference(there: Mapping[str, str | None], asked: Mapping[str, str | None]) -> str:
    """What a worker has that is not what the machine has that asks, in words; empty where there is nothing.

    >>> difference({"numpy": "2.3.0"}, {"numpy": "2.4.0"})
    'numpy 2.3.0 (here 2.4.0)'
    """
    other = [name for name in asked if there.get(name) != asked[name]]
    return ", ".join(f"{name} {there.get(name) or 'not at all'} (here {asked[name]})" for name in other)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
