"""The passes in OpenVINO's Manager, and `optimize` with what NNCF's users have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
import pytest
from conftest import small_network
from models import normal, relative
from numpy.typing import NDArray
from openvino.passes import Manager

import ndpass
from ndpass.errors import UsageError
from ndpass.measuring.runtime import OpenVINO

IMAGES = normal(40, 3, 8, 8)


@dataclass
class Scope:
    """As nncf.IgnoredScope is."""

    names: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    subgraphs: list[Any] = field(default_factory=list)
    validate: bool = True


@dataclass
class Dataset:
    """As nncf.Dataset is, of samples in batches of one."""

    items: Iterable[Any]

    def get_inference_data(self) -> Iterable[Any]:
        return iter(self.items)


def model() -> ov.Model:
    return ov.Core().read_model(small_network().SerializeToString())


def answers(model: ov.Model) -> list[NDArray[np.float32]]:
    return list(OpenVINO(model)({"image": IMAGES}).values())


def names(model: ov.Model) -> set[str]:
    return {op.get_friendly_name() for op in model.get_ops() if "Convolution" in op.get_type_name()}


@pytest.mark.parametrize(
    "one",
    [
        ndpass.openvino.NetworkDecoupling(rank="full"),
        ndpass.openvino.ChannelDecomposition(rank="full"),
        ndpass.openvino.SpatialDecomposition(rank="full"),
    ],
    ids=["nd", "cd", "sd"],
)
def test_a_pass_at_full_rank_in_a_manager(one: Any) -> None:
    ours, manager = model(), Manager()
    expected = answers(ours)
    manager.register_pass(one)
    manager.run_passes(ours)
    assert sum(layer.status == "done" for layer in one.layers) >= 1
    assert relative(expected, answers(ours)) < 1e-4
    assert [p.names for p in ours.outputs] == [{"scores"}]


def test_without_a_rank_each_layer_keeps_its_energy() -> None:
    one = ndpass.openvino.NetworkDecoupling(energy=0.5, ignored_scope=["b"])
    assert one.run_on_model(model())
    by_name = {layer.name: layer for layer in one.layers}
    assert by_name["b"].reason == "ignored, as asked"
    assert all(0 < layer.error_predicted <= 0.5 for layer in one.layers if layer.status == "done")


def test_a_pass_that_finds_nothing_changes_nothing() -> None:
    ours = model()
    one = ndpass.openvino.NetworkDecoupling(rank=1, ignored_scope=Scope(types=["Convolution", "MatMul"]))
    assert not one.run_on_model(ours)
    assert names(ours) == names(model())


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(UsageError):
        ndpass.openvino.NetworkDecoupling(depth=3)


def test_optimize_takes_what_nncf_takes() -> None:
    ours = model()
    data = Dataset([({"image": x[None]},) for x in IMAGES])
    fast = ndpass.openvino.optimize(ours, data, passes="cd,nd", ignored_scope=Scope(names=["b"]), macs=0.8)
    assert "b" in names(fast)
    assert names(fast) != names(ours)
    assert relative(answers(ours), answers(fast)) < 0.5


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        (None, []),
        (["b"], ["b"]),
        (Scope(names=["b", "r"]), ["b"]),  # a Relu is no layer
        (Scope(patterns=["b", "a/"]), ["a/WithoutBiases", "b"]),
        (Scope(types=["Convolution"]), ["a/WithoutBiases", "b"]),
        (Scope(names=["nothing"], validate=False), []),
    ],
)
def test_ignored_scopes(scope: Any, left: list[str]) -> None:
    assert ndpass.openvino.ignored(model(), scope) == left


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (Scope(names=["nothing"]), "has the name 'nothing'"),
        (Scope(patterns=["(x"]), "regular expression"),
        (Scope(types=["Conv"]), "has the type 'Conv'"),
        (Scope(subgraphs=[1]), "subgraphs are not known"),
    ],
)
def test_scopes_that_name_nothing_are_errors(scope: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ndpass.openvino.ignored(model(), scope)


def test_nncf_itself() -> None:
    nncf = pytest.importorskip("nncf")
    ours = model()
    scope = nncf.IgnoredScope(patterns=["b"])
    fast = ndpass.openvino.optimize(
        ours, nncf.Dataset(list(IMAGES[:, None])), passes="nd", macs=0.9, ignored_scope=scope
    )
    assert "b" in names(fast)
    assert names(fast) != names(ours)
