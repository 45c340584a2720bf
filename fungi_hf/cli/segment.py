"""`fungi-hf segment`: label the pixels of pictures by those of a few labelled ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import add_model, command, load
from fungi_hf.cli.rows import files_in
from fungi_hf.cli.segmented import SegmentJob, SegmentResult
from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError, InputError

if TYPE_CHECKING:
    import argparse

    from fungi_hf.evaluation.segmentation.pictures import Labelled
    from fungi_hf.extractor import FungiExtractor

_EXAMPLES = """examples:
  fungi-hf segment facebook/dinov2-small train/ photos/ --out maps
  fungi-hf segment train/ photos/ --model my-encoder --names classes.json --ignore void --out maps
  fungi-hf segment my-encoder train/ test/ --image-size 336x448 --out maps

A training folder holds images/ and masks/ with the same names; a mask is a PNG of palette or grey
with one label a pixel, and of its picture's size. Pictures are a folder or one file; a folder with
images/ and masks/ is scored, too. maps/labels holds a PNG with a palette for each picture,
maps/index.html shows them beside plain tokens, maps/segment.json says what was done.
"""


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    words = "label every pixel of pictures by the nearest patches of labelled ones"
    parser = command(subparsers, "segment", words, _run, _EXAMPLES)
    words = "[MODEL] TRAIN PICTURES: a model, labelled pictures, pictures to be labelled"
    parser.add_argument("places", nargs="+", metavar="PLACE", help=words)
    add_model(parser, option=True)
    add = parser.add_argument
    add("--out", required=True, help="the folder to write")
    add("--masks", help="folder of the training masks (default: TRAIN/masks)")
    add("--truth", help="folder of masks of the pictures, to be scored (default: PICTURES/masks)")
    add("--names", help="JSON of the classes' names: a list, or label -> name")
    words = "label, or name, that is neither taught nor scored; may be repeated (default: 255)"
    add("--ignore", action="append", help=words)
    add("--image-size", help="pixels that the model sees: a side, or HEIGHTxWIDTH")
    words = "fungi (default), paper, fungi-few-shot or paper-few-shot"
    add("--protocol", default="fungi", help=words)
    add("-k", type=int, help="patches that vote (default: the protocol's)")
    add("--bank-rows", type=int, help="most patches of the memory bank (default: the protocol's)")
    words = "raise (default), or skip pictures and masks that cannot be used and list them"
    add("--on-error", choices=("raise", "skip"), default="raise", help=words)


def _run(options: argparse.Namespace) -> int:
    options.model, train, pictures = _places(options)
    from fungi_hf.evaluation.segmentation import MemoryBank
    from fungi_hf.evaluation.segmentation.pictures import class_colours

    known, asked = _listed(train, options.masks), _listed(pictures, options.truth)
    if not any(one.mask for one in known):
        raise InputError(
            f"{train} holds no picture with a mask; it needs images/ and masks/ with the same "
            "names, or --masks FOLDER"
        )
    job = _job(options, known)
    known = [one for one in known if job.usable(one)]
    if not known:
        raise InputError(f"no training picture of {train} can be used; see what was left out")
    job.colours = class_colours(len(job.names), job.read(known[0])[2])
    extractor = _extractor(options)
    paths = [str(one.picture) for one in known]
    if extractor.config.needs_fit and not extractor.is_fitted:
        extractor.fit(paths, progress=True)
    dense = extractor.dense(paths, progress=True)
    pairs = ((one, job.read(known[one.index])[0]) for one in dense)
    bank = MemoryBank.build(pairs, n_classes=len(job.names), protocol=job.rule)
    result = SegmentResult(job, bank, Path(options.out), pictures)
    stream = extractor.dense(
        [str(one.picture) for one in asked], progress=True, on_error=options.on_error
    )
    for features in stream:
        result.add(features, asked[features.index])
    for failure in stream.failures:
        job.left_out(Path(failure.source), failure.error)
    result.write(extractor, len(known))
    return 0


def _places(options: argparse.Namespace) -> tuple[str, str, str]:
    places = ([options.model] if options.model else []) + options.places
    if len(places) != 3:
        raise ConfigError(
            f"segment takes a model, a folder of labelled pictures and pictures, as in 'fungi-hf "
            f"segment MODEL TRAIN PICTURES --out maps'; got {len(places)}: {' '.join(places)}"
        )
    return places[0], places[1], places[2]


def _listed(place: str, masks: str | None) -> list[Labelled]:
    from fungi_hf.evaluation.segmentation.pictures import IMAGES, MASKS, labelled_pictures

    path = Path(place)
    if not path.exists():
        raise InputError(f"there is no file or folder {place}")
    folder = path / IMAGES if (path / IMAGES).is_dir() else path
    own = path / MASKS if folder != path and (path / MASKS).is_dir() else None
    files = files_in(folder) if folder.is_dir() else [folder]
    if not files:
        raise InputError(f"{folder} holds no pictures")
    where = folder if folder.is_dir() else folder.parent
    return labelled_pictures(files, where, Path(masks) if masks else own)


def _job(options: argparse.Namespace, known: list[Labelled]) -> SegmentJob:
    from fungi_hf.evaluation.segmentation.bank import named
    from fungi_hf.evaluation.segmentation.pictures import VOID, count_classes, read_class_names

    given = read_class_names(Path(options.names)) if options.names else None
    n_classes = count_classes([one.mask for one in known if one.mask], given)
    names = given or [f"class {label}" for label in range(n_classes)]
    ignore = [VOID] if n_classes <= VOID and not options.ignore else []
    for one in options.ignore or []:
        if one not in names and not one.isdigit():
            raise ConfigError(f"--ignore {one}: that is no label and none of the classes' names")
        ignore.append(names.index(one) if one in names else int(one))
    rule = replace(named(options.protocol), ignore=tuple(dict.fromkeys(ignore)))
    if options.k is not None:
        rule = replace(rule, n_neighbors=options.k)
    if options.bank_rows is not None:
        rule = replace(rule, bank_rows=options.bank_rows)
    return SegmentJob(names, rule, options.on_error == "skip")


def _extractor(options: argparse.Namespace) -> FungiExtractor:
    extractor = load(options)
    config = extractor.config
    is_chosen = options.config or options.objective
    if not is_chosen and config == FungiConfig(dtype=config.dtype):
        config = FungiConfig(dtype=config.dtype, objectives=("dense_infonce",))  # type: ignore[arg-type]
    if options.image_size is not None:
        config = config.replace(image_size=_size(options.image_size))
    if config != extractor.config:
        extractor = extractor.with_config(config.replace(dense=True))
    if extractor.encoder.modality != "vision":
        raise ConfigError(f"segment needs an image model; {options.model} is of text or sound")
    return extractor


def _size(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if not all(side.isdigit() for side in sides) or len(sides) > 2:
        raise ConfigError(f"--image-size must be a number of pixels or HEIGHTxWIDTH; got {text}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
