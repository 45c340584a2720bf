from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.parsers.expat import ParserCreate

import numpy as np
import pytest
from matplotlib.text import Text

from fungi_hf.errors import (
    InputError,
    InputTypeError,
    OptionalDependencyError,
    ShapeError,
    StorageError,
)
from fungi_hf.evaluation import (
    block_cka,
    build_report,
    evaluate_clustering,
    evaluate_knn,
    linear_cka,
    write_report,
)
from fungi_hf.evaluation.report.documents import EvaluationDocument
from fungi_hf.evaluation.report.plots import (
    accuracy_against_cost,
    cka_heat_map,
    class_bars,
    difference_intervals,
    layer_curves,
    render,
    value_curves,
)
from tests.evaluation.blocks import features, labelled

WIDTHS = {"embedding": 6, "kl": 4}


def slow_cka(x, y):
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, el = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    return np.trace(k @ el) / np.sqrt(np.trace(k @ k) * np.trace(el @ el))


def test_linear_cka_equals_the_kernel_form_and_ignores_rotation_and_scale():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)) + 3, rng.standard_normal((40, 7)).astype("f4")
    assert linear_cka(x, y) == pytest.approx(slow_cka(x, y))
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1)
    assert linear_cka(x, np.ones((40, 2))) == 0
    names, table = block_cka(features(np.concatenate([x, y], 1), {"embedding": 5, "kl": 7}))
    assert names == ["embedding", "kl"]
    np.testing.assert_allclose(np.diag(table), 1)
    assert table[0, 1] == table[1, 0] == pytest.approx(slow_cka(x, y), rel=1e-4)
    with pytest.raises(ShapeError, match="40 rows, second has 39"):
        linear_cka(x, y[1:])
    with pytest.raises(InputError, match="needs at least 2"):
        block_cka(x[:1])


def figures():
    return {
        "CKA between blocks": cka_heat_map(["embedding", "kl"], [[1, 0.25], [0.25, 1]]),
        "Layers": layer_curves({"kl": [0.1, 0.4, float("nan")]}, [0, 1, 2]),
        "Cost": accuracy_against_cost({"embedding": (1, 0.8), "<kl>": (1.1, 0.85)}),
        "Classes": class_bars({f"class {i}": i / 100 - 0.3 for i in range(60)}),
    }


@pytest.mark.parametrize(
    ("kind", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_figures_render_to_files_the_same_way_twice(kind, start):
    data = [render(class_bars({"a": 0.1, "b": -0.2}), kind) for _ in "ab"]
    assert data[0].startswith(start)
    assert data[0] == data[1]


def test_figures_show_their_numbers():
    figure = figures()["CKA between blocks"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", ".25", ".25", "1.00"]
    for n, n_numbers in ((10, 100), (11, 0)):
        figure = cka_heat_map([f"kl_{i}" for i in range(n)], np.eye(n))
        assert len(figure.axes[0].texts) == n_numbers
        assert figure.axes[1].get_ylabel() == "linear CKA"  # the bar of colours stays
    axes = figures()["Classes"].axes[0]
    assert len(axes.patches) == 40
    assert "(20 smaller changes not shown)" in axes.get_title()
    assert max(bar.get_width() for bar in axes.patches) == pytest.approx(29)
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_figures_refuse_what_does_not_fit(monkeypatch):
    with pytest.raises(ShapeError, match=r"shape \(2, 2\) for 3 names"):
        cka_heat_map(["a", "b", "c"], np.eye(2))
    with pytest.raises(InputError, match="changes are empty"):
        class_bars({})
    with pytest.raises(ShapeError, match="curve 'a' has 1 values for 2 layers"):
        layer_curves({"a": [1]}, [0, 1])
    with pytest.raises(InputError, match="points are empty"):
        accuracy_against_cost({})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionalDependencyError, match="matplotlib"):
        class_bars({"a": 1})


ODD = ["a$b^$", "$x_", r"\frac{$", "a\nb", "c\x00d", "\ud800", "\ufffe", "<&>", "a-->b", "_under"]
DRAWN = {
    "heat map": lambda name: cka_heat_map([name, "z"], np.eye(2)),
    "bars": lambda name: class_bars({name: 0.1, "z": -0.2}),
    "intervals": lambda name: difference_intervals(
        {name: {"difference": 0.1, "low": 0.0, "high": 0.2}}
    ),
    "layers": lambda name: layer_curves({name: [0.1, 0.2]}, [name, "z"], metric=name),
    "values": lambda name: value_curves({name: [(1, 0.1)]}, x=name, y=name),
    "cost": lambda name: accuracy_against_cost({name: (1, 0.1)}, metric=name),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", DRAWN)
def test_names_are_drawn_letter_by_letter(kind, name):
    ParserCreate().Parse(render(DRAWN[kind](name)), True)  # raises unless well-formed


def test_legends_name_every_curve_and_hide_no_character():
    names = ["_under", "a$b$", "c\x01"]
    for figure in (
        layer_curves({name: [0.1] for name in names}, [0], baseline=0.2),
        value_curves({name: [(1, 0.1)] for name in names}, x="x", y="y", baseline=0.2),
    ):
        texts = [one.get_text() for one in figure.axes[0].get_legend().get_texts()]
        assert texts == ["_under", r"a\$b\$", r"c\x01"]


def test_a_report_shows_odd_classes_and_titles():
    train, y = labelled(80, WIDTHS, noise=1.5, n_classes=2)
    names = np.array(["a$b^$", "c\x00\ud800"])
    results = evaluate_knn(train, names[y], train, names[y])
    text = build_report(results, title="T $x^$ \x01")
    assert "T $x^$ \\x01" in text
    assert text.encode("utf-8")


def test_a_report_without_the_baseline_says_so():
    train, y = labelled(80, WIDTHS, noise=1.5)
    results = evaluate_knn(train, y, train, y)
    assert "The baseline is not among the records" not in build_report(results)
    for some in (results[1:], results[2:]):
        text = build_report(some)
        assert "The baseline is not among the records" in text
        assert "No combination is above it" not in text
        assert "Difference to a baseline that is not here" in text
        assert "Change per class" not in text


def one_figure():
    return {"CKA between blocks": cka_heat_map(["embedding", "kl"], [[1, 0.25], [0.25, 1]])}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in {"meta", "link", "img", "wbr"}:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_page_without_outside_resources(tmp_path):
    train, y = labelled(80, WIDTHS, noise=1.5)
    test, truth = labelled(60, WIDTHS, seed=1, noise=1.5)
    results = evaluate_knn(train, y, test, truth) + evaluate_clustering(test, truth)
    text = build_report(results, title="A <b> & c", figures=one_figure())
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert text.count("<table>") == 2
    assert "A &lt;b&gt; &amp; c" in text
    assert 'name="viewport" content="width=device-width' in text
    accuracy = 100 * results[0].metrics["accuracy"]
    assert f"<td>{accuracy:.1f} [" in text
    assert "fingerprint: one" in text
    write_report(tmp_path / "report.html", results, title="A <b> & c", figures=one_figure())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text


def test_what_users_name_is_shown_letter_by_letter_and_never_as_markup():
    odd = "<i>&\x01"
    train, y = labelled(80, {"embedding": 6, odd: 4}, noise=1.5, n_classes=2)
    results = evaluate_knn(train, y, train, y)
    noted = [replace(one, notes=(odd,), fingerprint=odd, protocol=odd) for one in results]
    text = build_report(noted, title=odd, figures={odd: one_figure()["CKA between blocks"]})
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "i" not in page.tags
    assert "\x01" not in text
    shown = "&lt;i&gt;&amp;\\x01"
    for place in (
        f"<h1>{shown}</h1>",
        f"protocol {shown}</h2>",
        f"<figcaption>{shown}</figcaption>",
        f"<td>embedding+<wbr>{shown}</td>",
        f"{shown}: {shown}</p>",
        f"fingerprint: {shown}</p>",
    ):
        assert place in text


def test_the_report_refuses_nothing_and_bad_places(tmp_path):
    with pytest.raises(InputError, match="results are empty"):
        build_report([])
    with pytest.raises(InputTypeError, match="a result is a dict"):
        build_report([{}])
    train, y = labelled(40, WIDTHS)
    results = evaluate_knn(train, y, train, y)
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(tmp_path / "none" / "report.html", results)


def test_all_figures_have_one_width_and_one_type_size() -> None:
    curve = {"a layer with a long name": [0.1, 0.2], "other": [0.2, 0.1]}
    figures = [
        cka_heat_map(["embedding", "kl"], np.eye(2)),
        *(cka_heat_map([f"kl_{i}_attention_output" for i in range(n)], np.eye(n)) for n in (9, 30)),
        class_bars({f"class {i}": i / 9 for i in range(50)}),
        difference_intervals({"kl": {"low": -0.1, "difference": 0.1, "high": 0.2}}),
        layer_curves(curve, [0, 1]),
        value_curves({"a": [(1, 2), (3, 4)]}, x="width", y="accuracy"),
        accuracy_against_cost({"embedding": (1, 2), "kl": (2, 3)}),
    ]
    sizes, widths = set(), set()
    for figure in figures:
        drawn = render(figure).decode()
        sizes |= {text.get_fontsize() for text in figure.findobj(Text)}
        widths.add(re.search(r'<svg[^>]* width="([^"]+)"', drawn)[1])
    assert len(sizes) == len(widths) == 1


@pytest.mark.parametrize(
    ("fact", "shown"),
    [
        ("/home/me/very/long/path/to/model", "to/model"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("data/train.csv", "data/train.csv"),
        ("../../data/deep/train.csv", "deep/train.csv"),
        ("0123abcd", "0123abcd"),
        ("https://example.org/a/b/c", "https://example.org/a/b/c"),
    ],
)
def test_paths_are_shortened(fact: str, shown: str) -> None:
    results = evaluate_knn(*_sides())
    page = build_report(EvaluationDocument(results=tuple(results), source={"model": fact}))
    assert f"model: {shown}<" in page.replace("\n", "")


def _sides():
    train, y = labelled(40, {"embedding": 4}, 2)
    return train, y, train, y
