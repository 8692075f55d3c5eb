"""`python -m rehearsal`: see `rehearsal.cli`."""

import gc
import sys

# A run makes objects by the hundred thousand, most of them the SDKs' types, and keeps nearly all
# to its end: by its defaults the collector spent a quarter of a preview on looking for garbage.
gc.set_threshold(100_000, 20, 100)

from rehearsal.cli import main  # noqa: E402 - the imports are a good part of it

code = main(sys.argv[1:])
gc.freeze()  # and the interpreter need not look once more when it ends
sys.exit(code)
