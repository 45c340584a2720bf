"""Build the tables of README.md, docs/ and recipes/ABLATIONS.md from recipes/results.

python -m recipes.table [--check]
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
from pathlib import Path
from typing import Any

from recipes import discriminant, late, tuning_tables
from recipes.paper import render as paper_tables
from recipes.sweeps import table as sweep_tables
from recipes.vision import tables as vision_tables

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGES = (ROOT / "README.md", HERE / "ABLATIONS.md", *sorted(ROOT.glob("docs/*.md")))
SETS = {"banking77": "Banking-77", "trec6": "TREC-6", "sst2": "SST-2", "sst5": "SST-5"}
POOLINGS = ("cls", "mean")
SOUNDS = {"ESC-10": ("audio_esc10",), "spoken digits": ("audio_fsdd", "audio_fsdd_kl")}
ARMS = (
    "embedding",
    "activation (control)",
    "embedding + activation (control)",
    "embedding + KL",
    "embedding + SimCLR (crop)",
    "embedding + SimCLR (spec_augment)",
    "embedding + SimCLR (noise_roll)",
    "embedding + SimCLR (gain_shift)",
    "embedding + KL + SimCLR (crop)",
)


def results() -> dict[str, dict[str, Any]]:
    """Read every result file by name; those of images are "vision-NAME"."""
    paths = {path.stem: path for path in sorted((HERE / "results").glob("*.json"))}
    images = sorted((HERE / "results" / "vision").glob("*.json"))
    paths |= {f"vision-{path.stem}": path for path in images}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def difference(scores: dict[str, Any], base: dict[str, Any], n_rows: int) -> str:
    """Give "+1.3 (0.6 to 2.0)": points against the embedding, paired 95 % interval."""
    gained, lost = scores["gained"], scores["lost"]
    delta = (gained - lost) / n_rows
    half = 1.959964 * math.sqrt(max(gained + lost - (gained - lost) ** 2 / n_rows, 0)) / n_rows
    if abs(delta - (scores["full"] - base["full"])) > 1e-9:
        raise ValueError("gained and lost rows do not add up to the difference")
    return f"{100 * delta:+.1f} ({100 * (delta - half):+.1f} to {100 * (delta + half):+.1f})"


def main_table(found: dict[str, dict[str, Any]]) -> str:
    """Give the README's table: neighbours of embedding, KL and tuned features; probes."""
    lines = [
        "| data, pooling | embedding | + KL | + KL + SimCLR | tuned | probe | probe, tuned |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    tuned = {case["case"]: case["accuracy"] for case in found["tuning"]["cases"]}
    for data, title in SETS.items():
        for pooling in POOLINGS:
            own = found[f"{data}-minilm-{pooling}"]
            test, n_rows = own["test"], own["rows"]["test"]
            cells = [f"{title}, {pooling}", _percent(test["embedding"])]
            cells += [
                difference(test[name], test["embedding"], n_rows)
                for name in ("embedding+kl", "embedding+kl+simclr")
            ]
            shares = tuned[f"{data}-{pooling}"]
            names = ("tuned free, neighbors", "embedding, linear", "tuned free, linear")
            cells += [f"{100 * shares[name]:.1f}" for name in names]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def linear_table(found: dict[str, dict[str, Any]]) -> str:
    """Give the linear probe on the embedding beside its neighbours, with 95 % intervals."""
    lines = ["| data, pooling | 20 nearest neighbours | linear probe |", "| --- | ---: | ---: |"]
    for case in found["linear"]["cases"]:
        cells = [f"{SETS[case['data']]}, {case['pooling']}"]
        for kind in ("knn", "linear"):
            low, high = case[kind]["intervals"]["accuracy"]
            accuracy = case[kind]["metrics"]["accuracy"]
            cells.append(f"{100 * accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def published_table(_: dict[str, dict[str, Any]]) -> str:
    """Give how many times faster than the published algorithm, from the benchmark's file."""
    runs = _benchmark("text_published")["runs"]
    labels = list(runs[0]["rows"][0]["times_faster"])
    lines = [
        "| processor, encoder | " + " | ".join(labels) + " |",
        "| --- |" + " ---: |" * len(labels),
    ]
    for run in runs:
        for row in run["rows"]:
            cells = [f"{row['times_faster'][label]:.1f}" for label in labels]
            name = f"{run['machine']['processor']}, {row['encoder']}"
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append(f"\n({runs[0]['machine']['threads']} threads.)")
    return "\n".join(lines)


def layers_cost_table(_: object) -> str:
    """Give what gradients at several layers cost, from the benchmark's file."""
    record = _benchmark("layers_cost")
    lines = ["| encoder, pooling | 1 layer | 3 layers | 6 layers |", "| --- | ---: | ---: | ---: |"]
    ratios: dict[str, dict[int, float]] = {}
    for row in record["rows"]:
        own = ratios.setdefault(f"{row['encoder']}, {row['pooling']}", {})
        own[row["layers"]] = row["ratio_to_plain_forward"]
    for name, own in ratios.items():
        lines.append(f"| {name} | " + " | ".join(f"{own[count]:.2f}" for count in (1, 3, 6)) + " |")
    machine = record["machine"]
    lines.append(
        f"\n(Embedding and KL at each layer, {machine['processor']}, {machine['threads']} threads. "
        f"Yardstick: {record['yardstick']}.)"
    )
    return "\n".join(lines)


def tuning_cost_table(_: object) -> str:
    """Give what tuning takes, from the benchmark's file."""
    lines = [
        "| rows, judge | candidates | one extraction, s | tuning, s | of it votes or fits, s "
        "| encoder, extractions |",
        "| --- |" + " ---: |" * 5,
    ]
    for row in _benchmark("tuning_cost")["rows"]:
        cells = [f"{row['rows']:,}, {row['judge']}", str(row["candidates"])]
        cells += [f"{row[name]:.1f}" for name in ("extraction_s", "tune_s")]
        cells.append(f"{row['stages_s']['votes']:.1f}")
        cells.append(f"{row['encoder_ratio_to_one_extraction']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def full_table(found: dict[str, dict[str, Any]]) -> str:
    """Give the objectives' table with the control and the paper preset."""
    lines = [
        "| data, pooling | embedding | + KL | difference (95 %) | + KL + SimCLR "
        "| difference (95 %) | activation alone | paper preset: difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for data, title in SETS.items():
        for pooling in POOLINGS:
            own = found.get(f"{data}-minilm-{pooling}")
            paper = found.get(f"{data}-minilm-{pooling}-paper")
            if own is None:
                continue
            test, n_rows = own["test"], own["rows"]["test"]
            base = test["embedding"]
            cells = [f"{title}, {pooling}", _percent(base)]
            for name in ("embedding+kl", "embedding+kl+simclr"):
                cells += [_percent(test[name]), difference(test[name], base, n_rows)]
            cells.append(_percent(test["activation"]))
            cells.append(_paper_cell(paper) if paper else "")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _paper_cell(paper: dict[str, Any]) -> str:
    """Give the paper preset's difference to the embedding on the rows that it was run on."""
    test, n_rows = paper["test"], paper["rows"]["test"]
    cell = difference(test["embedding+kl+simclr"], test["embedding"], n_rows)
    return f"{cell}, {n_rows} test rows" if paper["recipe"].get("rows") else cell


def few_shot_table(found: dict[str, dict[str, Any]]) -> str:
    """Give 5-shot accuracies, mean and standard deviation over the draws."""
    names = ("embedding", "embedding+kl", "embedding+kl+simclr", "activation")
    lines = [
        "| data, pooling | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for data, title in SETS.items():
        for pooling in POOLINGS:
            own = found.get(f"{data}-minilm-{pooling}")
            if own is None:
                continue
            cells = [
                f"{100 * own['test'][n]['few_mean']:.1f} ± {100 * own['test'][n]['few_sd']:.1f}"
                for n in names
            ]
            lines.append(f"| {title}, {pooling} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def defaults_table(found: dict[str, dict[str, Any]]) -> str:
    """Give leave-one-out accuracy on the training sets, which alone chooses defaults."""
    choices = (
        "embedding",
        "embedding+kl",
        "embedding+simclr",
        "embedding+simclr_untempered",
        "embedding+kl+simclr",
        "embedding+kl+simclr_untempered",
    )
    names = [*choices]
    names += ["+".join(f"{part}*" for part in c.split("+")) for c in choices]
    columns = [
        (f"{title}, {pooling}", found[f"{data}-minilm-{pooling}"]["leave_one_out_on_train"])
        for data, title in SETS.items()
        for pooling in POOLINGS
        if f"{data}-minilm-{pooling}" in found
    ]
    lines = [
        "| blocks (* = centred) | " + " | ".join(title for title, _ in columns) + " | mean |",
        "| --- |" + " ---: |" * (len(columns) + 1),
    ]
    for name in names:
        values = [scores[name] for _, scores in columns]
        cells = [f"{100 * value:.1f}" for value in [*values, sum(values) / len(values)]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def audio_table(found: dict[str, dict[str, Any]]) -> str:
    """Give the table on sounds: 5 neighbours, mean over folds; blank: not run."""
    sets = [
        (title, [found[name] for name in names if name in found]) for title, names in SOUNDS.items()
    ]
    head, rule = "| features |", "| --- |"
    for title, _ in sets:
        head += f" {title} | difference (95 %) | {title}, 5-shot |"
        rule += " ---: |" * 3
    lines = [head, rule]
    for arm in ARMS:
        line = f"| {arm} |"
        for _, (result, *others) in sets:
            if arm not in result["mean"]:
                line += " | | |"
                continue
            scores, counts = result["mean"][arm], result["against_first_arm"][arm]["full k=5"]
            base = result["mean"]["embedding"]["full k=5"]
            pair = {"full": scores["full k=5"] / 100, **counts}
            change = "" if arm == ARMS[0] else _spread(pair, base / 100, result["clips"])
            line += f" {scores['full k=5']:.1f} | {change} | {_few([result, *others], arm)} |"
        lines.append(line)
    return "\n".join(lines)


def _few(results: list[dict[str, Any]], arm: str) -> str:
    """Give the 5-shot cell of the first record that has it."""
    cells = [one["mean"].get(arm, {}).get("5-shot k=5") for one in results]
    return next((f"{cell:.1f}" for cell in cells if cell is not None), "")


def _spread(scores: dict[str, Any], base: float, n_rows: int) -> str:
    """Give `difference`; folds of equal size make the mean over folds the mean over clips."""
    exact = {**scores, "full": base + (scores["gained"] - scores["lost"]) / n_rows}
    if abs(exact["full"] - scores["full"]) > 2e-4:
        raise ValueError("the folds differ in size: their mean is not the mean over clips")
    return difference(exact, {"full": base}, n_rows)


def audio_cost_table(_: dict[str, dict[str, Any]]) -> str:
    """Give the cost of audio features from the benchmark's file."""
    record = _benchmark("audio_cost")
    lines = [
        "| blocks, pooling | x forward | peak memory above the forward's | decode | front-end "
        "| views | encoder |",
        "| --- |" + " ---: |" * 6,
    ]
    for row in record["rows"]:
        cells = [row["row"], f"{row['ratio']:.2f}", f"{row['extra_mb']:.0f} MB"]
        cells += [
            f"{100 * row['share'][part]:.1f} %"
            for part in ("decode", "front-end", "views", "encoder")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(_footer(record, f"{record['model']}. "))
    return "\n".join(lines)


def cost_table(_: dict[str, dict[str, Any]]) -> str:
    """Give the README's cost table from the benchmark's file."""
    record = _benchmark("text_cost")
    columns = ("first token", "first token, generic hook", "mean")
    lines = [
        "| encoder | blocks | " + " | ".join(columns) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    for row in record["rows"]:
        ours, same = row["ratio_to_plain_forward"], row["ratio_with_own_batches"]
        cells = [f"{ours[column]:.2f} ({same[column]:.2f})" for column in columns]
        lines.append(f"| {row['encoder']} | {row['blocks']} | " + " | ".join(cells) + " |")
    lines.append(_footer(record, "In brackets: relative to a plain pass with our batches. "))
    return "\n".join(lines)


def _footer(record: dict[str, Any], more: str = "") -> str:
    """Give the processor and the yardstick of a benchmark, as its file says."""
    machine = record["machine"]
    where = f"{machine['processor']}, {machine['threads']} threads"
    return f"\n({where}. {more}Yardstick: {record['yardstick']}.)"


def sketch_table(_: dict[str, dict[str, Any]]) -> str:
    """Give sketch errors by rank from the benchmark's file."""
    rows = _benchmark("sketch_error")["rows"]
    ranks = list(next(iter(rows.values())))
    lines = [
        "| pooling, objective | " + " | ".join(ranks) + " |",
        "| --- |" + " ---: |" * len(ranks),
    ]
    for name, cells in rows.items():
        shown = " | ".join(f"{cells[r]['rmse']:.4f} / {cells[r]['kept']:.3f}" for r in ranks)
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def _benchmark(name: str) -> dict[str, Any]:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


TABLES = {
    "main": main_table,
    "full": full_table,
    "linear": linear_table,
    "published": published_table,
    "few-shot": few_shot_table,
    "defaults": defaults_table,
    "cost": cost_table,
    "layers-cost": layers_cost_table,
    "audio": audio_table,
    "audio-cost": audio_cost_table,
    "sketch": sketch_table,
    "layers-cls": lambda found: sweep_tables.layers(found, "cls"),
    "layers-mean": lambda found: sweep_tables.layers(found, "mean"),
    "sketch-sweep": sweep_tables.sketches,
    "options": sweep_tables.options,
    "simclr-options": sweep_tables.simclr,
    "tuning": tuning_tables.tuning,
    "tuning-choices": tuning_tables.choices,
    "tuning-tasks": tuning_tables.tasks,
    "tuning-cost": tuning_cost_table,
    "tuning-shots": tuning_tables.shots,
    "discriminant": lambda found: discriminant.table(found["discriminant"]["cases"]),
    "icl-votes": tuning_tables.votes,
    **{
        f"ablation-{name}": functools.partial(tuning_tables.ablation, name=name)
        for name in ("transforms", "weights", "layers", "inner", "heads", "infonce", "factors")
    },
    **vision_tables.TABLES,
    **paper_tables.TABLES,
    "late": late.accuracy_table,
    "late-cost": late.cost_table,
    "late-sound": late.sound_table,
}


def rendered(text: str, found: dict[str, dict[str, Any]]) -> str:
    """Replace what stands between the markers `<!-- table: NAME -->` and `<!-- end -->`."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]](found)}\n<!-- end -->"

    return re.sub(r"<!-- table: ([a-z-]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite the documents, or with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found = results()
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        new = rendered(text, found)
        if check and new != text:
            raise SystemExit(f"{path.name} is not what recipes/results give: make tables")
        path.write_text(new, encoding="utf-8")


def _percent(scores: dict[str, Any]) -> str:
    return f"{100 * scores['full']:.1f}"


if __name__ == "__main__":
    main()
