"""The one exception for an operator's eyes."""

from __future__ import annotations


class EngineError(Exception):
    """A refusal for the operator: what is wrong and what mends it; shown without traceback."""
