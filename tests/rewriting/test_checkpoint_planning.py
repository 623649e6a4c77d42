"""Planning that is cut off goes on with the next layer, and the checkpoint is nobody else's until it is gone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_checkpoint import FOLDER, LAYERS, OUTPUT, cut_off, options, run, truncated

from ndpass.errors import UsageError
from ndpass.planning.candidate import Candidate
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run import digits, pipeline

pytestmark = pytest.mark.usefixtures("folder")

CANDIDATES = FOLDER / "candidates"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run without a break writes."""
    output = tmp_path_factory.mktemp("planned") / OUTPUT
    pipeline.run(digits.model_path(), output, options("planned"))
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


@pytest.mark.parametrize("jobs", [1, 2])
def test_planning_that_is_cut_off_before_every_layer_ends_with_the_same_bytes(jobs: int, planned: bytes) -> None:
    effort = {"jobs": jobs}
    cut_off(options("planned", **effort), "planning", 1)
    for step in range(2, LAYERS):
        before = stamps()
        cut_off(options("planned", resume=True, **effort), "planning", step)
        assert before.items() <= stamps().items()  # nothing is planned again
        assert step - jobs <= len(stamps()) <= step  # what is under way when a run is cut off may not be done
    assert run(options("planned", resume=True, **effort)) == planned
    assert not FOLDER.exists()


def test_a_damaged_layer_is_planned_again(planned: bytes, caplog: pytest.LogCaptureFixture) -> None:
    cut_off(options("planned"), "planning", 4)
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
