"""Reports as files: what each kind must be, whatever a proof found, and that none is ever half-written."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import threading
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from jsonschema import Draft202012Validator
from junitparser import JUnitXml
from markdown_it import MarkdownIt

from composer import reports, words
from composer.checks.report import Report, Result
from composer.config import sizes_by_part
from composer.errors import NoRoom, NotFound
from composer.oci.image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Image,
    canonical_json,
    make_manifest,
    parse_image,
)
from composer.reports import Target, charts, evidence, markdown, summary
from composer.reports.charts import Axis
from composer.reports.document import jsonable
from tests import proofs

KINDS: Final = list(reports.KINDS)
NAMES: Final = list(proofs.ALL)


@pytest.fixture(autouse=True)
def reports_are_as_their_schema_says() -> None:
    """Not here: reports must be written of odd evidence too."""


def text(name: str, kind: str) -> str:
    return reports.text_of([proofs.ALL[name]()], kind)  # type: ignore[arg-type]


# -- JSON -----------------------------------------------------------------------------------------------------------


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(reports.report_schema())


@pytest.mark.parametrize("name", NAMES)
def test_json_is_as_the_schema_says(name: str) -> None:
    document = json.loads(text(name, "json"), parse_constant=pytest.fail)
    proofs.VALIDATOR.validate(document)
    assert [len(one["results"]) for one in document["reports"]] == [len(proofs.ALL[name]().results)]


def test_json_keeps_what_was_found() -> None:
    (report,) = json.loads(text("failing", "json"))["reports"]
    assert report == proofs.failing().to_json()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("results", 0, "outcome"), "fine"),
        (("results", 0, "kind"), "rest"),
        (("results", 0, "more"), 1),
        (("results", 4, "evidence", "ways", "grpc", "seconds"), "long"),
        (("results", 7, "evidence", "runs", 0, "histogram"), [[1]]),
        (("results", 6, "evidence", "gpus"), ["NVIDIA H200"]),
        (("about", "started"), "yesterday"),
        (("about", "digest"), "latest"),
        (("schema",), 1),
    ],
)
def test_the_schema_refuses_what_is_wrong(path: tuple[str | int, ...], value: object) -> None:
    document = json.loads(text("on-gpu", "json"))
    place = document["reports"][0]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert list(proofs.VALIDATOR.iter_errors(document))


def test_a_report_that_the_schema_does_not_allow_would_be_noticed() -> None:
    proofs.require_valid(proofs.on_gpu())
    odd = Result(id="a", kind="load", outcome="passed", message="", evidence={"runs": [{"sent": "many"}]})
    with pytest.raises(AssertionError, match=r"results\.0\.evidence\.runs\.0\.sent: 'many' is not of type"):
        proofs.require_valid(Report(results=[odd]))


def test_numbers_that_json_lacks_are_words() -> None:
    assert jsonable({"a": [math.nan, math.inf, -math.inf, 1.5]}) == {"a": ["NaN", "Infinity", "-Infinity", 1.5]}
    assert jsonable({1: Path("a"), "b": (1, None, True)}) == {"1": "a", "b": [1, None, True]}


def test_nothing_is_not_ok() -> None:
    assert json.loads(reports.text_of([], "json"))["ok"] is False
    assert json.loads(reports.text_of([proofs.passing(), proofs.failing()], "json"))["ok"] is False
    assert json.loads(reports.text_of([proofs.passing(), proofs.on_gpu()], "json"))["ok"] is True


# -- JUnit ----------------------------------------------------------------------------------------------------------

# What Jenkins' xunit plugin accepts (its junit-10.xsd): elements, those within them, and their attributes.
JUNIT: Final = {
    "testsuites": ({"testsuite"}, {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"properties", "testcase", "system-out"},
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    ),
    "properties": ({"property"}, set()),
    "property": (set(), {"name", "value"}),
    "testcase": ({"failure", "error", "skipped", "system-out"}, {"name", "classname", "time"}),
    **dict.fromkeys(("failure", "error", "skipped"), (set(), {"type", "message"})),
    "system-out": (set(), set()),
}
REQUIRED: Final = {"testsuite": {"name", "tests", "failures", "errors"}, "testcase": {"name"}, "property": {"value"}}


@pytest.mark.parametrize("name", NAMES)
def test_junit_has_the_shape_that_others_read(name: str) -> None:
    root = Xml.fromstring(text(name, "junit"))
    assert root.tag == "testsuites"
    for element in root.iter():
        inner, attributes = JUNIT[element.tag]
        assert {one.tag for one in element} <= inner
        assert REQUIRED.get(element.tag, set()) <= set(element.attrib) <= attributes
        assert re.fullmatch(r"\d+\.\d{3}", element.get("time", "0.000"))


@pytest.mark.parametrize("name", NAMES)
def test_junit_counts_what_there_is(name: str) -> None:
    report = proofs.ALL[name]()
    outcomes = [result.outcome for result in report.results]
    (suite,) = JUnitXml.fromstring(text(name, "junit").encode())
    told = (suite.tests, suite.failures, suite.errors, suite.skipped)
    skipped = outcomes.count("skipped") + outcomes.count("unverified")
    assert told == (len(outcomes), outcomes.count("failed"), outcomes.count("error"), skipped)
    passed = [case.is_passed for case in suite]
    assert passed == [outcome == "passed" for outcome in outcomes]


def test_junit_says_what_was_seen_and_what_to_do() -> None:
    failure = Xml.fromstring(text("failing", "junit")).findall(".//failure")[1]
    assert failure.get("message") == "add_sub is not ready: ModuleNotFoundError: No module named 'cv2'"
    assert "hint: packages: {pip: [opencv-python-headless]}" in str(failure.text)
    skipped = Xml.fromstring(text("failing", "junit")).findall(".//skipped")
    assert [one.get("type") for one in skipped] == ["unverified", "skipped"]


@given(some.text())
def test_any_text_is_xml(said: str) -> None:
    result = Result(id=said or "-", kind="health", outcome="failed", message=said)
    root = Xml.fromstring(reports.text_of([Report(results=[result], log=[said])], "junit"))
    failure = root.find(".//failure")
    assert failure is not None
    assert (
        str(failure.get("message")).split() == words.plain(said).replace("\ufffe", "?").replace("\uffff", "?").split()
    )


# -- Markdown -------------------------------------------------------------------------------------------------------

GITHUB: Final = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Seen(HTMLParser):
    """What a reader of HTML sees, and the elements that it is made of."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "input", "hr", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "br"):
            return
        assert self.open[-1:] == [tag], f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def shown(name: str) -> Seen:
    return Seen(GITHUB.render(text(name, "markdown")))


@pytest.mark.parametrize("name", NAMES)
def test_markdown_says_every_check(name: str) -> None:
    seen = shown(name)
    report = proofs.ALL[name]()
    for result in report.results:
        for told in (result.id, result.message):
            assert " ".join(words.plain(told).split())[:1900] in seen.words
    assert [tag for tag, _ in seen.tags].count("tr") >= len(report.results)
    assert seen.open == []


def test_markdown_means_nothing_by_what_it_quotes() -> None:
    tags = {tag for tag, _ in shown("hostile").tags}
    assert not tags & {"script", "a", "em", "code", "s", "img", "h1"}


def test_the_worst_comes_first() -> None:
    rows = re.findall(r"^\| \S+ (\w+) \| [\w-]+ \| \d", text("failing", "markdown"), re.MULTILINE)
    assert rows == ["error", *["failed"] * 3, "unverified", "skipped", "passed"]
    assert text("failing", "markdown").index("\n### ") < text("failing", "markdown").index(" error | ")


@given(some.text(alphabet=some.sampled_from("ab _*`~|\\[](){}<>&#$!.-+\n1:/"), max_size=40))
@settings(max_examples=500)
def test_any_text_in_a_cell_is_what_it_was(said: str) -> None:
    cell = f"| a |\n|---|\n| x{markdown._inline(said)}x |\n"
    seen = Seen(GITHUB.render(cell))
    assert seen.words == " ".join(f"a x{' '.join(said.split())}x".split())
    assert {tag for tag, _ in seen.tags} == {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("count", [1, 3])
def test_markdown_fits_what_github_takes(count: int) -> None:
    big = replace(proofs.many(4000), diagnoses=proofs.failing().diagnoses, log=["x" * 3000] * 5000)
    results = [replace(one, message=one.message + " and so on" * 50) for one in big.results]
    written = reports.text_of([replace(big, results=results)] * count, "markdown")
    assert len(written.encode()) <= markdown.LIMIT
    assert written.count("There is more than fits here") == count
    assert written.count("ModuleNotFoundError") >= count
    assert written.count("| ❌ failed |") == 571 * count
    assert written.rindex("| ❌ failed |") < written.rindex("| ⚠️ unverified |")
    assert Seen(GITHUB.render(written)).open == []


# -- HTML -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_everything(name: str) -> None:
    seen = Seen(text(name, "html"))
    assert seen.open == []
    for result in proofs.ALL[name]().results:
        for told in (result.id, result.message, result.hint):
            assert " ".join(words.plain(told).split()) in seen.words


@pytest.mark.parametrize("name", NAMES)
def test_a_page_needs_nothing_else_and_runs_nothing(name: str) -> None:
    source = text(name, "html")
    seen = Seen(source)
    tags = [tag for tag, _ in seen.tags]
    assert not set(tags) & {"script", "iframe", "img", "object", "embed", "base", "form"}
    for _, attributes in seen.tags:
        assert not any(name.startswith("on") for name in attributes)
        for where in ("href", "src", "xlink:href"):
            assert (attributes.get(where) or "#").startswith(("#", "data:image/svg+xml,"))
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "default-src 'none'" in source


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    seen = Seen(text(name, "html"))
    ids = [str(attributes["id"]) for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in seen.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert len(links) == sum(not result.ok for result in proofs.ALL[name]().results)


def test_what_failed_is_open_and_the_rest_is_not() -> None:
    seen = Seen(text("many", "html"))
    checks = [attributes for tag, attributes in seen.tags if tag == "details"]
    assert len(checks) == 200
    assert sum("open" in one for one in checks) == 28
    assert all(("open" in one) == ("failed" in str(one["class"])) for one in checks)
    assert "hide what passed" in seen.words
    assert "hide what passed" not in Seen(text("failing", "html")).words


def test_several_reports_are_one_page() -> None:
    arm = replace(proofs.failing(), about=replace(proofs.ABOUT, platform="linux/arm64"))
    source = reports.text_of([proofs.passing(), arm], "html")
    seen = Seen(source)
    assert "<title>Passed: quickstart (linux/amd64), Failed: quickstart (linux/arm64)</title>" in source
    assert len([tag for tag, _ in seen.tags if tag == "h1"]) == 2
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_page_has_the_parts_of_the_image() -> None:
    seen = Seen(text("passing", "html"))
    assert "full image 2.14 GB this image 292 MB" in seen.words
    assert "backends/onnxruntime 163 MB the upstream's own 71.3 MB" in seen.words
    assert "2 more 1.06 MB" in seen.words


def test_no_gpu_is_said_in_plain_words() -> None:
    seen = Seen(text("passing", "html"))
    assert "the server sees no GPU" in seen.words
    assert "It does not count as passed" in seen.words
    found = Seen(text("on-gpu", "html"))
    assert "3,120 on GPU-5b1e0c4e-9b0a-4d5e-8a66-0a1b2c3d4e5f, 12 elsewhere" in found.words
    assert "memory: 1.2 GB more" in found.words


JSON: Final = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KNOWN: Final = some.sampled_from(
    [
        "ways",
        "runs",
        "gpus",
        "models",
        "log",
        "lines",
        "problems",
        "outputs",
        "latency",
        "histogram",
        "timeline",
        "batches",
        "sizes",
        "errors",
        "p50",
        "p99",
        "label",
        "concurrency",
        "rate",
        "throughput",
        "sent",
        "executions",
        "signs",
        "proof",
        "message",
        "hint",
        "http-json",
        "grpc",
    ]
)
ODD: Final = some.recursive(
    JSON, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(KNOWN, inner, max_size=5), max_leaves=20
)


@given(
    found=some.dictionaries(KNOWN, ODD, max_size=5),
    check=some.sampled_from(["image", "health", "logs", "inference", "gpu", "load"]),
    outcome=some.sampled_from(["passed", "failed", "unverified"]),
    diagnosis=some.dictionaries(some.sampled_from(["id", "title", "why", "fix", "model", "lines"]), ODD),
)
@settings(max_examples=60, deadline=None)
def test_a_report_is_written_whatever_the_evidence_is(found: Any, check: Any, outcome: Any, diagnosis: Any) -> None:
    result = Result(id="a", kind=check, outcome=outcome, message="b", evidence=found)
    report = Report(results=[result, result], diagnoses=[diagnosis])
    for kind in KINDS:
        assert reports.text_of([report], kind)


# -- charts ---------------------------------------------------------------------------------------------------------


def runs(*loads: dict[str, Any]) -> tuple[evidence.Run, ...]:
    return evidence.runs(Result(id="l", kind="load", outcome="passed", message="", evidence={"runs": list(loads)}))


def drawn(*loads: dict[str, Any]) -> dict[str, charts.Chart]:
    found = runs(*loads)
    return {chart.title: chart for chart in (*charts.compared(found), *charts.load_charts(found))}


def test_what_can_be_drawn_is() -> None:
    several = drawn(*proofs.LOADED.evidence["runs"])
    assert list(several) == [
        "Throughput by concurrency",
        "p99 by concurrency",
        "Latency by percentile",
        "Requests a second, over time",
    ]
    assert list(several["p99 by concurrency"].legend) == ["http-binary", "grpc"]
    assert list(drawn(proofs.run("a", "grpc", 4, 900.0))) == ["Latency by percentile", "Requests a second, over time"]
    assert list(drawn({"label": "a"})) == []
    assert list(drawn()) == []


def test_rates_are_drawn_as_rates() -> None:
    loads = [proofs.run("a", "grpc", 1, rate) | {"concurrency": None, "rate": rate} for rate in (100.0, 1000.0)]
    made = drawn(*loads)
    assert "Throughput by rate" in made
    assert list(made["Latency by percentile"].legend) == ["100/s, grpc", "1,000/s, grpc"]


def test_loads_are_compared_by_what_they_differ_in() -> None:
    loads = [proofs.run(label, "grpc", number, 100.0 * number) for label in ("one", "two") for number in (1, 8)]
    assert list(drawn(*loads)["Throughput by concurrency"].legend) == ["one", "two"]
    loads += [proofs.run("two", "http-json", number, 90.0 * number) for number in (1, 8)]
    assert list(drawn(*loads)["Throughput by concurrency"].legend) == ["one, grpc", "two, grpc", "two, http-json"]


def test_a_second_that_was_not_whole_is_not_drawn() -> None:
    load = proofs.run("a", "grpc", 1, 100.0) | {
        "seconds": 9.4,
        "timeline": [[n, 100, 0.01] for n in range(9)] + [[9, 7, 0.01]],
    }
    assert [rate for _, rate in charts._line_in_time(runs(load)[0]).points] == [100.0] * 9


def test_no_more_lines_than_can_be_told_apart() -> None:
    made = drawn(*(proofs.run("a", f"p{number}", 1, 100.0 + number) for number in range(9)))
    assert len(made["Latency by percentile"].legend) == charts.MOST
    assert made["Latency by percentile"].note == "3 more runs not drawn"


@pytest.mark.parametrize("name", ["on-gpu", "failing-load", "hostile"])
def test_all_that_is_drawn_is_within_its_frame(name: str) -> None:
    for run in [one for result in proofs.ALL[name]().results if (one := evidence.runs(result))]:
        for chart in (*charts.compared(run), *charts.load_charts(run)):
            svg = Xml.fromstring(chart.svg)
            _, _, width, height = map(float, str(svg.get("viewBox")).split())
            for path in svg.iter("path"):
                numbers = (
                    re.findall(r"[ML]?(-?[\d.]+) (-?[\d.]+)", str(path.get("d")))
                    if "line" in str(path.get("class"))
                    else []
                )
                assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in numbers)
            for one in svg.iter("text"):
                assert 0 <= float(str(one.get("x"))) <= width


def test_the_curve_is_where_the_percentiles_are() -> None:
    """The curve comes of the histogram, the marks on it of the percentiles: they must meet."""
    load = proofs.run("a", "grpc", 8, 1000.0)
    (line,) = [charts._percentile_line(run, charts._curve(run)) for run in runs(load)]
    for share, time, _ in line.marks:
        under = max(upper for at, upper in line.points if at <= share)
        over = min(upper for at, upper in line.points if at >= share)
        assert under <= time <= over * 1.0001


def test_percentiles_alone_are_a_curve_too() -> None:
    load = proofs.run("a", "grpc", 8, 1000.0) | {"histogram": []}
    shares = [share for share, _ in charts._curve(runs(load)[0])]
    assert shares == pytest.approx([0.5, 0.9, 0.95, 0.99, 0.999])


@given(some.lists(some.floats(1e-6, 1e3), min_size=1))
def test_latencies_are_in_order_on_their_axis(values: list[float]) -> None:
    check_axis(charts._logarithmic("", values), values)


@given(some.floats(1e-3, 1e7))
def test_rates_are_in_order_on_their_axis(high: float) -> None:
    axis = charts._linear("", 0, high)
    check_axis(axis, [0, high / 3, high])
    assert axis.ticks[0][0] == 0
    assert 2 <= len(axis.ticks) <= 7


@given(some.integers(1, 10**9))
def test_percentiles_are_in_order_on_their_axis(sent: int) -> None:
    axis = charts._percentiles(sent)
    check_axis(axis, [0, 0.5, 0.9, 0.99])
    assert axis.ticks[-1][0] <= 1 - 1 / (2 * max(sent, 100)) + 1e-9


def check_axis(axis: Axis, values: list[float]) -> None:
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    ticks = [axis.place(value) for value, _ in axis.ticks]
    assert ticks == sorted(ticks)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in ticks)


# -- words and figures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 µs"),
        (0.000_853, "853 µs"),
        (0.001_234, "1.23 ms"),
        (0.0406, "40.6 ms"),
        (0.9999, "1 s"),
        (12.34, "12.3 s"),
    ],
)
def test_latencies_have_three_digits(seconds: float, said: str) -> None:
    assert words.latency(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.0123, "0.0123"), (4.5, "4.5"), (99.94, "99.9"), (99.96, "100"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits_at_least(value: float, said: str) -> None:
    assert words.digits(value) == said


@given(some.text())
def test_plain_texts_obey_nobody(said: str) -> None:
    found = words.plain(said)
    assert all(each.isprintable() or each == "\n" for each in found)
    assert words.plain(found) == found
    found.encode()


def test_colours_are_taken_out_and_lines_stay() -> None:
    assert words.plain("\x1b[1;31mE\x1b[0m: a\tb\r\nc\x00") == "E: a    b\nc?"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("passing", "passed"),
        ("failing", "failed"),
        ("unverified", "unverified"),
        ("empty", "unverified"),
        ("on-gpu", "passed"),
    ],
)
def test_verdicts(name: str, verdict: str) -> None:
    assert summary.verdict(proofs.ALL[name]()) == verdict


def test_a_digest_says_nothing_to_people() -> None:
    assert not any("9c9c" in line for line in summary.proof_lines(proofs.serving()[4]))


def test_a_refusal_is_told_with_its_status() -> None:
    way = {"status": 400, "refused": "unexpected shape", "outputs": {}}
    result = Result(id="a", kind="inference", outcome="passed", message="", evidence={"ways": {"grpc": way}})
    assert list(summary.proof_lines(result)) == ["grpc: 400: unexpected shape"]


def layered(*history: tuple[str, int | None]) -> Image:
    """An image of which only the history and the sizes of layers matter; None makes no layer."""
    entries = [{"created_by": made_by, **({} if size else {"empty_layer": True})} for made_by, size in history]
    diff_ids = [f"sha256:{'0' * 64}" for _, size in history if size]
    about = {"architecture": "amd64", "os": "linux", "history": entries, "rootfs": {"diff_ids": diff_ids}}
    config = canonical_json(about)
    layers = [
        Descriptor(media_type=OCI_LAYER, digest=f"sha256:{number:064x}", size=size)
        for number, (_, size) in enumerate(history)
        if size
    ]
    return parse_image(make_manifest(OCI_MANIFEST, Descriptor.of(config, OCI_CONFIG), layers), config)


def test_sizes_of_an_image_by_what_its_layers_hold() -> None:
    image = layered(
        ("CMD", None), ("ADD base", 70), ("tricompose core", 20), ("tricompose core", 5), ("tricompose model a", 1)
    )
    assert sizes_by_part(image) == {"the upstream's own": 70, "core": 25, "model a": 1}


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "path"),
    [
        ("proof.json", "json", "proof.json"),
        ("proof.xml", "junit", "proof.xml"),
        ("PROOF.MD", "markdown", "PROOF.MD"),
        ("./a=b.html", "html", "./a=b.html"),
        ("junit=proof.txt", "junit", "proof.txt"),
        ("html=proof.json", "html", "proof.json"),
        ("md=summary", "markdown", "summary"),
        ("markdown=a=b", "markdown", "a=b"),
    ],
)
def test_targets(said: str, kind: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert reports.target(said) == Target(kind=kind, path=Path(path))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ("proof", "proof does not say what kind of report it is", "one of: json=proof, junit=proof, markdown=proof"),
        ("pdf=proof.html", "there is no kind of report 'pdf'", "html=proof.html"),
        ("proof.pdf", "proof.pdf does not say what kind of report it is", "html=proof.pdf"),
        ("html=", "html= does not say what kind of report it is", "json="),
        ("html=no/such/a.html", "there is no folder no/such for the report", "mkdir -p no/such"),
        ("html=.", ". is a folder, and a report is a file", "report.html"),
        ("", " does not say what kind", "json="),
    ],
)
def test_targets_that_cannot_be_meant(
    said: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound) as caught:
        reports.target(said)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written(kind: Any, tmp_path: Path) -> None:
    for name in NAMES:
        reports.write([proofs.ALL[name]()], Target(kind=kind, path=tmp_path / name))
        assert (tmp_path / name).read_bytes().decode()
    assert sorted(os.listdir(tmp_path)) == sorted(NAMES)


def test_a_report_replaces_the_last_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "proof.json"
    to = Target(kind="json", path=path)
    old = os.umask(0o027)
    try:
        reports.write([proofs.passing()], to)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    reports.write([proofs.failing()], to)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert json.loads(before)["ok"] is False
    monkeypatch.setattr(Path, "replace", failing_to_replace)
    with pytest.raises(NoRoom):
        reports.write([proofs.passing()], to)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["proof.json"]


def failing_to_replace(self: Path, target: Path) -> Path:
    raise OSError(28, "No space left on device", str(self))


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to("there/proof.json")
    reports.write([proofs.passing()], Target(kind="json", path=tmp_path / "link.json"))
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there/proof.json").read_text())["ok"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    reports.write([proofs.passing()], Target(kind="json", path=tmp_path / "pipe"))
    reader.join(10)
    assert json.loads(got[0])["ok"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_that_has_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        reports.write([proofs.passing()], Target(kind="json", path=tmp_path / "gone" / "a.json"))
