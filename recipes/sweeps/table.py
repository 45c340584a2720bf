"""Tables of the sweeps' results, for recipes/ABLATIONS.md."""

from __future__ import annotations

from typing import Any

SKETCHES = {"khatri_rao": "Khatri-Rao", "rademacher": "Rademacher", "exact": "exact kernel"}


def layers(found: dict[str, dict[str, Any]], pooling: str) -> str:
    """Give accuracy by layer and block: KL's gradient alone / the layer's input alone."""
    rows = found[f"sweep-layers-banking77-minilm-{pooling}"]["rows"]
    base = next(row for row in rows if row["features"] == "embedding")
    numbers = sorted({row["block"] for row in rows if row["block"] is not None})
    parts = list(dict.fromkeys(row["part"] for row in rows if row["block"] is not None))
    scores = {(row["part"], row["block"], row["features"]): row for row in rows}
    lines = [
        "| layer | " + " | ".join(f"block {number}" for number in numbers) + " |",
        "| --- |" + " ---: |" * len(numbers),
    ]
    for part in parts:
        cells = [
            " / ".join(
                f"{100 * scores[part, number, name]['accuracy']:.1f}"
                for name in ("kl", "activation")
                if (part, number, name) in scores
            )
            for number in numbers
        ]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines.append(f"\nThe embedding alone: {100 * base['accuracy']:.1f}.")
    for name in ("embedding+kl", "embedding+activation"):
        best = max((r for r in rows if r["features"] == name), key=lambda r: r["accuracy"])
        lines.append(
            f"Best {name}: {100 * best['accuracy']:.1f} at `{best['layer']}` "
            f"({_points(best['difference'])}, 95 % {_points(best['difference_low'])} to "
            f"{_points(best['difference_high'])}; chosen on the test rows among {len(parts)} x "
            f"{len(numbers)} layers, so too good by design)."
        )
    return "\n".join(lines)


def sketches(found: dict[str, dict[str, Any]]) -> str:
    """Give error, kept neighbours and accuracy by kind, rank and width."""
    sweep = found["sweep-sketches-banking77-minilm-mean"]
    widths = sorted({row["width"] for row in sweep["rows"] if row["kind"] != "exact"})
    held: dict[tuple[str, int | None], dict[int, dict[str, Any]]] = {}
    for row in sweep["rows"]:
        held.setdefault((row["kind"], row["rank"]), {})[row["width"]] = row
    lines = [
        "| sketch | " + " | ".join(f"width {width}" for width in widths) + " |",
        "| --- |" + " ---: |" * len(widths),
    ]
    for (kind, rank), own in held.items():
        if kind == "exact":
            continue
        name = SKETCHES[kind] + (f", rank {rank}" if rank else "")
        cells = [_sketch_cell(own[width]) for width in widths]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    exact = next(row for row in sweep["rows"] if row["kind"] == "exact")
    lines.append(f"\nThe exact kernel's accuracy: {100 * exact['accuracy']:.1f}.")
    return "\n".join(lines)


def options(found: dict[str, dict[str, Any]]) -> str:
    """Give accuracy over values of KL's options."""
    lines = ["| option | value | KL alone | embedding + KL |", "| --- | ---: | ---: | ---: |"]
    base = 0.0
    for kind, name in (("temperature", "temperature"), ("latent_dim", "head-width")):
        rows = found[f"sweep-{name}-banking77-minilm-cls"]["rows"]
        base = next(row["accuracy"] for row in rows if row[kind] is None)
        for value in dict.fromkeys(row[kind] for row in rows if row[kind] is not None):
            own = {row["features"]: row["accuracy"] for row in rows if row[kind] == value}
            cells = [f"{100 * own[name]:.1f}" for name in ("kl", "embedding+kl")]
            lines.append(f"| {kind} | {value:g} | " + " | ".join(cells) + " |")
    lines.append(f"\nThe embedding alone: {100 * base:.1f}.")
    return "\n".join(lines)


def simclr(found: dict[str, dict[str, Any]]) -> str:
    """Give accuracy over values of SimCLR's options on two sets."""
    sets = {"banking77": "Banking-77", "trec6": "TREC-6"}
    names = ("simclr", "embedding+simclr")
    columns = [f"{title}, {name}" for title in sets.values() for name in ("alone", "+ embedding")]
    lines = [
        "| option | value | " + " | ".join(columns) + " |",
        "| --- | ---: |" + " ---: |" * len(columns),
    ]
    fields = {"n_views": "views", "n_negatives": "negatives", "temperature": "simclr-temperature"}
    bases = {}
    for field, name in fields.items():
        sweeps = {data: found[f"sweep-{name}-{data}-minilm-cls"]["rows"] for data in sets}
        for value in dict.fromkeys(row[field] for row in sweeps["banking77"] if row[field]):
            cells = []
            for data, rows in sweeps.items():
                bases[data] = next(row["accuracy"] for row in rows if row[field] is None)
                own = {row["features"]: row["accuracy"] for row in rows if row[field] == value}
                cells += [f"{100 * own[features]:.1f}" for features in names]
            lines.append(f"| {field} | {value:g} | " + " | ".join(cells) + " |")
    alone = ", ".join(f"{100 * bases[data]:.1f} on {title}" for data, title in sets.items())
    lines.append(f"\nThe embedding alone: {alone}.")
    return "\n".join(lines)


def _sketch_cell(row: dict[str, Any]) -> str:
    return f"{row['cosine_rmse']:.3f} / {row['neighbours_kept']:.2f} / {100 * row['accuracy']:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
