"""A rewritten network trained to its original: what it gains, what ends it, what it goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import RESIDUAL, network, normal, residual
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="refinement needs torch: pip install 'ndpass[refine]'")

from ndpass.calibration.feeds import Feeds, open_feeds  # noqa: E402 - torch may be missing
from ndpass.graph.graph import Graph  # noqa: E402
from ndpass.graph.openvino.graph import OvGraph  # noqa: E402
from ndpass.listener import Step, Watcher  # noqa: E402
from ndpass.refining import course as courses  # noqa: E402
from ndpass.refining import from_onnx  # noqa: E402
from ndpass.refining.loss import Loss  # noqa: E402
from ndpass.refining.network import Network  # noqa: E402
from ndpass.refining.options import Refine  # noqa: E402
from ndpass.refining.pair import paired  # noqa: E402
from ndpass.refining.rate import WARM_UP, course  # noqa: E402
from ndpass.refining.refine import Refined, Task, refine, with_weights  # noqa: E402
from ndpass.refining.samples import Samples  # noqa: E402
from ndpass.refining.trainer import shares_of_rate  # noqa: E402

EPOCHS = 8


def spoilt() -> onnx.ModelProto:
    """The residual network with an error in two of its layers."""
    weights = {t.name: numpy_helper.to_array(t) for t in residual().graph.initializer}
    return residual(W2=0.6 * weights["W2"] + 0.3 * normal(8, 8, 3, 3, seed=7), W3=0.8 * weights["W3"])


def feeds(count: int = 192) -> Feeds:
    return open_feeds(np.random.default_rng(3).standard_normal((count, 3, 8, 8)).astype(np.float32), specs())


def specs() -> Any:
    return Graph(residual()).inputs()


def task(**changed: Any) -> Task:
    fit, held = feeds().split(1 / 3, 0)
    given: dict[str, Any] = {
        "original": residual(),
        "rewritten": spoilt(),
        "names": None,
        "inputs": specs(),
        "fit": fit,
        "held": held,
        "asked": Refine(epochs=EPOCHS),
        "threads": 1,
    }
    return Task(**{**given, **changed})


def quiet(*_: Any) -> None:
    """Hears nothing."""


class At(Watcher):
    """Raises at a step of training."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.at, self.error = step, error

    def step(self, now: Step) -> None:
        if now.layer.startswith("loss") and now.done == self.at:
            raise self.error

    def expect(self, seconds: Any) -> None:
        """Is told nothing."""


def weights_of(found: Refined) -> dict[str, Any]:
    assert found.weights is not None
    return dict(found.weights)


@pytest.fixture(scope="module")
def whole() -> Refined:
    """What the task comes to without a break."""
    return refine(task(), quiet)


def test_training_gives_back_what_was_lost(whole: Refined) -> None:
    report = whole.report
    assert report.kept
    assert report.before is not None
    assert report.after is not None
    assert report.after < 0.7 * report.before
    assert (report.epochs, report.steps, report.batch) == (EPOCHS, 2 * EPOCHS, 64)
    assert set(weights_of(whole)) == set(from_onnx.read(spoilt()).weights())
    changed = with_weights(spoilt(), weights_of(whole))
    assert changed.graph.node == spoilt().graph.node
    assert [t.dims for t in changed.graph.initializer] == [t.dims for t in spoilt().graph.initializer]


def test_both_roads_come_to_the_same(whole: Refined) -> None:
    import openvino as ov

    models = {
        name: OvGraph(ov.Core().read_model(model.SerializeToString())).to_model()
        for name, model in (("original", residual()), ("rewritten", spoilt()))
    }
    ir_road = refine(task(**models), quiet).report
    assert whole.report.after == pytest.approx(ir_road.after, rel=1e-2)


def test_what_was_cut_off_goes_on_to_the_same_bytes(
    whole: Refined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courses, "KEEP_EVERY", -1.0)
    cut = task(state=tmp_path / "refine.pt")
    with pytest.raises(MemoryError):
        refine(cut, At(7, MemoryError()))
    assert cut.state is not None
    assert cut.state.exists()
    rest = refine(cut, quiet)
    assert all(np.array_equal(value, weights_of(rest)[name]) for name, value in weights_of(whole).items())


def test_ctrl_c_keeps_what_is_better_than_the_start() -> None:
    found = refine(task(), At(12, KeyboardInterrupt()))
    assert found.report.kept
    assert found.report.reason.startswith("interrupted after 12 of 16 steps")


def test_ctrl_c_goes_on_up_where_nothing_is_better() -> None:
    with pytest.raises(KeyboardInterrupt):
        refine(task(rewritten=residual()), At(1, KeyboardInterrupt()))


def test_what_is_exact_is_not_made_worse() -> None:
    found = refine(task(rewritten=residual()), quiet)
    assert not found.report.kept
    assert found.weights is None
    assert "taken back" in found.report.reason


def test_little_memory_takes_the_batch_in_parts() -> None:
    """The gradients of the parts add up to that of the batch."""
    whole, parts = (refine(task(asked=Refine(epochs=2), memory=memory), quiet).report for memory in (1 << 30, 500_000))
    assert parts.after == pytest.approx(whole.after, rel=1e-3)


@pytest.mark.parametrize(("fits", "kept"), [(20, True), (0, False)])
def test_a_full_device_goes_on_with_half_the_samples(fits: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU raises this error where its memory is full; here the trained network does above so many samples."""
    whole = Network.__call__

    def limited(self: Network, feed: Any) -> Any:
        if self.weights and torch.is_grad_enabled() and len(feed["image"]) > fits:
            raise torch.OutOfMemoryError
        return whole(self, feed)

    monkeypatch.setattr(Network, "__call__", limited)
    report = refine(task(asked=Refine(epochs=2)), quiet).report
    assert (report.batch, report.steps) == ((64, 4) if kept else (None, None))
    assert ("too little memory" in report.reason) is not kept
    if kept:
        monkeypatch.undo()
        assert report.after == pytest.approx(refine(task(asked=Refine(epochs=2)), quiet).report.after, rel=1e-3)


def test_a_batch_that_the_model_fixes_is_kept_to() -> None:
    """A Reshape names the batch, so that no other runs; without it the batch is only declared."""
    model = network(
        """(float[5,3,8,8] image) => (float[5,4] scores) {
            a = Conv<strides=[4,4]>(image, W)  f = Reshape(a, S)  scores = MatMul(f, V) }""",
        W=normal(6, 3, 3, 3),
        S=np.array([5, 24]),
        V=normal(24, 4),
    )
    changed = with_weights(model, {"W": normal(6, 3, 3, 3) + 0.2 * normal(6, 3, 3, 3, seed=5)})
    report = refine(task(original=model, rewritten=changed, inputs=Graph(model).inputs()), quiet).report
    assert report.kept, report.reason
    assert report.batch == 60


def test_labels_count_where_they_are_asked_for() -> None:
    fit, held = feeds().split(1 / 3, 0)
    labelled = replace(fit, labels=np.arange(len(fit)) % 5)
    with_labels, without = (
        refine(task(fit=labelled, held=held, asked=Refine(epochs=2, labels=labels)), quiet).report
        for labels in (True, False)
    )
    assert with_labels.after != without.after


def test_a_loss_that_is_not_finite_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "range_test", lambda *_: (1e18, 0.01))
    said: list[str] = []
    found = refine(task(), lambda stage, _, total: None if total else said.append(stage))
    assert not found.report.kept
    assert "not finite, at half the rate neither" in found.report.reason
    assert any("half the rate" in text for text in said)


def test_constant_outputs_teach_nothing() -> None:
    dead = residual(W4=np.zeros((5, 12), np.float32))
    report = refine(task(original=dead), quiet).report
    assert "same for all samples" in report.reason
    assert not report.kept


def test_few_images_are_said() -> None:
    said: list[str] = []
    fit, held = feeds(48).split(1 / 3, 0)
    refine(task(fit=fit, held=held), lambda stage, _, total: None if total else said.append(stage))
    assert any("32 images" in text and "by heart" in text for text in said)


def test_the_loss_is_the_formula() -> None:
    """KL at temperature 2 times 4, and 5 times the mean relative error of the responses."""
    rng = np.random.default_rng(0)
    teacher = {"y": rng.standard_normal((6, 4)), "r": rng.standard_normal((6, 3))}
    student = {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in teacher.items()}
    p, q = (np.exp(v["y"] / 2) / np.exp(v["y"] / 2).sum(1, keepdims=True) for v in (teacher, student))
    wanted = 4 * (p * np.log(p / q)).sum(1).mean() + 5 * ((teacher["r"] - student["r"]) ** 2).mean() / 0.7
    loss = Loss("y", True, {"r": 0.7}, [], {})
    found = loss(*({n: torch.from_numpy(v) for n, v in side.items()} for side in (student, teacher)))
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    shares = [course(step, 400) for step in range(400)]
    assert shares[0] < 0.06
    assert max(shares) == shares[WARM_UP - 1]
    assert shares[-1] < 1e-4


@pytest.mark.parametrize(
    ("shape", "is_image"), [((40, 3, 16, 16), True), ((40, 16, 16, 3), True), ((40, 9, 16, 16), False)]
)
def test_only_images_are_moved(shape: tuple[int, ...], is_image: bool) -> None:
    spec = Graph(network(f"(float[N,{','.join(map(str, shape[1:]))}] x) => (y) {{ y = Relu(x) }}")).inputs()
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    samples = Samples(open_feeds(data, spec), 40, 0, 1 << 20)
    first, again, later = (samples.batch(step).feed["x"] for step in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    known = {image.tobytes() for image in data}
    untouched = sum(image.tobytes() in known for image in first)
    assert untouched < 10 if is_image else untouched == 40


def test_responses_of_all_layers_are_held_of_few_samples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRAFT of 384x384 took 24 GB before training began: 64 samples went through at once, whatever the memory."""
    whole, most = Network.__call__, [0]

    def counted(self: Network, feed: Any) -> Any:
        most[0] = max(most[0], len(feed["image"]))
        return whole(self, feed)

    monkeypatch.setattr(Network, "__call__", counted)
    report = refine(task(asked=Refine(epochs=1), memory=60_000), quiet).report
    assert report.after is not None
    assert most[0] == 2


def test_variances_are_those_of_all_samples_whatever_the_parts() -> None:
    whole, parts = (
        paired(*(from_onnx.read(m) for m in (residual(), spoilt())), None, feeds(), specs(), memory).loss.variances
        for memory in (1 << 30, 200_000)
    )
    assert whole.keys() == parts.keys()
    assert [parts[name] for name in whole] == pytest.approx(list(whole.values()), rel=1e-5)


def test_a_short_time_takes_smaller_batches_and_fewer_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRAFT of 384x384 would have taken an hour for a test of rates with 64 samples a step, whatever was asked for.
    Here the clock runs as fast as samples are trained on: a second each, a third of one where no gradient is asked for.
    """
    now, whole = [0.0], Network.__call__

    def ticking(self: Network, feed: Any) -> Any:
        if self.weights:
            now[0] += len(feed["image"]) * (0.75 if torch.is_grad_enabled() else 0.25)
        return whole(self, feed)

    monkeypatch.setattr(Network, "__call__", ticking)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    said: list[str] = []
    report = refine(task(asked=Refine(seconds=900.0)), lambda stage, *_: said.append(stage)).report
    assert 8 <= (report.batch or 0) <= 12
    assert report.steps is not None
    assert report.steps >= 60
    assert now[0] < 1.3 * 900
    assert not any("gain little" in text for text in said)
    short = refine(task(asked=Refine(seconds=100.0)), lambda stage, *_: said.append(stage)).report
    assert short.batch == 4
    assert any("so few gain little, give more than 100 s" in text for text in said)


def test_rates_go_by_the_scale_of_each_kernel() -> None:
    weights = [torch.full((4, 4), 0.1), torch.full((4, 4), 0.4), torch.full((4,), 9.0), torch.zeros(2, 2)]
    assert shares_of_rate(weights) == pytest.approx([(0.1 / 0.25) ** 0.5, (0.4 / 0.25) ** 0.5, 1.0, 1.0])


@pytest.mark.parametrize("left", ["ReduceMean<keepdims=0>(scores)", "ReduceMax<axes=[0]>(scores)", "Transpose(a)"])
def test_outputs_without_an_axis_for_samples_are_left_out(left: str, whole: Refined) -> None:
    """Training is then the same as without them, whatever the parts that the memory is for."""
    said: list[str] = []
    models = (with_output(model, left) for model in (residual(), spoilt()))
    given = dict(zip(("original", "rewritten"), models, strict=True))
    found = refine(task(**given), lambda stage, _, total: None if total else said.append(stage))
    assert found.report.after == pytest.approx(whole.report.after, rel=1e-4)
    assert sum(text == "refining: left: no axis for samples, not trained to" for text in said) == 1
    assert refine(task(**given, asked=Refine(epochs=1), memory=60_000), quiet).report.after is not None


def with_output(model: onnx.ModelProto, left: str) -> onnx.ModelProto:
    """The residual network with one more output, `left`."""
    text = RESIDUAL.replace("(float[N,5] scores)", "(float[N,5] scores, left)")[:-1] + f"    left = {left}\n}}"
    return network(text, **{t.name: numpy_helper.to_array(t) for t in model.graph.initializer})


def test_scores_count_beside_boxes_that_are_a_thousand_times_as_large() -> None:
    """One output (n, 4 + 3, anchors) holds both, as a YOLOv8's does: by its variance alone boxes would be all."""
    model = network(
        """(float[n,3,8,8] image) => (float[n,7,16] out) {
            f = Conv<strides=[2,2]>(image, W)  r = Relu(f)  b = Conv(r, B)  c = Conv(r, C)  s = Sigmoid(c)
            d = Concat<axis=1>(b, s)  out = Reshape(d, S) }""",
        W=normal(8, 3, 2, 2),
        B=1000 * normal(4, 8, 1, 1),
        C=normal(3, 8, 1, 1, seed=1),
        S=np.array([0, 7, 16]),
    )
    spoilt_scores = with_weights(model, {"C": normal(3, 8, 1, 1, seed=1) + 0.3 * normal(3, 8, 1, 1, seed=2)})
    pair = paired(*(from_onnx.read(m) for m in (model, spoilt_scores)), None, feeds(), Graph(model).inputs(), 1 << 30)
    (parts,) = pair.loss.parts.values()
    assert [(part.axis, part.channels.start, part.channels.stop) for part in parts] == [(1, 0, 4), (1, 4, 7)]
    fit, held = feeds().split(1 / 3, 0)
    given = task(original=model, rewritten=spoilt_scores, inputs=Graph(model).inputs(), fit=fit, held=held)
    report = refine(replace(given, asked=Refine(epochs=60)), quiet).report
    assert report.before is not None
    assert report.after is not None
    assert report.before > 0.01  # of the whole output's variance it would be a ten-millionth
    assert report.after < 0.6 * report.before
