"""`fungi-hf info`, `card` and `push`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import command
from fungi_hf.errors import InputError

if TYPE_CHECKING:
    import argparse

_INFO = """examples:
  fungi-hf info my-features
  fungi-hf info user/repo --revision main
"""
_CARD = """examples:
  fungi-hf card my-features > my-features/README.md
  fungi-hf card my-features --results recipes/results/banking77.json
"""
_PUSH = """examples:
  fungi-hf push my-features user/repo --private
  fungi-hf push my-features user/repo --create-pr --message "Refit on more data"
"""


def add_parsers(subparsers: Any) -> None:
    """Add the three commands."""
    words = "config, fingerprint, encoder and layout of a saved extractor, as JSON"
    info = command(subparsers, "info", words, run_info, _INFO)
    info.add_argument("place", help="a folder or Hub id")
    info.add_argument("--revision", help="branch, tag or commit of the Hub")
    words = "the model card of a saved extractor, on stdout"
    card = command(subparsers, "card", words, run_card, _CARD)
    card.add_argument("place", help="a folder or Hub id")
    card.add_argument("--results", help="a JSON file of results; see docs/share-a-config.md")
    words = "upload a saved extractor"
    push = command(subparsers, "push", words, run_push, _PUSH)
    push.add_argument("place", help="a folder that save_pretrained or `fungi-hf fit` wrote")
    push.add_argument("repo_id", help="user/name")
    push.add_argument("--private", action="store_true", default=None)
    push.add_argument("--create-pr", action="store_true")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--revision", help="branch to commit to")


def run_info(options: argparse.Namespace) -> None:
    """Print what a saved extractor says of itself; nothing is loaded.

    Raises:
        InputError: If it is not one.
    """
    from fungi_hf.storage.files import CONFIG_NAME, STATE_NAME, HubOptions, find_file, read_document

    hub = HubOptions(revision=options.revision)
    path = find_file(options.place, CONFIG_NAME, hub)
    if path is None:
        raise InputError(f"{options.place} holds no {CONFIG_NAME}: it is not a saved extractor")
    document = read_document(path)
    document["fitted"] = find_file(options.place, STATE_NAME, hub) is not None
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def run_card(options: argparse.Namespace) -> None:
    """Print a model card."""
    from fungi_hf.extractor import FungiExtractor

    results: Any = ()
    if options.results:
        from fungi_hf.hub.card import read_results

        results = read_results(Path(options.results))
    extractor = FungiExtractor.from_pretrained(options.place)
    sys.stdout.write(extractor.make_card(results=results))


def run_push(options: argparse.Namespace) -> None:
    """Upload a saved extractor; print the commit's address.

    Raises:
        InputError: If the folder holds none.
    """
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.storage.files import CONFIG_NAME

    if not (Path(options.place) / CONFIG_NAME).is_file():
        raise InputError(f"{options.place} holds no {CONFIG_NAME}: it is not a saved extractor")
    url = FungiExtractor.from_pretrained(options.place).push_to_hub(
        options.repo_id,
        private=options.private,
        create_pr=options.create_pr,
        commit_message=options.message,
        revision=options.revision,
    )
    sys.stdout.write(url + "\n")
