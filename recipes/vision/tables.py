"""The tables of docs/images.md from what the image recipes recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Found = dict[str, dict[str, Any]]
SETS = {"imagenette128": "Imagenette", "cifar10_3k": "CIFAR-10 (3,000)"}
NAMES = {
    "activation": "activation (control)",
    "kl": "KL",
    "dino": "DINO",
    "dino_shared": "DINO, one head for both",
    "dino_global": "DINO, two large crops",
    "patches": "SimCLR (16 patches)",
    "crops": "SimCLR (8 crops)",
    "deepcluster": "DeepCluster",
    "ibot": "iBOT",
}
_BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "results"


def _title(name: str) -> str:
    return " + ".join(NAMES.get(part, part) for part in name.split("+"))


def _change(row: dict[str, Any]) -> str:
    found = row.get("against_embedding")
    if not found:
        return ""
    middle, low, high = (f"{100 * found[end]:+.1f}" for end in ("difference", "low", "high"))
    return f"{middle} ({low} to {high})"


def _table(head: list[str], rows: list[list[str]], *, texts: int = 1) -> str:
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def blocks(found: Found) -> str:
    """Give plain and whitened blocks of whole sets: neighbours, few-shot, linear probe."""
    head = ["features"]
    for title in SETS.values():
        head += [title, "difference (95 %)", "5-shot", "linear probe"]
    rows = []
    for kind, note in (("blocks", ""), ("whitened", ", whitened by half")):
        for name in found[f"vision-imagenette128-{kind}"]["scores"]:
            row = [_title(name) + note]
            for data in SETS:
                scores = found[f"vision-{data}-{kind}"]["scores"]
                row += _cells(scores[name], "" if note else _change(scores[name]))
            rows.append(row)
    return _table(head, rows)


def _cells(scores: dict[str, Any], change: str) -> list[str]:
    return [f"{scores['knn']:.1f}", change, f"{scores['few']:.1f}", f"{scores['linear']:.1f}"]


def main(found: Found) -> str:
    """Give the README's rows: embedding, KL beside it, tuned, the linear probe."""
    tuned = {case["case"]: case for case in found["vision-tuning"]["cases"]}
    rows = []
    for data, title in SETS.items():
        scores, case = found[f"vision-{data}-blocks"]["scores"], tuned[data]
        rows.append(
            [
                title,
                f"{scores['embedding']['knn']:.1f}",
                _change(scores["embedding+kl"]),
                _change(scores["embedding+activation"]),
                f"{100 * case['accuracy']['free']:.1f}",
                f"{scores['embedding']['linear']:.1f}",
            ]
        )
    head = ["data", "embedding", "+ KL", "+ activation (control)", "tuned"]
    return _table([*head, "linear probe on the embedding"], rows)


def views(found: Found) -> str:
    """Give every objective on 1,000 images: neighbours, few-shot, linear probe, clusters."""
    head = ["features"]
    for title in SETS.values():
        head += [title, "difference (95 %)", "5-shot", "linear probe", "NMI"]
    rows = []
    for name in found["vision-imagenette128-views"]["scores"]:
        row = [_title(name)]
        for data in SETS:
            scores = found[f"vision-{data}-views"]["scores"][name]
            row += [*_cells(scores, _change(scores)), f"{scores['nmi']:.2f}"]
        rows.append(row)
    return _table(head, rows)


def cka(found: Found) -> str:
    """Give CKA between blocks, one set above the diagonal and the other below."""
    one, two = (found[f"vision-{data}-views"]["cka"] for data in SETS)
    names = one["blocks"]
    rows = []
    for i, name in enumerate(names):
        values = [
            (one if j > i else two)["values"][i][j] if i != j else None for j in range(len(names))
        ]
        rows.append([_title(name), *("" if v is None else f"{v:.2f}" for v in values)])
    return _table(["", *map(_title, names)], rows)


def patches(found: Found) -> str:
    """Give SimCLR by the number of its patches."""
    rows = [
        [
            str(row["patches"]),
            *(f"{row['knn'][name]:.1f}" for name in ("embedding", "simclr", "embedding+simclr")),
            f"{row['images_per_second']:.1f}",
        ]
        for row in found["vision-imagenette128-patches"]["patches"]
    ]
    head = ["patches", "embedding", "SimCLR", "embedding + SimCLR", "images per second"]
    return _table(head, rows, texts=0)


def layers(found: Found) -> str:
    """Give accuracy by block: the gradient of KL alone / the layer's input alone."""
    rows = found["vision-imagenette128-layers"]["rows"]
    base = next(row for row in rows if row["features"] == "embedding")
    inner = [row for row in rows if row["block"] is not None]
    parts = list(dict.fromkeys(row["part"] for row in inner))
    by_place = {(row["block"], row["part"], row["features"]): row["accuracy"] for row in inner}
    lines = []
    for block in sorted({row["block"] for row in inner}):
        line = [str(block)]
        for part in parts:
            pair = [by_place.get((block, part, name)) for name in ("kl", "activation")]
            line.append(" / ".join("" if x is None else f"{100 * x:.1f}" for x in pair))
        lines.append(line)
    table = _table(["block", *parts], lines, texts=0)
    return f"{table}\n\n(The embedding: {100 * base['accuracy']:.1f}.)"


def sketches(found: Found) -> str:
    """Give what sketches of the KL gradient keep."""
    rows = []
    for row in found["vision-imagenette128-sketches"]["rows"]:
        name = row["kind"].replace("khatri_rao", "Khatri-Rao").replace("exact", "exact kernel")
        rank = f", rank {row['rank']}" if row["rank"] else ""
        cells = [f"{row['cosine_rmse']:.3f}", f"{100 * row['neighbours_kept']:.0f} %"]
        exact = row["kind"] == "exact"
        width = "" if exact else str(row["width"])
        rows.append([name + rank, width, *cells, f"{100 * row['accuracy']:.1f}"])
    head = ["sketch", "width", "error of a cosine", "nearest ten kept", "accuracy"]
    return _table(head, rows)


def tuning(found: Found) -> str:
    """Give what tuning chose and reached."""
    head = ["set, layers", "embedding", "activation", "tuned", "linear probe on the embedding"]
    head += ["paper preset / tuned, few rows", "chosen"]
    rows = []
    for case in found["vision-tuning"]["cases"]:
        for arm in ("last", "free"):
            right, chosen, small = case["accuracy"], case["chosen"][arm], case["on_paper_rows"]
            p = min((t["p"] for t in case["tests"][arm].values() if t["difference"] < 0), default=1)
            blocks_ = [*(["embedding"] if chosen["embedding_weight"] else []), *chosen["blocks"]]
            rows.append(
                [
                    f"{SETS[case['case']]}, {arm}",
                    *(f"{100 * right[name]:.1f}" for name in ("embedding", "activation", arm)),
                    f"{100 * case['linear']['embedding']:.1f}",
                    f"{100 * small['paper']:.1f} / {100 * small[arm]:.1f}",
                    f"{' + '.join(blocks_)}, {chosen['pooling']}, whitened {chosen['whitening']:g}"
                    + ("" if p >= 0.05 else f" (worse somewhere, p = {p:.2g})"),
                ]
            )
    return _table(head, rows)


def cost(_: Found) -> str:
    """Give what image features cost beside the plain forward pass."""
    rows = []
    for run in _record("vision_cost")["runs"]:
        for row in run["rows"]:
            ratios = row["ratio_to_plain_forward"]
            cells = [f"{ratios[pooling]:.2f} ({row['bars'][pooling]:g})" for pooling in ratios]
            rows.append([run["machine"]["processor"], row["shape"], row["blocks"], *cells])
    head = ["processor", "shape", "blocks", "class token (bar)", "mean (bar)"]
    return _table(head, rows, texts=3)


def published(_: Found) -> str:
    """Give the times of the published algorithm and ours."""
    rows = []
    for run in _record("vision_published")["runs"]:
        faster, share = run["times_faster"], run["plain_forward_share"]
        rows.append(
            [
                run["machine"]["processor"],
                *(f"{faster[label]:.1f}" for label in faster),
                *(f"{100 * value:.0f} %" for value in share.values()),
            ]
        )
    labels = ["published", "default sketch", "paper preset"]
    head = ["processor", "default sketch: times faster", "paper preset: times faster"]
    return _table([*head, *(f"forward passes' share, {label}" for label in labels)], rows)


def _record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))
    return found


ENCODERS = {"dinov2-small-saliency": "DINOv2-small (saliency)", "vit-s14-112": "compressed ViT"}
_BLOCKS = {
    "tokens": "tokens",
    "activation": "activation, last block (control)",
    "dense_infonce": "DenseInfoNCE",
    "dense_untempered": "DenseInfoNCE, untempered",
    "dense_below": "DenseInfoNCE, two blocks below",
}


def _segmentations(found: Found) -> list[dict[str, Any]]:
    return [found[f"vision-segmentation-{encoder}"] for encoder in ENCODERS]


def _parts(name: str) -> str:
    if name.startswith("control: "):
        return name.removeprefix("control: ") + " (control)"
    words = [
        f"tokens after block {part.removeprefix('after_')}"
        if part.startswith("after_")
        else _BLOCKS[part]
        for part in name.split("+")
    ]
    return "all blocks" if len(words) == 9 else " + ".join(words)


def segmentation(found: Found) -> str:
    """Give what was chosen on training videos, beside every control."""
    head = ["features"]
    for title in ENCODERS.values():
        head += [f"{title}: mIoU", "95 %", "matched", "pixels"]
    sides = [one["beside_controls"] for one in _segmentations(found)]
    tuned = [one["tuned"] for one in _segmentations(found)]
    rows = []
    for place, pair in enumerate(zip(*sides, strict=True)):
        words = " / ".join(
            _parts(one["blocks"]) + (", whitened" if one["set"] == "whitened" else "")
            for one in tuned
        )
        row = [f"tuned: {words}" if place == 0 else _parts(pair[0]["name"])]
        for one in pair:
            low, high = one["interval"]
            row += [f"{one['miou']:.1f}", f"{low:.1f} to {high:.1f}"]
            row += [f"{one[name]:.1f}" for name in ("miou_matched", "pixel_accuracy")]
        rows.append(row)
    return _table(head, rows)


def segmentation_blocks(found: Found) -> str:
    """Give every combination of blocks, plain and whitened by half; `*` marks p < .05."""
    head = ["features"]
    for title in ENCODERS.values():
        head += [f"{title}: plain", "whitened"]
    sides = [one["blocks"][kind] for one in _segmentations(found) for kind in ("plain", "whitened")]
    rows = []
    for same in zip(*sides, strict=True):
        depth = [_parts(one["name"]) for one in same]
        row = [depth[0] if depth[0] == depth[2] else f"{depth[0]} / {depth[2]}"]
        for one in same:
            p = (one.get("against_first") or {}).get("p", 1.0)
            row.append(f"{one['miou']:.1f}" + ("*" if p < 0.05 else ""))
        rows.append(row)
    return _table(head, rows)


def segmentation_few(found: Found) -> str:
    """Give banks of a tenth of the patches, of 30 and of 8 training frames."""
    head = ["features", "bank"]
    head += list(ENCODERS.values())
    sides = [[*one["bounded_bank"], *one["few_images"]] for one in _segmentations(found)]
    rows = []
    for pair in zip(*sides, strict=True):
        names = [_parts(one["name"]) for one in pair]
        is_tuned = names[0] != names[1] or pair[0]["name"] not in (
            *("tokens", "activation", "tokens+dense_infonce"),
        )
        cells = ["tuned" if is_tuned else names[0], pair[0]["protocol"]]
        for one in pair:
            spread = one.get("deviation")
            cells.append(f"{one['miou']:.1f}" + (f" ± {spread:.1f}" if spread else ""))
        rows.append(cells)
    return _table(head, rows, texts=2)


TABLES = {
    "images": blocks,
    "images-main": main,
    "images-views": views,
    "images-cka": cka,
    "images-patches": patches,
    "images-layers": layers,
    "images-sketches": sketches,
    "images-tuning": tuning,
    "images-cost": cost,
    "images-published": published,
    "segmentation": segmentation,
    "segmentation-blocks": segmentation_blocks,
    "segmentation-few": segmentation_few,
}
