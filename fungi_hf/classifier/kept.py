"""What a classifier does to be kept: a folder, a repository of the Hub, a card."""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fungi_hf.classifier import card, folders
from fungi_hf.classifier.heads import head_from
from fungi_hf.errors import StateError, StorageError
from fungi_hf.extractor import FungiExtractor
from fungi_hf.hub import folders as extractors
from fungi_hf.storage import files
from fungi_hf.storage.files import CLASSIFIER_NAME, HubOptions
from fungi_hf.storage.sharing import PushOptions, push_folder
from fungi_hf.tuning.report import TUNING_NAME

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fungi_hf.classifier.folders import Record
    from fungi_hf.classifier.heads import Head


class KeptClassifier(ABC):
    """The half of `FungiClassifier` that is kept; the other half learns and predicts."""

    extractor_: FungiExtractor
    head_: Head

    @abstractmethod
    def record(self) -> Record:
        """Give everything but extractor and arrays; before `fit` that is a NotFittedError."""

    @classmethod
    @abstractmethod
    def restored(cls, extractor: FungiExtractor, head: Head, record: Record) -> Self:
        """Make a fitted classifier."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the extractor's files, `classifier.json`, `classifier.safetensors` and a card.

        The encoder itself is not copied, and no input is written; what the vectors of a gallery
        say of its rows is on the card. Figures for the card are measured now, if they were not
        before. A README.md that was not written here stays as it is.

        Raises:
            NotFittedError: Before `fit`.
            LabelError: If JSON cannot hold a label.
            StorageError: If the folder cannot be written.
        """
        record = self.record()
        record.to_dict()  # a label that cannot be written is an error before anything is
        self.extractor_.save_pretrained(folder)
        self._write(folder, record, Path(folder).resolve().name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Push what `save_pretrained` writes in one commit, and give its address.

        The arguments are those of `FungiExtractor.push_to_hub`. Older files of a classifier are
        replaced; a model's own files, and a card that was not written here, stay.

        Raises:
            NotFittedError: Before `fit`.
            StorageError: If the repository cannot be written.
        """
        record = self.record()
        extractor = self.extractor_
        if not extractor.source.name or Path(extractor.source.name).is_dir():
            warnings.warn(
                "the encoder is no repository of the Hub: whoever loads this must pass model=",
                stacklevel=2,
            )
        options = PushOptions(
            commit_message or "Upload a FUNGI classifier with fungi_hf",
            private,
            token,
            revision,
            create_pr,
        )
        own = [CLASSIFIER_NAME, folders.ARRAYS, TUNING_NAME]
        if _has_own_card(repo_id, HubOptions(revision, token)):
            own.append(card.CARD)
        with tempfile.TemporaryDirectory() as folder:
            extractors.save(extractor, folder, public=True)
            self._write(folder, record, repo_id)
            return push_folder(folder, repo_id, options, own=own)

    def make_card(self, *, place: str = "") -> str:
        """Render the card: Markdown with the Hub's YAML head; its snippet loads `place`.

        Raises:
            NotFittedError: Before `fit`.
        """
        record = self.record()
        return card.render(self.extractor_, record, place)

    @classmethod
    def from_pretrained(  # noqa: PLR0913  (the ecosystem's own signature)
        cls,
        place: str | Path,
        *,
        model: str | Path | nn.Module | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        processor: Any = None,
    ) -> Self:
        """Load what `save_pretrained` or `push_to_hub` wrote, from a folder or repository.

        `model` is the encoder where that is not where it was, with its `processor` if it is a
        loaded one; the rest is as for `FungiExtractor.from_pretrained`.

        Raises:
            StorageError: If there is no classifier, or a file is missing.
            StateError: If a file was altered, or the encoder is another one than it was fitted
                with.
        """
        hub = HubOptions(revision, token, cache_dir, local_files_only)
        record, arrays, pinned = folders.read(place, hub)
        extractor = FungiExtractor.from_pretrained(
            place,
            None,
            processor,
            device=device,
            model=model,
            revision=pinned.revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        if extractor.fingerprint != record.fingerprint:
            raise StateError(
                f"{str(place)!r}: the extractor has fingerprint {extractor.fingerprint}, the "
                f"classifier was fitted with {record.fingerprint}: the folder holds the files of "
                "two extractors; save or fetch the classifier again"
            )
        settings = {"n_neighbors": record.voters, "weights": record.weights}
        head = head_from(record.head, arrays, len(record.classes), settings)
        if head.width != extractor.width:
            raise StateError(
                f"{str(place)!r}: the head takes {head.width} columns, the extractor gives "
                f"{extractor.width}"
            )
        return cls.restored(extractor, head, record)

    def _write(self, folder: str | Path, record: Record, place: str) -> None:
        folders.write(folder, record, self.head_.arrays())
        path = Path(folder) / card.CARD
        text = card.render(self.extractor_, record, place)
        try:
            if not path.exists() or card.is_ours(path.read_text(encoding="utf-8")):
                files.replace_file(path, text.encode("utf-8", "backslashreplace"))
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot write {path}: {error}") from None


def _has_own_card(repo_id: str, hub: HubOptions) -> bool:
    # A repository or branch that is not there yet has none; whatever else is wrong, pushing says.
    try:
        path = files.find_file(repo_id, card.CARD, hub)
        return path is not None and card.is_ours(path.read_text(encoding="utf-8"))
    except (StorageError, UnicodeDecodeError):
        return False
