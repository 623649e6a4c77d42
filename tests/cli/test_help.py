"""Help that a user asks for: short, grouped, complete, and the same as what the code takes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import ClassVar

import pytest
from conftest import Command, assert_refused

from ndpass.calibration.preprocess import PRESETS, Preprocess
from ndpass.cli.help_commands import COLUMNS, described
from ndpass.cli.topics import TOPICS
from ndpass.errors import BudgetError, EngineError, InputError, UsageError, VerificationError
from ndpass.measuring.metrics import NAMES
from ndpass.passes import PASSES, NetworkDecoupling
from ndpass.run.arguments import BUDGETS

PANELS = ("Data", "Budget", "Metric", "Passes", "Target", "Effort", "Output")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_short_or_long(flag: str, ndpass: Command) -> None:
    assert "COMMAND [ARGS]" in ndpass(flag).out
    assert " run [options] [model]" in ndpass("run", flag).out.lower()  # older versions of typer write MODEL


def test_options_stand_in_groups_and_examples_below(ndpass: Command) -> None:
    text = ndpass("run", "-h").out
    for panel in PANELS:
        assert f" {panel} " in text, panel
    ungrouped = text.partition("─ Options ")[2].partition("╰")[0]
    assert "--help" in ungrouped
    assert ungrouped.count("--") == 1
    assert text.index("Examples:") > text.index(" Output ")
    assert "ndpass run model.onnx --calibration images/ --preprocess imagenet --max-drop 0.5" in text


@pytest.mark.parametrize("command", ["inspect", "evaluate", "bench", "sensitivity", "passes", "help"])
def test_every_command_has_an_example(command: str, ndpass: Command) -> None:
    assert f"ndpass {command}" in ndpass(command, "-h").out.partition("Examples:")[2]


def test_topics_are_listed_and_an_unknown_one_is_refused(ndpass: Command) -> None:
    listed = ndpass("help").out
    for topic in TOPICS:
        assert f"ndpass help {topic}" in listed
    assert_refused(ndpass("help", "budget"), 2, "there is no topic 'budget'", "did you mean 'budgets'?")


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_fits_a_terminal(topic: str, ndpass: Command) -> None:
    done = ndpass("help", topic)
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= COLUMNS
    assert "ndpass" in done.out or "--" in done.out or "0 " in done.out


def test_topics_name_all_that_the_code_takes() -> None:
    texts = {topic: text() for topic, (_, text) in TOPICS.items()}
    words = {topic: set(text.replace(",", " ").replace(":", " ").split()) for topic, text in texts.items()}
    assert set(NAMES) <= words["metrics"]
    assert set(PRESETS) | {field.name for field in dataclasses.fields(Preprocess)} <= words["preprocess"]
    assert {f"--{name.replace('_', '-')}" for name in BUDGETS} <= words["budgets"]
    kinds = (UsageError, InputError, BudgetError, VerificationError, EngineError)
    codes = {kind.exit_code for kind in kinds} | {0, 130}
    assert {str(code) for code in codes} <= words["exit-codes"]
    assert {rule.name for rule in PASSES} <= words["passes"]


def test_examples_of_preprocessing_are_understood() -> None:
    text = TOPICS["preprocess"][1]()
    specs = [line.split()[1] for line in text.splitlines() if line.startswith("  --preprocess ")]
    assert len(specs) == 3
    for spec in specs:
        Preprocess.parse(spec)


@pytest.mark.parametrize("rule", PASSES, ids=lambda rule: rule.name)
def test_a_pass_says_all_there_is_to_say(rule: type[NetworkDecoupling], ndpass: Command) -> None:
    done = ndpass("passes", rule.name)
    assert (done.code, done.err) == (0, "")
    for text in (rule.summary, rule.formula.splitlines()[0], *rule.options):
        assert text in done.out
    for head in ("when", "cost", "data", "reference", "example"):
        assert any(line.startswith(head) for line in done.out.splitlines()), head
    assert "arXiv" in done.out


def test_a_pass_of_somebody_else_is_described_by_what_its_class_says() -> None:
    class Mine(NetworkDecoupling):
        """Does something else."""

        name = "mine"
        summary = "mine: something else"
        formula = ""
        when = "Never."
        cost: ClassVar[str] = ""
        reference: ClassVar[str] = ""

    text = "\n".join(described(Mine))
    assert text.startswith("mine: mine: something else\n\nDoes something else.\n\nrank=")
    assert "when        Never." in text
    assert "cost" not in text
    assert "--passes mine" in text


def test_an_unknown_pass_is_refused(ndpass: Command) -> None:
    assert_refused(ndpass("passes", "ndd"), 2, "there is no pass 'ndd'", "did you mean 'nd'?")


@pytest.mark.parametrize("words", [("help", "passes"), ("passes", "nd"), ("run", "--help"), ("report-schema",)])
def test_a_terminal_that_lacks_signs_shows_all_the_rest(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "ndpass", *words]
    whole, ascii_only = (
        subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": name}, check=True).stdout
        for name in ("utf-8", "ascii")
    )
    if words == ("help", "passes"):
        assert b"k?k" in ascii_only
        assert ascii_only == whole.decode().encode("ascii", errors="replace")
    assert len(ascii_only.splitlines()) == len(whole.splitlines())


def test_a_command_is_no_topic_and_help_says_where_its_options_are(ndpass: Command) -> None:
    done = ndpass("help", "run")
    assert (done.code, done.err) == (2, "ndpass: 'run' is a command, no topic: ndpass run --help has its options\n")
