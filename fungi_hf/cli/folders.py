"""`fungi-hf info`, `card`, `push` and `convert-ssast`: what is done with folders."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import command
from fungi_hf.errors import ConfigError, InputError

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
_CONVERT = """examples:
  fungi-hf convert-ssast SSAST-Base-Patch-400.pth ssast-base
  fungi-hf convert-ssast SSAST-Base-Patch-400.pth esc --stride 10 --frames 512 --stats esc50
"""
_NO_EXTRACTOR = "{} holds no {}: it is not a saved extractor"


def add_parsers(subparsers: Any) -> None:
    """Add the four commands."""
    words = "config, fingerprint, encoder and layout of a saved extractor or classifier, as JSON"
    info = command(subparsers, "info", words, _run_info, _INFO)
    info.add_argument("place", help="a folder or Hub id")
    info.add_argument("--revision", help="branch, tag or commit of the Hub")
    words = "the model card of a saved extractor or classifier, on stdout"
    card = command(subparsers, "card", words, _run_card, _CARD)
    card.add_argument("place", help="a folder or Hub id")
    card.add_argument("--results", help="a JSON file of results; see docs/share-a-config.md")
    words = "upload a saved extractor or classifier"
    push = command(subparsers, "push", words, _run_push, _PUSH)
    push.add_argument("place", help="a folder that save_pretrained or `fungi-hf fit` wrote")
    push.add_argument("repo_id", help="user/name")
    push.add_argument("--private", action="store_true", default=None)
    push.add_argument("--create-pr", action="store_true")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--revision", help="branch to commit to")
    words = "an official patch-based SSAST checkpoint to a transformers folder"
    convert = command(subparsers, "convert-ssast", words, _run_convert, _CONVERT)
    convert.add_argument("checkpoint", help="the .pth file; read without running its code")
    convert.add_argument("out", help="folder to make; must be empty or missing")
    convert.add_argument("--stride", type=int, default=16, help="patch stride, 16 or 10")
    convert.add_argument("--frames", type=int, help="length of the input (default: 1024)")
    convert.add_argument("--stats", default="audioset", help="audioset, esc50 or speech_commands")


def _run_info(options: argparse.Namespace) -> None:
    from fungi_hf.storage.files import CONFIG_NAME, STATE_NAME, HubOptions, find_file, read_document

    hub = HubOptions(revision=options.revision)
    path = find_file(options.place, CONFIG_NAME, hub)
    if path is None:
        raise InputError(_NO_EXTRACTOR.format(options.place, CONFIG_NAME))
    document = read_document(path)
    if _holds_classifier(options.place, options.revision):
        from fungi_hf.classifier.folders import read

        record = read(options.place, hub)[0].to_dict()
        del record["fingerprint"]
        document["classifier"] = record
    document["fitted"] = find_file(options.place, STATE_NAME, hub) is not None
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def _run_card(options: argparse.Namespace) -> None:
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.hub.card import read_results

    if _holds_classifier(options.place):
        from fungi_hf.classifier import FungiClassifier

        if options.results:
            raise ConfigError(
                "--results are of an extractor's card; a classifier's holds what it measured: see "
                "FungiClassifier.evaluate and `fungi-hf tune --test`"
            )
        classifier, path = FungiClassifier.from_pretrained(options.place), Path(options.place)
        place = path.resolve().name if path.is_dir() else options.place
        sys.stdout.write(classifier.make_card(place=place))
        return
    results = read_results(Path(options.results)) if options.results else ()
    extractor = FungiExtractor.from_pretrained(options.place)
    sys.stdout.write(extractor.make_card(results=results))


def _run_push(options: argparse.Namespace) -> None:
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.storage.files import CONFIG_NAME

    if not (Path(options.place) / CONFIG_NAME).is_file():
        raise InputError(_NO_EXTRACTOR.format(options.place, CONFIG_NAME))
    kind: Any = FungiExtractor
    if _holds_classifier(options.place):
        kind = importlib.import_module("fungi_hf.classifier").FungiClassifier
    url = kind.from_pretrained(options.place).push_to_hub(
        options.repo_id,
        private=options.private,
        create_pr=options.create_pr,
        commit_message=options.message,
        revision=options.revision,
    )
    sys.stdout.write(url + "\n")


def _holds_classifier(place: str, revision: str | None = None) -> bool:
    from fungi_hf.storage.files import CLASSIFIER_NAME, HubOptions, find_file

    return find_file(place, CLASSIFIER_NAME, HubOptions(revision=revision)) is not None


def _run_convert(options: argparse.Namespace) -> None:
    from fungi_hf.encoders.audio.ssast import convert

    settings = {name: getattr(options, name) for name in ("stride", "frames", "stats")}
    sys.stdout.write(f"{convert(options.checkpoint, options.out, **settings)}\n")
