"""Packages that are missing, or do not import, are asked for in one line that names the extra."""

from __future__ import annotations

import importlib
import sys

import pytest

from subsetopt.errors import UserError
from subsetopt.required import require


@pytest.mark.parametrize("name", ["lightning", "skorch", "transformers"])
def test_an_adapter_without_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in (name, "lightning.pytorch.callbacks", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"subsetopt.adapters.{name}", raising=False)
    with pytest.raises(UserError) as caught:
        importlib.import_module(f"subsetopt.adapters.{name}")
    assert f"pip install 'subsetopt[{name}]'" in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_that_is_there_and_one_that_is_not() -> None:
    assert require("json", "test") is sys.modules["json"]
    with pytest.raises(UserError, match=r"no_such_package is not installed; .*subsetopt\[test\]"):
        require("no_such_package", "test")
