"""What README, CONTRIBUTING, CHANGELOG, SECURITY and the pages of docs/ point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from external_links import ADDRESSES

from benchmarks.__main__ import commands

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", *DOCS)
FOLDERS = (ROOT, ROOT / "ndpass", ROOT / "benchmarks")  # that paths in prose are written from


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page))
    folder = (ROOT / page).parent
    assert [target for target in targets if not (folder / target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_into_a_page_lead_to_a_heading(page: str) -> None:
    headings = re.findall(r"^#+ (.*)", text_of(page), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text_of(page))) <= anchors


@pytest.mark.parametrize("page", [*PAGES, "CITATION.cff", "docs/conf.py"])
def test_links_out_are_well_formed_and_listed(page: str) -> None:
    """Nothing here asks whether they answer: that takes a network (see CONTRIBUTING)."""
    found = set(re.findall(r"https?://[^\s)>\"'`\]]+", text_of(page)))
    assert sorted(found - set(ADDRESSES)) == []


def test_every_address_that_is_listed_is_a_link_somewhere() -> None:
    text = "\n".join(text_of(page) for page in (*PAGES, "CITATION.cff"))
    assert [address for address in ADDRESSES if address not in text] == []
    assert list(ADDRESSES) == sorted(set(ADDRESSES))
    for address in ADDRESSES:
        assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+/[\w./-]+", address), address


def test_files_and_folders_that_contributors_are_sent_to_exist() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|md|j2|onnx))?)`", text_of("CONTRIBUTING.md")))
    assert {"passes/base.py", "graph/channel_rules.py", "ndpass/graph/", "benchmarks/"} <= named
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in FOLDERS)] == []


@pytest.mark.parametrize("page", ["docs/reproduce.md", "docs/results.md", "CONTRIBUTING.md"])
def test_benchmarks_that_are_named_can_be_run(page: str) -> None:
    named = set(re.findall(r"python -m (benchmarks\.[a-z_.0-9]*\w)", text_of(page)))
    assert named
    assert named <= {command.module for command in commands()}


def test_contributors_read_the_names_that_the_code_has() -> None:
    """Constants and methods of the chapters on passes and operators."""
    from benchmarks import machine
    from benchmarks.results import rows
    from ndpass.graph import channel_rules, sites
    from ndpass.passes import SpatialDecomposition
    from ndpass.testing import check_pass

    text = text_of("CONTRIBUTING.md")
    assert "`ndpass.testing.check_pass(MyPass)`" in text
    assert callable(check_pass)
    holders = {
        sites: ["NO_PASS"],
        channel_rules: ["RULES", "ELEMENTWISE"],
        rows: ["TIMED"],
        machine: ["WANTED"],
        SpatialDecomposition: ["refuse", "settings", "rewrite", "errors", "outline", "name", "summary", "options"],
    }
    for holder, names in holders.items():
        for name in names:
            assert re.search(rf"`{name}[`(]", text), name
            assert hasattr(holder, name), name


def test_papers_are_cited_with_the_version_that_there_is() -> None:
    """Each pass's page and CITATION.cff name the same paper."""
    from ndpass.passes import PASSES
    from ndpass.version import VERSION

    cited = text_of("CITATION.cff")
    assert f"\nversion: {VERSION}\n" in cited
    for rule in PASSES:
        (first, *_) = re.findall(r"https://arxiv\.org/abs/[\d.]+", text_of(f"docs/passes/{rule.name}.md"))
        assert f'notes: "the pass {rule.name}"' in cited
        assert f'url: "{first}"' in cited
