"""Passes of other packages, found by their entry points: a package as an installer leaves it, on the path."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from conftest import Command, small_network

from ndpass.errors import UsageError
from ndpass.passes import NetworkDecoupling, parse

PASS = """
from ndpass.passes import ChannelDecomposition

class Half(ChannelDecomposition):
    name = "half"
    summary = "half the channels that cd may keep"

    def settings(self, conv):
        return super().settings(conv)[:1]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Offers `half`, a name that ndpass has itself, something that is no pass, and a module that is not there."""
    info = tmp_path / "halving-1.0.dist-info"
    info.mkdir()
    (tmp_path / "halving.py").write_text(PASS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halving\nVersion: 1.0\n")
    points = ["half = halving:Half", "nd = halving:Half", "odd = pathlib:Path", "gone = not_there:Pass"]
    (info / "entry_points.txt").write_text("\n".join(["[ndpass.passes]", *points, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("package")
def test_a_pass_of_another_package_is_used(folder: Path, ndpass: Command) -> None:
    onnx.save(small_network(), folder / "net.onnx")
    done = ndpass("run", "net.onnx", "--passes", "half:rank=4", "-o", "out.onnx")
    assert done.code == 0, done.err
    assert "half:rank=4" in done.out


@pytest.mark.usefixtures("package")
def test_the_own_names_stay() -> None:
    assert type(parse("nd")[0]) is NetworkDecoupling


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "words"), [("odd", "is no ndpass.passes.Decomposition"), ("gone", "not_there")])
def test_a_broken_pass_is_an_error_only_where_it_is_asked_for(name: str, words: str) -> None:
    assert parse("cd")
    with pytest.raises(UsageError, match=words):
        parse(name)
