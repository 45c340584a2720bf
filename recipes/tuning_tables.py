"""Tables of the tuning recipe and of the ablations, for recipes.table."""

from __future__ import annotations

from typing import Any

TITLES = {
    "banking77": "Banking-77",
    "trec6": "TREC-6",
    "sst2": "SST-2",
    "sst5": "SST-5",
}
SOUNDS = {
    "fsdd": "spoken digits, one speaker out",
    "fsdd-ungrouped": "the same, speakers not told",
    "fsdd-official": "spoken digits, official split",
    "esc10": "ESC-10",
}  # fmt: skip
BASELINES = ("embedding", "activation", "paper")
Found = dict[str, dict[str, Any]]


def tuning(found: Found) -> str:
    """Give every case's accuracies, and exact paired tests against the best baseline."""
    lines = [
        "| data, pooling | embedding | activation | paper preset | tuned, pooling held "
        "| against the best of three | tuned, pooling free | against the best of three |",
        "| --- |" + " ---: |" * 7,
    ]
    for case in found["tuning"]["cases"]:
        scores = case["accuracy"]
        cells = [
            _title(case["case"]),
            _percent(scores["embedding"]),
            _percent(scores["activation"]),
        ]
        paper = _percent(scores["paper"]) if "paper" in scores else ""
        if "paper" in scores and case["paper_rows"]["train"] < case["rows"]["train"]:
            paper += f" (tuned there: {_percent(case['on_paper_rows']['fixed'])})"
        cells.append(paper)
        for kind in ("fixed", "free"):
            cells += [_percent(scores[kind]), _against_best(case["tests"][kind])]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for kind, title in (("fixed", "Pooling held"), ("free", "Pooling free")):
        some = found["tuning"]["summary"][kind]
        worse = ", ".join(some["significantly_worse"]) or "none"
        lines.append(
            f"{title}: {100 * some['mean_gain_over_best_baseline']:+.1f} points on average against "
            "the best of the three, "
            f"{100 * some['mean_gain_over_embedding_cls_and_sounds']:+.1f} against the embedding "
            f"over first-token and sound cases; significantly worse than one of them: {worse}."
        )
    return "\n".join(lines)


def choices(found: Found) -> str:
    """Give what was chosen in every case, of the first fold where there are several."""
    lines = [
        "| data, pooling | tuned | features | pooling | blocks | leave-one-out | embedding's |",
        "| --- | --- | --- | --- | --- | ---: | ---: |",
    ]
    for case in found["tuning"]["cases"]:
        for kind, title in (("fixed", "pooling held"), ("free", "pooling free")):
            one = case["chosen"][kind][0]
            width = f", PCA {one['components']}" if one["components"] else ""
            lines.append(
                f"| {_title(case['case'])} | {title} | {one['features']}{width} | {one['pooling']} "
                f"| {one['blocks']} | {_percent(one['leave_one_out'])} "
                f"| {_percent(one['embedding_leave_one_out'])} |"
            )
    return "\n".join(lines)


def tasks(found: Found) -> str:
    """Give gains and losses on the small tasks, by the case that they are cut out of."""
    lines = [
        "| cut out of | tasks | mean gain over the best of two | smallest gain | behind "
        "| significantly behind (5 %) |",
        "| --- |" + " ---: |" * 5,
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in found["tuning-tasks"]["tasks"]:
        rows.setdefault(_title(one["task"].split(" ")[0]), []).append(one)
        if one["rows"]["train"] <= 500:
            rows.setdefault("at most 500 training rows", []).append(one)
        rows.setdefault("all", []).append(one)
    last = ("at most 500 training rows", "all")
    for title in (*(key for key in rows if key not in last), *last):
        some = [one["tests"] for one in rows[title]]
        gains = [min(test["difference"] for test in tests.values()) for tests in some]
        worse = sum(
            any(test["difference"] < 0 and test["p"] < 0.05 for test in tests.values())
            for tests in some
        )
        cells = [
            title,
            str(len(gains)),
            f"{100 * sum(gains) / len(gains):+.1f}",
            f"{100 * min(gains):+.1f}",
            str(sum(gain < 0 for gain in gains)),
            str(worse),
        ]
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


def _against_best(tests: dict[str, dict[str, float]]) -> str:
    """Give the smallest difference and its p."""
    name = min(tests, key=lambda one: tests[one]["difference"])
    test = tests[name]
    return f"{100 * test['difference']:+.1f} ({name}, p = {test['p']:.2g})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _title(case: str) -> str:
    if case in SOUNDS:
        return SOUNDS[case]
    data, _, pooling = case.partition("-")
    return f"{TITLES[data]}, {pooling}"
