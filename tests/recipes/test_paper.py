"""The paper's tables without a Hub: registry, local files, columns, plans, errors."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from fungi_hf.errors import ConfigError, InputError, StorageError
from fungi_hf.features import FungiFeatures, make_layout
from recipes.paper import judge, plan, render, tables
from recipes.paper.__main__ import main
from recipes.paper.access import Places, digest, find, missing
from recipes.paper.loading import load, spread
from recipes.paper.masks import read_mask
from recipes.paper.registry import SETS
from tests.recipes.standins import picture, sound

WORDS = ["--model", "model"]


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.delenv("FUNGI_DATA", raising=False)


def wrote(path, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def test_the_registry_holds_what_the_paper_has():
    by = {name: [one.name for one in table.sets] for name, table in tables.TABLES.items()}
    assert by["vision"] == [
        "imagenet-1k", "imagenet-100", "cifar10", "cifar100", "flowers102", "food101", "aircraft",
        "cars", "cub200", "textures", "pets", "eurosat",
    ]  # fmt: skip
    assert by["text"] == ["trec", "ag-news", "banking77", "tweet-eval", "sst"]
    assert by["audio"] == ["esc50", "speech-commands"]
    assert by["segmentation"] == ["voc", "ade20k"]
    assert by["landmarks"] == ["oxford", "paris"]
    assert sum(map(len, by.values())) == len(SETS)


@pytest.mark.parametrize("one", SETS.values(), ids=lambda one: one.name)
def test_every_row_names_repository_columns_splits_and_licence(one):
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", one.hub)
    assert all(one.columns)
    assert len(one.splits) == 2
    assert one.licence
    assert min(one.rows) > 0
    assert one.metric == {"classification": "accuracy", "segmentation": "miou"}.get(one.task, "map")
    assert bool(one.n_classes) == (one.task == "segmentation")


@pytest.mark.parametrize("name", tables.TABLES)
@pytest.mark.parametrize("preset", tables.PRESETS)
def test_configs_are_the_presets_with_the_control_and_nothing_reduced(name, preset):
    table = tables.TABLES[name]
    for one in table.sets:
        config = tables.config(table, one, preset=preset, seed=7)
        names = [spec.name for spec in config.objectives]
        assert names[-1] == "activation"
        assert (config.reduction, config.seed, config.modality) == (None, 7, table.modality)
        wanted = {"text": ["kl", "simclr"], "audio": ["kl", "simclr"],
                  "segmentation": ["dense_infonce"]}  # fmt: skip
        assert names[:-1] == wanted.get(name, ["kl", "dino", "simclr"])
        assert config.published_signs == (preset == "paper")


def test_speech_commands_have_frames_and_statistics_of_their_own():
    table = tables.TABLES["audio"]
    esc, speech = (tables.config(table, one) for one in table.sets)
    assert (esc.max_length, esc.audio_statistics) == (512, "esc50")
    assert (speech.max_length, speech.audio_statistics) == (128, "speech_commands")


def test_protocols_are_the_published_ones():
    vision, text = tables.TABLES["vision"], tables.TABLES["text"]
    rule = tables.neighbours(vision, "paper", 384, 42)
    assert (rule.n_neighbors, rule.metric, rule.pca) == (20, "euclidean", 384)
    assert tables.neighbours(text, "paper", 768, 42).pca == 512
    assert tables.neighbours(vision, "paper", 768, 42, 5).sampling == "first"
    assert tables.neighbours(text, "paper", 768, 42, 10).sampling == "proportional"
    assert tables.neighbours(text, "fungi", 768, 42, 5).sampling == "balanced"
    assert not tables.probe("paper", 768, 42).intercept


def features(n, seed=0):
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(size=(n, 8)) for _ in range(4)]
    array = np.concatenate([b / np.linalg.norm(b, axis=1, keepdims=True) for b in blocks], axis=1)
    layout = make_layout(dict.fromkeys(("embedding", "kl", "dino", "activation"), 8))
    return FungiFeatures(array.astype(np.float32), "same", layout)


def test_columns_grow_by_objective_and_end_with_the_controls():
    assert judge.arms(["embedding", "kl", "dino", "activation"]) == [
        ("embedding",), ("embedding", "kl"), ("embedding", "kl", "dino"),
        ("embedding", "activation"), ("embedding", "random"), ("embedding", "repeated"),
    ]  # fmt: skip
    assert judge.arms(["tokens", "dense_infonce", "activation"], "tokens") == [
        ("tokens",), ("tokens", "dense_infonce"), ("tokens", "activation"),
    ]  # fmt: skip
    assert judge.title(("embedding", "kl", "dino")) == "+ KL + DINO"


def test_random_and_repeated_columns_are_as_wide_and_long_as_all_gradients():
    given = features(30)
    wide = judge.widened(given, "train", 1)
    for name in ("random", "repeated"):
        block = wide.block(name)
        assert block.shape == (30, 16)
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), 2**0.5, rtol=1e-5)
    np.testing.assert_array_equal(wide.block("repeated")[:, 8:], given.block("embedding"))
    again, other = judge.widened(given, "train", 1), judge.widened(given, "test", 1)
    np.testing.assert_array_equal(wide.array, again.array)
    assert abs(float(np.mean(wide.block("random") * other.block("random")))) < 0.02


def test_classification_has_every_judge_and_says_what_it_left_out():
    table = tables.TABLES["vision"]
    train, test = features(30), features(12, seed=1)

    class Given:
        def __init__(self, n):
            self.labels = np.arange(n) % 3

    loaded = type("Loaded", (), {"train": Given(30), "test": Given(12)})()
    how = {"preset": "paper", "seed": 1}
    found = judge.classify(train, test, loaded, table, probe_all=True, **how)
    assert list(found) == ["notes", "full", "few-shot", "linear"]
    assert [len(found[name]["rows"]) for name in list(found)[1:]] == [6, 6, 6]
    # The embedding beside itself has the neighbours of the embedding.
    repeated = found["full"]["rows"][-1]
    assert repeated["blocks"] == ["embedding", "repeated"]
    assert repeated["against_first"]["difference"] == 0
    few = judge.classify(train, test, loaded, table, shots=11, judges=["few-shot"], **how)
    assert list(few) == ["notes"]
    assert "11-shot needs 11 rows of each class" in few["notes"][0]


def test_forward_passes_are_counted():
    table = tables.TABLES["vision"]
    one = SETS["cifar10"]
    config = tables.config(table, one)
    # The input, 12 crops, 49 patches; 49 patches of each of 100 and of 256 images for the bank.
    assert plan.passes(config, (100, 50)) == 150 * 62 + 100 * 49
    assert plan.passes(config, (1000, 0)) == 1000 * 62 + 256 * 49
    # DeepCluster: 8 crops, two of every training image for the clusters.
    config = tables.config(table, one, objectives=["deepcluster"])
    assert [spec.name for spec in config.objectives] == ["deepcluster", "activation"]
    assert plan.passes(config, (1000, 100)) == 1100 * 9 + 1000 * 2


def test_rows_are_evenly_spread():
    assert spread(10, None).tolist() == list(range(10))
    assert spread(10, 4).tolist() == [0, 3, 6, 9]
    assert spread(3, 5).tolist() == [0, 1, 2]


def test_masks_of_palette_grey_and_colours_are_labels():
    labels = np.array([[0, 1, 255], [20, 5, 1]])
    grey = Image.fromarray(labels.astype(np.uint8))
    palette = grey.copy()
    palette.putpalette(list(range(256)) * 3)
    colours = {0: (0, 0, 0), 1: (128, 0, 0), 5: (128, 0, 128), 20: (0, 64, 128),
               255: (224, 224, 192)}  # fmt: skip
    table = np.array([colours.get(k, (9, 9, 9)) for k in range(256)], np.uint8)

    def png(image):
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    for image in (grey, palette, Image.fromarray(table[labels])):
        np.testing.assert_array_equal(read_mask({"bytes": png(image)}), labels)
    with pytest.raises(InputError, match="colours that no class of VOC has: #090909"):
        read_mask(png(Image.fromarray(table[np.array([[2]])])))


def test_local_files_stand_for_a_set_and_the_record_says_so(tmp_path, no_data, monkeypatch):
    place = find(SETS["banking77"], Places())
    loaded = load(SETS["banking77"], place, (200, 100))
    assert place.kind == "local"
    assert place.record() == {
        "kind": "local", "folder": "text/banking77", "digest": digest_of("banking77")
    }  # fmt: skip
    assert (len(loaded.train), len(loaded.test), len(loaded.names)) == (200, 100, 77)
    assert isinstance(loaded.train.inputs[0], str)
    folder = tmp_path / "vision" / "cifar10_3k"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    wrote(folder / "a.parquet", image_bytes=[picture(k, rng) for k in (0, 1, 2, 0)],
          label=[0, 1, 2, 0], split=["train", "train", "test", "train"])  # fmt: skip
    (folder / "labels.json").write_text('["r", "g", "b"]')
    monkeypatch.setenv("FUNGI_DATA", str(tmp_path))
    place = find(SETS["cifar10"], Places())
    loaded = load(SETS["cifar10"], place)
    assert place.local.title == "CIFAR-10 (3,000 images, JPEG)"
    assert loaded.train.labels.tolist() == [0, 1, 0]
    assert loaded.test.labels.tolist() == [2]
    assert isinstance(next(iter(loaded.test.inputs)), bytes)
    assert missing([SETS["cifar10"]], Places(hub_only=True))[0] == {}


def digest_of(name):
    from recipes.datasets import HERE

    return digest(HERE / "data" / name)


def test_folds_of_sounds_are_train_and_test(tmp_path, no_data):
    folder = tmp_path / "esc10"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wrote(folder / "esc10.parquet", audio_bytes=[sound(k % 3, rng) for k in range(10)],
          label=[k % 3 for k in range(10)], fold=[1 + k % 5 for k in range(10)])  # fmt: skip
    (folder / "labels.json").write_text('["a", "b", "c"]')
    place = find(SETS["esc50"], Places(root=tmp_path))
    loaded = load(SETS["esc50"], place)
    assert place.local.title == "ESC-10 (10 of the 50 classes)"
    assert (len(loaded.train), len(loaded.test)) == (8, 2)
    assert loaded.test.labels.tolist() == [0, 2]


def test_a_repository_that_was_downloaded_is_read_like_the_hub(tmp_path, no_data):
    from tests.recipes.standins import N_TEST, N_TRAIN, repository

    for name in ("tweet-eval", "trec"):
        _, files = repository(SETS[name])
        for path, content in files.items():
            target = tmp_path / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        place = find(SETS[name], Places(folders={name: tmp_path / name}))
        noted = tmp_path / name / ".cache" / "huggingface" / "download" / "a.metadata"
        assert place.record() == {"kind": "folder", "folder": name, "resolved": None}
        noted.parent.mkdir(parents=True)
        noted.write_text("c0ffee\netag\n1.0\n")
        assert place.record()["resolved"] == "c0ffee"
        loaded = load(SETS[name], place)
        assert (len(loaded.train), len(loaded.test)) == (N_TRAIN, N_TEST)
        assert loaded.names == ["one", "two", "three"]


def test_landmarks_of_a_folder_have_a_truth_in_json(tmp_path, no_data):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "q"):
        (tmp_path / f"{name}.png").write_bytes(picture(0, rng))
    truth = {"images": ["a", "b"], "queries": [
        {"image": "q", "easy": ["b"], "hard": [], "junk": ["a"]}]}  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    place = find(SETS["oxford"], Places(folders={"oxford": tmp_path}))
    loaded = load(SETS["oxford"], place)
    assert [path.rsplit("/", 1)[1] for path in loaded.train.inputs] == ["a.png", "b.png"]
    assert loaded.truth.easy == ((1,),)


def test_what_is_not_at_hand_gives_the_lines_that_say_what_to_download(no_data, tmp_path, capsys):
    words = ["--table", "vision", *WORDS, "--data", str(tmp_path)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "12 of 12 sets are not at hand:" in error
    for one in tables.TABLES["vision"].sets:
        line = f"hf download {one.hub} --repo-type dataset --revision {one.revision} "
        assert f"{line}--local-dir {tmp_path / one.name}, then --data {tmp_path}" in error
    assert "--skip-missing" in error
    assert main(["--table", "landmarks", *WORDS]) == 1
    assert "(or pictures and a truth.json in FOLDER/oxford)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--table", "visoin", *WORDS], "no table 'visoin'; choose one of 'vision', 'audio'"),
        (["--table", "text"], "--model is needed"),
        (WORDS, "--table is needed: vision, text, audio, segmentation, landmarks"),
        (["--table", "text", *WORDS, "--sets", "cifar10"], "table 'text' has no set 'cifar10'"),
        (["--table", "text", *WORDS, "--objectives", "dino"],
         "preset 'paper' of table 'text' has no objective 'dino'; choose one of 'kl', 'simclr'"),
        (["--table", "text", *WORDS, "--preset", "papre"], "no preset 'papre'; choose one of"),
        (["--table", "text", *WORDS, "--judges", "all"], "--judges: 'all'; choose one of"),
        (["--table", "text", *WORDS, "--rows", "0", "5"], "--rows is [0, 5]; allowed: at least 1"),
        (["--table", "text", *WORDS, "--data", "/no/where"], "/no/where, which is no folder"),
        (["--table", "text", *WORDS, "--data", "tric=x"], "a set 'tric'; choose one of 'trec'"),
        (["--table", "text", *WORDS, "--sets", "trec", "--data", "trec=/no/where"],
         "trec: --data names the folder /no/where, which is not there"),
        (["--table", "text", *WORDS, "--revision", "trec"], "'trec' must be SET=VALUE"),
        (["--table", "text", *WORDS, "--sets", "banking77", "--rows", "9", "9"],
         "'model' is neither a folder nor a repository that can be reached"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_with_what_is_allowed(words, error, no_data, capsys):
    assert main(words) == 1
    assert error in capsys.readouterr().err


def test_a_local_folder_without_a_column_or_file_is_refused(tmp_path, no_data):
    one = SETS["cifar10"]
    (tmp_path / "labels.json").write_text("[]")
    place = find(one, Places(folders={"cifar10": tmp_path}))
    with pytest.raises(StorageError, match=r"holds no parquet file beside its labels\.json"):
        load(one, place)
    wrote(tmp_path / "a.parquet", image_bytes=[b"x"], label=[0])
    with pytest.raises(ConfigError, match="column 'split'; choose one of 'image_bytes', 'label'"):
        load(one, place)
    wrote(tmp_path / "a.parquet", label=[0, 1], split=["train", "test"])
    with pytest.raises(ConfigError, match="column 'image_bytes'; choose one of 'label', 'split'"):
        load(one, place)
    wrote(tmp_path / "a.parquet", image_bytes=[b"x"], label=[0], split=["train"])
    with pytest.raises(ConfigError, match="split 'test'; choose one of 'train'"):
        load(one, place)


def test_the_list_shows_every_table_and_set_with_its_licence(no_data, capsys):
    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    for one in SETS.values():
        (line,) = [row for row in text.splitlines() if row.startswith(f"  {one.name} ")]
        assert one.hub in line
        assert one.licence in line
        assert ("gated" in line) == one.gated
    assert "banking77        mteb/banking77@main" in text
    (line,) = [row for row in text.splitlines() if row.startswith("  banking77 ")]
    assert line.endswith("files here")


def test_the_tables_of_the_page_have_a_row_for_each_set_and_run():
    lines = render.registry().splitlines()
    assert len(lines) == 2 + len(SETS)
    assert len(render.overview().splitlines()) == 2 + len(tables.TABLES)
    for name, record in render.records().items():
        assert record["record"] == "fungi-hf-paper-table"
        assert name.startswith(record["table"])
        text = render.markdown(record)
        for one in record["sets"]:
            assert one["title"] in text
            assert one["source"]["kind"] != "hub" or one["source"]["resolved"]
