"""The package's one tree of exceptions: what went wrong, what came, what is allowed.

Every leaf is named for the fact and also derives from the built-in that a caller would catch.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class FungiError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(FungiError, ValueError):
    """A configuration value is unknown, out of range, or contradicts another."""


class InputError(FungiError, ValueError):
    """An input item has an unusable value."""


class InputTypeError(FungiError, TypeError):
    """An input item has an unusable type."""


class ShapeError(FungiError, ValueError):
    """An array does not have the shape that the operation needs."""


class FeatureError(FungiError, ValueError):
    """Feature vectors are unusable: NaN, infinite, empty, or of another width."""


class LayerNotFoundError(FungiError, ValueError):
    """The target layer is not in the model, or is not a Linear layer."""


class LayerUseError(FungiError, RuntimeError):
    """The target layer was tied, unused, or called more than once in a forward pass."""


class EncoderError(FungiError, ValueError):
    """The model or its preprocessor cannot be used as an encoder."""


class ObjectiveError(FungiError, ValueError):
    """An objective breaks its contract, e.g. its samples interact."""


class ViewError(FungiError, ValueError):
    """A view generator breaks its contract, e.g. it uses a global random generator."""


class NotFittedError(FungiError, ValueError, AttributeError):
    """The object needs `fit` before this call."""


class StateError(FungiError, ValueError):
    """Stored state does not belong to this config or model, or was altered."""


class StorageError(FungiError, OSError):
    """A folder or file cannot be read or written as asked."""


class ShardError(StorageError):
    """Shards are missing, damaged or could not be computed."""


class FingerprintMismatchError(FungiError, ValueError):
    """Two sets of features come from different configs, models or states."""


class AudioError(InputError):
    """A clip cannot be decoded or does not suit the encoder."""


class ImageError(InputError):
    """A picture cannot be decoded or does not suit the encoder."""


class CheckpointError(FungiError, ValueError):
    """A foreign checkpoint does not have the expected content."""


class LabelError(FungiError, ValueError):
    """Class labels are missing, ambiguous or outside the label space."""


class DemoConfigError(ConfigError):
    """A demonstration selector's settings are impossible."""


class PromptOverflowError(FungiError, ValueError):
    """A query does not fit in the token budget even without demonstrations."""


class LLMError(FungiError, RuntimeError):
    """An LLM server refused the run for good; `partial` are the rows finished before a stop."""

    partial: object | None = None


class LLMAuthError(LLMError):
    """Credentials are missing or were refused."""


class RequestFailedError(LLMError):
    """One request failed at every allowed attempt; other rows may still succeed."""

    def __init__(self, message: str, attempts: int) -> None:
        super().__init__(f"{message} ({attempts} attempts)")
        self.attempts = attempts


class CacheError(StorageError):
    """The answer cache cannot be used; the file is left untouched."""


class RunMismatchError(FungiError, ValueError):
    """A run folder belongs to another configuration."""


class ComparisonError(FungiError, ValueError):
    """Two results cannot be compared row by row."""


class OptionalDependencyError(FungiError, ImportError):
    """An optional package is missing or broken."""

    def __init__(self, package: str, extra: str, reason: str = "") -> None:
        """Name the package and our extra that brings it; or why it is broken, if it is there."""
        self.package, self.extra = package, extra
        fact = reason or f"{package} is not installed"
        super().__init__(f"{fact}; install it with: pip install 'fungi-hf[{extra}]'")


class BrokenDependencyError(FungiError, ImportError):
    """A package is installed but cannot be loaded here; the message says the remedy."""


class SlowDtypeWarning(UserWarning):
    """The processor emulates the dtype of the model; another dtype is faster here."""


def choices(value: object, allowed: Iterable[str]) -> str:
    """Give the words "X; choose one of A, B, C", the nearest match first."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1)
    ordered = near + [name for name in names if name not in near]
    shown = ", ".join(repr(name) for name in ordered[:10])
    more = f" and {len(ordered) - 10} more" if len(ordered) > 10 else ""
    return f"{value!r}; choose one of {shown}{more}"
