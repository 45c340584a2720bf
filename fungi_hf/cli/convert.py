"""`fungi-hf convert-ssast`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

_CONVERT = """examples:
  fungi-hf convert-ssast SSAST-Base-Patch-400.pth ssast-base
  fungi-hf convert-ssast SSAST-Base-Patch-400.pth esc --stride 10 --frames 512 --stats esc50
"""


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "convert-ssast",
        help="an official patch-based SSAST checkpoint to a transformers folder",
        epilog=_CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="the .pth file; read without running its code")
    parser.add_argument("out", help="folder to make; must be empty or missing")
    parser.add_argument("--stride", type=int, default=16, help="patch stride, 16 or 10")
    parser.add_argument("--frames", type=int, help="length of the input (default: 1024)")
    parser.add_argument("--stats", default="audioset", help="audioset, esc50 or speech_commands")
    parser.set_defaults(run=run_convert)


def run_convert(options: argparse.Namespace) -> None:
    """Convert; print the folder."""
    from fungi_hf.encoders.audio.ssast import convert

    folder = convert(
        options.checkpoint,
        options.out,
        stride=options.stride,
        frames=options.frames,
        stats=options.stats,
    )
    sys.stdout.write(f"{folder}\n")
