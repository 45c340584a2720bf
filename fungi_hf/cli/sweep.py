"""`fungi-hf sweep`: accuracy over layers, sketches, or one option of an objective."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import add_model, command, load
from fungi_hf.cli.rows import add_sets, read_set
from fungi_hf.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import argparse

    from fungi_hf.evaluation.records import SweepResult
    from fungi_hf.evaluation.sweeps.layers import SweepData
    from fungi_hf.extractor import FungiExtractor

FIELDS = {
    "views": ("n_views", (2, 4, 8, 12)),
    "temperature": ("temperature", (0.03, 0.07, 0.2, 1.0, 15.0)),
    "head-width": ("latent_dim", (64, 128, 256, 512, 768)),
    "negatives": ("n_negatives", (16, 64, 256, 1024)),
}
_OWN = {
    "layers": ("--layer", "--memory-mb"),
    "sketches": ("--values", "--sketch", "--rank", "--sketch-seeds"),
}
_NAMES = {"layers": "layer", "sketches": "sketch"}
_MEMORY_MB, _SKETCH_SEEDS = 2048, 3
_SWEEP = """examples:
  fungi-hf sweep layers my-encoder --train train.csv --test test.csv --out layers.json
  fungi-hf sweep sketches my-encoder --train train.csv --test test.csv --values 192 384 --out s.csv
  fungi-hf sweep views my-encoder --objective simclr --train train.csv --test test.csv
  fungi-hf sweep temperature my-encoder --objective kl --values 1 15 50 \\
      --train train.csv --test test.csv --train-rows 2000 --test-rows 600
  fungi-hf report layers.json --out report.html

layers: the gradient at every Linear layer of every block, and its input, from few passes.
  Options: --layer, --memory-mb.
sketches: kind x width x rank against the exact kernel; --values are widths.
  Options: --values, --sketch, --rank, --sketch-seeds.
views, temperature, head-width, negatives: one option of one objective.
  Options: --values, --block.

The rows are judged on the test set, so they tell what matters; choose on training data
(`--test` may name held-out training rows).
"""


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    words = "accuracy over layers, sketches or an objective's options"
    parser = command(subparsers, "sweep", words, _run_sweep, _SWEEP)
    parser.add_argument("what", choices=["layers", "sketches", *FIELDS], help="what to vary")
    add_model(parser)
    add_sets(parser)
    parser.add_argument("--values", nargs="+", type=float, help="to try; each sweep has its own")
    parser.add_argument("--layer", action="append", help="only this dotted path; may be repeated")
    words = "khatri_rao, rademacher, gaussian, sparse"
    parser.add_argument("--sketch", action="append", help=words)
    parser.add_argument("--rank", type=int, action="append", help="of Khatri-Rao sketches")
    parser.add_argument("--sketch-seeds", type=int, help="sketches drawn (default: 3)")
    parser.add_argument("--block", help="the objective whose option varies (default: the first)")
    parser.add_argument("--protocol", default="fungi", help="of the kNN (default: fungi)")
    parser.add_argument("--memory-mb", type=int, help="of features held at a time (default: 2048)")
    parser.add_argument("--out", help="write the rows here: .json or .csv")


def _run_sweep(options: argparse.Namespace) -> None:
    from fungi_hf.evaluation.records import SUFFIXES
    from fungi_hf.evaluation.report.tables import render_text, sweep_table
    from fungi_hf.evaluation.sweeps.layers import SweepData

    if options.out is not None and Path(options.out).suffix not in SUFFIXES:
        raise StorageError(f"--out {options.out}: the suffix must be .json or .csv")
    _check_options(options)
    train, test = read_set(options, "train"), read_set(options, "test")
    data = SweepData(
        train=train.inputs,
        train_labels=train.labels or [],
        test=test.inputs,
        test_labels=test.labels or [],
        protocol=options.protocol,
        progress=True,
    )
    found = _sweep(load(options), data, options)
    if options.out is not None:
        found.write(options.out)
        sys.stderr.write(f"{len(found.rows)} rows in {options.out}\n")
    sys.stdout.write(render_text(sweep_table(found)) + "\n")
    sys.stdout.writelines(f"note: {note}\n" for note in found.notes)


def _sweep(extractor: FungiExtractor, data: SweepData, options: argparse.Namespace) -> SweepResult:
    from fungi_hf.evaluation.sweeps.layers import sweep_layers, sweep_objective
    from fungi_hf.evaluation.sweeps.sketches import KINDS, sweep_sketches

    if options.what == "layers":
        memory_mb = _MEMORY_MB if options.memory_mb is None else options.memory_mb
        return sweep_layers(extractor, data, layers=options.layer, memory_mb=memory_mb)
    if options.what == "sketches":
        width = extractor.encoder.width
        widths = _whole(options.values) or [width // 4, width // 2, width, 2 * width]
        return sweep_sketches(
            extractor,
            data,
            kinds=options.sketch or KINDS,
            widths=widths,
            ranks=options.rank or (1, 2, 4, 8),
            n_seeds=_SKETCH_SEEDS if options.sketch_seeds is None else options.sketch_seeds,
        )
    field, default = FIELDS[options.what]
    values: Any = options.values or default
    if field != "temperature":
        values = _whole(list(values))
    return sweep_objective(extractor, data, field, values, objective=options.block)


def _check_options(options: argparse.Namespace) -> None:
    # What the sweep would ignore is refused.
    own = _OWN.get(options.what, ("--values", "--block"))
    every = dict.fromkeys(name for names in (*_OWN.values(), ("--block",)) for name in names)
    given = [name for name in every if getattr(options, name[2:].replace("-", "_")) is not None]
    foreign = [name for name in given if name not in own]
    if foreign:
        raise ConfigError(
            f"a {_NAMES.get(options.what, options.what)} sweep has no {', '.join(foreign)}; "
            f"its options are {', '.join(own)}"
        )
    if options.rank is not None and options.sketch and "khatri_rao" not in options.sketch:
        raise ConfigError(
            f"--rank is of khatri_rao sketches, --sketch names {', '.join(options.sketch)}; leave "
            "out --rank, or add --sketch khatri_rao"
        )


def _whole(values: list[float] | None) -> list[int]:
    if odd := [value for value in values or [] if value != int(value) or value < 1]:
        raise ConfigError(f"--values must be whole numbers above 0; got {odd[0]:g}")
    return [int(value) for value in values or []]
