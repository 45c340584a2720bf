"""`fungi-hf extract` and `fungi-hf fit`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.rows import is_sound, read_inputs
from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError, InputError

if TYPE_CHECKING:
    from fungi_hf.extractor import FungiExtractor

_EXTRACT = """examples:
  fungi-hf extract my-features texts.txt --out features.parquet
  fungi-hf extract sentence-transformers/all-MiniLM-L6-v2 rows.csv --column question --out q.npy
  fungi-hf extract MIT/ast-finetuned-audioset-10-10-0.4593 clips/ --out clips.safetensors
  echo "my card was lost" | fungi-hf extract my-features - > features.jsonl

An interrupted run goes on where it stopped when the same command is given again.
"""
_FIT = """examples:
  fungi-hf fit my-encoder train.jsonl --objective kl --objective simclr --out my-features
  fungi-hf fit my-encoder train.parquet --config my-config --out my-features
"""


def add_parsers(subparsers: Any) -> None:
    """Add both commands."""
    extract = subparsers.add_parser(
        "extract",
        help="features of a file or folder of inputs",
        epilog=_EXTRACT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(extract)
    extract.add_argument(
        "inputs", help=".jsonl, .csv, .parquet, .txt, a clip, a folder of clips, or -"
    )
    extract.add_argument("--column", help="of a table (default: text)")
    extract.add_argument(
        "--out", help=".parquet, .npy or .safetensors; JSON lines on stdout if left out"
    )
    extract.add_argument("--batch-size", type=int, help="most inputs of one forward pass")
    extract.add_argument("--shard-rows", type=int, default=1000, help="rows kept when interrupted")
    extract.set_defaults(run=run_extract)
    fit = subparsers.add_parser(
        "fit",
        help="learn what the config asks for and save an extractor",
        epilog=_FIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(fit)
    fit.add_argument("inputs", help="training inputs; as for extract")
    fit.add_argument("--column", help="of a table (default: text)")
    fit.add_argument("--out", required=True, help="the folder to write")
    fit.set_defaults(run=run_fit)


def add_model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the arguments that name an extractor."""
    words = "a model or saved extractor: a folder or Hub id"
    if optional:
        parser.add_argument("model", nargs="?", help=f"{words}; left out for feature files")
    else:
        parser.add_argument("model", help=words)
    parser.add_argument("--config", help="a config: a folder, Hub id or JSON file")
    parser.add_argument(
        "--objective", action="append", help="kl, simclr, activation; may be repeated"
    )
    parser.add_argument("--device", help="e.g. cpu, cuda")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub")


def load(options: argparse.Namespace) -> FungiExtractor:
    """Load the extractor that the arguments name.

    Raises:
        ConfigError: If --config and --objective contradict each other.
    """
    from fungi_hf.extractor import FungiExtractor

    config = None
    if options.config and options.objective:
        raise ConfigError("--config names the objectives already; leave out --objective")
    if options.config:
        config = FungiConfig.from_pretrained(options.config)
    elif options.objective:
        config = FungiConfig(objectives=tuple(options.objective))
    return FungiExtractor.from_pretrained(
        options.model, config, device=options.device, revision=options.revision
    )


def run_extract(options: argparse.Namespace) -> None:
    """Write features to a file, or JSON lines to stdout.

    Raises:
        ConfigError: If a count is below 1.
    """
    from fungi_hf.cli.shards import Shards

    for name in ("batch_size", "shard_rows"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be >= 1; got {value}")
    inputs = read_inputs(options.inputs, options.column)
    extractor = load(options)
    _check_kind(options.inputs, extractor)
    if options.out is None:
        for start in range(0, len(inputs), options.shard_rows):
            part = inputs[start : start + options.shard_rows]
            features = extractor(part, options.batch_size, progress=True)
            for row, (raw, vector) in enumerate(zip(part, features.array, strict=True), start):
                line = {"row": row, "input": str(raw), "features": vector.tolist()}
                sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        return
    from tqdm.auto import tqdm

    shards = Shards(Path(options.out), inputs, extractor.fingerprint, options.shard_rows)
    with tqdm(total=len(inputs), initial=shards.n_done, unit="input") as bar:
        for start, part in shards.missing():
            features = extractor(part, options.batch_size)
            shards.store(start, features.array)
            bar.update(len(part))
    shards.finish(extractor([]))
    sys.stderr.write(f"{len(inputs)} vectors in {options.out}\n")


def run_fit(options: argparse.Namespace) -> None:
    """Fit and save an extractor."""
    from fungi_hf.storage.files import check_folder

    check_folder(options.out)
    inputs = read_inputs(options.inputs, options.column)
    extractor = load(options)
    _check_kind(options.inputs, extractor)
    extractor.fit(inputs, progress=True)
    extractor.save_pretrained(options.out)
    sys.stderr.write(f"fitted on {len(inputs)} inputs; saved in {options.out}\n")


def _check_kind(place: str, extractor: FungiExtractor) -> None:
    """Refuse to take the names of sound files for texts.

    Raises:
        InputError: If the encoder takes texts.
    """
    if is_sound(place) and extractor.encoder.modality == "text":
        raise InputError(f"{place} holds sound files; this encoder takes texts")
