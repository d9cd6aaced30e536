"""What goes to standard output: one JSON document, or text for people; all else goes to standard error."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click


def print_json(document: Any) -> None:
    """Print one JSON document; NaN and infinities become null, because JSON has neither."""
    click.echo(json.dumps(_finite(document), indent=2, ensure_ascii=False))


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
