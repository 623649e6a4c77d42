"""All outputs of a run appear together, or none does, whichever of them cannot be put in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from models import changed_options, run_options

import ndpass
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import InputError, OutputError, UsageError
from ndpass.passes import parse
from ndpass.planning.candidate import Budget
from ndpass.refining.options import Refine
from ndpass.report import Report
from ndpass.run import digits, pipeline
from ndpass.run.job import fingerprint, read
from ndpass.run.options import Options
from ndpass.run.plan_file import PlanFile

pytestmark = pytest.mark.usefixtures("folder")  # which each test runs in

PLACES = {"model": "out.onnx", "json": "r.json", "save_plan": "plan.json", "model_server": "served"}


def options(**changed: Any) -> Options:
    paths = {key: Path(name) for key, name in PLACES.items() if key != "model"}
    return run_options(parse("nd:rank=2"), Budget("pinned"), threads=1, **paths, **changed)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_all_of_them_appear(folder: Path) -> None:
    report = pipeline.run(digits.model_path(), Path("out.onnx"), options())
    assert sorted(contents(folder)) == ["out.onnx", "plan.json", "r.json", "served/1/model.bin", "served/1/model.xml"]
    assert Report.model_validate_json(Path("r.json").read_text()) == report
    assert PlanFile.read(Path("plan.json")).layers["stem"] == report.layers[0].setting


@pytest.mark.parametrize("blocked", PLACES.values())
@pytest.mark.parametrize("old", [False, True], ids=["nothing there", "older ones there"])
def test_none_of_them_appears_where_one_cannot_be_put_in_place(blocked: str, old: bool, folder: Path) -> None:
    """While the model is verified somebody takes the place: of a file by a folder, of a folder by a file."""
    before = {name: b"older" for name in PLACES.values() if old and name not in (blocked, "served")}
    for name, text in before.items():
        Path(name).write_bytes(text)

    def listen(stage: str, done: int, _total: int) -> None:
        if (stage, done) == ("verifying", 3) and blocked == "served":
            Path("served").write_bytes(b"in the way")
        elif (stage, done) == ("verifying", 3):
            Path(blocked, "in the way").mkdir(parents=True)

    with pytest.raises(OutputError, match=blocked):
        pipeline.run(digits.model_path(), Path("out.onnx"), options(), listen)
    left = contents(folder)
    assert left.pop("served", b"in the way") == b"in the way"
    assert left == before
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_data_that_cannot_be_read_are_blamed_and_not_the_output(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^gone\.npy: cannot be read: No such file"):
        pipeline.run(digits.model_path(), Path("out.onnx"), options(validation=lambda _: Path("gone.npy").read_bytes()))
    assert not list(folder.iterdir())


def test_what_is_written_on_the_way_has_a_name_that_the_caller_knows() -> None:
    model = onnx.load(digits.model_path())
    with pytest.raises(InputError, match=r"^the model in memory: nothing to rewrite"):
        ndpass.run(model, "nd:rank=2", ignore="re:.*")


def test_an_output_that_is_an_input_is_refused_from_python_too(net: Path, folder: Path) -> None:
    before = contents(folder)
    result = ndpass.run(net, "nd:rank=2")
    for path in (net, Path("./net.onnx"), net.absolute()):
        with pytest.raises(UsageError, match="is the input itself"):
            result.save(path)
    with pytest.raises(UsageError, match="is the input itself"):
        pipeline.run(net, Path("out.onnx"), changed_options(options(), json=net))
    assert contents(folder) == before
    result.save("fast.onnx")
    assert Path("fast.onnx").is_file()


# ------------------------------------------------------------------------------------- what makes a run another one


def prints(**changed: Any) -> dict[str, str]:
    images, labels = digits.images()[0]
    chosen = run_options(
        parse("nd:rank=2"),
        Budget("max_drop", 10.0),
        calibration=lambda inputs: open_feeds(images[:36], inputs),
        validation=lambda inputs: open_feeds(images[-16:], inputs, labels=labels[-16:]),
        threads=1,
    )
    job = read(digits.model_path(), changed_options(chosen, **changed), lambda *_: None)
    graph, sites = job.open().graph, job.open().sites
    assert job.fit is not None
    return fingerprint(job, Calibration.of(graph, sites[:1], job.fit, 1, 0, 1 << 30))


@pytest.fixture(scope="module")
def as_it_is() -> dict[str, str]:
    return prints()


def other_validation(samples: int = 16, swap: bool = False, brighter: float = 0.0) -> Any:
    images, labels = (array[-samples:].copy() for array in digits.images()[0])
    images[3, 0, 2, 2] += brighter
    labels[:2] = labels[1::-1] if swap else labels[:2]
    return lambda inputs: open_feeds(images, inputs, labels=labels)


MEASURED: dict[str, tuple[dict[str, Any], str]] = {
    "a sample less": ({"validation": other_validation(15)}, "validation"),
    "two labels swapped": ({"validation": other_validation(swap=True)}, "validation"),
    "other preprocessing": ({"validation": other_validation(brighter=1e-6)}, "validation"),
    "another batch": ({"batch": 4}, "target"),
    "another budget": ({"budget": Budget("max_drop", 9.0)}, "budget"),
    "another seed": ({"seed": 1}, "options"),
}


@pytest.mark.parametrize("what", MEASURED)
def test_what_measured_values_depend_on_makes_another_run(what: str, as_it_is: dict[str, str]) -> None:
    changed, key = MEASURED[what]
    after = prints(**changed)
    assert [name for name in as_it_is if as_it_is[name] != after[name]] == [key]


def test_the_same_validation_data_make_the_same_run(as_it_is: dict[str, str]) -> None:
    assert as_it_is == prints(validation=other_validation())


def test_a_metric_whose_file_has_changed_makes_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    source = Path("a_metric_of_this_test.py")
    source.write_text("def half(compiled):\n    return 50.0\n")
    before = prints(metric="a_metric_of_this_test:half")
    assert before == prints(metric="a_metric_of_this_test:half")
    source.write_text("def half(compiled):\n    return 51.0\n")
    after = prints(metric="a_metric_of_this_test:half")
    assert [name for name in before if before[name] != after[name]] == ["metric"]


def test_validation_data_matter_for_the_largest_error_too() -> None:
    budget = Budget("max_error", 0.1)
    before, after = prints(budget=budget), prints(budget=budget, validation=other_validation(15))
    assert [name for name in before if before[name] != after[name]] == ["validation"]


def test_validation_data_do_not_matter_where_nothing_is_measured_on_them_on_the_way() -> None:
    budget = Budget("macs", 0.6)
    assert prints(budget=budget) == prints(budget=budget, validation=other_validation(15))


MACS = Budget("macs", 0.6)


def test_validation_data_matter_where_training_is_judged_by_them() -> None:
    before, after = (
        prints(budget=MACS, refine=Refine(epochs=2), **v) for v in ({}, {"validation": other_validation(15)})
    )
    assert [name for name in before if before[name] != after[name]] == ["validation"]


def labelled(swap: bool = False) -> Any:
    """The calibration data, with labels of which two may be swapped."""
    images, labels = (array[:36].copy() for array in digits.images()[0])
    labels[[0, labels.argmax()]] = labels[[labels.argmax(), 0]] if swap else labels[[0, labels.argmax()]]
    return lambda inputs: open_feeds(images, inputs, labels=labels)


@pytest.mark.parametrize(("trained", "changed"), [(True, ["refine"]), (False, [])])
def test_labels_matter_where_they_are_trained_on(trained: bool, changed: list[str]) -> None:
    refine = Refine(epochs=2, labels=trained)
    before, after = (prints(budget=MACS, refine=refine, calibration=labelled(swap)) for swap in (False, True))
    assert [name for name in before if before[name] != after[name]] == changed


def test_labels_matter_for_training_where_there_are_some_or_none() -> None:
    """They say which output is class scores."""
    after = prints(budget=MACS, refine=Refine(epochs=2), calibration=labelled())
    before = prints(budget=MACS, refine=Refine(epochs=2))
    assert [name for name in before if before[name] != after[name]] == ["refine"]
