"""Give every recorded result the fingerprint that its config has today; no figure is touched.

    FUNGI_DATA=FOLDER python -m recipes.relabel --whisper FOLDER_OR_ID
    python -m recipes.relabel NAME [NAME ...]

A fingerprint is a digest of config, weights and fitted state. A change of the digest gives the same
features another name, and the names in recipes/results are those of before. The command builds the
extractor of each recipe, fits it on the recipe's training texts where the config needs that, and
writes its fingerprint in place of the recorded one. A sound recipe has its fingerprint before any
fold is fitted. A config inside a record is written as `to_dict` gives it today. Records without a
fingerprint and without a config (tuning, ablations, MTEB) stay as they are.

Nothing is written if anything is refused: a config that cannot be read, a record whose recipe is
missing or says something else than the record, data or weights that are not here.

The fingerprint of a fitted extractor holds on one machine. Its state is computed in float32, and
the last bits depend on the processor, the number of threads and the version of torch: another
machine gives the same figures under another fingerprint. Compare such fingerprints on the machine
that wrote them; those of extractors without fitted state are the same everywhere.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError
from fungi_hf.storage.files import replace_file
from recipes import linear
from recipes import run as text_recipe
from recipes.datasets import folder_of, load

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
FOLDERS = ("configs", "audio", "icl", "sweeps")
Document = dict[str, Any]


class Refused(SystemExit):
    """A record that cannot be relabelled; nothing was written."""

    def __init__(self, name: str, reason: str) -> None:
        """Name the record and what is wrong with it."""
        super().__init__(f"{name}: {reason}; nothing was relabelled")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a fingerprint is of.

    Attributes:
        model: Packaged model, folder or Hub id.
        config: Of the extractor.
        data: Text set whose training rows fit the extractor; empty: it stays unfitted.
        rows: Training rows taken, spread evenly; None takes all.
    """

    model: str
    config: FungiConfig
    data: str = ""
    rows: int | None = None

    @property
    def needs_texts(self) -> bool:
        """Whether there is something to fit."""
        return bool(self.data) and self.config.needs_fit

    def check(self) -> str:
        """Find the training texts, if they are needed, before any work; give no fingerprint."""
        if self.needs_texts:
            folder_of(self.data)
        return ""

    def fingerprint(self) -> str:
        """Build the extractor, fit it if it needs that, and give its fingerprint."""
        texts = load(self.data, "train").head(self.rows).texts if self.needs_texts else []
        return text_recipe.build(self.model, self.config, texts).fingerprint


class Relabeller:
    """Gives records their fingerprints and configs of today."""

    def __init__(self, recipes: dict[str, Document], whisper: str | None = None) -> None:
        """Take the recipes by the names of their records, and where the sounds' encoder is."""
        self._recipes, self._whisper = recipes, whisper

    def relabelled(self, name: str, document: Document, mark: Callable[[Subject], str]) -> Document:
        """Give a record with the fingerprints and the config of today.

        Args:
            name: Of the record.
            document: The record; not changed.
            mark: Gives the fingerprint of a subject.

        Raises:
            Refused: If the record does not fit its recipe, or cannot be read.
        """
        if "fingerprint" in document and "test" in document:
            return self._text(name, document, mark)
        if "fingerprints" in document:
            return self._icl(name, document, mark)
        if "by_fold" in document:
            return self._sound(name, document, mark)
        if document.get("record") == "fungi-hf-sweep":
            return self._sweep(name, document)
        if name == "linear":
            return self._linear(document, mark)
        text = json.dumps(document)
        if '"fingerprint"' in text or '"config"' in text:
            raise Refused(name, "it holds a fingerprint or a config, and its kind is not known")
        return document

    def _text(self, name: str, document: Document, mark: Callable[[Subject], str]) -> Document:
        recipe = document["recipe"]
        config = self._config(name, recipe["config"], self._recipe(name)["config"])
        new = {**recipe, "config": config.to_dict()}
        self._compare(name, new, {**self._recipe(name), "config": new["config"]})
        rows = (recipe.get("rows") or {}).get("train")
        subject = Subject(model=recipe["model"], config=config, data=recipe["data"], rows=rows)
        return {**document, "recipe": new, "fingerprint": mark(subject)}

    def _icl(self, name: str, document: Document, mark: Callable[[Subject], str]) -> Document:
        recipe = document["recipe"]
        self._compare(name, recipe, self._recipe(recipe["name"]))
        config = self._config(name, recipe["fungi"], recipe["fungi"])
        data = recipe["name"].removeprefix("icl-")
        found = mark(Subject(model=recipe["encoder"], config=config, data=data))
        arms = {arm: f"{found}:{'+'.join(blocks)}" for arm, blocks in recipe["arms"].items()}
        return {**document, "fingerprints": arms}

    def _sound(self, name: str, document: Document, mark: Callable[[Subject], str]) -> Document:
        if self._whisper is None or Path(self._whisper).name != document["model"]:
            raise Refused(name, f"--whisper must lead to the recorded {document['model']!r}")
        config = self._config(name, document["config"], self._recipe(name)["config"])
        found = mark(Subject(model=self._whisper, config=config))
        own = {"config": config.to_dict(), "fingerprint": found}
        new: Document = {}
        for key, value in document.items():
            new |= own if key == "config" else {key: own.get(key, value)}
        return new

    def _sweep(self, name: str, document: Document) -> Document:
        settings = document["settings"]
        config = self._config(name, settings["config"], self._recipe(name)["config"])
        return {**document, "settings": {**settings, "config": config.to_dict()}}

    def _linear(self, document: Document, mark: Callable[[Subject], str]) -> Document:
        cases = []
        for case in document["cases"]:
            config = linear.config(case["pooling"])
            own = {"fingerprint": mark(Subject(model=document["model"], config=config))}
            judged = {kind: {**case[kind], **own} for kind in ("linear", "knn")}
            cases.append({**case, **own, **judged})
        return {**document, "cases": cases}

    def _recipe(self, name: str) -> Document:
        if name not in self._recipes:
            raise Refused(name, f"no recipe of this name in {', '.join(FOLDERS)}")
        return self._recipes[name]

    def _compare(self, name: str, recorded: Document, recipe: Document) -> None:
        keys = {*recorded, *recipe}
        if differ := sorted(key for key in keys if recorded.get(key) != recipe.get(key)):
            raise Refused(name, f"record and recipe differ in {differ}: run the recipe again")

    def _config(self, name: str, recorded: Document, asked: Document) -> FungiConfig:
        try:
            config, wanted = FungiConfig.from_dict(recorded), FungiConfig.from_dict(asked)
        except ConfigError as error:
            raise Refused(name, f"its config cannot be read: {error}") from None
        if config != wanted:
            raise Refused(name, "record and recipe differ in their config: run the recipe again")
        return config


def read_recipes() -> dict[str, Document]:
    """Read every recipe by the name of its record; of in-context learning, by its own name."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((HERE / folder).glob("*.json")):
            recipe = json.loads(path.read_text("utf-8"))
            prefix = "sweep-" if folder == "sweeps" else ""
            found[prefix + recipe["name"]] = recipe
    return found


def written(document: Document, like: str) -> str:
    """Give JSON text, indented as the text that it replaces."""
    first = re.search(r"\n( +)", like)
    indent = len(first[1]) if first else None
    return json.dumps(document, indent=indent, ensure_ascii=like.isascii()) + "\n"


def relabel(
    folder: Path, names: list[str], relabeller: Relabeller, mark: Callable[[Subject], str]
) -> list[str]:
    """Relabel records.

    Args:
        folder: Of the records.
        names: Records to relabel; empty takes all.
        relabeller: Knows the recipes.
        mark: Gives the fingerprint of a subject.

    Returns:
        The names of the records that were rewritten.

    Raises:
        Refused: If one record cannot be relabelled; then none is.
    """
    paths = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if missing := sorted(set(names) - set(paths)):
        raise Refused(", ".join(missing), f"no such record in {folder}")
    texts = {name: paths[name].read_text("utf-8") for name in names or paths}
    documents = {name: json.loads(text) for name, text in texts.items()}
    for name, one in documents.items():
        relabeller.relabelled(name, one, Subject.check)
    new = {name: relabeller.relabelled(name, one, mark) for name, one in documents.items()}
    changed = [name for name, one in new.items() if one != documents[name]]
    for name in changed:
        replace_file(paths[name], written(new[name], texts[name]).encode())
    return changed


def main() -> None:
    """Relabel the records named on the command line, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="records of recipes/results; default: all")
    parser.add_argument("--whisper", help="encoder of the sounds: folder or Hub id")
    options = parser.parse_args()
    marks: dict[str, str] = {}

    def mark(subject: Subject) -> str:
        key = repr(subject)
        if key not in marks:
            marks[key] = subject.fingerprint()
            print(subject.model, subject.data, marks[key], flush=True)
        return marks[key]

    relabeller = Relabeller(read_recipes(), options.whisper)
    changed = relabel(HERE / "results", options.names, relabeller, mark)
    print(f"{len(changed)} records rewritten: {', '.join(changed)}")


if __name__ == "__main__":
    main()
