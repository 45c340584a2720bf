"""Pictures to look at and sounds to play, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
import os
import re
import wave
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fungi_hf.errors import FungiError, InputError

_SIDE: Final = 160  # of thumbnails, in pixels
_RATE, _SECONDS = 16_000, 6.0  # of sounds, from their start
_LONGEST: Final = 220  # characters of a text
_ROOM: Final = 2**25  # characters of all that is embedded in one page: 32 MB
_ABSOLUTE = re.compile(r"(?:/|~[/\\]|[A-Za-z]:[/\\]|\\\\)")
_SUFFIX = re.compile(r"\.\w{1,8}$")


@dataclass(slots=True)
class Media:
    """What a page shows of inputs: each sound once, and no more than there is room for.

    Attributes:
        modality: "vision" makes thumbnails, "audio" sounds to play, all else is written as text.
        sampling_rate: Of sounds that are bare arrays, in Hz.
        room: Characters that are left.
        n_left_out: Pictures and sounds that were named alone, for want of room.
    """

    modality: str
    sampling_rate: int | None = None
    room: int = _ROOM
    n_left_out: int = 0
    _pictures: dict[str, str] = field(default_factory=dict)
    _sounds: set[str] = field(default_factory=set)

    @property
    def is_text(self) -> bool:
        """Whether inputs are written."""
        return self.modality not in ("vision", "audio")

    def item(self, raw: Any, name: str) -> dict[str, str]:
        """Give what is shown of an input whose row has this name, all of it as text.

        A sound that stands further up in the page is a link to it.

        Raises:
            InputError: If it cannot be read.
        """
        shown = {"name": name, "text": "", "picture": "", "sound": "", "mark": "", "link": ""}
        if self.is_text:
            written = raw if isinstance(raw, str | os.PathLike) else getattr(raw, "name", name)
            text = str(written)
            return shown | {"text": cut(short_path(text) if _is_absolute(text) else text)}
        mark = name.replace(" ", "-")
        if mark in self._sounds:
            return shown | {"link": mark}
        data = self._data(raw, name) if self.room else ""
        if not data or len(data) > self.room:
            self.room, self.n_left_out = 0, self.n_left_out + 1
            return shown
        self.room -= len(data)
        if self.modality == "vision":
            return shown | {"picture": data}
        self._sounds.add(mark)
        return shown | {"sound": data, "mark": mark}

    def _data(self, raw: Any, name: str) -> str:
        if self.modality == "audio":
            return excerpt(raw, name, self.sampling_rate)
        if name not in self._pictures:
            self._pictures[name] = thumbnail(raw, name)
        return self._pictures[name]


def cut(text: str) -> str:
    """Give the beginning of a long text."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def short_path(fact: object) -> str:
    """Give a fact; of a path what a reader needs, its last two names. A Hub id has no more."""
    text = str(fact)
    is_path = "/" in text and " " not in text and "://" not in text
    parts = [part for part in re.split(r"[/\\]", text) if part]
    return "/".join(parts[-2:]) if parts and (is_path or _is_absolute(text)) else text


def _is_absolute(text: str) -> bool:
    # What begins like a path is one if it has no blank, or ends in a suffix such as ".txt".
    if not _ABSOLUTE.match(text) or "\n" in text:
        return False
    return " " not in text or _SUFFIX.search(text) is not None


def excerpt(raw: Any, name: str, sampling_rate: int | None) -> str:
    """Give the beginning of a sound as a WAV file, mono, 16 kHz and 16 bits, in base64.

    Raises:
        InputError: If it cannot be read.
    """
    from fungi_hf.encoders.audio.decoding import decode

    try:
        clip = decode(raw, _RATE, limit_s=_SECONDS, sampling_rate=sampling_rate)
    except FungiError as error:
        raise InputError(f"{name} cannot be played: {error}") from None
    samples = np.clip(np.round(clip.samples * 32767), -32768, 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_RATE)
        sound.writeframes(samples.tobytes())
    return base64.b64encode(file.getvalue()).decode()


def thumbnail(raw: Any, name: str) -> str:
    """Give a picture as JPEG, upright and RGB, in base64.

    Raises:
        InputError: If it cannot be read.
    """
    from PIL import Image

    from fungi_hf.encoders.vision.pictures import decode

    try:
        image = Image.fromarray(decode(raw).pixels())
    except FungiError as error:
        raise InputError(f"{name} cannot be shown: {error}") from None
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
