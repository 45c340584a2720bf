"""Where a data set is: a folder that stands for it, or the Hub at a commit; else what to download.

Nothing is downloaded here. What is missing is one line that says what to put where.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import OptionalDependencyError, StorageError
from fungi_hf.storage.files import explain, reach
from recipes.datasets import HERE
from recipes.paper.registry import CONVERTED, LocalSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recipes.paper.registry import DataSet

LABELS = "labels.json"  # marks a folder of our own form, as TRUTH one of landmarks
TRUTH = "truth.json"


@dataclass(frozen=True, kw_only=True)
class Places:
    """What the command line says about where sets are.

    Attributes:
        root: A folder with a folder for each set; FUNGI_DATA and recipes/data come after it.
        folders: Set -> its own folder.
        hub_only: Whether no local files stand for a set of the Hub.
        revisions: Set -> revision in place of the registry's.
    """

    root: Path | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    hub_only: bool = False
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one set is.

    Attributes:
        kind: "hub", "folder" (a repository that was downloaded) or "local" (files of our form).
        where: Repository or folder.
        revision: As asked.
        resolved: Commit on the Hub.
        splits: Of the converted branch, whose folders have no other index; empty elsewhere.
        local: What stands there, of kind "local".
        megabytes: What a download would bring, where the Hub says so.
    """

    kind: str
    where: str
    revision: str | None = None
    resolved: str | None = None
    splits: tuple[str, ...] = ()
    local: LocalSet | None = None
    megabytes: float | None = None

    def record(self) -> dict[str, Any]:
        """Give what a result says about its data: no path of this machine."""
        if self.kind == "hub":
            return {"kind": "hub", "id": self.where, "revision": self.revision,
                    "resolved": self.resolved}  # fmt: skip
        folder = Path(self.where)
        if self.local:
            return {"kind": "local", "folder": self.local.folder, "digest": digest(folder)}
        return {"kind": "folder", "folder": folder.name, "resolved": downloaded_commit(folder)}


def find(one: DataSet, places: Places) -> Place:
    """Give where a set is.

    Raises:
        StorageError: If it is nowhere, or the Hub gives no access; says what to download where.
        OptionalDependencyError: If datasets is not installed.
    """
    if one.name in places.folders:
        folder = places.folders[one.name]
        if not folder.is_dir():
            raise StorageError(f"{one.name}: --data names the folder {folder}, which is not there")
        return _folder(one, folder)
    if not places.hub_only:
        for folder in _candidates(one, places.root):
            if folder.is_dir():
                return _folder(one, folder)
    return _on_hub(one, places)


def missing(sets: Sequence[DataSet], places: Places) -> tuple[dict[str, Place], dict[str, str]]:
    """Give the places of the sets that are there, and a line for each of the others."""
    found, lines = {}, {}
    for one in sets:
        try:
            found[one.name] = find(one, places)
        except StorageError as error:
            lines[one.name] = str(error)
    return found, lines


def is_local(one: DataSet, places: Places) -> bool:
    """Say whether files stand for a set here, without asking the Hub."""
    return one.name in places.folders or any(
        folder.is_dir() for folder in _candidates(one, places.root)
    )


def digest(folder: Path) -> str:
    """Give a digest of the names and contents of a folder's data files."""
    parts = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            parts.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                parts.update(hashlib.file_digest(file, "sha256").digest())
    return parts.hexdigest()[:16]


def downloaded_commit(folder: Path) -> str | None:
    """Give the commit that `hf download --local-dir` noted, if it is one."""
    notes = (folder / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text(encoding="utf-8").partition("\n")[0] for note in notes}
    return commits.pop() if len(commits) == 1 else None


def download_line(one: DataSet, places: Places) -> str:
    """Say what to download where."""
    root = places.root or Path(os.environ.get("FUNGI_DATA") or "FOLDER")
    revision = places.revisions.get(one.name, one.revision)
    text = (
        f"hf download {one.hub} --repo-type dataset --revision {revision} "
        f"--local-dir {root / one.name}, then --data {root}"
    )
    if one.local:
        text += f" (or files of our own form in {root / one.local.folder})"
    if one.task == "landmarks":
        text += f" (or pictures and a {TRUTH} in {root / one.name})"
    return text


def _candidates(one: DataSet, root: Path | None) -> list[Path]:
    given = os.environ.get("FUNGI_DATA")
    roots = [place for place in (root, Path(given) if given else None) if place]
    names = [one.name]
    if one.local:
        names += [one.local.folder, Path(one.local.folder).name]
    return [base / name for base in [*roots, HERE / "data"] for name in names]


def _folder(one: DataSet, folder: Path) -> Place:
    if not (folder / LABELS).is_file() and not (folder / TRUTH).is_file():
        return Place(kind="folder", where=str(folder))
    local = one.local
    if local is None or Path(local.folder).name != folder.name:
        local = LocalSet(
            folder=folder.name,
            title=f"{one.title} (files in {folder.name})",
            licence="that of the files",
            fold=one.fold,
            n_classes=one.n_classes,
            ignore=one.ignore,
        )
    return Place(kind="local", where=str(folder), local=local)


def _on_hub(one: DataSet, places: Places) -> Place:
    try:
        import datasets  # noqa: F401  (said here, before any download)
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import GatedRepoError
    except ImportError:
        raise OptionalDependencyError("datasets", "datasets") from None
    revision = places.revisions.get(one.name, one.revision)
    if constants.HF_HUB_OFFLINE:
        return _in_cache(one, revision, places)
    api = HfApi()
    line = f"{one.name}: {one.title} cannot be read from {one.hub} on the Hub"

    def ask() -> Any:
        try:
            api.auth_check(one.hub, repo_type="dataset")
            return api.dataset_info(one.hub, revision=revision, files_metadata=True)
        except GatedRepoError as error:
            raise StorageError(
                f"{one.name}: {one.title} is gated: accept its terms on "
                f"https://huggingface.co/datasets/{one.hub}, then `hf auth login` or HF_TOKEN "
                f"({explain(error)}); or elsewhere: {download_line(one, places)}"
            ) from None

    try:
        info = reach(ask, line)
    except StorageError as error:
        if "is gated" in str(error):
            raise
        raise StorageError(
            f"{error}; where there is access: {download_line(one, places)}"
        ) from None
    start = f"{one.config}/" if revision == CONVERTED and one.config else ""
    sizes = [
        file.size for file in info.siblings or () if file.rfilename.startswith(start) and file.size
    ]
    inside = [file.rfilename.removeprefix(start).split("/") for file in info.siblings or ()]
    return Place(
        kind="hub",
        where=one.hub,
        revision=revision,
        resolved=info.sha,
        splits=tuple(sorted({path[0] for path in inside if start and len(path) == 2})),
        megabytes=sum(sizes) / 1e6 if sizes else None,
    )


def _in_cache(one: DataSet, revision: str, places: Places) -> Place:
    # Offline: what `datasets` prepared before, whose folder is named by the commit.
    from recipes.paper.loading import builder_of

    try:
        builder = builder_of(one, one.hub, revision)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{one.name}: {one.title} is not at hand and the Hub is switched off "
            f"(HF_HUB_OFFLINE): {explain(error)}; where there is access: "
            f"{download_line(one, places)}"
        ) from None
    return Place(kind="hub", where=one.hub, revision=revision, resolved=builder.hash)
