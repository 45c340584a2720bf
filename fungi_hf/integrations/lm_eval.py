"""lm-evaluation-harness: a task whose prompts hold the demonstrations that were chosen.

Only files are written; the harness need not be installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import InputError

if TYPE_CHECKING:
    from fungi_hf.icl.demos import DemoSet
    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.labels import LabelSpace

_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: {choices}
doc_to_target: "{{{{label}}}}"
target_delimiter: " "
num_fewshot: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata:
  version: 1.0
"""


def export_task(
    folder: str | Path, name: str, demos: DemoSet, queries: Examples, labels: LabelSpace
) -> Path:
    """Write NAME.jsonl and NAME.yaml, a task that `lm_eval --include_path FOLDER` finds.

    A row holds `id`, `text`, `label`, the `demonstrations` in prompt order and the `prompt` made of
    them. The labels are the choices; `demos` are of `DemoSelector.select(queries)`. Gives the path
    of the YAML file.

    Raises:
        InputError: If queries have no texts or targets, or are not those of the demonstrations.
        LabelError: If a target is none of the labels.
    """
    asked, shown_targets = (queries.texts, queries.targets), demos.pool.targets
    if None in (*asked, shown_targets) or len(queries) != len(demos):
        raise InputError(
            f"lm-eval needs a pool with targets and the {len(demos)} queries that were selected "
            f"for, with texts and targets; got {demos.pool!r} and {queries!r}"
        )

    def named(target: Any) -> str:
        return labels.names[labels.id_of(target)]

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    data = (place / f"{name}.jsonl").resolve()
    with data.open("w", encoding="utf-8") as file:
        for row, (text, target) in enumerate(zip(*asked, strict=True)):  # type: ignore[arg-type]
            shown = [{"text": one.content, "label": named(one.target)} for one in demos[row]]
            record: dict[str, Any] = {
                "id": row if queries.ids is None else queries.ids[row],
                "text": text,
                "label": named(target),
                "demonstrations": shown,
                "prompt": "".join(f"Text: {d['text']}\nLabel: {d['label']}\n\n" for d in shown)
                + f"Text: {text}\nLabel:",
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    task = place / f"{name}.yaml"
    choices = json.dumps(list(labels.names), ensure_ascii=False)
    task.write_text(_TASK.format(name=name, data=json.dumps(str(data)), choices=choices), "utf-8")
    return task
