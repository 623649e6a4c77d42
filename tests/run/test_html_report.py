"""The page for a browser: what it says, that it is whole, escaped, small and alone, and how Chromium shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from reports import report

from ndpass.files.model_file import open_graph
from ndpass.passes.network_decoupling import energy
from ndpass.report import Furthest, Latency, Layer, Report, TriedPlan, Variant, Verified
from ndpass.run.html_report import page_of
from ndpass.run.next_steps import Given
from ndpass.run.page import Scatter, segments

GIVEN = Given(Path("net.onnx"), Path("out.onnx"), Path("images"), command="ndpass run net.onnx --calibration images")
EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsYF2FQAAAABJRU5ErkJggg=="
)
VOID = {"meta", "rect", "path", "circle", "img", "br"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Read(HTMLParser):
    """Tags that stand open, the text, and everything that a browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        sources = [str(value) for key, value in attrs if key in ("src", "href", "srcset", "action")]
        self.fetched += [source for source in sources if not source.startswith("data:image/png;base64,")]
        self.fetched += [f"{tag} {key}" for key, _ in attrs if key.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def many(count: int) -> Report:
    layer, fc = report().layers
    rows = [layer.model_copy(update={"name": f"/model/stage{i // 10}/block{i % 10}/conv/Conv"}) for i in range(count)]
    return report(layers=[*rows, fc])


def full(**changes: object) -> Report:
    """With everything that a page can show."""
    slow, fc = report().layers
    layers = [
        slow,
        fc,
        Layer(
            name="conv2", op="Conv", shape="8x8x3x3", status="kept", reason="nothing is cheaper", latency_us=(9.0, 9.0)
        ),
        slow.model_copy(update={"name": "conv3", "latency_us": (20.0, 31.5)}),
    ]
    plans = [
        TriedPlan(speedup=3.1, loss=1.7, chosen=False),
        TriedPlan(speedup=2.7, loss=0.25, chosen=True),
    ]
    variants = [
        Variant(name="result", precision="int8", metric=90.0, latency_ms=1.1, speedup=7.6, spread=(7.0, 8.0)),
    ]
    verified = {
        "the original": Verified(samples=9, relative_error=0.1, outputs={"a": 0.2, "b": None}, worst_output="a")
    }
    furthest = [
        Furthest(sample=i, name=f"images/cat/{i}.jpg", error=error, picture=PIXEL) for i, error in ((4, 0.5), (2, None))
    ]
    return report(
        **{
            "layers": layers,
            "furthest": furthest,
            "plans": plans,
            "variants": variants,
            "verified": verified,
            "warnings": ["look here"],
        }
        | changes
    )


def test_it_says_what_was_asked_what_came_out_and_what_to_do_next() -> None:
    page = page_of(full(), GIVEN).html()
    text = Read(page).text
    for words in (
        "ndpass: net.onnx",
        "Passes cd, nd; budget: max-drop 1.0.",
        "times as fast 2.70 8.34 ms before, 3.1 ms after",
        "accuracy -0.25 91.50 before, 91.25 after",
        "2.50 to 2.90 times as fast (10th to 90th percentile of paired rounds)",
        "15.35 G 313 M (2.0 %)",
        "cd:rank=64 nd:rank=2:form=dw-pw",
        "120.0 60.5 58.7 0.0512 0.0500",
        "no pass takes Gemm",
        "conv3 Conv 64x64x3x3 done, slower",
        "the original all 0.1 9",
        "the original a 0.2 9",
        "2 2.70 0.25 chosen",
        "1 3.10 1.70 too much",
        "CPU Some CPU",
        "OpenVINO 2026.4",
        "ndpass run net.onnx --calibration images",
        "ndpass bench net.onnx out.onnx",
        "result in int8 1.1 ms, metric 90.00 7.60 times as fast, 7.00 to 8.00",
        "look here",
        "cat/4.jpg error 0.5 cat/2.jpg not finite",
    ):
        assert words in text, words


def test_refined_plans_are_told_from_fitted_ones() -> None:
    """A plan that is refined is there twice, as fast both times."""
    losses = {False: 1.7, True: 0.25}
    plans = [TriedPlan(speedup=3.1, loss=loss, chosen=kind, refined=kind) for kind, loss in losses.items()]
    words = Read(page_of(full(plans=plans, budget={"max_drop": 1.0}), GIVEN).html()).words
    rows = {word: words[words.index(word) - 1 : words.index(word) + 3] for word in ("1.70", "0.25")}
    assert rows == {"1.70": ["3.10", "1.70", "fitted", "too much"], "0.25": ["3.10", "0.25", "refined", "chosen"]}
    assert any("again where its weights were refined" in word for word in words)
    assert any(word == "plan 2, refined: 3.10 times as fast, 0.25 points lost" for word in words)
    page = page_of(full(plans=[plans[0].model_copy(update={"refined": False})], budget={"max_drop": 1.0}), GIVEN).html()
    assert "refined" not in page.partition("Plans that were tried")[2].partition("</table>")[0]


def test_plans_within_an_error_have_their_errors_as_they_were_asked_for() -> None:
    """TriedPlan.loss is in per cent then; an error of 69.6 is not "6961 lost"."""
    plans = [TriedPlan(speedup=3.1, loss=6961.0, chosen=False), TriedPlan(speedup=1.7, loss=4.0, chosen=True)]
    page = page_of(full(plans=plans, budget={"max_error": 0.05}), GIVEN).html()
    text = Read(page).text
    for words in ("worst output's error", "1 3.10 69.610 too much", "2 1.70 0.040 chosen"):
        assert words in text, words
    assert "plan 1: 3.10 times as fast, error 69.610" in page


def test_the_bars_are_as_wide_as_the_layers_take_time() -> None:
    page = page_of(full()).html()
    before, after = re.findall(r'<figure class="bar">(.*?)</figure>', page, re.DOTALL)
    widths = [[float(width) for width in re.findall(r'width="([\d.]+)" height="30"', bar)] for bar in (before, after)]
    assert sum(widths[0]) == pytest.approx(1000, abs=0.1)
    assert widths[0] == pytest.approx([1000 * us / 149 for us in (120, 9, 20)], abs=0.01)
    assert widths[1] == pytest.approx([1000 * us / 149 for us in (60.5, 9, 31.5)], abs=0.01)
    assert re.findall(r'class="k-(\w+)"', after) == ["done", "kept", "slower"]
    assert "before: 149 µs" in before


def test_names_from_files_are_text_wherever_they_stand() -> None:
    layers = [layer.model_copy(update={"name": EVIL, "reason": EVIL, "op": EVIL}) for layer in full().layers]
    given = Given(Path(EVIL), Path("out.onnx"), Path(EVIL), command=EVIL)
    verified = {EVIL: Verified(samples=1, relative_error=0.1, outputs={EVIL: 0.1})}
    furthest = [Furthest(sample=0, name=EVIL, error=0.5)]
    changes = {"layers": layers, "warnings": [EVIL], "verified": verified, "furthest": furthest}
    read = Read(page_of(full(**changes), given).html())
    assert read.open == []
    assert read.fetched == []
    assert "img" not in read.tags
    assert read.tags.count("script") == 1
    assert EVIL in read.text


def test_it_needs_nothing_but_itself() -> None:
    page = page_of(full(), GIVEN).html()
    assert Read(page).fetched == []
    assert not re.search(r"(?:https?:)?//[a-z]|@import|url\(", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("count", [1, 60, 300])
def test_it_is_small(count: int) -> None:
    page = page_of(many(count), GIVEN).html()
    assert len(page.encode()) < 1_000_000
    assert page.count("<tr>") > count


def test_what_was_not_measured_is_not_there() -> None:
    bare = report(metric=None, latency_ms=None, layers=[], verified={}, peak_memory_bytes=None)
    text = Read(page_of(bare).html()).text
    assert "accuracy unknown" in text
    for words in ("times as fast", "The network", "Plans", "Outputs", "peak memory", "To repeat it"):
        assert words not in text


def test_a_reason_of_many_layers_stands_once_and_is_pointed_at() -> None:
    why, rare = "the budget is met with less damage elsewhere", "the budget is met with less damage somewhere"
    kept = Layer(name="k", op="Conv", shape="8x8x3x3", status="kept", reason=why)
    layers = [*full().layers, *[kept] * 3, kept.model_copy(update={"reason": rare})]
    text = Read(page_of(full(layers=layers)).html()).text
    assert text.count(why) == 1
    assert f"note 1: {why}" in text
    assert text.count("k Conv 8x8x3x3 kept note 1") == 3
    assert f"k Conv 8x8x3x3 kept {rare}" in text


def test_a_slower_result_says_so_first() -> None:
    slow = Latency(before=3.0, after=5.0, speedup=0.6, spread=(0.5, 0.7), is_slower=True)
    assert (
        '<li class="bad"><span>times as fast</span> <b>0.60</b> <small>slower than'
        in page_of(full(latency_ms=slow)).html()
    )


def test_places_of_points_and_segments() -> None:
    (one, two) = segments([1.0, 3.0], 8.0, ["done", "kept"], ["a", "b"])
    assert (one.start, one.width, two.start, two.width) == (0.0, 0.125, 0.125, 0.375)
    assert segments([0.0], 0.0, ["done"], ["a"])[0].width == 0.0
    picture = Scatter("x", "y", [], (1.0, "limit"))
    with pytest.raises(ValueError, match="empty"):
        picture.placed()


# -------------------------------------------------------------------------------------------------- on the command line


@pytest.mark.usefixtures("folder")
def test_run_writes_it_beside_the_model(net: Path, ndpass: Command) -> None:
    done = ndpass(
        "run", net, "--passes", "nd:rank=2", "-o", "out.onnx", "--no-latency", "--report", "r.html", "--json", "r.json"
    )
    assert done.code == 0, done.err
    text = Read(Path("r.html").read_text(encoding="utf-8")).text
    found = json.loads(Path("r.json").read_text(encoding="utf-8"))
    for layer in found["layers"]:
        assert layer["name"] in text
    assert "ndpass run net.onnx --passes nd:rank=2 -o out.onnx --no-latency --report r.html --json r.json" in text


@pytest.mark.usefixtures("folder")
def test_inspect_and_sensitivity_write_theirs(net: Path, ndpass: Command) -> None:
    np.save("data.npy", np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32))
    assert ndpass("inspect", net, "--report", "i.html").code == 0
    assert ndpass("sensitivity", net, "--calibration", "data.npy", "--report", "s.html").code == 0
    study = ("--study", "ranks", "--passes", "nd:form=dw-pw", "--report", "k.html")
    assert ndpass("sensitivity", net, "--calibration", "data.npy", *study).code == 0
    for name, words in (("i", "can be rewritten"), ("s", "most sensitive"), ("k", "% of the MACs left")):
        read = Read(Path(f"{name}.html").read_text(encoding="utf-8"))
        assert read.open == []
        assert words in read.text
        assert "ndpass run" in read.text or name == "k"
    kept = energy(open_graph(net).graph.sites()[0].conv.weight, "dw-pw")  # type: ignore[union-attr]
    spectrum = " ".join(f"{100 * share:.1f} %" for share in kept[:4])
    assert f"dw-pw {spectrum}" in Read(Path("i.html").read_text(encoding="utf-8")).text


# -------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on the disk, with a script at its end that sorts the layers by their name twice and says so."""
    folder = tmp_path_factory.mktemp("page")
    page = page_of(full(), GIVEN).html()
    sorting = """<script>
const head = [...document.querySelectorAll("th button")].find((b) => b.textContent === "layer");
const names = () => [...head.closest("table").tBodies[0].rows].map((r) => r.cells[0].textContent.trim()).join();
head.click(); const up = names(); head.click(); const down = names();
document.title = `sorted ${up} ${down} ${head.closest("th").getAttribute("aria-sort")}`;
</script></body>"""
    (folder / "page.html").write_text(page.replace("</body>", sorting), encoding="utf-8")
    return folder / "page.html"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_chromium_opens_it_from_the_disk_without_an_error_and_sorts(shown: Path, tmp_path: Path) -> None:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0")
    command = [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path}", "--dump-dom", shown.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    names = "conv[1],conv2,conv3,fc"
    assert f"<title>sorted {names} {','.join(reversed(names.split(',')))} descending</title>" in done.stdout
