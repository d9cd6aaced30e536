"""Callbacks and closures for other people's training frameworks; each module needs the extra of its name."""

from __future__ import annotations
