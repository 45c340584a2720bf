"""The page of queries and their neighbours: what it shows, in which order, and what it refuses."""

from __future__ import annotations

import base64
import io
import re
import wave

import numpy as np
import pytest
from PIL import Image

from fungi_hf.cli import main
from fungi_hf.errors import FeatureError, InputError
from fungi_hf.evaluation.report import Shown, write_neighbours
from fungi_hf.features import FungiFeatures
from recipes.vision.data import load
from tests.encoders.vision.kit import pictures
from tests.encoders.vision.test_loading import write

TRAIN = ["a <b>bold</b> card", "my card", "top up", "top-up failed"]
TEST = ["card?", "top up & go"]


def features(rows, second) -> FungiFeatures:
    array = np.concatenate([np.array(rows, float), np.array(second, float)], axis=1)
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
    assert "card?" in first  # from wrong to right: shown first
    assert "top up &amp; go" in second
    assert "Wrong to right, from embedding to embedding + kl: 1 of 2 rows" in changes
    assert "<li>test row 0 (card), top-up -&gt; card: card?</li>" in changes
    assert "Right to wrong, from embedding to embedding + kl: 0 of 2 rows" in changes
    plain, both = first.split("<h3>")[1:]
    assert 'embedding: <span class="bad">top-up</span>' in plain
    assert 'embedding + kl: <span class="good">card</span>' in both
    assert re.findall(r"<p>(card|top-up)", both) == ["card", "card"]
    assert both.count("(new)") == 2
    assert "pushed out: top-up, top-up" in both
    embedding = np.dot([1, 0.6], [0.1, 1]) / np.hypot(1, 0.6) / np.hypot(0.1, 1)
    kl = 1 / np.hypot(1, 0.1)
    shares = f"{(embedding + kl) / 2:.2f}, embedding {embedding / 2:.2f}, kl {kl / 2:.2f}"
    assert shares in both
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
    assert len(found) == 2 * (1 + 2 * 4)  # k is at most the training rows


def test_sounds_are_played_from_the_page(tmp_path) -> None:
    rng = np.random.default_rng(0)
    clips = [
        {"array": rng.standard_normal(8000 * n) / 9, "sampling_rate": 8000} for n in (1, 2, 9, 1)
    ]
    shown = Shown(train=clips, test=clips[:2], modality="audio")
    write_neighbours(tmp_path / "page.html", *sides(), shown, n_neighbors=4)
    text = (tmp_path / "page.html").read_text("utf-8")
    found = re.findall(r'src="data:audio/wav;base64,([^"]+)"', text)
    assert len(found) == 2 * (1 + 2 * 4)
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
