"""The candidates of a block: alone, and with passes behind that rewrite what merging leaves."""

from __future__ import annotations

import numpy as np
import pytest
from models import network, normal

from ndpass.calibration.moments import Moments
from ndpass.conv import Array
from ndpass.graph.graph import Graph
from ndpass.passes import parse
from ndpass.planning.block_candidates import candidates_of, damages
from ndpass.planning.blocks import Mergeable, mergeable
from ndpass.planning.candidate import Candidate
from ndpass.planning.compositions import key

TEXT = """(float[1,8,6,6] x) => (float[1,8,6,6] y) {
    a = Conv<pads=[1,1,1,1]>(x, A)  r = Relu(a)  b = Conv<pads=[1,1,1,1]>(r, B)  y = Add(b, x)
}"""


def block(spec: str) -> Mergeable:
    graph = Graph(network(TEXT, A=normal(8, 8, 3, 3), B=normal(8, 8, 3, 3, seed=1)))
    (found,) = mergeable(graph, parse(spec), "ab", calibrated=True).values()
    return found


def moments(of: Mergeable, rank: int = 8, rows: int = 3000) -> Moments:
    """Of a branch that is one convolution of this rank, 3x3 at most, seen through the patches that are asked for."""
    rng, field = np.random.default_rng(0), of.branch.outline
    x = rng.standard_normal((rows, field.unknowns))
    kernel: Array = np.zeros((8, 8, *field.kernel))
    k = min(3, field.kernel[0])
    middle = slice((field.kernel[0] - k) // 2, (field.kernel[0] + k) // 2)
    made = rng.standard_normal((8, rank)) @ rng.standard_normal((rank, 8 * k * k))
    kernel[:, :, middle, middle] = made.reshape(8, 8, k, k)
    return Moments.of(x, x @ kernel.reshape(8, -1).T + 1).shrunk(kernel.reshape(8, -1), 1e-9)


def by_key(found: list[Candidate]) -> dict[str, Candidate]:
    return {key(c.setting): c for c in found}


def test_passes_behind_make_candidates_of_their_own() -> None:
    one = block("bm,cd,sd,nd")
    found = candidates_of(one, moments(one, rank=2))
    assert {tuple(c.setting) for c in found} == {("bm",), ("bm", "cd"), ("bm", "sd"), ("bm", "nd")}
    exact = by_key(found)[key({"bm": {"kernel": 3}, "cd": {"rank": 2}})]
    assert exact.error == pytest.approx(0, abs=1e-6)
    assert exact.macs == 36 * (2 * 8 * 9 + 8 * 2) == one.cost(exact.setting)
    alone = by_key(found)[key({"bm": {"kernel": 3}})]
    assert exact.macs < alone.macs
    assert [c.macs for c in found] == sorted(c.macs for c in found)
    assert all(c.macs < one.branch.macs for c in found)


@pytest.mark.parametrize("spec", ["bm,cd", "bm,sd", "bm,nd"])
def test_the_error_promised_is_that_of_what_is_fitted_at_most(spec: str) -> None:
    one = block(spec)
    data = moments(one)
    for candidate in candidates_of(one, data):
        made, error = one.fitted(candidate, data)
        assert error <= candidate.error + 1e-9
        assert one.branch.cost(made) == candidate.macs == one.cost(candidate.setting)


def test_a_kernel_that_saves_only_with_a_pass_behind_is_tried_with_it_alone() -> None:
    assert {s["kernel"] for s in block("bm").settings()} == {"none", 1, 3}
    one = block("bm,nd")
    assert {s["kernel"] for s in one.settings()} == {"none", 1, 3, 5}
    large = [c for c in candidates_of(one, moments(one)) if c.setting["bm"]["kernel"] == 5]
    assert large
    assert all("nd" in c.setting for c in large)


def test_passes_before_it_and_what_a_constant_leaves_are_not_composed() -> None:
    before = block("cd,nd,bm")
    assert before.behind == []
    assert {tuple(c.setting) for c in candidates_of(before, moments(before))} == {("bm",)}
    one = block("bm,cd")
    assert [tuple(c.setting) for c in candidates_of(one, moments(one)) if c.setting["bm"] == {"kernel": "none"}] == [
        ("bm",)
    ]


def test_with_all_settings_given_there_is_the_composition_alone() -> None:
    one = block("bm:kernel=3,cd:rank=2,nd:rank=1:form=pw-dw")
    (found,) = candidates_of(one, moments(one))
    assert found.setting == {"bm": {"kernel": 3}, "cd": {"rank": 2}, "nd": {"rank": 1, "form": "pw-dw"}}
    one = block("bm:kernel=1,nd:rank=1")  # which leaves kernels of one element alone
    (found,) = candidates_of(one, moments(one))
    assert found.setting == {"bm": {"kernel": 1}}


def test_damage_is_read_off_what_was_measured_of_the_block() -> None:
    ways = [
        Candidate(1, error, setting)
        for error, setting in [
            (0.1, {"bm": {"kernel": 3}}),
            (1.0, {"bm": {"kernel": "none"}}),
            (0.05, {"bm": {"kernel": 3}, "nd": {"rank": 9}}),
            (0.55, {"bm": {"kernel": 3}, "nd": {"rank": 1}}),
            (1.5, {"bm": {"kernel": 1}, "nd": {"rank": 1}}),
        ]
    ]
    found = damages(ways, {key(ways[0].setting): 0.04, key(ways[1].setting): 0.36})
    assert [found[key(c.setting)] for c in ways] == pytest.approx([0.04, 0.36, 0.01, 0.16, (0.6 + 0.5 * 2) ** 2])
    assert damages(ways, {}) == {}


def test_a_larger_error_does_no_less_damage_though_it_was_measured_so() -> None:
    ways = [Candidate(1, error, {"bm": {"kernel": k}}) for error, k in ((0.1, 3), (0.2, 1))]
    more = Candidate(1, 0.15, {"bm": {"kernel": 3}, "nd": {"rank": 1}})
    found = damages([*ways, more], {key(ways[0].setting): 0.04, key(ways[1].setting): 0.01})
    assert found[key(more.setting)] == pytest.approx(0.04)
    assert found[key(ways[1].setting)] == 0.01
