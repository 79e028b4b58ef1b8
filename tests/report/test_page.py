"""The HTML report: complete, self-contained, and working in a browser."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from quantkit import pipeline
from quantkit.report.html import comparison_page
from quantkit.report.lanes import MIDDLE, ROW, assign_lanes, edge_in_row
from quantkit.report.markdown import comparison_markdown
from quantkit.report.verdict import busy_note, sentence
from tests.report.browser import visit

VOID = {"meta", "link", "input", "br", "img", "wbr"}


@pytest.fixture(scope="module")
def comparison(digits):
    archive = np.load(digits.test)
    images, labels = archive["images"][:40], archive["labels"][:40].copy()
    labels[:3] = (labels[:3] + 1) % 10  # three labels that neither model gives
    pairs = _as_pairs(digits, images, labels)
    return pipeline.compare(digits.fp32, digits.int8, pairs, seconds=0.1, threads=1, batch_size=8)


def _as_pairs(digits, images, labels):
    from quantkit.observe import load_preprocess

    recipe = load_preprocess(digits.recipe)
    return [(recipe.apply(image)[None], label[None]) for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(comparison_page(comparison, "digits_cnn.onnx", "digits_cnn.int8.onnx"), encoding="utf-8")
    return path


class Balance(HTMLParser):
    """Collects ids, and every tag that is closed in the wrong order."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.ids, self.targets = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.targets += [values[key] for key in ("src", "href", "for") if key in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_well_formed_and_loads_nothing(page):
    parser = Balance()
    parser.feed(page.read_text(encoding="utf-8"))
    assert parser.wrong == []
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    outside = [t for t in parser.targets if not t.startswith("data:") and t.lstrip("#") not in parser.ids]
    assert outside == []
    assert "http" not in re.sub(r"data:[^\"]*", "", page.read_text(encoding="utf-8"))


def test_the_page_has_every_part(page):
    shown = page.read_text(encoding="utf-8")
    for part in ("Accuracy", "Samples", "Speed", "Layers", "Graph", "Reproduce"):
        assert f">{part}</h2>" in shown
    assert shown.count("data:image/jpeg") == 24
    assert shown.count("data-histogram=") == 14
    assert "SHA-256" in shown


def test_the_table_sorts_and_filters_in_a_browser(page):
    found, console = visit(
        page,
        """
        const rows = () => [...document.querySelectorAll('#layers tbody tr')];
        const values = () => rows().map((row) => Number(row.cells[4].dataset.v));
        const header = document.querySelectorAll('#layers thead th')[4];
        header.querySelector('button').click();
        const up = values();
        header.querySelector('button').click();
        const down = values();
        const filter = document.getElementById('layer-filter');
        filter.value = 'gemmfloat';
        filter.dispatchEvent(new Event('input'));
        const shown = rows().filter((row) => !row.hidden).map((row) => row.cells[2].textContent);
        return {up, down, sort: header.getAttribute('aria-sort'), shown,
                count: document.getElementById('layer-count').textContent};
        """,
    )
    assert console == ""
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["down"], reverse=True)
    assert len(found["up"]) == 14
    assert found["sort"] == "descending"
    assert found["shown"] == ["QGemmFloat"]
    assert found["count"] == "1 of 14 layers"


def test_one_distribution_shows_and_a_layer_is_chosen_by_its_name(page):
    found, console = visit(
        page,
        """
        const visible = () => [...document.querySelectorAll('[data-histogram]')].filter((f) => !f.hidden);
        const before = visible().length;
        document.querySelector('#layers tbody tr[data-layer="3"] th.name button').click();
        return {before, after: visible().map((figure) => figure.dataset.histogram),
                select: document.getElementById('layer-select').value};
        """,
    )
    assert console == ""
    assert found == {"before": 1, "after": ["3"], "select": "3"}


def test_a_dot_of_the_chart_and_the_select_choose_a_layer(page):
    found, console = visit(
        page,
        """
        const shown = () => [...document.querySelectorAll('[data-histogram]')].find((f) => !f.hidden).dataset.histogram;
        const select = document.getElementById('layer-select');
        document.querySelector('svg [data-layer="5"]').dispatchEvent(new Event('click'));
        const clicked = [shown(), select.value, document.querySelector('tr.chosen').dataset.layer];
        select.value = '2';
        select.dispatchEvent(new Event('change'));
        return {clicked, selected: shown()};
        """,
    )
    assert console == ""
    assert found == {"clicked": ["5", "5", "5"], "selected": "2"}


def test_samples_are_filtered_by_what_happened_to_them(comparison, tmp_path):
    log = copy.copy(comparison.changes)
    kinds = ["broken"] * 2 + ["same"] * 22
    log._heap = [
        (*entry[:2], replace(entry[2], kind=kind), entry[3]) for entry, kind in zip(log._heap, kinds, strict=True)
    ]
    page = tmp_path / "page.html"
    page.write_text(comparison_page(replace(comparison, changes=log), "a", "b"), encoding="utf-8")
    found, console = visit(
        page,
        """
        const shown = () => [...document.querySelectorAll('[data-kind]')].filter((e) => !e.hidden).length;
        const button = document.querySelector('[data-kind-filter="broken"]');
        button.click();
        const some = shown();
        const pressed = button.getAttribute('aria-pressed');
        document.querySelector('[data-kind-filter="all"]').click();
        return {some, pressed, all: shown(), after: button.getAttribute('aria-pressed')};
        """,
    )
    assert console == ""
    assert found == {"some": 2, "pressed": "true", "all": 24, "after": "false"}


def test_those_who_hear_the_page_get_headings_captions_and_labels(page):
    found, _ = visit(
        page,
        """
        const all = (selector) => [...document.querySelectorAll(selector)];
        const levels = all('h1, h2, h3, h4').map((h) => Number(h.tagName[1]));
        return {
          jumps: levels.filter((level, i) => i && level > levels[i - 1] + 1).length,
          first: levels[0],
          silent: all('svg').filter((s) => !s.getAttribute('aria-label') && !s.hasAttribute('aria-hidden')).length,
          uncaptioned: all('table').filter((t) => !t.caption).length,
          headers: all('th:not([scope])').length,
          unnamed: all('tbody tr').filter((r) => !r.querySelector('th[scope=row]')).length,
          sorted: all('#layers [aria-sort]').map((h) => [h.textContent, h.getAttribute('aria-sort')]),
          unlabelled: all('input, select').filter((e) => !e.labels.length).length,
        };
        """,
    )
    assert found == {
        "jumps": 0, "first": 1, "silent": 0, "uncaptioned": 0, "headers": 0, "unnamed": 0,
        "sorted": [["#", "ascending"]], "unlabelled": 0,
    }  # fmt: skip


def test_nothing_is_wider_than_a_phone(page):
    width, _ = visit(
        page,
        """
        document.body.style.width = '360px';
        const wide = [...document.querySelectorAll('main > *')].filter((e) => e.scrollWidth > 362);
        return wide.map((e) => e.id || e.className);
        """,
    )
    assert width == []


def test_the_markdown_report_has_the_verdict_the_intervals_and_the_hashes(comparison):
    shown = comparison_markdown(comparison, "a.onnx", "b.onnx")
    assert shown.startswith("# b.onnx against a.onnx\n\n**")
    assert "| 95 % interval | from | to |" in shown
    assert comparison.provenance["models"]["int8"]["sha256"] in shown
    widths = {line.count("|") for line in shown.splitlines() if line.startswith("| layer |")}
    assert widths == {8}


def test_a_comparison_without_speed_labels_and_layers_still_makes_a_page(digits):
    result = pipeline.compare(digits.fp32, digits.int8, np.zeros((2, 1, 32, 32), np.float32), seconds=0, layers=False)
    page = comparison_page(result, "a", "b")
    assert ">Speed</h2>" not in page
    assert ">Samples</h2>" in page
    assert "same answer" in page


def test_names_from_a_model_are_escaped_in_graph_and_histograms(comparison):
    evil = "<script>alert(1)</script>"
    layers = [replace(comparison.layers[0], name=evil)]
    nodes = [{**comparison.nodes[0], "name": evil, "runs_on": "onnxruntime", "reason": evil, "feeds": []}]
    page = comparison_page(replace(comparison, layers=layers, nodes=nodes), evil, evil)
    assert "<script>alert" not in page


def test_the_difference_between_the_models_has_its_own_interval(comparison):
    page = comparison_page(comparison, "a", "b")
    low, high = (100 * bound for bound in comparison.confidence["difference"])
    assert f"INT8 minus FP32: +0.00 points, 95 % interval {low:+.2f} to {high:+.2f}" in page


def test_flips_are_counted_in_the_sentence_at_the_top(comparison):
    flipped = replace(
        comparison, flips={"fixed": 1, "broken": 2}, confidence={**comparison.confidence, "mcnemar_p": 0.9}
    )
    assert "of 40 answers, 2 turned wrong and 1 right, which chance explains" in sentence(flipped)


def test_times_that_a_busy_machine_disturbed_are_said_to_be(comparison):
    runs = [{"name": "INT8 quantkit", "min_ms": 1.0, "p90_ms": 1.9}, {"name": "rival", "min_ms": 1.0, "p90_ms": 9.0}]
    assert busy_note(replace(comparison, latency={"runs": runs})) == ""
    disturbed = replace(comparison, latency={"runs": [{**runs[0], "p90_ms": 2.5}]})
    assert busy_note(disturbed).startswith("The machine was busy: a tenth of the runs took 2.5 times")
    assert busy_note(replace(comparison, latency=None)) == ""


def test_the_parts_of_an_edge_meet_at_the_borders_of_their_rows():
    lanes = [0, 1, 1, 0]
    assert edge_in_row(lanes, 0, 3, 0) == f"M14 {MIDDLE}V{ROW}"
    assert edge_in_row(lanes, 0, 3, 1) == f"M14 0V{ROW}"
    assert edge_in_row(lanes, 0, 3, 3) == f"M14 0V{MIDDLE}"
    above, below = edge_in_row(lanes, 0, 1, 0), edge_in_row(lanes, 0, 1, 1)
    assert above == f"M14 {MIDDLE}c0 {ROW - 8} 14 8 14 {ROW}"
    assert below == above.replace(f"M14 {MIDDLE}", f"M14 {MIDDLE - ROW}")
    turned = edge_in_row([0, 1, 0, 1], 0, 3, 2)
    assert turned == f"M14 0V{MIDDLE}c0 {ROW - 8} 14 8 14 {ROW}"


def test_a_lane_is_free_again_after_the_last_user():
    chain = [{"feeds": []}, {"feeds": [0]}, {"feeds": [1]}]
    assert assign_lanes(chain) == [0, 0, 0]
    skip = [{"feeds": []}, {"feeds": [0]}, {"feeds": [0, 1]}, {"feeds": [2]}]
    assert assign_lanes(skip) == [0, 1, 0, 0]
