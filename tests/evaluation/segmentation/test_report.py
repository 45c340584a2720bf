"""Records of segmentation in files, tables and pages."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from fungi_hf.evaluation import EvaluationResult, build_report, change_per_class, write_report
from fungi_hf.evaluation.report.documents import (
    EvaluationDocument,
    read_documents,
    write_document,
)
from fungi_hf.evaluation.report.tables import class_table, render_text, result_table
from fungi_hf.evaluation.segmentation import TrainingDraws
from fungi_hf.statistics import holm
from tests.evaluation.segmentation.test_evaluate import CONTROLS, run


@pytest.fixture(scope="module")
def results():
    draws = TrainingDraws(amounts=(2, None), seeds=(0, 1))
    return run(draws=draws)


class Tables(HTMLParser):
    """Rows of cells of all tables, and whether a row is marked."""

    def __init__(self):
        super().__init__()
        self.rows, self.marked = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
            self.marked.append(("class", "best") in attrs)
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


def test_records_survive_json(results, tmp_path):
    for one in results:
        again = EvaluationResult.from_dict(json.loads(one.to_json()))
        assert again == replace(one, scores=None, settings=again.settings)
        assert again.is_control == one.is_control
        assert again.main == "miou"
    path = tmp_path / "all.json"
    write_document(path, EvaluationDocument(results=tuple(results)))
    read = read_documents([path])
    assert [one.metrics for one in read.results] == [one.metrics for one in results]
    write_report(tmp_path / "page.html", read)
    assert "In-context segmentation, protocol fungi" in (tmp_path / "page.html").read_text()


def test_tables_show_the_interval_and_correct_for_claims_alone(results):
    group = [one for one in results if one.protocol == "fungi, 2 images"]
    head, rows = result_table(group)
    assert head[:4] == ["features", "miou", "miou_matched", "pixel_accuracy"]
    first = group[0]
    low, high = first.intervals["miou"]
    wanted = f"{100 * first.metrics['miou']:.1f} ± {100 * first.spread['miou']:.1f}"
    assert rows[0][1] == f"{wanted} [{100 * low:.1f}, {100 * high:.1f}]"
    assert rows[0][4:] == ["baseline", "", "", ""]
    claims = [one.against_baseline["p"] for one in group[1:3]]
    assert [row[-1] for row in rows[1:3]] == [f"{p:.4f}" for p in holm(claims)]
    assert all(row[-1] == "" and row[-3].startswith("[") for row in rows[3:])
    assert [row[0] for row in rows[3:]] == [f"control: {name}" for name in CONTROLS]
    assert "control: planted" in render_text((head, rows))
    head, rows = class_table(group)
    assert head == ["features", "0", "1", "2", "3", "4"]
    assert rows[0][1] == f"{100 * first.per_class['0']:.1f}"


def test_pages_show_classes_and_controls_and_never_call_a_control_best(results):
    page = build_report(results, title="Frames")
    tables = Tables()
    tables.feed(page)
    own = {"tokens", "dense_infonce", "tokens+dense_infonce"}
    marked = [row[0] for row, mark in zip(tables.rows, tables.marked, strict=True) if mark]
    assert len(marked) == 4  # a table and its classes for each of two settings
    assert set(marked) <= own
    names = [row[0] for row in tables.rows]
    for name in CONTROLS:
        assert names.count(f"control: {name}") == 4
    assert page.count("IoU of each class, percent") == 2
    assert "In-context segmentation, protocol fungi, 2 images" in page
    assert "2 training and 5 test images" in page
    assert "test rows" not in page
    assert "frames of one video are not independent" in page
    assert "Best: control" not in page
    best = max((one for one in results[:3]), key=lambda one: one.metrics["miou"])
    assert best.name in page
    assert set(change_per_class(best, results[0])) == set("01234")


def test_a_page_of_one_combination_or_of_controls_alone(results):
    plain = run(combinations=[["tokens"]], controls=False)
    assert "No combination is above it" in build_report(plain)
    assert "Frames" in build_report([one for one in results if one.is_control], title="Frames")
