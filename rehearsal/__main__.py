"""`python -m rehearsal`: see `rehearsal.cli`."""

import sys

from rehearsal.cli import main

sys.exit(main(sys.argv[1:]))
