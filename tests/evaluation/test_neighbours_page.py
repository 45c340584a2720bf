"""The page of queries and their neighbours: what it shows, in which order, and what it refuses."""

from __future__ import annotations

import base64
import html
import io
import re
import wave
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungi_hf import KL, Activation
from fungi_hf.cli import main
from fungi_hf.errors import FeatureError, InputError
from fungi_hf.evaluation.inputs import read_blocks
from fungi_hf.evaluation.report import Shown, write_neighbours
from fungi_hf.evaluation.report.media import Media
from fungi_hf.evaluation.report.nearness import Nearness
from fungi_hf.features import FungiFeatures, make_layout
from recipes.vision.data import load
from tests.encoders.vision.kit import pictures
from tests.encoders.vision.test_loading import write
from tests.tiny import TEXTS, extractor_of
from tests.tiny import TRAIN as TINY

TRAIN = ["a <b>bold</b> card", "my card", "top up", "top-up failed"]
TEST = ["card?", "top up & go"]


def features(rows, second, weight=1.0) -> FungiFeatures:
    blocks = [np.array(part, float) for part in (rows, second)]
    units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in blocks]
    array = np.concatenate([units[0], weight * units[1]], axis=1)
    layout = {"embedding": slice(0, 2), "kl": slice(2, 4)}
    return FungiFeatures(array=array.astype(np.float32), layout=layout, fingerprint="f")


def sides():
    """The embedding sends the first query to the top-ups, both blocks to the cards."""
    train = features([[0, 1], [0.1, 1], [1, 0], [1, 0.2]], [[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    test = features([[1, 0.6], [1, 0]], [[1, 0], [0, 1]])
    labels = ["card", "card", "top-up", "top-up"]
    return (train, labels, test, ["card", "top-up"])


def test_what_a_page_says(tmp_path) -> None:
    page = tmp_path / "page.html"
    shown = Shown(train=TRAIN, test=TEST)
    write_neighbours(page, *sides(), shown, n_neighbors=2, n_queries=2, title="A & B")
    text = page.read_text("utf-8")
    assert "<title>A &amp; B</title>" in text
    assert "a &lt;b&gt;bold&lt;/b&gt; card" in text
    assert "<b>" not in text
    changes, first, second = text.split("<section>")[1:]
    assert "2 of 2 test rows with their 2 nearest of 4 training rows" in text
    assert "evenly spread" not in text
    assert "card?" in first  # from wrong to right: shown first
    assert "top up &amp; go" in second
    assert "Wrong to right, from embedding to embedding + kl: 1 of 2 test rows<" in changes
    assert "<li>test row 0 (card), top-up \u2192 card: card?</li>" in changes
    assert "Right to wrong, from embedding to embedding + kl: 0 of 2 test rows<" in changes
    plain, both, moved = first.split("<h3>")[1:]
    assert 'embedding: <span class="bad">top-up</span>' in plain
    assert 'embedding + kl: <span class="good">card</span>' in both
    assert re.findall(r"<p>(card|top-up)", both) == ["card", "card"]
    # Without kl the top-ups are nearest; without the embedding nothing else is.
    assert re.findall(r">(brought in|pushed out) by (.*?)<", moved) == [
        ("brought in", "kl"),
        ("brought in", "kl"),
        ("pushed out", "kl"),
        ("pushed out", "kl"),
    ]
    assert re.findall(r"<p>(card|top-up) <", moved) == ["card", "card", "top-up", "top-up"]
    assert "brings in and pushes out nothing: embedding" in moved
    embedding = np.dot([1, 0.6], [0.1, 1]) / np.hypot(1, 0.6) / np.hypot(0.1, 1)
    kl = 1 / np.hypot(1, 0.1)
    share = embedding / (embedding + kl)
    words = f"embedding {share:.2f}, kl {1 - share:.2f}".replace("0.", ".")
    assert f"similarity {embedding + kl:.2f}: {words}<" in both
    for outside in ("http:", "https:", "<script"):
        assert outside not in text


def test_pictures_are_small_jpegs(tmp_path) -> None:
    images = [*pictures(3), Image.new("L", (900, 300))]
    shown = Shown(train=images, test=images[:2], modality="vision")
    write_neighbours(tmp_path / "page.html", *sides(), shown, n_neighbors=9)
    text = (tmp_path / "page.html").read_text("utf-8")
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    sizes = {Image.open(io.BytesIO(base64.b64decode(one))).size for one in found}
    assert (160, 53) in sizes
    # k is at most the training rows; the row that changed is shown once more.
    assert len(found) == 2 * (1 + 2 * 4) + 1


def test_sounds_are_played_from_the_page(tmp_path) -> None:
    rng = np.random.default_rng(0)
    clips = [
        {"array": rng.standard_normal(8000 * n) / 9, "sampling_rate": 8000} for n in (1, 2, 9, 1)
    ]
    shown = Shown(train=clips, test=clips[:2], modality="audio")
    write_neighbours(tmp_path / "page.html", *sides(), shown, n_neighbors=4)
    text = (tmp_path / "page.html").read_text("utf-8")
    found = re.findall(r'src="data:audio/wav;base64,([^"]+)"', text)
    assert len(found) == 2 + 4  # each stands once in the page, further cards are links to it
    links = re.findall(r'href="#([^"]+)"', text)
    assert len(links) == 2 * 2 * 4 - 4 + 1
    assert {f'id="{one}"' in text for one in links} == {True}
    lengths = set()
    for one in set(found):
        with wave.open(io.BytesIO(base64.b64decode(one))) as sound:
            assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (
                1,
                2,
                16000,
            )
            lengths.add(sound.getnframes() / 16000)
    assert lengths == {1.0, 2.0, 6.0}  # of nine seconds the first six
    assert 'preload="none"' in text
    bad = Shown(train=["nothing.wav", *clips[1:]], test=clips[:2], modality="audio")
    with pytest.raises(InputError, match="training row 0 cannot be played: "):
        write_neighbours(tmp_path / "bad.html", *sides(), bad, n_neighbors=4)


def test_what_is_refused(tmp_path) -> None:
    train, labels, test, truth = sides()
    page = tmp_path / "page.html"
    with pytest.raises(InputError, match=r"shown\.train has 3 inputs for 4 rows"):
        write_neighbours(page, train, labels, test, truth, Shown(train=TRAIN[:3], test=TEST))
    with pytest.raises(InputError, match="n_queries must be an integer >= 1; got 0"):
        write_neighbours(
            page, train, labels, test, truth, Shown(train=TRAIN, test=TEST), n_queries=0
        )
    with pytest.raises(FeatureError, match="'lk'"):
        write_neighbours(
            page, train, labels, test, truth, Shown(train=TRAIN, test=TEST), combinations=[["lk"]]
        )
    broken = Shown(train=[b"no picture"] * 4, test=[b"no picture"] * 2, modality="vision")
    with pytest.raises(InputError, match=r"row \d cannot be shown: 10 bytes is no picture"):
        write_neighbours(page, train, labels, test, truth, broken)
    assert not page.exists()


def test_the_command_writes_it_for_class_folders(tmp_path, capsys) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model")
    for split in ("train", "test"):
        some = load("tiles", split).spread(2)
        for row, (file, label) in enumerate(zip(some.files, some.labels, strict=True)):
            folder = tmp_path / split / some.names[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row}.jpg").write_bytes(file)
    page = tmp_path / "page.html"
    words = ["neighbours", str(tmp_path / "model"), "--objective", "kl", "--out", str(page)]
    words += ["--train", str(tmp_path / "train"), "--test", str(tmp_path / "test")]
    assert main([*words, "--queries", "3", "-k", "2"]) == 0
    assert page.read_text("utf-8").count("<section>") == 4
    assert main([*words, "--combination", "embedding+lk"]) == 1
    assert "'lk'" in capsys.readouterr().err


def weighted(n_train=30, n_test=9, seed=0):
    """Features of three blocks whose weights the config has put into the columns."""
    widths, weights = {"embedding": 5, "kl": 4, "activation": 3}, (1.0, 0.3, 2.0)
    layout, generator, sides = make_layout(widths), np.random.default_rng(seed), []
    for n in (n_train, n_test):
        array = np.empty((n, 12), np.float32)
        for weight, columns in zip(weights, layout.values(), strict=True):
            rows = generator.standard_normal((n, columns.stop - columns.start))
            array[:, columns] = weight * rows / np.linalg.norm(rows, axis=1, keepdims=True)
        sides.append(FungiFeatures(array=array, layout=layout, fingerprint="f"))
    return sides


def nearness(train, test):
    known, judged = read_blocks(train, "train"), read_blocks(test, "test")
    return Nearness.of(known, judged, np.arange(len(test)), train)


def test_parts_are_those_of_explain() -> None:
    train, test = weighted()
    near = nearness(train, test)
    for names in (("embedding",), ("embedding", "activation"), tuple(train.layout)):
        some, others = test.select(names), train.select(names)
        for i, j in ((0, 0), (3, 17), (8, 29)):
            wanted, found = some.explain(i, j, others), near.explain(i, j, names)
            assert found.parts == pytest.approx(wanted.parts, abs=1e-6)
            assert found.similarity == pytest.approx(wanted.similarity, abs=1e-6)
        order = np.argsort(-some.similarity(others), axis=1, kind="stable")[:, :5]
        assert near.nearest(names, 5).tolist() == order.tolist()
    plain = nearness(3 * np.eye(2), np.array([[5.0, 0.0]]))
    assert plain.parts["features"].tolist() == [[1.0, 0.0]]  # no blocks, so no weights: cosines


@pytest.mark.parametrize("k", [1, 4, 30])
def test_a_block_moves_what_leaving_it_out_moves_back(k) -> None:
    train, test = weighted()
    near = nearness(train, test)
    n_moved = 0
    for row in range(len(test)):
        found = near.moved(row, k)
        assert list(found) == list(train.layout)
        for block, (into, out) in found.items():
            rest = [name for name in train.layout if name != block]
            whole, without = (
                sorted(range(len(train)), key=lambda j: -one.similarity(other)[row, j])[:k]
                for one, other in ((test, train), (test.select(rest), train.select(rest)))
            )
            assert into == [j for j in whole if j not in without]
            assert out == [j for j in without if j not in whole]
            assert len(into) == len(out)
            n_moved += len(into)
    assert (n_moved > 0) == (k < len(train))
    assert nearness(train.select(["kl"]), test.select(["kl"])).moved(0, k) == {}


def test_a_page_of_weighted_blocks_says_what_explain_says(tmp_path) -> None:
    blocks = (KL(weight=0.4), Activation(weight=3))
    extractor = extractor_of(objectives=blocks, embedding_weight=0.5)
    train, test = extractor(TINY), extractor(TEXTS)
    labels = [f"class {row % 2}" for row in range(len(TINY))]
    page, shown = tmp_path / "page.html", Shown(train=TINY, test=TEXTS)
    truth = [f"class {row % 2}" for row in range(len(TEXTS))]
    write_neighbours(page, train, labels, test, truth, shown, n_queries=99, n_neighbors=3)
    text = html.unescape(page.read_text("utf-8"))
    names = " + ".join(train.layout)
    for section in text.split("<section>")[2:]:
        row = int(re.search(r"test row (\d+)", section)[1])
        (whole,) = (one for one in section.split("<h3>") if one.startswith(f"{names}:"))
        order = np.argsort(-test.similarity(train)[row], kind="stable")[:3]
        wanted = [test.explain(row, int(other), train) for other in order]
        lines = [f"{one.similarity:.2f}: {one}" for one in wanted]
        assert re.findall(r"similarity (.*?)<", whole) == lines
        assert re.search(r"activation\S* \.[5-9]", lines[0])  # the weight of 3 counts


def many(n, n_changed):
    """Rows of which the embedding is wrong about the first and both blocks are right."""
    train, labels, test, truth = sides()
    rows = (np.arange(n) >= n_changed).astype(int)
    return train, labels, test[rows], [truth[row] for row in rows]


def test_what_is_left_out_is_said(tmp_path, monkeypatch) -> None:
    train, labels, test, truth = many(1200, 600)
    page, shown = (
        tmp_path / "page.html",
        Shown(train=TRAIN, test=[f"text {i}" for i in range(1200)]),
    )
    write_neighbours(page, train, labels, test, truth, shown, n_neighbors=2)
    text = page.read_text("utf-8")
    assert "12 of 1,200 test rows with" in text
    assert "600 of 1,200 test rows, 50 of 600 shown</summary>" in text
    assert text.count("<li>") == 50
    assert "0 of 1,200 test rows</summary>" in text
    monkeypatch.setattr("fungi_hf.evaluation.report.neighbours._CELLS", 4 * 1000)
    write_neighbours(page, train, labels, test, truth, shown, n_neighbors=2)
    text = page.read_text("utf-8")
    assert "Compared were 1,000 of 1,200 test rows, evenly spread." in text
    assert "500 of 1,000 test rows, 50 of 500 shown</summary>" in text


def test_changed_rows_are_shown_as_far_as_there_is_room(tmp_path, monkeypatch) -> None:
    train, labels, test, truth = many(30, 20)
    clip = {"array": np.sin(np.arange(4000) / 9), "sampling_rate": 8000}
    page, given = (
        tmp_path / "page.html",
        Shown(train=[clip] * 4, test=[clip] * 30, modality="audio"),
    )
    write_neighbours(page, train, labels, test, truth, given, n_neighbors=2)
    text = page.read_text("utf-8")
    changes = text.split("<section>")[1]
    assert changes.count('class="card plain"') == 20
    assert changes.count("<audio") + changes.count("<a href") == 20
    assert "are named only" not in text
    one = len(re.search(r'base64,([^"]+)"', text)[1])
    monkeypatch.setattr(
        "fungi_hf.evaluation.report.neighbours.Media", partial(Media, room=18 * one)
    )
    write_neighbours(page, train, labels, test, truth, given, n_neighbors=2)
    text = page.read_text("utf-8")
    changes = text.split("<section>")[1]
    assert text.count("<audio") == 18  # first those of the queries, and of what is near them
    n_named = changes.count("<p>test row ")
    assert n_named + changes.count("<audio") + changes.count("<a href") == 20
    assert f"{n_named} sounds are named only: a page holds 32 MB of them" in text
    image = Image.new("RGB", (30, 20))
    given = Shown(train=[image] * 4, test=[image] * 30, modality="vision")
    monkeypatch.undo()
    write_neighbours(page, train, labels, test, truth, given, n_neighbors=2)
    assert page.read_text("utf-8").split("<section>")[1].count("<img") == 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/some where/cards/lost.txt", "cards/lost.txt"),
        (r"C:\data\cards\lost.txt", "cards/lost.txt"),
        (Path("/data/cards/lost"), "cards/lost"),
        ("/lost.txt", "lost.txt"),
        ("my card/phone/keys", "my card/phone/keys"),
        ("and/or/not", "and/or/not"),
        ("/imagine a cat/dog/mouse", "/imagine a cat/dog/mouse"),
        ("/one\nof/two/lines", "/one\nof/two/lines"),
        ("x" * 300, "x" * 220 + "..."),
    ],
)
def test_texts_that_are_paths_are_shortened(text, shown) -> None:
    assert Media("text").item(text, "test row 0")["text"] == shown
