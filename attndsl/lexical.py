"""What can be said about a text before it is parsed.

One linear pass over the characters finds what no grammar rule explains well: operators of other
languages, characters that look like ours, brackets that do not pair, and nesting without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.records import dataclass
from attndsl.source import MAXIMUM_LENGTH, Source, Span

MAXIMUM_NAME = 100
MAXIMUM_BRACKETS = 200
MAXIMUM_ERRORS = 20

ITEM_KEYWORDS = frozenset({"attention", "def", "import", "from"})
STATEMENT_KEYWORDS = frozenset({"let", "input", "axes", "route", "state", "branch"})
WORD_OPERATORS = frozenset({"if", "else", "and", "or", "not", "where", "True", "False"})
KEYWORDS = ITEM_KEYWORDS | STATEMENT_KEYWORDS | WORD_OPERATORS

# What people write who come from another language, or copy from a paper or a word processor.
FOREIGN: dict[str, str] = {
    "&&": "write `and`",
    "||": "write `or`",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`",
    "~": "write `not`",
    "^": "write `**` for a power",
    ";": "leave it out: a statement ends where the next begins",
    "?": "write `a if condition else b`",
    "@": "write `dot(a, b)`",
    "->": "leave it out: a definition has no result type",
    "=>": "write `>=` to compare, `=` to define",
    "=<": "write `<=`",
    "<>": "write `!=`",
    ":=": "write `=`",
    "+=": "write `name = name + …`",
    "-=": "write `name = name - …`",
    "*=": "write `name = name * …`",
    "/=": "write `name = name / …`",
    "++": "write `+ 1`",
    "<<": "multiply by a power of two",
    ">>": "divide by a power of two with `//`",
    "//*": "comments begin with `#`",
    "/*": "comments begin with `#`",
    "*/": "comments begin with `#`",
    "'": 'strings are written with `"`',
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "−": "write `-`",
    "–": "write `-`",
    "—": "write `-`",
    "×": "write `*`",
    "·": "write `*`, or `dot(a, b)` for vectors",
    "⋅": "write `*`, or `dot(a, b)` for vectors",
    "÷": "write `/`",
    "∧": "write `and`",
    "∨": "write `or`",
    "¬": "write `not`",
    "√": "write `sqrt(x)`",
    "“": 'write `"`',
    "”": 'write `"`',
    "‘": 'write `"`',
    "’": 'write `"`',
    "…": "write out what is meant",
    "\u00a0": "write a plain space",
    "\u200b": "delete this invisible character",
    "\ufeff": "delete this invisible character",
}
_FOREIGN_OPERATORS = "|".join(re.escape(text) for text in sorted(FOREIGN, key=len, reverse=True))
_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+|\#[^\n]*)"
    r'|(?P<string>"[^"\n]*")'
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?P<tail>[A-Za-z_][A-Za-z0-9_]*)?)"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
    r"|(?P<operator>\*\*|//(?!\*)|<=(?!>)|>=|==|!=)"
    rf"|(?P<foreign>{_FOREIGN_OPERATORS})"
    r"|(?P<sign>[-+*/%<>=,:.])"
    r"|(?P<other>.)",
    re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Lexeme:
    """One piece of text that is not white space. `kind` is a group's name of the pattern above."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def lexemes(source: Source, start: int = 0, end: int | None = None) -> Iterator[Lexeme]:
    """The pieces of a text from `start`, without white space and comments."""
    end = len(source.text) if end is None else end
    for found in _TOKEN.finditer(source.text, start, end):
        kind = found.lastgroup or "other"
        if found.group("number") is not None:
            kind = "malformed" if found.group("tail") else "number"
        if kind != "space":
            yield Lexeme(kind, found.group(), found.start())


def item_starts(source: Source) -> list[int]:
    """Where each top-level item begins; the first is always 0."""
    starts = [0]
    depth = 0
    previous: Lexeme | None = None
    for piece in lexemes(source):
        if piece.kind == "open":
            depth += 1
        elif piece.kind == "close":
            depth -= 1
        elif depth == 0 and piece.kind == "name" and piece.text in ITEM_KEYWORDS:
            # The `import` of `from "file" import name` begins nothing.
            begins = not (piece.text == "import" and previous and previous.kind == "string")
            if begins and previous is not None:
                starts.append(piece.start)
        previous = piece
    return starts


def check_text(source: Source) -> Diagnostic | None:
    """Raise `AttnError` for a text that cannot be parsed whatever the grammar says.

    A002 unknown characters and operators, A005 a text that is too long or nests too deep, A006
    malformed numbers. Returns the fault of brackets that do not pair (A003, A004), which the parser
    may be able to explain better.
    """
    if len(source.text) > MAXIMUM_LENGTH:
        message = f"the text has {len(source.text)} characters, more than {MAXIMUM_LENGTH}"
        raise AttnError(
            Diagnostic("A005", message, Span(source, 0, 0), help="split it into several files")
        )
    found: list[Diagnostic] = []
    opened: list[Lexeme] = []
    unpaired: Diagnostic | None = None
    for piece in lexemes(source):
        span = Span(source, piece.start, piece.end)
        match piece.kind:
            case "open":
                opened.append(piece)
                if len(opened) > MAXIMUM_BRACKETS:
                    message = f"brackets nest more than {MAXIMUM_BRACKETS} levels deep"
                    raise AttnError(Diagnostic("A005", message, span, help="split the expression"))
            case "close":
                unpaired = unpaired or _close(source, opened, piece)
            case "name" if len(piece.text) > MAXIMUM_NAME:
                message = f"this name has {len(piece.text)} characters, more than {MAXIMUM_NAME}"
                short = Span(source, piece.start, piece.start + MAXIMUM_NAME)
                found.append(Diagnostic("A005", message, short, help="choose a shorter one"))
            case "malformed":
                found.append(_malformed(piece, span))
            case "foreign":
                found.append(_foreign(piece, span))
            case "other":
                found.append(_unknown(source, piece, span))
        if len(found) >= MAXIMUM_ERRORS:
            break
    if found:
        raise AttnError(found)
    if opened and unpaired is None:
        unpaired = _unclosed(source, opened[-1])
    return unpaired


def _close(source: Source, opened: list[Lexeme], piece: Lexeme) -> Diagnostic | None:
    span = Span(source, piece.start, piece.end)
    # No expression holds a brace, so a `)` that meets one is one too many.
    if not opened or (opened[-1].text == "{" and piece.text != "}"):
        return Diagnostic(
            "A003",
            f"`{piece.text}` closes nothing",
            span,
            label="no bracket is open here",
            help="delete it, or add the bracket that it should close",
        )
    last = opened.pop()
    wanted = _CLOSING[last.text]
    if piece.text == wanted:
        return None
    line, column = source.position(last.start)
    return Diagnostic(
        "A003",
        f"`{piece.text}` does not close `{last.text}`",
        span,
        label=f"expected `{wanted}`",
        help=f"add `{wanted}` for the `{last.text}` in line {line}, column {column}",
    )


def _unclosed(source: Source, last: Lexeme) -> Diagnostic:
    line, column = source.position(last.start)
    wanted = _CLOSING[last.text]
    return Diagnostic(
        "A004",
        "the text ends too early",
        end_of_text(source),
        label=f"expected `{wanted}`",
        help=f"add `{wanted}` for the `{last.text}` in line {line}, column {column}",
    )


def end_of_text(source: Source, end: int | None = None) -> Span:
    """The empty span behind the last visible character."""
    end = len(source.text) if end is None else end
    last = end
    for piece in lexemes(source, 0, end):
        last = piece.end
    return Span(source, last, last)


def _malformed(piece: Lexeme, span: Span) -> Diagnostic:
    digits = re.match(r"[0-9.]+(?:[eE][+-]?[0-9]+)?", piece.text)
    number = digits.group() if digits else piece.text
    rest = piece.text[len(number) :]
    suggestion = number + rest.replace("_", "") if re.fullmatch(r"[0-9_]+", piece.text) else ""
    return Diagnostic(
        "A006",
        f"`{piece.text}` is not a number",
        span,
        help=f"write `{suggestion}`" if suggestion else f"write `{number} * {rest}`?",
    )


def _foreign(piece: Lexeme, span: Span) -> Diagnostic:
    return Diagnostic(
        "A002", f"`{piece.text}` is not an operator here", span, help=FOREIGN[piece.text]
    )


def _unknown(source: Source, piece: Lexeme, span: Span) -> Diagnostic:
    if piece.text == '"':
        end = source.text.find("\n", piece.start)
        return Diagnostic(
            "A002",
            "this string does not end",
            Span(source, piece.start, len(source.text) if end < 0 else end),
            help='add `"` on the same line',
        )
    shown = piece.text if piece.text.isprintable() else f"U+{ord(piece.text):04X}"
    return Diagnostic(
        "A002",
        f"unexpected character `{shown}`",
        span,
        help="names are written with the letters a to z, digits and `_`"
        if piece.text.isalpha()
        else "delete it",
    )
