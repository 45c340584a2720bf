"""`fungi-hf convert-ssast`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import command

if TYPE_CHECKING:
    import argparse

_CONVERT = """examples:
  fungi-hf convert-ssast SSAST-Base-Patch-400.pth ssast-base
  fungi-hf convert-ssast SSAST-Base-Patch-400.pth esc --stride 10 --frames 512 --stats esc50
"""


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    words = "an official patch-based SSAST checkpoint to a transformers folder"
    parser = command(subparsers, "convert-ssast", words, run_convert, _CONVERT)
    parser.add_argument("checkpoint", help="the .pth file; read without running its code")
    parser.add_argument("out", help="folder to make; must be empty or missing")
    parser.add_argument("--stride", type=int, default=16, help="patch stride, 16 or 10")
    parser.add_argument("--frames", type=int, help="length of the input (default: 1024)")
    parser.add_argument("--stats", default="audioset", help="audioset, esc50 or speech_commands")


def run_convert(options: argparse.Namespace) -> None:
    """Convert; print the folder."""
    from fungi_hf.encoders.audio.ssast import convert

    settings = {name: getattr(options, name) for name in ("stride", "frames", "stats")}
    sys.stdout.write(f"{convert(options.checkpoint, options.out, **settings)}\n")
