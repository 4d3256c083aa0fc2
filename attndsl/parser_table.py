"""The parser's table, built beforehand: it takes longer to build than to parse most specs.

`grammar/attn.table` holds the table that Lark made of `grammar/attn.lark`, behind a line that says
of which grammar and by which version of Lark. With any other, the parser is built anew, which takes
some 50 ms. `python -m attndsl.parser_table` writes the file after a change to the grammar.
"""

from __future__ import annotations

import io
import sys
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lark import Lark

TABLE = "attn.table"


def load_parser() -> Lark:
    """The parser of `.attn` text: LALR, with a lexer for each of its states."""
    from lark import Lark

    grammar = _grammar()
    table = resources.files("attndsl.grammar").joinpath(TABLE)
    if table.is_file():
        key, _, data = table.read_bytes().partition(b"\n")
        if key == _key(grammar):
            # Part of this package, so as trustworthy as its code.
            return Lark.load(io.BytesIO(data))
    return build_parser(grammar)


def build_parser(grammar: str) -> Lark:
    """The parser built from its grammar."""
    from lark import Lark

    return Lark(grammar, parser="lalr", lexer="contextual", keep_all_tokens=True)


def write_table(path: Path) -> None:
    """Write the table of the present grammar to a file."""
    grammar = _grammar()
    data = io.BytesIO()
    build_parser(grammar).save(data)
    path.write_bytes(_key(grammar) + b"\n" + data.getvalue())


def is_current() -> bool:
    """Whether the table is there, and is that of the present grammar and version of Lark."""
    table = resources.files("attndsl.grammar").joinpath(TABLE)
    return table.is_file() and table.read_bytes().partition(b"\n")[0] == _key(_grammar())


def _grammar() -> str:
    return resources.files("attndsl.grammar").joinpath("attn.lark").read_text("utf-8")


def _key(grammar: str) -> bytes:
    import lark

    text = f"{lark.__version__}\n{grammar}"
    return f"lark {lark.__version__} {sha256(text.encode()).hexdigest()}".encode()


if __name__ == "__main__":
    target = Path(str(resources.files("attndsl.grammar").joinpath(TABLE)))
    write_table(target)
    sys.stdout.write(f"{target}\n")
