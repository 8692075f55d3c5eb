"""Kubernetes' quantities, by value."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any, Final

_UNITS: Final = {
    **{unit: Decimal(10) ** n for unit, n in zip("num", (-9, -6, -3), strict=True)},
    **{unit: Decimal(1000) ** n for n, unit in enumerate(["", "k", "M", "G", "T", "P", "E"])},
    **{unit: Decimal(1024) ** n for n, unit in enumerate(["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])},
}
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?")


def quantity(value: Any) -> Decimal | None:
    """`250m`, `7700Mi`, `4`: in cores, or bytes. None: it is none."""
    found = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) else None
    if found is None:
        return None
    try:
        return Decimal(found[1]) * _UNITS[found[2] or ""]
    except InvalidOperation:
        return None
