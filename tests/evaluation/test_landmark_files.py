"""Ground truths of landmarks from JSON files, and rows in their order."""

import json
import pickle
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from fungi_hf.errors import FungiError, InputError, InputTypeError, ShapeError, StorageError
from fungi_hf.evaluation import Landmarks, read_landmarks
from fungi_hf.evaluation.landmarks import KINDS

IMAGES = ["tower_1", "tower_2", "bridge_1", "bridge_2", "street"]
TRUTH = Landmarks(
    database=IMAGES,
    queries=["tower_0", "bridge_0"],
    easy=[[0], [2, 3]],
    hard=[[1], []],
    junk=[[4], []],
)
LISTS = [
    {"easy": ["tower_1"], "hard": [1], "junk": ["street"]},
    {"easy": [2, "bridge_2"], "hard": [], "junk": []},
]
OWN = {
    "images": IMAGES,
    "queries": [{"image": name, **lists} for name, lists in zip(TRUTH.queries, LISTS, strict=True)],
}
PUBLISHED = {
    "imlist": IMAGES,
    "qimlist": [*TRUTH.queries],
    "gnd": [
        {"bbx": [0.5, 1, 20, 30], "easy": [0], "hard": [1], "junk": [4]},
        {"bbx": [0, 0, 9, 9], "easy": [2, 3], "hard": [], "junk": []},
    ],
}


@pytest.fixture
def read(tmp_path):
    def of(content, name="truth.json"):
        place = tmp_path / name
        place.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_landmarks(place)

    return of


@pytest.mark.parametrize("content", [OWN, PUBLISHED], ids=["own", "published"])
def test_both_structures_are_read(read, content):
    assert read(content) == TRUTH


def test_a_mark_at_the_start_of_the_file_is_no_text(tmp_path):
    place = tmp_path / "truth.JSON"
    place.write_text(json.dumps(OWN), encoding="utf-8-sig")
    assert read_landmarks(str(place)) == TRUTH


def changed(query=0, **changes):
    queries = [dict(one) for one in OWN["queries"]]
    queries[query] |= changes
    return OWN | {"queries": queries}


WRONG = {
    "no JSON": ("{", StorageError, "is not JSON: Expecting property name"),
    "nothing": ("", StorageError, "is not JSON: Expecting value"),
    "lines": ('{"a": 1}\n{"b": 2}', StorageError, "is not JSON: Extra data: line 2"),
    "deep": ("[" * 100_000, StorageError, "is not JSON: maximum recursion depth"),
    "a list": ([], InputTypeError, "the file is a list; it must be a JSON object"),
    "no keys": ({}, InputError, "the file lacks 'images', 'queries'; its keys are none"),
    "a key": ({"images": ["a"]}, InputError, "the file lacks 'queries'; its keys are 'images'"),
    "published key": ({"gnd": []}, InputError, "the file lacks 'imlist', 'qimlist'; its keys are"),
    "both": (
        OWN | {"gnd": []},
        InputError,
        "keys are 'images', 'queries', 'gnd'; give 'images', 'queries' or 'imlist', 'qimlist'",
    ),
    "no images": (OWN | {"images": []}, InputError, "there are no images; give at least 1"),
    "no queries": (OWN | {"queries": []}, InputError, "there are no queries; give at least 1"),
    "images": (OWN | {"images": "abc"}, InputTypeError, "images is a str; it must be a list"),
    "queries": (OWN | {"queries": {}}, InputTypeError, "queries is a dict; it must be a list"),
    "a query": (OWN | {"queries": [3]}, InputTypeError, "query 0 is a int; it must be a JSON obj"),
    "query keys": (OWN | {"queries": [{}]}, InputError, "query 0 lacks 'image', 'easy', 'hard'"),
    "a name": (OWN | {"images": ["a", 3]}, InputTypeError, "name 1 is 3; it must be a text"),
    "no name": (OWN | {"images": [""]}, InputTypeError, "name 0 is ''; it must be a text"),
    "query name": (changed(image=None), InputTypeError, "queries: name 0 is None; it must be a"),
    "repeated": (
        OWN | {"images": [*IMAGES, "street", "tower_1"]},
        InputError,
        "images: 'tower_1', 'street' stand there more than once; name each once",
    ),
    "twice asked": (changed(1, image="tower_0"), InputError, "queries: 'tower_0' stand there more"),
    "a text": (changed(easy="street"), InputTypeError, "query 0: easy is a str; it must be a list"),
    "unknown": (
        changed(1, junk=["stret"]),
        InputError,
        "query 1: junk names 'stret', which is none of the 5 images",
    ),
    "past the end": (
        changed(hard=[5]),
        InputError,
        "query 'tower_0': hard: a row must be an integer from 0 to 4; got 5",
    ),
    "below 0": (changed(hard=[-1]), InputError, "hard: a row must be an integer from 0 to 4; got"),
    "a bool": (changed(hard=[True]), InputTypeError, "an integer from 0 to 4; got True"),
    "a fraction": (changed(hard=[1.0]), InputTypeError, r"an integer from 0 to 4; got 1\.0"),
    "a list in it": (changed(hard=[[1]]), InputTypeError, r"an integer from 0 to 4; got \[1\]"),
    "nothing in it": (changed(hard=[None]), InputTypeError, "an integer from 0 to 4; got None"),
    "row twice": (changed(hard=[1, "tower_2"]), InputError, "hard: row 1 stands there twice"),
    "gnd of others": (
        PUBLISHED | {"gnd": PUBLISHED["gnd"][:1]},
        ShapeError,
        "gnd has 1 members for 2 of qimlist",
    ),
    "the first version": (
        PUBLISHED | {"gnd": [{"ok": [], "junk": [], "bbx": []}] * 2},
        InputError,
        "gnd 0 lacks 'easy', 'hard'; its keys are 'ok', 'junk', 'bbx'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_has_one_clear_error(read, name):
    content, error, words = WRONG[name]
    with pytest.raises(error, match=words) as caught:
        read(content)
    assert re.match(r"\S+truth\.json", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("first", "second"), [*permutations(KINDS, 2)])
def test_a_row_is_of_one_kind(read, first, second):
    own = {kind: [] for kind in KINDS} | {first: [2], second: ["bridge_1"]}
    with pytest.raises(InputError, match=r"image 'bridge_1' \(row 2\) is both \w+ and \w+; it can"):
        read(changed(**own))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        read_landmarks(tmp_path / "none.json")
    (tmp_path / "other.json").write_bytes(b"\x80\x04\x95")
    with pytest.raises(StorageError, match="is not UTF-8"):
        read_landmarks(tmp_path / "other.json")
    with pytest.raises(StorageError, match=r"is a pickle, .* docs/evaluation\.md shows how"):
        read_landmarks(tmp_path / "gnd_roxford5k.pkl")


def test_the_lines_of_the_page_convert_a_published_file(tmp_path):
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text("utf-8")
    (block,) = re.findall(r"^python - gnd_roxford5k\.pkl .*?^END$", page, re.MULTILINE | re.DOTALL)
    lists = [{kind: np.array(one[kind]) for kind in KINDS} for one in PUBLISHED["gnd"]]
    with (tmp_path / "gnd_roxford5k.pkl").open("wb") as stream:
        pickle.dump(PUBLISHED | {"gnd": [one | {"bbx": np.zeros(4)} for one in lists]}, stream)
    command = block.replace("python", f"'{sys.executable}'", 1)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert read_landmarks(tmp_path / "roxford5k.json") == TRUTH


def test_landmarks_of_python_are_checked_alike():
    arrays = Landmarks(
        database=np.array(IMAGES),
        queries=("tower_0", "bridge_0"),
        easy=[np.array([0]), (2, 3)],
        hard=[np.array([1]), ()],
        junk=[[4], []],
    )
    assert arrays == TRUTH
    with pytest.raises(ShapeError, match="there are 1 hard lists for 2 queries"):
        Landmarks(database=["a", "b"], queries=["q", "r"], easy=[[], []], hard=[[]], junk=[])
    with pytest.raises(FungiError, match="the easy lists is a dict; it must be a list"):
        Landmarks(database=["a"], queries=["q"], easy={}, hard=[[]], junk=[[]])


def test_rows_in_any_order_are_brought_into_that_of_the_file():
    names = ["photos/tower_0.jpg", *[f"photos/{name}.jpg" for name in IMAGES[::-1]]]
    assert TRUTH.database_rows([*names, "photos/bridge_0.jpg"]).tolist() == [5, 4, 3, 2, 1]
    assert TRUTH.query_rows([*names, "photos/bridge_0.jpg"]).tolist() == [0, 6]
    rows = np.arange(6)[TRUTH.database_rows(IMAGES[1:] + IMAGES[:1])]
    assert rows.tolist() == [4, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("wanted", "given", "row"),
    [
        ("a", ["b", "a"], 1),
        ("a", ["x/a.jpg", "a"], 1),
        ("a", ["xa.jpg", "x/y/a.jpeg"], 1),
        ("a.jpg", ["x/a.png", "x/a.jpg"], 1),
        ("y/a.jpg", ["x/a.jpg", "x/y/a.jpg"], 1),
        ("y/a", ["C:\\x\\a.jpg", "C:\\y\\a.jpg"], 1),
        ("a.1", ["a.2.jpg", "a.1.jpg"], 1),
    ],
)
def test_a_row_is_named_by_the_end_of_its_path(wanted, given, row):
    one = Landmarks(database=[wanted], queries=["q"], easy=[[0]], hard=[[]], junk=[[]])
    assert one.database_rows(given).tolist() == [row]


def test_names_without_one_row_are_named():
    with pytest.raises(InputError, match=r"2 of the 5 images .* have no row among 3: 'bridge_2', "):
        TRUTH.database_rows(IMAGES[:3])
    with pytest.raises(InputError, match="1 of the 2 query images have several rows among 3: 'tow"):
        TRUTH.query_rows(["x/tower_0.jpg", "y/tower_0.jpg", "bridge_0"])
    with pytest.raises(InputTypeError, match="name 0 of the rows is 3; it must be a text"):
        TRUTH.query_rows([3])
    many = Landmarks(database=[*"abcdefgh"], queries=["q"], easy=[[0]], hard=[[]], junk=[[]])
    with pytest.raises(InputError, match="'a', 'b', 'c', 'd', 'e' and 3 more"):
        many.database_rows(["x"])
    two = Landmarks(database=["a", "a.jpg"], queries=["q"], easy=[[0]], hard=[[]], junk=[[]])
    with pytest.raises(InputError, match=r"'a', 'a\.jpg' are one row, 'x/a\.jpg'"):
        two.database_rows(["x/a.jpg"])
