"""The one exception for an operator's eyes."""

from __future__ import annotations


class EngineError(Exception):
    """A refusal in words for the operator: what is wrong and what mends it. Shown without traceback."""
