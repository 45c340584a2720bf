"""What `fungi-hf segment` reads of each labelled picture, and what it writes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import FungiError, InputError

if TYPE_CHECKING:
    from fungi_hf.dense import DenseFeatures
    from fungi_hf.evaluation.report.maps import Segmented
    from fungi_hf.evaluation.segmentation import MemoryBank, SegmentationProtocol
    from fungi_hf.evaluation.segmentation.examples import LabelMap
    from fungi_hf.evaluation.segmentation.pictures import Colours, Labelled
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.types import Int64Array

_SHOWN: Final = 100  # pictures on the page


@dataclass
class SegmentJob:
    """What the command reads before the model runs."""

    names: list[str]
    rule: SegmentationProtocol
    skips: bool
    failures: list[dict[str, str]] = field(default_factory=list)
    colours: Any = None

    def usable(self, one: Labelled) -> bool:
        """Whether picture and mask can be read and belong together; raises unless it skips."""
        try:
            self.read(one)
        except FungiError as error:
            self.left_out(one.picture, error)
            return False
        return True

    def left_out(self, picture: Path, error: FungiError | str) -> None:
        """Note a picture that cannot be used, or raise."""
        if not self.skips:
            raise error if isinstance(error, FungiError) else InputError(error)
        self.failures.append({"file": str(picture), "error": str(error)})
        sys.stderr.write(f"left out: {error}\n")

    def read(self, one: Labelled) -> tuple[Int64Array, LabelMap, Colours | None]:
        """Give the labels of a picture, the same with ignored ones as -1, and the palette.

        Raises:
            InputError: If there is no mask, or it is not the picture's.
        """
        from fungi_hf.evaluation.segmentation.examples import clean_labels
        from fungi_hf.evaluation.segmentation.pictures import check_size, read_mask

        if one.mask is None:
            raise InputError(
                f"{one.picture} has no mask; give one of its name as a PNG, or --on-error skip"
            )
        labels, colours = read_mask(one.mask)
        check_size(one.mask, labels, one.picture, pixels_of(one.picture).shape[:2])
        where = f"the mask {one.mask}"
        clean = clean_labels(labels, len(self.names), self.rule.ignore, where)
        return labels, clean, colours


class SegmentResult:
    """Maps written as they come, and what the page and the summary say of them."""

    def __init__(self, job: SegmentJob, bank: MemoryBank, out: Path, pictures: str) -> None:
        self._job, self._bank, self._out = job, bank, out
        folder = Path(pictures)
        inner = folder / "images"
        self._folder = inner if inner.is_dir() else folder if folder.is_dir() else folder.parent
        first = next(iter(bank.layout))
        self._some = list(dict.fromkeys([(first,), tuple(bank.layout)]))
        self._titles = ["plain tokens", f"FUNGI ({' + '.join(bank.layout)})"][: len(self._some)]
        self._confusions: list[list[Int64Array]] = [[] for _ in self._some]
        self._shown: list[Segmented] = []
        self._files: list[dict[str, str]] = []

    def add(self, features: DenseFeatures, one: Labelled) -> None:
        """Label a picture, write its map, score it where it has a mask."""
        from fungi_hf.evaluation.report.maps import Segmented, shown_map, shown_picture
        from fungi_hf.evaluation.segmentation import scores
        from fungi_hf.evaluation.segmentation.pictures import save_map
        from fungi_hf.evaluation.segmentation.upsampling import label_map

        job, pixels = self._job, pixels_of(one.picture)
        truth = None
        if one.mask is not None:
            if not job.usable(one):
                return
            truth = job.read(one)[1]
        size = (pixels.shape[0], pixels.shape[1])
        votes = self._bank.votes(features, self._some)
        maps = [label_map(vote, size, job.rule.upsampling) for vote in votes]
        name = one.picture.relative_to(self._folder)
        target = self._out / "labels" / name.with_suffix(".png")
        save_map(target, maps[-1], job.colours)
        self._files.append({"picture": str(one.picture), "labels": str(target)})
        words = [""] * len(maps)
        if truth is not None:
            found = [scores.confusion(truth, drawn, len(job.names)) for drawn in maps]
            for held, matrix in zip(self._confusions, found, strict=True):
                held.append(matrix)
            words = [f"{scores.metrics_of(m)['pixel_accuracy']:.1%} of pixels" for m in found]
        if len(self._shown) < _SHOWN:
            figures = {"picture": shown_picture(pixels)}
            for title, drawn, said in zip(self._titles, maps, words, strict=True):
                figures[title] = shown_map(drawn, job.colours, said)
            if truth is not None:
                figures["truth"] = shown_map(truth, job.colours)
            self._shown.append(Segmented(name=str(name), figures=figures))

    def write(self, extractor: FungiExtractor, n_train: int) -> None:
        """Write page and summary.

        Raises:
            InputError: If no picture could be labelled.
        """
        from fungi_hf.evaluation.records import write_text
        from fungi_hf.evaluation.report.maps import UNSCORED, write_maps

        if not self._files:
            raise InputError("no picture could be labelled; see what was left out")
        job, found = self._job, self._scores()
        summary = {
            "classes": job.names,
            "ignored": list(job.rule.ignore),
            "protocol": {"name": job.rule.name, "n_neighbors": job.rule.n_neighbors},
            "config": extractor.config.to_dict(),
            "fingerprint": extractor.fingerprint,
            "training_pictures": n_train,
            "bank_rows": len(self._bank),
            "scores": found,
            "pictures": self._files,
            "left_out": job.failures,
        }
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        write_text(self._out / "segment.json", text, "summary")
        scored = "; ".join(
            f"{title}: mIoU {one['miou']:.1%}, {one['pixel_accuracy']:.1%} of pixels"
            for title, one in found.items()
        )
        lead = (
            f"{len(self._shown)} of {len(self._files)} pictures, labelled by {len(self._bank)} "
            f"patches of {n_train} labelled pictures. {scored[:1].upper()}{scored[1:]}"
        )
        legend = {
            name: colour
            for label, (name, colour) in enumerate(zip(job.names, job.colours, strict=True))
            if label not in job.rule.ignore
        }
        if found:
            legend["not scored"] = UNSCORED
        write_maps(self._out / "index.html", self._shown, legend, lead=lead.strip())
        sys.stderr.write(f"wrote {len(self._files)} maps and index.html to {self._out}\n")
        if found:
            sys.stdout.write(json.dumps(found) + "\n")

    def _scores(self) -> dict[str, Any]:
        from fungi_hf.evaluation.segmentation import scores

        if not self._confusions[0]:
            return {}
        names = self._job.names
        found: dict[str, Any] = {}
        for title, matrices in zip(self._titles, self._confusions, strict=True):
            total = np.sum(matrices, axis=0)
            each = scores.iou(scores.counts_of(total))
            per_class = {
                name: float(one) for name, one in zip(names, each, strict=True) if np.isfinite(one)
            }
            found[title] = scores.metrics_of(total) | {"per_class": per_class}
        return found


def pixels_of(picture: Path) -> np.ndarray:
    """Give a picture upright, [H, W, 3] uint8."""
    from fungi_hf.encoders.vision.pictures import decode

    return decode(str(picture)).pixels()
