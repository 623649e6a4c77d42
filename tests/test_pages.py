"""The pages of docs/: their commands and options exist, their scripts run, their tables are those of the code.

Commands are only parsed, which is cheap; with NDPASS_PAGES=run they are run, too.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from models import ROOT
from pages import PAGES, README, Block, blocks, commands, put_pictures, put_small, quick
from typer.main import get_command

from benchmarks.__main__ import commands as benchmarks
from ndpass.calibration.preprocess import PRESETS, Preprocess
from ndpass.cli.app import app
from ndpass.measuring.metrics import NAMES
from ndpass.passes import AUTO, PASSES, parse
from ndpass.run.arguments import BUDGETS

DOCS = [page for page in PAGES if page != README]
CLI: Any = get_command(app)
ROOT_CONTEXT = CLI.context_class(CLI, info_name="ndpass")
OTHER_OPTIONS = {"--model_name", "--model_path", "--rest_port", "--rm", "--help", "--quick", "--weights"}


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def ids(block: Block) -> str:
    return block.name


SHELL = [block for page in DOCS for block in blocks(page, "sh")]
SCRIPTS = [b for page in DOCS for b in blocks(page, "python") if "nncf.quantize" not in b.text]  # see test_int8


@pytest.mark.parametrize("block", SHELL, ids=ids)
def test_commands_can_be_typed(block: Block, folder: Path) -> None:
    """Every option is there and takes its value; passes and preprocessing can be read."""
    put_small(folder)
    for program, name, *words in commands(block):
        assert program == "ndpass"
        command = CLI.get_command(ROOT_CONTEXT, name)
        with command.make_context(name, words, parent=ROOT_CONTEXT) as context:
            given = context.params
        if given.get("passes") and given["passes"] != AUTO:
            parse(given["passes"])
        if given.get("preprocess"):
            Preprocess.parse(given["preprocess"])


@pytest.mark.skipif(os.environ.get("NDPASS_PAGES") != "run", reason="takes minutes: NDPASS_PAGES=run")
@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.stem))
def test_commands_do_what_they_say(page: Path, ndpass: Command, folder: Path) -> None:
    """One after the other, as a reader would type them; 4 where these small models are no faster on this machine."""
    put_small(folder, 700)
    put_pictures(folder)
    for block in blocks(page, "python"):
        name = re.match(r"# (\w+\.py)\n", block.text)
        if name:
            (folder / name[1]).write_text(block.text)
    for block in blocks(page, "sh"):
        for _, *words in commands(block):
            done = ndpass(*words)
            assert done.code == 0 or (done.code == 4 and "faster" in done.err), (words, done.err)
            if done.code == 4:  # for what the page does with it next
                shutil.copy("model.onnx", "fast.onnx")


@pytest.mark.parametrize("block", SCRIPTS, ids=ids)
def test_scripts_run(block: Block, folder: Path) -> None:
    put_small(folder)
    exec(compile(quick(block.text), block.page.name, "exec"), {"__name__": "script"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_options_that_are_named_exist(page: Path) -> None:
    known = {o for name in CLI.list_commands(ROOT_CONTEXT) for o in options(CLI.get_command(ROOT_CONTEXT, name))}
    text = re.sub(r"`python -m [^`]*`", "", page.read_text(encoding="utf-8"))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) - OTHER_OPTIONS
    assert named <= known, named - known


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = set(re.findall(r"^(?:\w+/)?\w+$", text_of("index.md"), re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in DOCS} - {"index"}
    assert pages == listed


def test_every_pass_metric_budget_and_preset_has_its_row() -> None:
    for rule in PASSES:
        page = text_of(f"passes/{rule.name}.md")
        assert [key for key in rule.options if f"`{key}`" not in page] == []
        assert f"[`{rule.name}`](docs/passes/{rule.name}.md)" in README.read_text(encoding="utf-8")
    assert [name for name in NAMES if f"| `{name}` |" not in text_of("guides/metrics.md")] == []
    assert [name for name in BUDGETS if f"| `--{name.replace('_', '-')} " not in text_of("guides/budgets.md")] == []
    assert [name for name in PRESETS if f"| `{name}` |" not in text_of("guides/preprocessing.md")] == []


def test_minutes_are_those_of_the_benchmarks() -> None:
    rows = re.findall(r"\| `python -m (benchmarks\.\w+)` \| `[^`]+` \| (\d+) \|", text_of("reproduce.md"))
    assert len(rows) > 10
    assert dict(rows).items() <= {command.module: str(command.minutes) for command in benchmarks()}.items()


def test_exit_codes_are_those_of_the_errors() -> None:
    from ndpass import errors

    kinds = (
        errors.UsageError,
        errors.InputError,
        errors.BudgetError,
        errors.VerificationError,
        errors.EngineError,
    )
    table = re.findall(r"^\| (\d+) \|", text_of("troubleshooting.md"), re.MULTILINE)
    assert table == ["0", *(str(kind.exit_code) for kind in kinds), "130"]


def test_messages_are_those_of_the_code() -> None:
    """What stands between the places that change, `…`, is in the sources."""
    files = (path for folder in ("ndpass", "passes", "calibration") for path in (ROOT / folder).rglob("*.py"))
    sources = "".join(path.read_text(encoding="utf-8") for path in files).replace("{SLOWER}", "SLOWER")
    text = text_of("troubleshooting.md")
    first = re.findall(r"^\| (`[^|]*) \|", text[text.index("## Messages") :], re.MULTILINE)
    messages = [message for cell in first for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 10
    assert [m for m in messages if not all(part.strip() in sources for part in m.split("…"))] == []
