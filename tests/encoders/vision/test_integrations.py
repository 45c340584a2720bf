"""Pictures through every door: pipeline, data sets, sentence-transformers, scikit-learn, shell."""

import io
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import pipeline

import fungi_hf  # noqa: F401 - registers the task
from fungi_hf.cli import main
from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.errors import ConfigError, ImageError, InputTypeError
from fungi_hf.extractor import FungiExtractor
from fungi_hf.features import FungiFeatures
from fungi_hf.integrations.datasets import extract_dataset
from fungi_hf.integrations.sentence_transformers import FungiModule
from fungi_hf.integrations.sklearn import FungiTransformer

from .kit import pictures
from .test_loading import write


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def extractor(place):
    config = FungiConfig(objectives=(KL(), SimCLR(n_views=3, n_negatives=4, latent_dim=16)))
    return FungiExtractor.from_pretrained(place, config).fit(pictures(6))


def files(folder, images, kind="png"):
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, image in enumerate(images):
        paths.append(folder / f"{i}.{kind}")
        Image.fromarray(image).save(paths[-1])
    return paths


def test_every_kind_of_picture_goes_into_the_pipeline(place, tmp_path):
    pipe = pipeline("fungi-feature-extraction", model=place)
    image = pictures(1)[0]
    (path,) = files(tmp_path, [image])
    expected = pipe(str(path), return_tensors=True)
    assert expected.shape == (1, 32)
    one_by_one = [
        *(path, path.read_bytes(), Image.open(path), image, torch.from_numpy(image)),
        *({"bytes": path.read_bytes(), "path": None}, {"image": Image.open(path), "label": 1}),
    ]
    for picture in one_by_one:
        assert torch.allclose(pipe(picture, return_tensors=True), expected, atol=1e-5)
    for batch in (pipe(one_by_one, return_tensors=True, batch_size=2), pipe(iter(one_by_one))):
        found = [torch.as_tensor(row) for row in batch]
        assert len(found) == 7
        assert all(torch.allclose(row, expected, atol=1e-5) for row in found)
    with pytest.raises(ImageError, match=r"input 1 \(gone\.png\): gone\.png does not exist"):
        pipe([path, "gone.png"])
    pipe.save_pretrained(tmp_path / "saved")
    again = pipeline("fungi-feature-extraction", model=str(tmp_path / "saved"))
    assert torch.allclose(again(image, return_tensors=True), expected, atol=1e-6)


def test_an_array_of_three_axes_is_one_picture_and_no_list_of_rows(extractor):
    image = pictures(1)[0]
    with pytest.raises(InputTypeError, match=r"one array of shape \(40, 30, 3\); pass a list of"):
        extractor(image)
    with pytest.raises(InputTypeError, match="one array of shape"):
        extractor(torch.from_numpy(image))
    batch = np.stack([image, image[::-1]])
    assert extractor(batch).array.shape == (2, 48)
    assert np.array_equal(extractor(batch).array, extractor(list(batch)).array)


def test_unusable_pictures_are_left_out_and_listed(extractor):
    good = pictures(3)
    items = [good[0], b"abcd", good[1], np.zeros((1, 400, 3), np.uint8), good[2], 7]
    features = extractor(items, on_error="skip")
    assert [failure.index for failure in features.failures] == [1, 3, 5]
    assert "no picture of a known format" in features.failures[0].error
    assert np.array_equal(features.array, extractor(good).array)


def test_generators_and_streams_are_read_in_chunks(extractor):
    items = pictures(40)
    expected = extractor(items).array
    assert np.abs(extractor(iter(items)).array - expected).max() < 1e-6


def test_notes_are_said_once(extractor):
    clear = np.dstack([pictures(1)[0], np.zeros((40, 30), np.uint8)])
    with pytest.warns(UserWarning, match="2 of the pictures are transparent in places"):
        extractor([clear, clear[::-1]])


def test_columns_of_data_sets_decoded_or_not(extractor, tmp_path):
    paths = files(tmp_path, pictures(5))
    expected = extractor(paths).array
    rows = {"image": [str(path) for path in paths], "label": [0, 1, 0, 1, 0]}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    assert np.abs(extractor(data["image"]).array - expected).max() < 1e-5
    assert np.abs(extractor(data).array - expected).max() < 1e-5  # whole rows
    undecoded = data.cast_column("image", datasets.Image(decode=False))
    assert np.abs(extractor(undecoded["image"]).array - expected).max() < 1e-5
    made = extract_dataset(data, extractor, "image")
    assert np.abs(np.array(made["image_fungi"]) - expected).max() < 1e-5
    assert isinstance(made.features["image"], datasets.Image)
    assert made[0]["image"].size == (30, 40)
    streamed = extract_dataset(data.to_iterable_dataset(), extractor, "image")
    found = np.array([row["image_fungi"] for row in streamed])
    assert np.abs(found - expected).max() < 1e-5
    made.add_faiss_index("image_fungi")
    _, nearest = made.get_nearest_examples("image_fungi", expected[2], k=1)
    assert nearest["label"] == [0]


def test_sentence_transformers_takes_pictures(extractor, tmp_path):
    images = [Image.fromarray(one) for one in pictures(4)]
    expected = extractor(images).array
    module = FungiModule(extractor)
    assert module.modalities == ["image"]
    model = SentenceTransformer(modules=[module], device="cpu")
    assert np.abs(model.encode(images) - expected).max() < 1e-5
    assert np.abs(model.encode(images[0]) - expected[0]).max() < 1e-5
    paths = files(tmp_path / "pictures", pictures(4))
    assert np.abs(model.encode([str(path) for path in paths]) - expected).max() < 1e-5
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert np.abs(again.encode(images) - expected).max() < 1e-5
    with pytest.raises(ConfigError, match="image_size"):
        model.max_seq_length = 48


def test_scikit_learn_takes_pictures(extractor):
    items = [*pictures(4), Image.fromarray(pictures(1)[0])]
    transformer = FungiTransformer(extractor).fit(items)
    found = transformer.transform(items)
    assert np.abs(found - extractor(items).array).max() < 1e-5
    assert np.array_equal(found[0], found[4])


@pytest.fixture
def folders(tmp_path):
    for side, seed in (("train", 1), ("test", 2)):
        for i, label in enumerate(("cat", "dog", "emu")):
            images = [np.roll(one, 9 * i, 0) // (i + 1) for one in pictures(8, seed=seed)]
            files(tmp_path / side / label, images, "jpg" if label == "emu" else "png")
    return tmp_path


def test_the_shell_reads_folders_of_pictures(place, folders, capsys):
    out = folders / "train.safetensors"
    assert main(["extract", place, str(folders / "train"), "--out", str(out)]) == 0
    features = FungiFeatures.load(out)
    assert features.array.shape == (24, 32)
    expected = FungiExtractor.from_pretrained(place)(sorted((folders / "train").rglob("*.*g")))
    assert np.abs(features.array - expected.array).max() < 1e-5
    sides = ["--train", str(folders / "train"), "--test", str(folders / "test")]
    capsys.readouterr()
    assert main(["knn", place, *sides, "-k", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 24
    assert main(["evaluate", place, *sides, "--out", str(folders / "results.json")]) == 0
    results = json.loads((folders / "results.json").read_text())
    assert results["record"] == "fungi-hf-evaluation-set"
    tuned = str(folders / "tuned")
    command = ["tune", place, str(folders / "train"), "--out", tuned, "-k", "3", "--no-gradients"]
    assert main(command) == 0
    assert FungiExtractor.from_pretrained(tuned).is_fitted


def test_the_shell_says_what_is_wrong_with_a_folder(place, folders, capsys):
    (folders / "train" / "stray.png").write_bytes(b"abcd")
    command = ["knn", place, "--train", str(folders / "train"), "--test", str(folders / "test")]
    assert main(command) != 0
    assert "1 files lie in none, such as stray.png" in capsys.readouterr().err
    (folders / "train" / "stray.png").unlink()
    (folders / "test" / "cat" / "0.png").write_bytes(b"abcd")
    assert main(["extract", place, str(folders / "test"), "--out", str(folders / "o.npy")]) != 0
    assert "no picture of a known format" in capsys.readouterr().err


def test_the_shell_reads_tables_with_pictures(place, tmp_path, capsys):
    data = []
    for one in pictures(3):
        buffer = io.BytesIO()
        Image.fromarray(one).save(buffer, "PNG")
        data.append(buffer.getvalue())
    table = pa.table(
        {"image": [{"bytes": one, "path": "a.png"} for one in data], "label": [0, 1, 0]}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    assert main(["extract", place, str(tmp_path / "rows.parquet")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = FungiExtractor.from_pretrained(place)(pictures(3)).array
    assert np.abs(np.array([line["features"] for line in lines]) - expected).max() < 1e-5
    assert lines[0]["input"] == "a.png"
