"""How many files of the package one call enters, and how often it moves between them.

A move is a call of a function of the package from outside of its file: from another file of the
package, also through other libraries, or from the caller. Every call is made twice, on fresh
objects, and the second is counted, so that no import is. Models are tiny and random; the counts do
not depend on their size.

    python -m benchmarks.route [--files]
"""

from __future__ import annotations

import argparse
import sys
import threading
import warnings
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fungi_hf
from benchmarks.timing import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

PACKAGE = str(Path(fungi_hf.__file__).parent)
TEXTS = [
    f"{verb} my {noun}{end}"
    for verb in ("block", "find", "send", "open")
    for noun in ("card", "account", "money")
    for end in ("", " please")
]
LABELS = [text.split()[0] for text in TEXTS]
_SERVER = ("fake_server.py", "policies.py")  # stand for a machine of its own
BOUNDS = {
    "sentence": (12, 28),
    "clip": (16, 40),
    "icl_row": (20, 80),
    "tune": (None, 800),
}


@dataclass
class Route:
    """What one call did: the file of every call in order, and the moves between files."""

    calls: list[str] = field(default_factory=list)
    moves: int = 0

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or (file := _file(frame)) is None:
            return
        self.calls.append(file)
        caller = frame.f_back
        while caller is not None and _file(caller) is None:
            caller = caller.f_back
        self.moves += caller is None or _file(caller) != file


def _file(frame: FrameType) -> str | None:
    name = frame.f_code.co_filename
    if not name.startswith(PACKAGE) or any(part in name for part in _SERVER):
        return None
    return name.removeprefix(PACKAGE)[1:]


def route(prepare: Callable[[], Callable[[], object]]) -> Route:
    """Prepare and call twice; give the route of the second call."""
    prepare()()
    call, found = prepare(), Route()
    threading.setprofile(found.note)  # of threads that the call starts
    sys.setprofile(found.note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return found


def sentence() -> Callable[[], object]:
    from fungi_hf import FungiExtractor
    from fungi_hf.testing import tiny_text_model

    model, tokenizer = tiny_text_model("bert")
    extractor = FungiExtractor.from_pretrained(model, processor=tokenizer)
    return lambda: extractor(TEXTS[:1])


def clip() -> Callable[[], object]:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    from fungi_hf import FungiExtractor

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = ASTConfig(**shape, intermediate_size=64, num_mel_bins=128, max_length=128)
    processor = ASTFeatureExtractor(num_mel_bins=128, max_length=128)
    extractor = FungiExtractor.from_pretrained(ASTModel(settings).eval(), processor=processor)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    return lambda: extractor([(wave, 16000)])


def icl_row() -> Callable[[], object]:
    from fungi_hf.icl import (
        ChatLLM,
        DemoSelector,
        Examples,
        FakeOpenAIServer,
        LabelSpace,
        PromptBuilder,
        evaluate,
    )

    names = ["block", "find", "open", "send"]
    pool = Examples(contents=TEXTS, targets=[names.index(label) for label in LABELS])
    queries = Examples(contents=["open the account now"], targets=[names.index("open")])

    def run() -> None:
        with FakeOpenAIServer() as server:
            selector = DemoSelector("bm25", k=4).fit(pool)
            builder = PromptBuilder(LabelSpace(names))
            evaluate(selector, builder, ChatLLM("fake", base_url=server.url), queries)

    return run


def tune() -> Callable[[], object]:
    from fungi_hf import FungiExtractor
    from fungi_hf.testing import tiny_text_model

    model, tokenizer = tiny_text_model("bert")
    extractor = FungiExtractor.from_pretrained(model, processor=tokenizer)
    return lambda: extractor.tune(TEXTS, LABELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="print the files in order of entry")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = {}
    for name, prepare in {
        "sentence": sentence,
        "clip": clip,
        "icl_row": icl_row,
        "tune": tune,
    }.items():
        found = route(prepare)
        calls, moves = found.calls, found.moves
        files = list(dict.fromkeys(calls))
        most_files, most_moves = BOUNDS[name]
        rows[name] = {
            "files": len(files),
            "moves": moves,
            "calls": len(calls),
            "bound_files": most_files,
            "bound_moves": most_moves,
        }
        print(f"{name:9} {len(files):3} files {moves:5} moves {len(calls):6} calls")
        if options.files:
            print("   ", " > ".join(name.removesuffix(".py") for name in files))
            steps = [name for name, _ in groupby(calls)]
            print("   ", " ".join(Path(step).stem for step in steps[:160]))
    write("route", rows)


if __name__ == "__main__":
    main()
