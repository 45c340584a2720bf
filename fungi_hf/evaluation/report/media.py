"""Pictures to look at and sounds to play, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any, Final

import numpy as np

from fungi_hf.errors import FungiError, InputError

_SIDE: Final = 160  # of thumbnails, in pixels
_RATE, _SECONDS = 16_000, 6.0  # of sounds, from their start


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
