"""The HTML report: complete, self-contained, and working in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from quantkit import pipeline
from quantkit.report.html import comparison_page
from quantkit.report.lanes import assign_lanes
from quantkit.report.markdown import comparison_markdown
from tests.report.browser import visit

VOID = {"meta", "link", "input", "br", "img"}


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
    assert "sha256" in shown


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
        document.querySelector('#layers tbody tr[data-layer="3"] td.name button').click();
        return {before, after: visible().map((figure) => figure.dataset.histogram),
                select: document.getElementById('layer-select').value};
        """,
    )
    assert console == ""
    assert found == {"before": 1, "after": ["3"], "select": "3"}


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
    assert widths == {6}


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


def test_a_lane_is_free_again_after_the_last_user():
    chain = [{"feeds": []}, {"feeds": [0]}, {"feeds": [1]}]
    assert assign_lanes(chain) == [0, 0, 0]
    skip = [{"feeds": []}, {"feeds": [0]}, {"feeds": [0, 1]}, {"feeds": [2]}]
    assert assign_lanes(skip) == [0, 1, 0, 0]
