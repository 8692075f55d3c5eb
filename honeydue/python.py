"""How a `command.local.Command` runs a module of this program."""

from __future__ import annotations


def script(module: str, argument: str, *, called: str) -> str:
    """The shell line that finds the program's Python; equal on every machine, because it is stored.

    The real plugin runs it in the project's folder, without the virtualenv of the language host.
    """
    return f"""\
for python in "$HONEYDUE_PYTHON" "${{VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}}" \\
  .venv/bin/python venv/bin/python python3; do
  if [ -n "$python" ] && command -v "$python" >/dev/null 2>&1; then
    exec "$python" -m {module} {argument}
  fi
done
echo "error: no Python found for {called}: make the program's virtualenv with 'make setup'" >&2
exit 1
"""
