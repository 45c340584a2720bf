"""Folders pushed to a repository in one commit, and configs alone, read, written and pushed.

Invariant: nothing of a model is overwritten; busy servers are asked again.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import StorageError
from fungi_hf.storage import files

if TYPE_CHECKING:
    from collections.abc import Collection

    from huggingface_hub import HfApi


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push; the meaning is huggingface_hub's.

    Attributes:
        commit_message: Of the one commit; None for a default.
        private: Of a repository that is made here; None for the account's default.
        token: Access token; never written or logged.
        revision: Branch to commit to.
        create_pr: Open a pull request in place of a commit.
    """

    commit_message: str | None = None
    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    create_pr: bool = False


def push_folder(
    folder: str | Path,
    repo_id: str,
    options: PushOptions,
    *,
    with_model: bool = False,
    alone: bool = False,
    own: Collection[str] = (),
) -> str:
    """Upload a folder's files in one commit.

    Our two files, and those that the caller names as its `own`, replace older ones, and are deleted
    where the folder has none. Any other file (a reference, `modules.json`, a card) is only added
    where the repository has none, so a model that lives there keeps its own; a folder `with_model`
    is refused where the repository holds another, a config `alone` where it holds a saved
    extractor. Gives the address of the commit or pull request.

    Raises:
        StorageError: If the repository cannot be written, or holds another model.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    what = f"cannot push to {repo_id!r}"
    as_user: dict[str, Any] = {"private": options.private, "token": options.token}
    name = str(
        files.reach(lambda: api.create_repo(repo_id, exist_ok=True, **as_user), what).repo_id
    )
    there = set(files.reach(lambda: _files(api, name, options), what))
    if alone and files.CONFIG_NAME in there:
        hub = files.HubOptions(options.revision, options.token)
        _refuse_extractor(files.find_file(repo_id, files.CONFIG_NAME, hub), repo_id)
    own_model = with_model and files.CONFIG_NAME in there
    if with_model and "config.json" in there and not own_model:
        raise StorageError(
            f"{repo_id!r} holds a model, which pushing a pipeline would overwrite; choose another "
            "repository, or push our files alone with pipe.extractor.push_to_hub(repo_id)"
        )
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=file, path_or_fileobj=path)
        for file, path in named.items()
        if file in (files.CONFIG_NAME, files.STATE_NAME, *own) or own_model or file not in there
    ]
    # What an older extractor learned is not this one's.
    gone = there.intersection((files.STATE_NAME, *own)) - set(named)
    operations += [CommitOperationDelete(file) for file in sorted(gone)]
    message = options.commit_message or "Upload FUNGI features with fungi_hf"
    how: dict[str, Any] = {"revision": options.revision, "create_pr": options.create_pr}
    how |= {"token": options.token, "commit_message": message}
    info = files.reach(lambda: api.create_commit(name, operations, **how), what)
    return str(info.pr_url if options.create_pr and info.pr_url else info.commit_url)


def _files(api: HfApi, name: str, options: PushOptions) -> list[str]:
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return list(api.list_repo_files(name, token=options.token, revision=options.revision))
    except RevisionNotFoundError:
        if options.revision is None:
            return []
        api.create_branch(name, branch=options.revision, token=options.token, exist_ok=True)
        return list(api.list_repo_files(name, token=options.token, revision=options.revision))


def read_config(place: str | Path, hub: files.HubOptions) -> dict[str, Any]:
    """Read a config's fields from a folder, a repository or a JSON file; no state is read.

    Raises:
        StorageError: If there is no config, or it cannot be read.
    """
    file = Path(place)
    path = file if file.is_file() else files.find_file(place, files.CONFIG_NAME, hub)
    if path is None:
        raise StorageError(f"there is no {files.CONFIG_NAME} in {str(place)!r}")
    fields: dict[str, Any] = files.read_document(path)["config"]
    return fields


def write_config(fields: dict[str, Any], folder: str | Path) -> None:
    """Write a config's fields, unless the folder holds a saved extractor."""
    _refuse_extractor(Path(folder) / files.CONFIG_NAME, folder)
    files.write_folder(folder, {"format": files.FORMAT, "config": fields}, None)


def push_config(fields: dict[str, Any], repo_id: str, options: PushOptions) -> str:
    """Push a config's fields in one commit, unless the repository holds a saved extractor."""
    with tempfile.TemporaryDirectory() as folder:
        write_config(fields, folder)
        return push_folder(folder, repo_id, options, alone=True)


def _refuse_extractor(path: Path | None, place: str | Path) -> None:
    if path is not None and path.is_file() and "digests" in files.read_document(path):
        raise StorageError(
            f"{str(place)!r} holds a saved extractor, whose fitted state belongs to its config; "
            "choose another place for the config alone"
        )
