"""The report in a real browser: no console messages, no sideways scrolling, something drawn."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fungi_hf.evaluation import block_cka, evaluate_clustering, evaluate_knn
from fungi_hf.evaluation.records import SweepResult
from fungi_hf.evaluation.report.documents import EvaluationDocument
from fungi_hf.evaluation.report.maps import Segmented, shown_map, shown_picture, write_maps
from fungi_hf.evaluation.report.neighbours import Shown, write_neighbours
from fungi_hf.evaluation.report.sections import write_report
from fungi_hf.evaluation.segmentation.pictures import class_colours
from fungi_hf.features import FungiFeatures
from recipes.vision.data import load
from tests.evaluation.blocks import labelled

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--force-device-scale-factor=1",
)  # fmt: skip
WIDTHS = {"embedding": 12, "kl": 8, "simclr": 8, "activation_of_the_layer": 8}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the path"),
]
# A frame of the phone's width: the window itself cannot be narrower than 500 pixels.
FRAME = """<!DOCTYPE html><html><head><link rel="icon" href="data:,"></head>
<body style="margin:0"><iframe src="report.html" width="{width}" height="{height}"
style="border:0"></iframe><script>
onload = () => {{ const page = document.querySelector("iframe").contentDocument.documentElement;
document.title = JSON.stringify({{ scroll: page.scrollWidth, client: page.clientWidth,
height: page.scrollHeight, images: [...page.querySelectorAll("img")].map(i => i.naturalWidth),
sounds: [...page.querySelectorAll("audio")].map(a => Math.round(a.getBoundingClientRect().width)),
lost: [...page.querySelectorAll("a[href^='#']")].filter(
a => !page.querySelector("[id='" + a.getAttribute("href").slice(1) + "']")).length,
past: [...page.querySelectorAll("section,h1,nav,img,p,audio,li,summary")].filter(
e => e.getBoundingClientRect().right > page.clientWidth).length }}) }}
</script></body></html>"""


def browse(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def console(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "CONSOLE" in line or "Refused" in line]


def seen_in(folder: Path, width: int) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Open report.html in a frame of that width; give what the frame measured."""
    (folder / "frame.html").write_text(FRAME.format(width=width, height=2000))
    done = browse(
        folder,
        "--allow-file-access-from-files",
        "--window-size=1400,2000",
        "--virtual-time-budget=5000",
        "--dump-dom",
        f"file://{folder}/frame.html",
    )
    start = done.stdout.index("<title>") + len("<title>")
    return json.loads(done.stdout[start : done.stdout.index("</title>")]), done


def seen_whole(folder: Path, width: int) -> dict[str, Any]:
    """Say what was measured of a page that fits and is silent."""
    seen, done = seen_in(folder, width)
    assert done.returncode == 0
    assert console(done.stderr) == []
    assert seen["client"] == width
    assert seen["scroll"] <= width
    assert seen["past"] == seen["lost"] == 0
    return seen


def document() -> EvaluationDocument:
    train, y = labelled(240, WIDTHS, 12, noise=2.5)
    test, truth = labelled(160, WIDTHS, 12, seed=1, noise=2.5)
    names = [f"a rather long class name, number {i}" for i in range(12)]
    results = evaluate_knn(train, [names[i] for i in y], test, [names[i] for i in truth])
    results += evaluate_clustering(test, truth)
    blocks, values = block_cka(test)
    rows = [
        {"layer": f"encoder.layer.{i}.{part}", "block": i, "part": part, "features": name,
         "accuracy": 0.5 + 0.03 * i, "p": 0.5}
        for name in ("kl", "activation")
        for i in range(6)
        for part in ("attention.self.query", "attention.output.dense", "output.dense")
    ]  # fmt: skip
    first = {"layer": "", "block": None, "part": "", "features": "embedding", "accuracy": 0.6}
    return EvaluationDocument(
        results=tuple(results),
        similarity=(tuple(blocks), tuple(tuple(float(v) for v in row) for row in values)),
        costs={one.name: 1 + i / 10 for i, one in enumerate(results[:15])},
        sweeps=(SweepResult(kind="layers", rows=(first, *rows)),),
        source={"model": "a/very/long/path/without/any/space/" * 4, "fingerprint": "0" * 16},
    )


@pytest.mark.parametrize("width", [375, 390, 1280])
def test_the_page_fits_and_is_silent(width: int, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", document(), title="Banking-77 <MiniLM>")
    seen = seen_whole(tmp_path, width)
    assert len(seen["images"]) >= 6
    assert min(seen["images"]) > 100
    assert seen["height"] > 1000


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_of_neighbours_fits_and_is_silent(width: int, tmp_path: Path) -> None:
    train, test = load("tiles", "train"), load("tiles", "test").spread(3)
    shown = Shown(train=train.files, test=test.files, modality="vision")
    write_neighbours(
        tmp_path / "report.html",
        *near(train.labels, test.labels),
        shown,
        title="Tiles & neighbours",
    )
    seen = seen_whole(tmp_path, width)
    assert len(seen["images"]) > 12 * (1 + 2 * 6)  # and those that a block moves, and that changed
    assert min(seen["images"]) == 64  # every picture was decoded


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_of_sounds_fits_and_is_silent(width: int, tmp_path: Path) -> None:
    known, judged = np.arange(60) % 4, np.arange(40) % 4
    clips = [
        [{"array": np.sin(np.arange(4000) / (9 + one)), "sampling_rate": 8000} for one in labels]
        for labels in (known, judged)
    ]
    shown = Shown(train=clips[0], test=clips[1], modality="audio")
    write_neighbours(tmp_path / "report.html", *near(known, judged), shown, n_queries=4)
    seen = seen_whole(tmp_path, width)
    assert len(seen["sounds"]) > 4 + 6
    shut = [one for one in seen["sounds"] if not one]  # in a list that is folded up
    assert len(shut) < len(seen["sounds"]) / 2
    assert min(one for one in seen["sounds"] if one) >= 100  # wide enough for its buttons


def near(known: npt.ArrayLike, judged: npt.ArrayLike) -> tuple[Any, ...]:
    """Give features of two blocks without meaning, and labels, of both sides."""
    generator = np.random.default_rng(0)
    sides: list[Any] = []
    for labels in (known, judged):
        array = generator.standard_normal((np.size(labels), 8)).astype(np.float32)
        layout = {"embedding": slice(0, 4), "a_block_with_a_long_name": slice(4, 8)}
        sides += [FungiFeatures(array=array, layout=layout, fingerprint="f"), labels]
    return tuple(sides)


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_of_maps_fits_and_is_silent(width: int, tmp_path: Path) -> None:
    colours = class_colours(12)
    legend = {f"a class with a rather long name {i}": one for i, one in enumerate(colours)}
    generator = np.random.default_rng(0)
    rows = []
    for name in ("one picture.jpg", "a/folder/with/a/long/name/" * 4 + "two.jpg"):
        labels = generator.integers(0, 12, (30, 40)).repeat(12, 0).repeat(12, 1)
        figures = {"picture": shown_picture(colours[labels])}
        for title in ("plain tokens", "FUNGI (tokens + dense_infonce + activation)", "truth"):
            figures[title] = shown_map(labels, colours, "51.2% of pixels")
        rows.append(Segmented(name=name, figures=figures))
    write_maps(tmp_path / "report.html", rows, legend, lead="2 of 2 pictures")
    seen = seen_whole(tmp_path, width)
    assert len(seen["images"]) == 8
    assert min(seen["images"]) >= 160


def test_a_picture_of_the_page_is_not_blank(tmp_path: Path) -> None:
    from PIL import Image

    write_report(tmp_path / "report.html", document())
    shot = tmp_path / "shot.png"
    done = browse(
        tmp_path,
        f"--screenshot={shot}",
        "--window-size=1100,1600",
        f"file://{tmp_path}/report.html",
    )
    assert done.returncode == 0
    assert console(done.stderr) == []
    pixels = np.asarray(Image.open(shot).convert("L"), float)
    assert pixels.shape == (1600, 1100)
    assert pixels.std() > 10
    assert len(np.unique(pixels)) > 50


def test_the_check_would_see_a_fault(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(
        '<!DOCTYPE html><html><body><div style="width:900px">wide</div>'
        "<script>console.error('a fault')</script></body></html>"
    )
    seen, done = seen_in(tmp_path, 390)
    assert len(console(done.stderr)) == 1
    assert seen["scroll"] > 390
