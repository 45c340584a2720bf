"""Pushing to a repository: one commit, nothing of a model overwritten, busy servers retried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fungi_hf.errors import StorageError
from fungi_hf.storage.files import CONFIG_NAME, STATE_NAME, reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from huggingface_hub import HfApi

OURS: Final = frozenset({CONFIG_NAME, STATE_NAME})
_CONFIG: Final = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
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
    check: Callable[[set[str]], None] | None = None,
) -> str:
    """Upload a folder's files in one commit.

    Our two files replace older ones. Any other file (a reference, `modules.json`, a card) is only
    added where the repository has none, so a model that lives there keeps its own.

    Args:
        folder: What to upload.
        repo_id: "user/name"; made if missing.
        options: How.
        with_model: The folder holds a model; refused where the repository holds another.
        check: Gets the names of the files that are there; may refuse.

    Returns:
        The address of the commit or pull request.

    Raises:
        StorageError: If the repository cannot be written, or holds another model.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    what = f"cannot push to {repo_id!r}"
    repo = reach(
        lambda: api.create_repo(
            repo_id, private=options.private, token=options.token, exist_ok=True
        ),
        what,
    )
    name = str(repo.repo_id)
    there = set(reach(lambda: _files(api, name, options), what))
    if check is not None:
        check(there)
    own_model = with_model and CONFIG_NAME in there
    if with_model and _CONFIG in there and CONFIG_NAME not in there:
        raise StorageError(
            f"{repo_id!r} holds a model, which pushing a pipeline would overwrite; choose another "
            "repository, or push our files alone with pipe.extractor.push_to_hub(repo_id)"
        )
    source = Path(folder)
    operations = []
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        file = path.relative_to(source).as_posix()
        if file in OURS or own_model or file not in there:
            operations.append(CommitOperationAdd(path_in_repo=file, path_or_fileobj=path))
    info = reach(
        lambda: api.create_commit(
            name,
            operations=operations,
            commit_message=options.commit_message or "Upload FUNGI features with fungi_hf",
            token=options.token,
            revision=options.revision,
            create_pr=options.create_pr,
        ),
        what,
    )
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
