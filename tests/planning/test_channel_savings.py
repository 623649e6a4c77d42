"""Savings that depend on two choices: the planner against trying everything, its promises against the nodes written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import network, normal, plain, residual
from test_choose import CLOSE, way

from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning.candidate import Budget, Candidate, Choice, seconds_of
from ndpass.planning.candidates import block_of, refused
from ndpass.planning.channel_savings import Coupling, undominated, with_outputs
from ndpass.planning.choose import choose
from ndpass.planning.knapsack import knapsack
from ndpass.planning.plan import Planner
from ndpass.planning.shared_savings import Forest, Pair, as_forest
from ndpass.rewriting.rewriter import Rewriter
from ndpass.run import digits

Fronts = list[list[Candidate]]

# ------------------------------------------------------------------------------------- against trying everything


@st.composite
def instances(draw: st.DrawFn) -> tuple[Fronts, list[Pair]]:
    """Up to five fronts, each leading to a later one or to none, with a saving for every two candidates."""
    errors = st.floats(0, 1, allow_subnormal=False)
    candidate = st.builds(way, st.integers(60, 200), errors)
    fronts = draw(st.lists(st.lists(candidate, min_size=1, max_size=4), min_size=1, max_size=5))
    pairs = []
    for second, front in enumerate(fronts):
        for first in [None, *range(second)]:
            if draw(st.booleans()) and (first is None or first not in {p.first for p in pairs}):
                rows = 1 if first is None else len(fronts[first])
                numbers = st.lists(st.integers(0, 12), min_size=rows * len(front), max_size=rows * len(front))
                pairs.append(Pair(first, second, np.array(draw(numbers), float).reshape(rows, len(front))))
    return fronts, pairs


def saving(pairs: Sequence[Pair], picked: Sequence[int]) -> float:
    """What is saved where candidate picked[f] is chosen in each front f."""
    return sum(float(p.saved[0 if p.first is None else picked[p.first], picked[p.second]]) for p in pairs)


def everything(fronts: Fronts, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """(cost, summed error) of every choice."""
    found = []
    for at in itertools.product(*(range(len(front)) for front in fronts)):
        picked = [front[i] for front, i in zip(fronts, at, strict=True)]
        found.append((sum(c.macs for c in picked) - saving(pairs, at), sum(c.error for c in picked)))
    return found


@settings(max_examples=150, deadline=None)
@given(instances(), st.integers(0, 800))
def test_the_choice_is_as_good_as_trying_everything(instance: tuple[Fronts, list[Pair]], room: int) -> None:
    fronts, pairs = instance
    best = min((error for cost, error in everything(fronts, pairs) if cost <= room), default=None)
    if best is None:
        with pytest.raises(BudgetError, match="no choice of layers within the budget"):
            knapsack(fronts, room, pairs=pairs)
        return
    picked = knapsack(fronts, room, pairs=pairs)
    at = [next(i for i, c in enumerate(front) if c is p) for front, p in zip(fronts, picked, strict=True)]
    assert sum(c.macs for c in picked) - saving(pairs, at) <= room
    assert sum(c.error for c in picked) == pytest.approx(best, rel=CLOSE, abs=CLOSE * 1e-3)


@settings(max_examples=80, deadline=None)
@given(instances())
def test_the_least_cost_is_that_of_trying_everything(instance: tuple[Fronts, list[Pair]]) -> None:
    fronts, pairs = instance
    costs = [np.array([c.macs for c in front]) for front in fronts]
    assert Forest([len(front) for front in fronts], pairs).least(costs) == min(
        cost for cost, _ in everything(fronts, pairs)
    )


@st.composite
def bound_instances(draw: st.DrawFn) -> tuple[Fronts, list[Pair], list[Pair], list[list[int]]]:
    """Fronts whose candidates are of kinds, savings of any two of them, and bonds of later fronts to the first."""
    fronts, _ = draw(instances())
    kinds = [draw(st.lists(st.integers(0, 2), min_size=len(f), max_size=len(f))) for f in fronts]
    savings = []
    for first, second in draw(st.sets(st.sampled_from(list(itertools.permutations(range(5), 2))), max_size=5)):
        if max(first, second) < len(fronts):
            n, m = len(fronts[first]), len(fronts[second])
            numbers = draw(st.lists(st.integers(0, 12), min_size=n * m, max_size=n * m))
            savings.append(Pair(first, second, np.array(numbers, float).reshape(n, m)))
    bound = sorted(draw(st.sets(st.integers(1, 4), min_size=1))) if len(fronts) > 1 else []
    bonds = [Pair(f, 0, np.where(np.not_equal.outer(kinds[f], kinds[0]), -5000.0, 0)) for f in bound if f < len(fronts)]
    return fronts, savings, bonds, kinds


@settings(max_examples=150, deadline=None)
@given(bound_instances(), st.integers(100, 800))
def test_layers_that_are_bound_are_chosen_alike(
    instance: tuple[Fronts, list[Pair], list[Pair], list[list[int]]], room: int
) -> None:
    """As well as by trying everything that is alike, with no more savings than there are."""
    fronts, savings, bonds, kinds = instance
    pairs = as_forest(len(fronts), savings, bonds)
    firsts = [p.first for p in pairs if p.first is not None]
    if bonds:
        assert len(set(firsts)) == len(firsts)
    elif len(set(firsts)) < len(firsts) or any(p.first > p.second for p in pairs):
        return  # no bonds, so that there are chains alone in a network
    best = min((error for cost, error in everything(fronts, pairs) if cost <= room), default=None)
    if best is None:
        return
    picked = knapsack(fronts, room, pairs=pairs)
    at = [next(i for i, c in enumerate(front) if c is p) for front, p in zip(fronts, picked, strict=True)]
    assert all(kinds[b.first][at[b.first]] == kinds[0][at[0]] for b in bonds)
    assert sum(c.macs for c in picked) - saving(savings, at) <= sum(c.macs for c in picked) - saving(pairs, at) <= room
    assert sum(c.error for c in picked) == pytest.approx(best, rel=CLOSE, abs=CLOSE * 1e-3)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=20))
def test_what_is_left_is_beaten_by_nothing_and_beats_the_rest(rows: list[tuple[int, ...]]) -> None:
    left = [rows[i] for i in undominated(np.array(rows))]
    assert left == sorted(set(left))
    for row in rows:
        assert any(all(a <= b for a, b in zip(other, row, strict=True)) for other in left)
    for a, b in itertools.permutations(left, 2):
        assert any(x > y for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------------------------------------- the networks


def branches() -> onnx.ModelProto:
    """Two branches meet in a Concat, that one layer reads; behind it one more."""
    return network(
        """(float[1,3,8,8] x) => (float[1,5,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(x, W1)  b = Conv(x, W2)
            c = Concat<axis=1>(a, b)  r = Relu(c)
            d = Conv<pads=[1,1,1,1]>(r, W3)  s = Relu(d)  y = Conv<pads=[1,1,1,1]>(s, W4)
        }""",
        W1=normal(8, 3, 3, 3),
        W2=normal(6, 3, 1, 1),
        W3=normal(12, 14, 3, 3),
        W4=normal(5, 12, 3, 3),
    )


def separable() -> onnx.ModelProto:
    """A depthwise layer, a pool and a Flatten between layers that are sites."""
    return network(
        """(float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, W1)  r = Relu(a)
            d = Conv<group=12, pads=[1,1,1,1]>(r, W2)  s = Relu(d)
            b = Conv<pads=[1,1,1,1]>(s, W3)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
            f = Flatten(p)  y = Gemm<transB=1>(f, W4)
        }""",
        W1=normal(12, 3, 3, 3),
        W2=normal(12, 1, 3, 3),
        W3=normal(8, 12, 3, 3),
        W4=normal(5, 128),
    )


def resnet() -> onnx.ModelProto:
    """Two residual blocks of two layers as in ResNet-20: what a sum makes is pruned in all that write to it."""
    return network(
        """(float[1,3,8,8] x) => (float[1,5] y) {
            s = Conv<pads=[1,1,1,1]>(x, W0)  t = Relu(s)
            a = Conv<pads=[1,1,1,1]>(t, W1)  ar = Relu(a)  b = Conv<pads=[1,1,1,1]>(ar, W2)  u = Add(b, t)  v = Relu(u)
            c = Conv<pads=[1,1,1,1], strides=[2,2]>(v, W3)  cr = Relu(c)  d = Conv<pads=[1,1,1,1]>(cr, W4)
            e = Conv<strides=[2,2]>(v, W5)  w = Add(d, e)  z = Relu(w)
            p = GlobalAveragePool(z)  f = Flatten(p)  y = Gemm<transB=1>(f, W6)
        }""",
        W0=normal(8, 3, 3, 3),
        W1=normal(8, 8, 3, 3),
        W2=normal(8, 8, 3, 3, seed=1),
        W3=normal(12, 8, 3, 3),
        W4=normal(12, 12, 3, 3),
        W5=normal(12, 8, 1, 1),
        W6=normal(5, 12),
    )


def small_digits() -> onnx.ModelProto:
    return onnx.load(digits.model_path())


EXACT = [plain, separable]
SUMS = [residual, resnet, small_digits]  # whose sums layers write to that come after the one that decides
SPECS = ["cp:criterion=l2", "cp:criterion=l2,nd", "cp:criterion=l2,cd,sd"]


class Case:
    """A model's sites with their candidates, fitted to the weights alone."""

    def __init__(self, make: Callable[[], onnx.ModelProto], spec: str, ignore: Sequence[str] = ()) -> None:
        self.graph, self.passes = Graph(make()), parse(spec)
        self.found = self.graph.sites()
        self.sites = [
            s
            for s in self.found
            if isinstance(s, Site) and s.name not in ignore and refused(self.graph, s, self.passes, False) is None
        ]
        self.total = self.graph.macs()
        self.candidates = Planner(self.graph, self.passes, None).candidates(self.sites, lambda *_: None)
        self.coupling = Coupling(self.graph, self.sites, self.passes)

    def drawn(self, seed: int) -> dict[str, Choice]:
        """Any choice, but that layers which read the same channels are pruned alike."""
        rng, together = np.random.default_rng(seed), self.coupling.together
        plan = {name: Choice(ways[rng.integers(len(ways))]) for name, ways in self.candidates.items()}
        for name, ways in together.follow(self.candidates, plan):
            plan[name] = Choice(ways[rng.integers(len(ways))])
        return plan

    def promised(self, plan: Mapping[str, Choice]) -> float:
        """MACs of the model with these choices, none of them left out for another."""
        only = {name: [choice.candidate] for name, choice in plan.items()}
        ((_, pairs),) = self.coupling.fronts(only)
        saved = saving(pairs, [0] * len(only))
        dense = sum(ways[0].macs for ways in self.candidates.values())
        return self.total - dense + sum(c.candidate.macs for c in plan.values()) - saved

    def offered(self) -> float:
        """The least share of the MACs that can be asked for, as the refusal of less has it."""
        with pytest.raises(BudgetError) as refusal:
            choose(self.candidates, Budget("macs", 1e-4), self.total, fronts=self.coupling.fronts)
        least, others = re.findall(r"0\.\d+", str(refusal.value))[-2:]
        assert float(others) <= float(least)
        return float(least)

    def written(self, plan: Mapping[str, Choice]) -> int:
        """MACs of the nodes once a copy of the graph is rewritten."""
        graph = self.graph.copy()
        Rewriter(graph, self.passes, None).rewrite(self.found, self.sites, plan, lambda *_: None)
        graph.tidy()
        return graph.macs()


@cache
def case_of(make: Callable[[], onnx.ModelProto], spec: str) -> Case:
    """The same for all tests: its candidates take longer than what is asked of them."""
    return Case(make, spec)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("make", EXACT)
@pytest.mark.parametrize("seed", range(4))
def test_any_choice_takes_the_macs_that_are_promised(make: Callable[[], onnx.ModelProto], spec: str, seed: int) -> None:
    case = case_of(make, spec)
    plan = case.drawn(seed)
    assert case.promised(plan) == case.written(plan)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("make", SUMS)
@pytest.mark.parametrize("seed", range(4))
def test_a_pruned_sum_takes_no_more_than_is_promised(make: Callable[[], onnx.ModelProto], spec: str, seed: int) -> None:
    case = case_of(make, spec)
    plan = case.drawn(seed)
    assert case.promised(plan) >= case.written(plan)


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("make", [*EXACT, *SUMS])
def test_a_budget_is_met_and_nothing_better_fits(make: Callable[[], onnx.ModelProto], spec: str, share: float) -> None:
    """Nor does a candidate of less error at any one site: no more is taken than was asked for."""
    case = case_of(make, spec)
    share = max(share, case.offered())
    plan = choose(case.candidates, Budget("macs", share), case.total, fronts=case.coupling.fronts)
    promised = case.promised(plan)
    for name, choice in plan.items():
        for c in case.candidates[name][::7]:
            if c.error < choice.candidate.error * (1 - 1e-6) - 1e-9:
                assert case.promised({**plan, name: Choice(c)}) > share * case.total
    assert case.written(plan) <= promised <= share * case.total


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("seed", range(6))
def test_branches_of_a_concat_take_no_more_than_is_promised(spec: str, seed: int) -> None:
    """Which of them loses how many channels is seen when the layer is fitted."""
    case = case_of(branches, spec)
    plan = case.drawn(seed)
    assert case.promised(plan) >= case.written(plan)


def test_a_branch_loses_what_the_others_cannot() -> None:
    """14 channels, of 8 and 6: where 3 and one more for an empty branch stay, 4 and 2 go at least."""
    case = case_of(branches, "cp:criterion=l2")
    (cp,) = (c for c in case.candidates["d"] if c.setting and c.setting["cp"]["channels"] == 3)
    plan = {"d": Choice(cp), "y": Choice(case.candidates["y"][0])}
    assert case.total - case.promised(plan) == 64 * (4 * 27 + 2 * 3) + case.candidates["d"][0].macs - cp.macs


def test_layers_that_are_left_alone_count_too() -> None:
    """An ignored producer and the depthwise layer behind it, which no pass takes."""
    case = Case(separable, "cp:criterion=l2", ignore=["a"])
    assert list(case.candidates) == ["b", "y"]
    (cp,) = (c for c in case.candidates["b"] if c.setting and c.setting["cp"]["channels"] == 5)
    plan = {"b": Choice(cp), "y": Choice(case.candidates["y"][0])}
    assert case.total - case.promised(plan) == 64 * 7 * (27 + 9 + 8 * 9)
    assert case.promised(plan) == case.written(plan)


def test_a_budget_that_only_producers_can_meet() -> None:
    """Below what the layers save by reading less; and the least that is offered can be had."""
    case = case_of(plain, "cp:criterion=l2")
    share = case.offered()
    plan = choose(case.candidates, Budget("macs", share), case.total, fronts=case.coupling.fronts)
    assert {choice.candidate.setting["cp"]["channels"] for choice in plan.values()} == {1}
    assert share - 0.001 < case.written(plan) / case.total <= share


@pytest.mark.parametrize("make", [plain, resnet, branches])
def test_what_is_pruned_away_would_not_have_been_chosen(make: Callable[[], onnx.ModelProto]) -> None:
    """The choice among a few candidates of each layer, all of them tried."""
    case, rng = Case(make, "cp:criterion=l2,nd"), np.random.default_rng(0)
    few = {
        name: [ways[0], *(ways[i] for i in rng.choice(len(ways), min(len(ways), 6), replace=False))]
        for name, ways in list(case.candidates.items())[:4]
    }
    rest = {name: Choice(ways[0]) for name, ways in case.candidates.items() if name not in few}
    tried = []
    for picked in itertools.product(*few.values()):
        plan = {name: Choice(c) for name, c in zip(few, picked, strict=True)}
        tried.append((case.promised({**plan, **rest}), sum(c.error for c in picked)))
    few |= {name: [choice.candidate] for name, choice in rest.items()}
    for share in (0.8, 0.6):
        best = min(error for macs, error in tried if macs <= share * case.total)
        chosen = choose(few, Budget("macs", share), case.total, fronts=case.coupling.fronts)
        assert sum(c.candidate.error for c in chosen.values()) == pytest.approx(best, rel=CLOSE)


def test_without_pruning_layers_are_separate() -> None:
    case = case_of(plain, "nd")
    ((fronts, pairs),) = case.coupling.fronts(case.candidates)
    assert not pairs
    both = [choose(case.candidates, Budget("macs", 0.6), case.total, fronts=f) for f in (None, case.coupling.fronts)]
    assert both[0] == both[1]
    assert all(front[0].macs <= front[-1].macs for front in fronts.values())


def test_seconds_are_saved_as_macs_are() -> None:
    """Half of b's outputs gone, half of its seconds."""
    case = case_of(plain, "cp:criterion=l2")
    timed = {n: [Candidate(c.macs, c.error, c.setting, 1e-9 * c.macs) for c in w] for n, w in case.candidates.items()}
    only = {"b": [timed["b"][0]], "c": [next(c for c in timed["c"] if c.setting and c.setting["cp"]["channels"] == 8)]}
    ((_, pairs),) = case.coupling.fronts(only, seconds_of)
    assert [p.saved.item() for p in pairs] == [pytest.approx(0.5 * only["b"][0].macs * 1e-9)]


@pytest.mark.parametrize("spec", ["nd", "cd", "sd", "cd,nd", "nd,cd", "sd,nd"])
def test_macs_are_linear_in_the_outputs(spec: str) -> None:
    case = case_of(plain, spec)
    site = next(s for s in case.sites if s.name == "b")
    for c in case.candidates["b"][::5]:
        block = block_of(site, case.passes, c.setting)
        macs = np.array([site.macs(with_outputs(block, slice(n))) for n in range(1, site.outline.n_o + 1)])
        assert macs[-1] == c.macs
        assert len(set(np.diff(macs))) == 1
        assert {leaf.n_o for leaf in with_outputs(block, slice(3)).leaves()} >= {3}
