"""What a forward pass takes, as its signature and its annotations tell."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Literal

from torch import Tensor, nn

Kind = Literal["mapping", "sequence", "tensor"]
"""What an argument is annotated as."""

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Signature:
    """The arguments of a forward pass.

    `first` is the name of the first positional one, None without any; `takes` what that is annotated as; `names` are
    those that may be given by name; `anything`: further ones are taken by position (`*args`).
    """

    signature: inspect.Signature
    first: str | None
    takes: Kind | None
    names: frozenset[str]
    anything: bool

    @classmethod
    def of(cls, module: nn.Module) -> Signature | None:
        """Return that of `module.forward`; None for what has none, as scripted modules."""
        try:
            signature = inspect.signature(module.forward)
        except (TypeError, ValueError):
            return None
        parameters = signature.parameters.values()
        first = next((each for each in parameters if each.kind in _POSITIONAL), None)
        return cls(
            signature,
            None if first is None else first.name,
            None if first is None else _kind(_annotation(module, first)),
            frozenset(each.name for each in parameters if each.kind in _NAMED),
            any(each.kind is Parameter.VAR_POSITIONAL for each in parameters),
        )

    def binds(self, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
        """Whether it can be called so."""
        try:
            self.signature.bind(*arguments, **named)
        except TypeError:
            return False
        return True

    def __str__(self) -> str:
        marks: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
        return ", ".join(marks.get(each.kind, "") + each.name for each in self.signature.parameters.values())


def _annotation(module: nn.Module, parameter: Parameter) -> Any:
    """Return the annotation as an object; as text where its names are not to be found."""
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    try:
        return typing.get_type_hints(module.forward).get(parameter.name)
    except Exception:  # names that only a type checker imports, whatever they raise
        return parameter.annotation


def _kind(annotation: Any) -> Kind | None:
    if isinstance(annotation, str):
        word = annotation.partition("[")[0].rpartition(".")[2].strip()
        return _WORDS.get(word)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = {_kind(each) for each in typing.get_args(annotation) if each is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    if origin is typing.Annotated:
        return _kind(annotation.__origin__)
    own = origin or annotation
    if typing.is_typeddict(own):
        return "mapping"
    for parent, kind in _PARENTS:
        if isinstance(own, type) and issubclass(own, parent):
            return kind
    return None


_PARENTS: tuple[tuple[type, Kind], ...] = ((Tensor, "tensor"), (Mapping, "mapping"), (Sequence, "sequence"))
_WORDS: dict[str, Kind] = {
    **dict.fromkeys(("dict", "Dict", "Mapping", "MutableMapping", "BatchEncoding", "TensorDict"), "mapping"),
    **dict.fromkeys(("tuple", "Tuple", "list", "List", "Sequence"), "sequence"),
    **dict.fromkeys(("Tensor", "FloatTensor", "LongTensor"), "tensor"),
}
