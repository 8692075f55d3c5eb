"""When two names are one commit's."""

from __future__ import annotations

import re
from typing import Final

SHORT: Final = 7  # of git's short names, at least


def same_commit(tag: str, said: str) -> bool:
    """Whether an image's tag is of the commit that is called `said`. git lengthens short names when
    it must, so either may be the longer one. What was built of a checkout that was not clean
    (`237c6b8-dirty-…`) is no commit's: only its whole tag names it."""
    one, other = sorted((tag.lower(), said.lower()), key=len)
    if one == other:
        return True
    return len(one) >= SHORT and bool(re.fullmatch("[0-9a-f]+", other)) and other.startswith(one)
