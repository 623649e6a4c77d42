"""Sphinx: `bash .ci/docs` builds the site, and fails at the first warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils.math.latex2mathml import tex2mathml

from ndpass.version import VERSION

project = "ndpass"
author = "the ndpass authors"
copyright = f"{author}, Apache-2.0"  # noqa: A001 - Sphinx's name for it
release = version = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_math_renderer = "mathml"  # that browsers draw by themselves: a page needs no script and no network
html_theme = "furo"
html_title = f"ndpass {VERSION}"
html_show_sourcelink = False
html_extra_path = ["report_example.html"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
nitpicky = False

QUOTED = re.compile(r"(?<!`)`([^`]+)`(?!`)")
MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?!\w))")


def plain(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in backticks: what reStructuredText would take for markup is escaped."""
    text: list[str] = []
    block = False  # of code or of formulas: indented, behind an empty line
    for line in lines:
        indented = line.startswith("    ")
        if indented and not block and text and not text[-1]:
            text += ["::", ""]
            block = True
        block = block and (indented or not line)
        text.append(line if block else _escaped(line.strip()))
    lines[:] = text


def _escaped(line: str) -> str:
    parts = QUOTED.split(line)  # text and code in turns
    return "".join(f"``{part}``" if i % 2 else MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))


class Help(Directive):
    """`{ndpass-help} run`: what `ndpass run --help` says."""

    required_arguments = 0
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = [sys.executable, "-m", "ndpass", *self.arguments, "--help"]
        wanted = {**os.environ, "COLUMNS": "84", "NO_COLOR": "1", "TERM": "dumb"}
        text = subprocess.run(command, env=wanted, capture_output=True, text=True, check=True).stdout
        return [nodes.literal_block(text, text, language="text")]


def formula(translator: Any, node: nodes.Element) -> None:
    block = isinstance(node, nodes.math_block)
    text = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="formula">{text}</div>' if block else text)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("autodoc-process-docstring", plain)
    app.add_directive("ndpass-help", Help)
