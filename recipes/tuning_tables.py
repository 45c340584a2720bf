"""Tables of the tuning recipe and of the ablations, for recipes.table."""

from __future__ import annotations

from typing import Any

TITLES = {
    "banking77": "Banking-77",
    "trec6": "TREC-6",
    "sst2": "SST-2",
    "sst5": "SST-5",
    "fsdd": "spoken digits",
    "esc10": "ESC-10",
    "cifar10_3k": "CIFAR-10, 3,000 images",
    "imagenette128": "Imagenette",
}
Found = dict[str, dict[str, Any]]


def tuning(found: Found) -> str:
    """Give every case's accuracies by both heads, and exact tests against the embedding's."""
    heads = {"neighbors": "neighbours", "linear": "linear probe"}
    lines = [
        "| data, pooling | "
        + " | ".join(
            f"embedding, {words} | tuned, pooling held | pooling free | free against the embedding"
            for words in heads.values()
        )
        + " |",
        "| --- |" + " ---: |" * 8,
    ]
    for case in found["tuning"]["cases"]:
        cells = [_title(case["case"])]
        for head in heads:
            scores, arm = case["accuracy"], f"tuned free, {head}"
            test = case["tests"][arm][head]
            cells += [
                _percent(scores[f"embedding, {head}"]),
                _percent(scores[f"tuned held, {head}"]),
                _percent(scores[arm]),
                f"{100 * test['difference']:+.1f} (p = {test['p']:.2g})",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for head, words in heads.items():
        for pooling in ("held", "free"):
            some = found["tuning"]["summary"][f"tuned {pooling}, {head}"]
            worse = ", ".join(map(_title, some["significantly_worse"])) or "none"
            lines.append(
                f"- {words}, pooling {pooling}: {100 * some['mean_gain']:+.1f} points on average, "
                f"{100 * some['mean_gain_2000_rows']:+.1f} over sets of 2,000 and more training "
                f"rows; significantly worse: {worse}"
            )
    return "\n".join(lines)


def choices(found: Found) -> str:
    """Give what was chosen in every case with the pooling free."""
    lines = [
        "| data, pooling | judge | features | pooling | blocks | leave-one-out | embedding's "
        "| held-out gain | p |",
        "| --- | --- | --- | --- | --- |" + " ---: |" * 4,
    ]
    for case in found["tuning"]["cases"]:
        for head in ("neighbors", "linear"):
            one = case["chosen"][f"free, {head}"]
            width = f", PCA {one['components']}" if one["components"] else ""
            lines.append(
                f"| {_title(case['case'])} | {head} | {one['features']}{width} | {one['pooling']} "
                f"| {one['blocks']} | {_percent(one['leave_one_out'])} "
                f"| {_percent(one['embedding_leave_one_out'])} "
                f"| {100 * one['held_out_gain']:+.1f} | {one['p']:.2g} |"
            )
    return "\n".join(lines)


def tasks(found: Found) -> str:
    """Give gains and losses on the small tasks, by the case that they are cut out of."""
    lines = [
        "| cut out of | tasks | kept the embedding | mean gain | smallest gain "
        "| significantly worse (5 %) | mean gain of the leader | its smallest gain "
        "| significantly worse |",
        "| --- |" + " ---: |" * 8,
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in found["tuning-tasks"]["tasks"]:
        rows.setdefault(_title(one["task"].split(" ")[0]), []).append(one)
        if one["rows"]["train"] <= 300:
            rows.setdefault("at most 300 training rows", []).append(one)
        rows.setdefault("all", []).append(one)
    last = ("at most 300 training rows", "all")
    for title in (*(key for key in rows if key not in last), *last):
        some = rows[title]
        kept = sum(one["features"] == "embedding, plain" for one in some)
        cells = [title, str(len(some)), str(kept)]
        for arm in ("tuned", "leader"):
            tests = [one["tests"][arm] for one in some]
            gains = [test["difference"] for test in tests]
            worse = sum(test["difference"] < 0 and test["p"] < 0.05 for test in tests)
            cells += [
                f"{100 * sum(gains) / len(gains):+.1f}",
                f"{100 * min(gains):+.1f}",
                str(worse),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shots(found: Found) -> str:
    """Give probes on few rows, tuned and plain: means over draws."""
    lines = [
        "| data, pooling | rows a class | embedding, linear probe | tuned | difference "
        "| worst draw | draws that kept the embedding |",
        "| --- |" + " ---: |" * 6,
    ]
    for one in found["tuning-shots"]["cases"]:
        cells = [_title(one["case"]), str(one["shots"])]
        cells += [_percent(one["accuracy"][arm]) for arm in ("embedding", "tuned")]
        cells.append(f"{100 * one['gain']:+.1f} ± {100 * one['error']:.1f}")
        cells.append(f"{100 * one['worst']:+.1f}")
        cells.append(f"{one['kept_the_embedding']} of {len(one['draws']['tuned'])}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def votes(found: Found) -> str:
    """Give the vote and the coverage of demonstrations, embedding against tuned features."""
    lines = [
        "| data | measure | embedding | tuned | difference (exact McNemar) |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for case in found["icl-votes"]["cases"]:
        for measure, test in case["tests"].items():
            shares = [_percent(case["shares"][arm][measure]) for arm in ("embedding", "tuned")]
            gain = f"{100 * test['difference']:+.1f} (p = {test['p']:.2g})"
            cells = [TITLES[case["data"]], measure, *shares, gain]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ablation(found: Found, name: str, most: int = 25) -> str:
    """Give an experiment: leave-one-out / test accuracy, best mean first; plain sums always."""
    cases = found[f"ablations-{name}"]["cases"]
    arms = list(next(iter(cases.values())))
    titles = [_title(case) for case in cases]
    lines = [
        "| features | " + " | ".join(titles) + " | mean |",
        "| --- |" + " ---: |" * (len(titles) + 1),
    ]

    def mean(arm: str, key: str) -> float:
        return float(sum(case[arm][key] for case in cases.values()) / len(cases))

    ranked = sorted(arms, key=lambda one: -mean(one, "leave_one_out"))
    for place, arm in enumerate(ranked):
        if place >= most and not arm.endswith(", plain"):
            continue
        cells = [
            f"{_percent(case[arm]['leave_one_out'])} / {_percent(case[arm]['test'])}"
            for case in cases.values()
        ]
        cells.append(f"{_percent(mean(arm, 'leave_one_out'))} / {_percent(mean(arm, 'test'))}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _title(case: str) -> str:
    data, _, pooling = case.partition("-")
    return f"{TITLES[data]}, {pooling}"
