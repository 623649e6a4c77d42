"""The wings and what each may import: one direction, no circle between wings, a charter for each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import ROOT

BASE = {"top", "graph", "files", "measuring", "calibration", "passes"}
MAY = {  # wing -> what it may import
    "top": {"top"},
    "graph": {"top", "graph"},
    "files": {"top", "graph", "files"},
    "measuring": {"top", "graph", "files", "measuring"},
    "calibration": {"top", "graph", "files", "measuring", "calibration"},
    "passes": {"top", "calibration", "passes"},
    "planning": BASE | {"planning"},
    "rewriting": BASE | {"planning", "rewriting"},
    "engine": BASE | {"planning", "rewriting", "engine"},
    "refining": (BASE - {"passes"}) | {"refining"},
    "run": BASE | {"planning", "rewriting", "engine", "refining", "run"},
    "cli": BASE | {"planning", "rewriting", "engine", "refining", "run", "cli"},
}
FACES = {"__init__", "__main__", "api", "openvino", "testing"}  # at the top: they hand on names from the wings
MOST_AT_THE_TOP = 10
FILES = [p for folder in ("ndpass", "passes", "calibration") for p in sorted((ROOT / folder).rglob("*.py"))]


def wing_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] in ("passes", "calibration"):
        return parts[0]
    return parts[1] if len(parts) > 2 else "top"


def imported(path: Path) -> Iterator[str]:
    """The wings whose modules a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for parts in (name.split(".") for name in names):
            if parts[0] == "ndpass" and len(parts) > 1:
                yield parts[1] if parts[1] in MAY else "top"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    wing = wing_of(path)
    if wing == "top" and path.stem in FACES:
        return
    assert set(imported(path)) <= MAY[wing]


def test_the_table_has_no_circle() -> None:
    assert all(not (one in MAY[other] and other in MAY[one]) for one in MAY for other in MAY if one != other)


def test_every_wing_states_its_charter() -> None:
    folders = [path.parent for path in FILES if path.stem == "__init__"]
    assert {wing_of(folder / "__init__.py") for folder in folders} == set(MAY)
    for folder in folders:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert text, folder
        assert text.partition("\n")[0].endswith("."), folder


def test_the_top_holds_the_public_words_alone() -> None:
    top = [path.name for path in FILES if wing_of(path) == "top" and path.parent.name == "ndpass"]
    assert len(top) <= MOST_AT_THE_TOP, top


def test_tests_mirror_the_wings() -> None:
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and any(p.rglob("test_*.py"))}
    assert folders - {"benchmarks", "faults"} <= set(MAY), folders


def test_nothing_switches_the_formatter_off() -> None:
    folders = [ROOT / folder for folder in ("ndpass", "passes", "calibration", "tests", "benchmarks")]
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py")]
    assert sum(text.count("fmt: " + "skip") for text in texts) <= MOST_AT_THE_TOP


def test_test_files_have_names_of_their_own() -> None:
    """pytest tells modules apart by their names alone where folders are no packages."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names)
