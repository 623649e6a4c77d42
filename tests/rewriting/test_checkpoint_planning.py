"""Planning that is cut off goes on with the next layer, and the checkpoint is nobody else's until it is gone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paper_machine import PaperMachine
from test_checkpoint import FOLDER, OUTPUT, CutOffError, cut_off, model_path, options, run, truncated

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.errors import UsageError
from ndpass.files.model_file import open_graph
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.block_latency import Latencies
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate, CandidateStore
from ndpass.planning.candidate_times import timed_table
from ndpass.planning.candidates import candidates_for
from ndpass.planning.plan import Planner
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run import digits, pipeline

pytestmark = pytest.mark.usefixtures("folder")

CANDIDATES = FOLDER / "candidates"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run without a break writes."""
    output = tmp_path_factory.mktemp("planned") / OUTPUT
    pipeline.run(model_path(), output, options("planned"))
    return output.read_bytes()


def stamps() -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in CANDIDATES.iterdir()}


def test_candidates_come_back_as_they_were() -> None:
    checkpoint = Checkpoint.beside(OUTPUT)
    checkpoint.start({})
    ways = [Candidate(12), Candidate(7, 1 / 3, {"cd": {"rank": 3}, "nd": {"rank": 2, "form": "dw-pw"}}, 1e-7 / 3, 0.1)]
    assert checkpoint.load_candidates("a/b: c\n") is None
    checkpoint.save_candidates("a/b: c\n", ways)
    assert checkpoint.load_candidates("a/b: c\n") == ways
    assert checkpoint.load_candidates("a") is None


class Subject(NamedTuple):
    """The digits model with calibration data, ready to be planned."""

    graph: Graph
    sites: list[Site]
    calibration: Calibration


@pytest.fixture(scope="module")
def subject() -> Subject:
    graph = open_graph(digits.model_path()).graph
    sites = [site for site in graph.sites() if isinstance(site, Site)]
    feeds = open_feeds(digits.images()[0][0][:36], graph.inputs())
    return Subject(graph, sites, Calibration.of(graph, sites, feeds, 1, 0, 150_000))


def candidates(
    subject: Subject, store: CandidateStore | None, jobs: int = 1, stop: int | None = None
) -> dict[str, list[Candidate]]:
    """Those of every layer. stop: the layer before which planning is cut off."""

    def listen(_stage: str, done: int, _total: int) -> None:
        if done == stop:
            raise CutOffError

    planner = Planner(subject.graph, parse("cp,cd,nd"), subject.calibration, 2, jobs, store)
    return planner.candidates(subject.sites, listen)


@pytest.mark.parametrize("jobs", [1, 2])
def test_planning_that_is_cut_off_before_every_layer_gives_the_same_candidates(jobs: int, subject: Subject) -> None:
    """With memory for some activations alone, so that segments are run again."""
    checkpoint = Checkpoint.beside(OUTPUT)
    checkpoint.start({})
    store = checkpoint.part("candidates")
    for step in range(1, len(subject.sites)):
        before = stamps()
        with pytest.raises(CutOffError):
            candidates(subject, store, jobs, step)
        assert before.items() <= stamps().items()  # nothing is planned again
        assert step + 1 - jobs <= len(stamps()) <= step  # what is under way when a run is cut off may not be done
    assert candidates(subject, store, jobs) == candidates(subject, None)
    done = stamps()
    assert len(done) == len(subject.sites)
    candidates(subject, store)
    assert stamps() == done


def test_a_run_whose_planning_is_cut_off_ends_with_the_same_bytes(planned: bytes) -> None:
    cut_off(options("planned"), "planning", 2)
    done = stamps()
    assert len(done) == 2
    cut_off(options("planned", resume=True), "planning", 3)
    assert done.items() <= stamps().items()
    assert run(options("planned", resume=True)) == planned
    assert not FOLDER.exists()


def test_a_damaged_layer_is_planned_again(planned: bytes, caplog: pytest.LogCaptureFixture) -> None:
    cut_off(options("planned"), "planning", 3)
    damaged = sorted(CANDIDATES.iterdir())[1:3]
    truncated(damaged[0])
    damaged[1].write_text('["something else"]')
    assert run(options("planned", resume=True)) == planned
    for path in damaged:
        assert f"{path.name} cannot be read" in caplog.text


def test_another_run_finds_no_candidates_of_this_one() -> None:
    cut_off(options("planned"), "planning", 3)
    with pytest.raises(UsageError, match="this is another run"):
        run(options("planned", count=35, resume=True))
    assert len(stamps()) == 3
    cut_off(options("planned", count=35), "planning", 1)
    assert len(stamps()) == 1


def test_layers_that_were_timed_are_not_timed_again_even_without_a_cache(subject: Subject) -> None:
    sites = subject.sites[1:3]
    found = {site.name: candidates_for(site, parse("nd:rank=1:form=dw-pw")) for site in sites}
    checkpoint = Checkpoint.beside(OUTPUT)
    checkpoint.start({})
    store = checkpoint.part("timed")

    def timed(sites: Sequence[Site]) -> float:
        """Seconds that were spent on timing, the whole model included."""
        machine = PaperMachine()
        timed_table(subject.graph, sites, found, parse("nd"), Latencies(machine, None), store=store)
        return machine.seconds

    assert timed(sites) > timed([])
    kept = {site.name: store.load_candidates(site.name) for site in sites}
    assert [[bool(c.seconds) for c in ways or ()] for ways in kept.values()] == [[True, True], [True, True]]
    assert timed(sites) == timed([])
    assert {site.name: store.load_candidates(site.name) for site in sites} == kept


watchers: list[Callable[[str], None]] = []


def heard(event: str, _: Any) -> None:
    for watch in watchers:
        watch(event)


sys.addaudithook(heard)  # for the rest of the process; does nothing while nobody watches


@pytest.fixture
def deletions() -> Iterator[list[str]]:
    """What is tried at each deletion by another run that wants the folder: the error that it gets."""
    found: list[str] = []

    def watch(event: str) -> None:
        if event not in ("os.remove", "shutil.rmtree"):
            return
        watchers.clear()
        try:
            Checkpoint.beside(OUTPUT).start({})
        except UsageError as e:
            found.append(str(e))
        watchers.append(watch)

    watchers.append(watch)
    yield found
    watchers.clear()


def test_the_lock_is_held_until_nothing_is_left_to_delete(deletions: list[str]) -> None:
    checkpoint = Checkpoint.beside(OUTPUT)
    watch = watchers.pop()
    checkpoint.start({})
    checkpoint.part("fit0").write("a.json", 1)
    checkpoint.write("b.json", 2)
    watchers.append(watch)
    checkpoint.remove()
    watchers.clear()
    assert len(deletions) >= 4  # run.json, b.json, fit0 with a.json, and the lock
    assert all("another run with this output is at work" in text for text in deletions)
    assert not FOLDER.exists()


def test_what_another_run_has_left_is_not_removed() -> None:
    first = Checkpoint.beside(OUTPUT)
    first.start({})
    first.release()
    Checkpoint.beside(OUTPUT).remove()
    assert [p.name for p in FOLDER.iterdir()] == ["run.json"]


def test_the_folder_can_be_had_again_after_every_end() -> None:
    for _ in range(3):
        checkpoint = Checkpoint.beside(OUTPUT)
        checkpoint.start({"model": "a"})
        checkpoint.release()
        checkpoint = Checkpoint.beside(OUTPUT)
        checkpoint.resume({"model": "a"})
        checkpoint.remove()
        assert list(Path().iterdir()) == []
