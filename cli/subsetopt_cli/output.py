"""What goes to standard output: one JSON document, or text for people; all else goes to standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO, cast

import click

# Control characters but tab and newline, those that turn the direction of writing or end a line, and lone surrogates,
# which stand for bytes of file names that are no UTF-8.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def print_json(document: Any) -> None:
    """Print one JSON document; NaN and infinities become null, because JSON has neither."""
    text = json.dumps(_finite(document), indent=2, ensure_ascii=False)
    click.echo(_UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def printable(text: str) -> str:
    r"""Return `text` with what a terminal would obey, or could not show, written out, e.g. ``\x1b``.

    Names of files, classes and methods come from others. A carriage return at the beginning is a progress bar's own.
    """
    start = "\r" if text.startswith("\r") else ""
    return start + _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text[len(start) :])


class PlainStream:
    """A text stream that lets nothing but `printable` text through to `stream`, in characters that it can encode."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Be the stream in all else."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`; raises `TypeError` for bytes, as text streams do."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        shown, encoding = printable(text), getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one line after the other."""
        for line in lines:
            self.write(line)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Let only printable text through to standard output and standard error: the one filter that all text passes."""
    out, err = (stream and PlainStream(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(cast(TextIO, out)), contextlib.redirect_stderr(cast(TextIO, err)):
        yield


@contextlib.contextmanager
def fonts_unmentioned() -> Iterator[None]:
    """Leave out what matplotlib logs of fonts: with a cache of fonts of another installation some 20 lines a figure."""
    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def standard_output_reserved() -> Iterator[None]:
    """Send whatever a model factory or a library prints to standard error, so that results stay parseable."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
