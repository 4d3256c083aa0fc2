"""`attndsl cache`: what is kept on disk."""

from __future__ import annotations

import time

import typer

from attndsl.cli.options import JsonOption
from attndsl.cli.output import show_json, table

app = typer.Typer(invoke_without_command=True, help="List or clear the specs and kernels on disk.")


@app.callback()
def list_entries(context: typer.Context, json: JsonOption = False) -> None:
    """List the checked specs, compiled kernels and measurements on disk.

    They lie in $ATTNDSL_CACHE, or in your cache directory; removing them is always safe.

    Examples:

        attndsl cache

        attndsl cache clear
    """
    if context.invoked_subcommand is not None:
        return
    from attndsl.runtime.cache import default_cache

    cache = default_cache()
    entries = list(cache.entries())
    if json:
        show_json(
            {
                "directory": str(cache.root),
                "entries": [
                    {"kind": e.kind, "key": e.key, "bytes": e.size, "modified": e.modified}
                    for e in entries
                ],
            }
        )
        return
    print(f"{cache.root}: {len(entries)} entries, {_amount(sum(e.size for e in entries))}")
    if entries:
        rows = [
            [
                e.kind,
                e.key[:12],
                _amount(e.size),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(e.modified)),
            ]
            for e in sorted(entries, key=lambda entry: -entry.modified)
        ]
        print(table(["kind", "key", "size", "written"], rows))


@app.command()
def clear() -> None:
    """Remove every entry."""
    from attndsl.runtime.cache import default_cache

    cache = default_cache()
    print(f"{cache.root}: {cache.clear()} entries removed")


def _amount(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
