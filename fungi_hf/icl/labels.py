"""The labels of a task: ids, names, the words that stand for them, and reading them in an answer.

A space is refused if its words could be mistaken for each other, so that reading never needs a
guess. The first rule that decides wins: an empty answer; a label as it is; a label after peeling
thoughts, quotes, fences, lead-ins and JSON, also in the last line of several; exactly one label
named, with no denial around it, in any of the languages below; else invalid.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from fungi_hf.errors import InputTypeError, LabelError
from fungi_hf.icl.examples import as_list
from fungi_hf.icl.peeling import LEAD_IN, THOUGHTS, peel, stated_label
from fungi_hf.icl.scripts import JOINED
from fungi_hf.icl.task import Answer, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from fungi_hf.icl.examples import Target

    Verbalizers: TypeAlias = Mapping[str, str] | Sequence[str] | Callable[[str], str]

_GLUE = re.compile(r"[\s_\-]+")
# Words that may deny a label; "don't", "isn't" and the like end in "n't".
_DENIAL = re.compile(
    r"""(?<!\w)(?:not|never|neither|nor|cannot|except|rather\ than|instead\ of|no|none|non|nothing
        |without|hardly|opposite|(?:other|different)\ than|(?:any|every)thing\ but|all\ but
        |far\ from
        |un(?:like|likely|related|sure|true)|wrong|incorrect|false|doubt\w*|exclud\w+|reject\w*
        |rul(?:e|es|ed|ing)\ out|isnt|arent|wasnt|doesnt|dont|cant|wont)(?!\w)|n't(?!\w)""",
    re.VERBOSE,
)
# The same in other languages, as whole words (folded): de, fr, es, it, pt, nl, sv, da, pl, cs, ru,
# uk, tr, fi, id, vi, ar, he, fa, hi; then as parts of words, zh, ja, ko, th.
_FOREIGN = re.compile(
    r"(?<!\w)(?:nicht|kein\w*|nie|niemals|weder|noch|ohne|außer|ausser|statt|anstatt|falsch"
    r"|pas|aucune?|ni|jamais|sans|sauf|plutôt\ que|faux"
    r"|nunca|tampoco|ning[uú]n\w*|sin|excepto|salvo|falso"
    r"|né|mai|nessun\w*|senza|tranne|eccetto|não|nem|nenhum\w*|sem|exceto"
    r"|niet|geen|nooit|noch|zonder|inte|ej|aldrig|ingen|inget|utan|ikke|aldri|uden|uten"
    r"|nie|ani|nigdy|żaden|bez|není|nikdy|žádn\w*"
    r"|не|нет|ни|никогда|без|кроме|нельзя|ні|немає|ніколи"
    r"|değil|hay\u0131r|yok|asla|ei|eikä|bukan|tidak|tanpa|không|chẳng|chưa"
    r"|ليس\w*|لا|غير|لم|لن|بدون|לא|אין|בלי|نیست|نه|نہیں|नहीं|न|मत|बिना)(?!\w)"
    r"|不(?!仅|僅|但|过|過|断|斷|错|錯)|没有?|沒有?|非(?!常)|无(?!比|疑)|無(?!比|疑)|未(?!来|來)|别(?!的)"
    r"|ない|ません|なく|じゃな|ではな|아니|않|없|못|ไม่|มิใช่|ยกเว้น"
)


def key(text: str) -> str:
    """Return the text without regard to case, Unicode form, and the glue between words."""
    return _GLUE.sub(" ", _folded(text)).strip()


def bare(text: str) -> str:
    """Return `key(text)` without trailing `. , ; : ! ?`."""
    return key(text).rstrip(".,;:!? ")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LabelSpace(Task):
    """The closed list of labels; a label's id is its position.

    Attributes:
        names: The labels as the data calls them: at least two distinct texts.
        verbalizers: The surface form of each label, shown in prompts and expected in answers: a
            mapping by name (names left out keep their name), one per label, or a function.
        surfaces: The surface forms, in id order.

    Names that are no list of texts are an `InputTypeError`; fewer than two of them, and surfaces
    that are empty or alike, a `LabelError`.
    """

    reminder: ClassVar[str] = "Answer with one of the labels listed, spelled exactly as listed."

    names: Sequence[str]
    verbalizers: Verbalizers | None = None
    surfaces: tuple[str, ...] = field(init=False)
    _ids: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        names = _checked_names(self.names)
        surfaces = _surfaces(names, self.verbalizers)
        _refuse_alike(names, surfaces)
        ids = {bare(surface): label for label, surface in enumerate(surfaces)}
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "surfaces", surfaces)
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"LabelSpace({len(self)} labels: {', '.join(self.surfaces[:3])}, ...)"

    @property
    def digest(self) -> str:
        """Identity of names and surfaces: a sha256 in hexadecimal."""
        words = "\0".join(itertools.chain(self.names, ("\1",), self.surfaces))
        return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()

    def id_of(self, target: Target) -> int:
        """Return the id of a label that is stated by id or by name.

        Raises:
            LabelError: If the id is out of range or the name unknown.
        """
        if isinstance(target, tuple):
            raise LabelError(
                f"{target!r:.60} are accepted texts, and a label is an id or a name; "
                "PromptBuilder(FreeAnswers()) takes answers that are texts"
            )
        if isinstance(target, str):
            if target in self.names:
                return self.names.index(target)
            raise LabelError(f"label {target!r} is not among the {len(self)} names")
        if float(target).is_integer() and 0 <= target < len(self):
            return int(target)
        raise LabelError(f"label id {target!r} is outside 0..{len(self) - 1}")

    def ids_of(self, targets: Iterable[Target]) -> npt.NDArray[np.int64]:
        """Return the ids [n] of many labels.

        Raises:
            LabelError: If a label is not in the space; the message names its row.
        """
        by_name = {name: label for label, name in enumerate(self.names)}
        ids = []
        for row, target in enumerate(targets):
            known = by_name.get(target) if isinstance(target, str) else None
            try:
                ids.append(self.id_of(target) if known is None else known)
            except LabelError as error:
                raise LabelError(f"{error} (row {row})") from None
        return np.array(ids, dtype=np.int64)

    def surfaces_of(self, targets: Iterable[Target]) -> list[str]:
        """Return the surface forms of labels that are stated by id or by name."""
        return [self.surfaces[self.id_of(target)] for target in targets]

    def describe(self) -> dict[str, object]:
        """Give the number of labels and their digest."""
        return {"labels": {"n_labels": len(self.names), "digest": self.digest}}

    def golds(self, targets: Iterable[Target]) -> list[int]:
        """Give the ids of labels."""
        return self.ids_of(targets).tolist()

    def wanted(self, gold: int) -> frozenset[int]:
        """Give the id itself."""
        return frozenset((gold,))

    def shown(self, gold: int) -> int:
        """Give the id itself."""
        return gold

    def vote(self, golds: Sequence[int]) -> int | None:
        """Give the majority, ties to the nearest."""
        return Counter(golds).most_common(1)[0][0] if golds else None

    def outcome(self, gold: int, read: Answer | None, vote: int | None) -> dict[str, Any]:
        """Give the names of the gold label, the label read and the vote."""
        found = (gold, None if read is None else read.label, vote)
        names = [None if label is None else self.names[label] for label in found]
        return dict(zip(("gold", "label", "vote"), names, strict=True))

    def parse(self, answer: str | None) -> Answer:
        """Apply the rules in order to what the model said; None stands for nothing.

        Raises:
            InputTypeError: If the answer is neither a text nor None.
        """
        if answer is not None and not isinstance(answer, str):
            raise InputTypeError(f"answer is {type(answer).__name__}; a text or None is needed")
        text = (answer or "").strip()
        if not text:
            return Answer("empty", reason="the answer is empty")
        core = self._peeled(THOUGHTS.sub("", text).strip() or text)
        if isinstance(core, Answer):
            return core
        if (concluded := self._concluded(core)) is not None:
            return concluded
        stated = stated_label(core, is_all=False)  # by JSON within other words
        if stated is None or (isinstance(stated, str) and bare(stated) not in self._ids):
            return Answer("invalid", reason="the JSON in the answer states no known label")
        return self._search(core)

    def _concluded(self, core: str) -> Answer | None:
        """Return what "Label: X" in the last of several lines states, if no other line states more.

        A prompt that the model goes on with has such lines, too, and states its labels apart.
        """
        lines = [line.strip().lstrip("#>-* ") for line in core.splitlines() if line.strip()]
        if len(lines) < 2 or not LEAD_IN.match(lines[-1]):
            return None
        read = [self._peeled(line) for line in lines]
        stated = {one.label for one in read if isinstance(one, Answer) and one.status == "ok"}
        last = read[-1]
        return last if isinstance(last, Answer) and stated == {last.label} else None

    def _peeled(self, text: str) -> Answer | str:
        """Return the answer if a layer of the text is a label, else the core of the text."""
        seen: set[str] = set()
        while text not in seen:  # each pass peels one layer; a text that stays is the core
            seen.add(text)
            if bare(text) in self._ids:
                return Answer("ok", self._ids[bare(text)])
            peeled = peel(text)
            if peeled is None:
                return Answer("invalid", reason="the JSON answer has no single text under 'label'")
            text = peeled or text
        return text

    def _search(self, text: str) -> Answer:
        """Return the one label named as whole words, if nothing outside its words denies it."""
        folded = _folded(text)
        spans = [
            (match.start(), match.end(), label)
            for label, surface in enumerate(self.surfaces)
            if all(word in folded for word in bare(surface).split(" "))  # else nothing is compiled
            for match in _whole_words(surface).finditer(folded)
        ]
        # A label inside a longer one was not said: "exchange rate" in "wrong exchange rate".
        outer = [
            (start, end, label)
            for start, end, label in spans
            if not any(a <= start and end <= b and end - start < b - a for a, b, _ in spans)
        ]
        labels = sorted({label for _, _, label in outer})
        if not labels:
            return Answer("invalid", reason=f"{text[:80]!r} names none of the labels")
        if len(labels) > 1:
            names = ", ".join(repr(self.surfaces[label]) for label in labels[:5])
            return Answer("ambiguous", reason=f"the answer names {len(labels)} labels: {names}")
        rest = list(folded)
        for start, end, _ in outer:
            rest[start:end] = "|" * (end - start)
        outside = re.sub(r"\s+", " ", "".join(rest))
        denial = _DENIAL.search(outside) or _FOREIGN.search(outside)
        if denial:
            name = self.surfaces[labels[0]]
            return Answer("invalid", reason=f"{denial.group()!r} stands beside {name!r}")
        return Answer("ok", labels[0])


def _refuse_alike(names: tuple[str, ...], surfaces: tuple[str, ...]) -> None:
    # None may be empty or span lines; no two may be equal under `bare`, hence under `key`.
    for name, surface in zip(names, surfaces, strict=True):
        if not bare(surface):
            raise LabelError(f"the surface of {name!r} is {surface!r}: empty but for punctuation")
        if len(surface.splitlines()) > 1:
            raise LabelError(f"the surface of {name!r} spans several lines: {surface!r}")
    groups: dict[str, list[str]] = {}
    for surface in surfaces:
        groups.setdefault(bare(surface), []).append(surface)
    alike = (itertools.combinations(group, 2) for group in groups.values())
    pairs = list(dict.fromkeys(itertools.chain.from_iterable(alike)))
    if pairs:
        shown = "; ".join(f"{a!r} and {b!r}" for a, b in pairs[:10])
        more = f" and {len(pairs) - 10} more" if len(pairs) > 10 else ""
        raise LabelError(f"labels that no parser can tell apart: {shown}{more}")


@functools.lru_cache(maxsize=4096)  # a pattern takes 5 ms
def _whole_words(surface: str) -> re.Pattern[str]:
    """Return a pattern of the surface's words, with any glue between, outside longer names.

    A neighbour written without blanks is no part of the name: "正面" is said in "是正面的".
    """
    words, letter = bare(surface).split(" "), rf"[^\W{JOINED}]"
    inner = r"[\s_\-]+".join(map(re.escape, words))
    return re.compile(rf"(?<!{letter})(?<!{letter}-){inner}(?!{letter})(?!-{letter})")


def _checked_names(names: object) -> tuple[str, ...]:
    listed = as_list(names, "names", (str,), "names are texts")
    if len(listed) < 2:
        raise LabelError(f"a label space needs at least 2 labels, got {len(listed)}")
    repeats = sorted({name for name in listed if listed.count(name) > 1})
    if repeats:
        raise LabelError(f"names repeat: {', '.join(map(repr, repeats[:10]))}")
    return tuple(map(str, listed))


def _surfaces(names: tuple[str, ...], verbalizers: object) -> tuple[str, ...]:
    if verbalizers is None:
        return names
    if callable(verbalizers):
        surfaces = [verbalizers(name) for name in names]
    elif isinstance(verbalizers, Mapping):
        unknown = [word for word in verbalizers if word not in names]
        if unknown:
            raise LabelError(f"verbalizers name unknown labels: {', '.join(map(repr, unknown))}")
        surfaces = [verbalizers.get(name, name) for name in names]
    else:
        surfaces = as_list(verbalizers, "verbalizers")
        if len(surfaces) != len(names):
            raise LabelError(f"{len(surfaces)} verbalizers for {len(names)} names")
    for name, surface in zip(names, surfaces, strict=True):
        if not isinstance(surface, str):
            raise InputTypeError(
                f"the verbalizer of {name!r} is {type(surface).__name__}; a text is needed"
            )
    return tuple(surfaces)
