"""Names with arguments in parentheses, `torch.optim:SGD(momentum=0.9, nesterov=true)`. Imports no torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None}
EXAMPLE = "for example torch.optim:SGD(momentum=0.9)"


def name_of(text: str) -> str:
    """Return the name without its arguments."""
    return text.partition("(")[0].strip()


def is_import_path(name: str) -> bool:
    """Tell `package.module:Class` (which may be dotted) from other names; `scipy:CG` is a solver."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and module != "scipy" and all(part.isidentifier() for part in parts)


def split_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and its arguments: numbers, texts, switches, none, and tuples or lists of these.

    Raises `ValueError` in one line for what is not `NAME(KEY=VALUE, ...)`.
    """
    name, opened, _ = text.partition("(")
    if not opened:
        return text.strip(), {}
    inner = text[len(name) :].strip()
    try:
        call = ast.parse(f"f{inner}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{inner} is not of the form (KEY=VALUE, ...); {EXAMPLE}") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"{inner} is not of the form (KEY=VALUE, ...); {EXAMPLE}")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"{inner} has a value without a key; {EXAMPLE}, or betas=(0.9,0.99) for several numbers")
    return name.strip(), {str(keyword.arg): _value(keyword.value, str(keyword.arg)) for keyword in call.keywords}


def joined(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return both; raises `ValueError` where they give one key twice."""
    twice = next((key for key in more if key in settings), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice, as {settings[twice]!r} and {more[twice]!r}; leave one out")
    return {**settings, **more}


def split_at(text: str, mark: str) -> tuple[str, str, str]:
    """Return `text.partition(mark)`, with what stands in parentheses left whole."""
    depth = 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == mark and depth == 0:
            return text[:place], mark, text[place + 1 :]
    return text, "", ""


def split_list(text: str) -> list[str]:
    """Return the parts of a list with commas between; those in parentheses part nothing, and empty parts go."""
    parts = []
    while text:
        part, _, text = split_at(text, ",")
        parts += [part.strip()] if part.strip() else []
    return parts


def _value(node: ast.expr, key: str) -> Any:
    if isinstance(node, ast.Name):
        return WORDS.get(node.id.lower(), node.id)
    if isinstance(node, ast.Tuple | ast.List):
        items = [_value(item, key) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{key} = {ast.unparse(node)} is no number, word or list; {EXAMPLE}") from None
    if not isinstance(value, int | float | str):
        raise ValueError(f"{key} = {value!r} is no number, word or list; {EXAMPLE}")
    return value
