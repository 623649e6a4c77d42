"""The passes that there are: ndpass's own, and those of other packages, found by their entry points.

A package as an installer leaves it lies on the path; `test_template` installs one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import onnx
import pytest
from conftest import Command, small_network
from models import normal, sites_of

from ndpass.conv import Conv
from ndpass.errors import UsageError
from ndpass.passes import (
    IN_AUTO,
    PASSES,
    ChannelDecomposition,
    Decomposition,
    NetworkDecoupling,
    auto,
    names,
    parse,
    usable,
)
from ndpass.passes.contract import moments_for
from ndpass.planning.candidates import candidates_for, is_pinned

PASS = """
from ndpass.passes import ChannelDecomposition, Decomposition

class Half(ChannelDecomposition):
    name = "half"
    summary = "half the channels that cd may keep"

    def settings(self, conv):
        return super().settings(conv)[:1]

class Thin(ChannelDecomposition):
    name = "thin"
    summary = "cd by another word"
    options = {"channels": ("full",)}
    in_auto = False
    may_follow = False

    def settings(self, conv):
        full = min(conv.matrix.shape)
        pinned = self.pinned.get("channels")
        if pinned is None:
            return [{"channels": c} for c in range(1, full + 1)]
        return [{"channels": full if pinned == "full" else min(pinned, full)}]

    def rewrite(self, conv, setting, moments=None):
        return super().rewrite(conv, {"rank": setting["channels"]}, moments)

    def outline(self, conv, setting):
        return super().outline(conv, {"rank": setting["channels"]})

    def errors(self, conv, settings, moments=None):
        return super().errors(conv, [{"rank": s["channels"]} for s in settings], moments)

class Lacking(Decomposition):
    name = "lacking"
    summary = "nothing written yet"
    options = {}

class Mute(ChannelDecomposition):
    name = "mute"

    def __init__(self, *, rank):
        super().__init__(rank=rank)
"""
BROKEN = {
    "odd": "pass 'odd' of pathlib:Path is no ndpass.passes.Decomposition of that name",
    "gone": "pass 'gone' of not_there:Pass cannot be loaded: No module named 'not_there'",
    "lacking": "pass 'lacking' of halving:Lacking lacks refuse, rewrite, settings",
    "mute": "pass 'mute' of halving:Mute cannot be made without options",
    "leaving": "pass 'leaving' of leaving:Pass cannot be loaded: SystemExit",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Offers two passes that work, a name that ndpass has itself, and some that cannot be used."""
    info = tmp_path / "halving-1.0.dist-info"
    info.mkdir()
    (tmp_path / "halving.py").write_text(PASS)
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit()\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halving\nVersion: 1.0\n")
    points = ["half = halving:Half", "thin = halving:Thin", "nd = halving:Half", "odd = pathlib:Path"]
    points += ["gone = not_there:Pass", "lacking = halving:Lacking", "mute = halving:Mute", "leaving = leaving:Pass"]
    (info / "entry_points.txt").write_text("\n".join(["[ndpass.passes]", *points, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_auto_composes_every_pass_of_ndpass() -> None:
    assert set(IN_AUTO) == set(PASSES)


def test_auto_leaves_out_without_data_what_needs_data() -> None:
    assert [p.name for p in auto(calibrated=True)] == ["bm", "cp", "cd", "sd", "nd"]
    assert [p.name for p in auto(calibrated=False)] == ["cd", "sd", "nd"]
    assert [p.needs_data for p in parse("cp,nd")] == [True, False]
    assert not parse("cp:criterion=l2")[0].needs_data


@pytest.mark.usefixtures("package")
def test_a_pass_of_another_package_is_used(folder: Path, ndpass: Command) -> None:
    onnx.save(small_network(), folder / "net.onnx")
    done = ndpass("run", "net.onnx", "--passes", "half:rank=4", "-o", "out.onnx")
    assert done.code == 0, done.err
    assert "half:rank=4" in done.out


@pytest.mark.usefixtures("package")
def test_auto_takes_those_of_other_packages_behind_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ndpass.passes"):
        found = [p.name for p in auto(calibrated=False)]
    assert found == ["cd", "sd", "nd", "half"]  # thin would rather not
    for name, reason in BROKEN.items():
        (warning,) = [text for text in caplog.messages if f"'{name}'" in text]
        assert warning.startswith(reason)
        assert warning.endswith("; left out of --passes auto")


@pytest.mark.usefixtures("package")
def test_a_pass_pinned_by_another_word_than_rank(folder: Path, ndpass: Command) -> None:
    onnx.save(small_network(), folder / "net.onnx")
    for value in ("4", "full"):
        assert is_pinned(parse(f"thin:channels={value}"))
        done = ndpass("run", "net.onnx", "--passes", f"thin:channels={value}", "-o", "out.onnx")
        assert done.code == 0, done.err
    assert "thin:channels=16" in done.out
    assert not is_pinned(parse("thin"))


@pytest.mark.usefixtures("package")
def test_a_pass_that_may_not_follow_another_is_composed_only_as_the_first() -> None:
    site = sites_of(small_network())[1]
    found = {tuple(c.setting) for c in candidates_for(site, parse("cd,thin"))}
    assert found == {(), ("cd",), ("thin",)}
    found = {tuple(c.setting) for c in candidates_for(site, parse("thin,cd"))}
    assert found == {(), ("cd",), ("thin",), ("thin", "cd")}
    with pytest.raises(UsageError, match="pass 'thin' rewrites whole layers only: put it before cd, or alone"):
        parse("cd:rank=4,thin:channels=2")
    assert len(parse("thin:channels=2,cd:rank=4")) == 2


@pytest.mark.usefixtures("package")
def test_the_own_names_stay() -> None:
    assert type(parse("nd")[0]) is NetworkDecoupling
    assert names() == ["nd", "cd", "sd", "cp", "bm", "half", "thin", "odd", "gone", "lacking", "mute", "leaving"]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pass_is_an_error_only_where_it_is_asked_for(name: str) -> None:
    assert parse("cd")
    with pytest.raises(UsageError) as refused:
        parse(name)
    assert str(refused.value).startswith(BROKEN[name])
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("package")
def test_broken_passes_are_told_apart() -> None:
    found, broken = usable()
    assert [rule.name for rule in found] == ["nd", "cd", "sd", "cp", "bm", "half", "thin"]
    assert len(broken) == len(BROKEN)


class Words(ChannelDecomposition):
    """Without a number to pin."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"form": ("a", "b"), "order": ("x", "y")}


def test_pinned_fully_is_every_number_or_where_there_is_none_every_word() -> None:
    assert [NetworkDecoupling(**o).pinned_fully for o in ({}, {"form": "pw-dw"}, {"rank": 2})] == [False, False, True]
    assert [Words(**o).pinned_fully for o in ({}, {"form": "a"}, {"form": "a", "order": "y"})] == [False, False, True]
    assert [NetworkDecoupling(rank=r).pinned_to_full for r in (2, "full")] == [False, True]


@pytest.mark.parametrize("fitted", [False, True], ids=["data-free", "calibrated"])
@pytest.mark.parametrize("spec", ["nd:form=pw-dw", "nd:form=dw-pw", "cd", "sd:order=vh", "sd:order=hv"])
def test_errors_take_a_rank_beyond_full_rank_for_full_rank(spec: str, fitted: bool) -> None:
    """A pass behind another meets leaves of several sizes with one setting."""
    (rule,) = parse(spec)
    assert isinstance(rule, Decomposition)
    weight = normal(6, 3, 3, 3)
    conv = Conv(weight, None, pads=(1, 1, 1, 1))
    full = rule.settings(conv)[-1]
    moments = moments_for(conv) if fitted else None
    within, beyond = rule.errors(conv, [full, {**full, "rank": 1_000}], moments)
    assert beyond == pytest.approx(within, abs=1e-9)
