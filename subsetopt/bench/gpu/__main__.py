"""`python -m subsetopt.bench.gpu OUT`: measure what only a GPU can show, within four minutes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from subsetopt.bench.gpu.runner import PARTS, run_parts, work_on
from subsetopt.errors import SettingError, UserError, unknown_name

TOTAL = 235.0


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 0 when every row was measured, 1 otherwise, 2 for the user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        names = [name.strip() for name in options.parts.split(",")]
        for name in names:
            if name not in PARTS:
                raise unknown_name("--parts", name, PARTS)
        for setting in ("seconds", "seconds_per_part"):
            value = getattr(options, setting)
            if value is not None and not 0 < value < float("inf"):
                raise SettingError(
                    f"--{setting.replace('_', '-')}", value, "must be a finite number above 0", "give for example 60"
                )
        device = _device(options.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.work_on is not None:
        return work_on(options.output, options.work_on, options.seconds_per_part, options.tiny, device)
    tiny = options.tiny or device == "cpu"
    documents = run_parts(options.output, names, options.seconds_per_part, options.seconds, tiny, device)
    print((options.output / "table.md").read_text(encoding="utf-8"))
    failed = [row for document in documents for row in document["rows"] if "error" in row]
    return int(bool(failed) or any(document["status"] != "done" for document in documents))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m subsetopt.bench.gpu", description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for JSON files, logs and table.md")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated parts to run [default: %(default)s]")
    parser.add_argument("--seconds-per-part", type=float, help="seconds for each part [default: by part]")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="seconds for all parts [default: %(default)s]")
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes, whose figures mean nothing; always so on a CPU"
    )
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu [default: %(default)s]")
    parser.add_argument("--work-on", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser


def _device(name: str) -> str:
    if name not in ("auto", "cuda", "cpu"):
        raise SettingError("--device", name, "must be auto, cuda or cpu", "use auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("--device", name, "no CUDA device is available", "use cpu")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
