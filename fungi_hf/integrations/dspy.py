"""DSPy: an extractor as an `Embedder`, and demonstrations chosen for each call of a program."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import OptionalDependencyError
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.selector import DemoSelector

try:
    import dspy
    from dspy.teleprompt import Teleprompter
except ImportError as error:
    raise OptionalDependencyError("dspy", "dspy") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.extractor import FungiExtractor


def fungi_embedder(extractor: FungiExtractor, **options: Any) -> Any:
    """Give a `dspy.Embedder` over a fitted extractor; the options are the embedder's own."""
    return dspy.Embedder(lambda texts: extractor(list(texts)).array, **options)


def joined_inputs(fields: dict[str, Any]) -> str:
    """Give the text of an example's inputs, as `dspy.KNN` joins them."""
    return " | ".join(f"{name}: {value}" for name, value in fields.items())


class FungiFewShot(Teleprompter):
    """Gives every call of a program the demonstrations that `DemoSelector` chooses for its inputs.

    It stands where `KNNFewShot` does: nothing is bootstrapped, and every predictor of the program
    is shown the same examples, in prompt order.
    """

    def __init__(
        self,
        trainset: Sequence[Any],
        extractor: FungiExtractor,
        *,
        k: int = 4,
        strategy: Any = "knn",
        text: Callable[[dict[str, Any]], str] = joined_inputs,
        **options: Any,
    ) -> None:
        """Extract the text of every example's inputs; the options are those of `DemoSelector`."""
        super().__init__()
        self._trainset, self._extractor, self._text = list(trainset), extractor, text
        rows = [dict(example.inputs().items()) for example in self._trainset]
        self._selector = DemoSelector(strategy, k, **options).fit(self._of(rows))

    def select(self, **inputs: Any) -> list[Any]:
        """Give the demonstrations of one call, in prompt order."""
        shown = self._selector.select(self._of([inputs]))[0]
        return [self._trainset[one.row] for one in shown]

    def compile(self, student: Any, *, teacher: Any = None, trainset: Any = None) -> Any:
        """Give a copy of a program that chooses its demonstrations at every call."""
        del teacher, trainset  # the examples are those of the constructor
        program = student.reset_copy()

        def forward(_: Any, **inputs: Any) -> Any:
            shown = student.reset_copy()
            for predictor in shown.predictors():
                predictor.demos = self.select(**inputs)
            return shown(**inputs)

        program.forward = types.MethodType(forward, program)
        return program

    def _of(self, rows: Sequence[dict[str, Any]]) -> Examples:
        texts = [self._text(row) for row in rows]
        return Examples(features=self._extractor(texts), contents=texts)  # type: ignore[arg-type]
