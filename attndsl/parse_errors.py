"""Syntax errors in the user's terms: what stands there, what was expected, what to write."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from attndsl import lexical
from attndsl.diagnostics import Diagnostic
from attndsl.lexical import ITEM_KEYWORDS, KEYWORDS, STATEMENT_KEYWORDS, Lexeme
from attndsl.source import Source, Span

if TYPE_CHECKING:
    from lark.exceptions import UnexpectedToken

OPERATORS = frozenset({"PLUS", "STAR", "COMPARISON", "AND"})
_SPELLING = {
    "EQUAL": "`=`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "COLON": "`:`",
    "COMMA": "`,`",
    "NAME": "a name",
    "STRING": 'a `"file.attn"`',
    "ELSE": "`else`",
    "BLOCKS": "`blocks`",
    "OF": "`of`",
    "IMPORT": "`import`",
}


def unexpected_character(source: Source, offset: int) -> Diagnostic:
    """A character that the lexer could not place."""
    span = Span(source, offset, offset + 1)
    return Diagnostic("A002", f"unexpected character `{span.text}`", span, help="delete it")


def unexpected_token(source: Source, start: int, end: int, fault: UnexpectedToken) -> Diagnostic:
    """The diagnostic for a token that the grammar does not allow where it stands."""
    expected = frozenset(fault.expected)
    wanted = _expected(expected)
    token = fault.token
    if token.type == "$END":
        return Diagnostic(
            "A004",
            "the text ends too early",
            lexical.end_of_text(source, end),
            label=f"expected {wanted}",
        )
    at = start + (token.start_pos or 0)
    span = Span(source, at, at + len(token))
    before = list(lexical.lexemes(source, start, at))[-3:]
    previous = before[-1] if before else None
    message = f"unexpected `{token}`"
    help = _help(str(token), expected, before)
    if token in KEYWORDS and "NAME" in expected and "EQUAL" not in expected:
        if previous is not None and previous.text in KEYWORDS | {"(", ","}:
            return Diagnostic(
                "A001",
                f"`{token}` is a keyword",
                span,
                label="expected a name",
                help="choose another name",
            )
        message = f"expected {wanted}, found the keyword `{token}`"
    if help is None and previous is not None and previous.kind == "name":
        misspelt = _misspelt_keyword(previous.text, expected)
        if misspelt is not None:
            span = Span(source, previous.start, previous.end)
            return Diagnostic(
                "A001",
                f"`{previous.text}` does not begin a statement",
                span,
                help=f"did you mean `{misspelt}`?",
            )
    return Diagnostic("A001", message, span, label=f"expected {wanted}", help=help)


def _expected(expected: frozenset[str]) -> str:
    """What may stand here, in as few words as are true."""
    if "INTEGER" in expected:
        return "an expression" if "RPAR" not in expected else "an expression or `)`"
    if {"LET", "INPUT"} <= expected and not expected & OPERATORS:
        return "a statement or `}`"
    if "ATTENTION" in expected and not expected & OPERATORS:
        return "`attention`, `def` or an import"
    if expected & OPERATORS:
        closing = [
            _SPELLING[kind] for kind in ("RPAR", "RSQB", "COMMA", "ELSE") if kind in expected
        ]
        return _join(["an operator", *closing])
    return _join([_SPELLING.get(kind, f"`{kind.lower()}`") for kind in sorted(expected)])


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _help(token: str, expected: frozenset[str], before: list[Lexeme]) -> str | None:
    previous = before[-1].text if before else ""
    match token:
        case "=" if "COMPARISON" in expected:
            return "write `==` to compare"
        case "==" if "EQUAL" in expected:
            return "write `=` to define"
        case ":" if "EQUAL" in expected and previous not in KEYWORDS:
            return f"write `input {previous}: …` to declare an input"
        case ":" if "LBRACE" in expected:
            return "the body stands in `{` and `}`"
        case "}" | ")" | "]" if "INTEGER" in expected and previous:
            return f"write a value after `{previous}`"
        case "else" | "if":
            return "write `a if condition else b`"
        case "return":
            return "write `score = …`, `mask = …` or `normalize = …`"
    if "LBRACE" in expected and "LPAR" in expected:
        return "the body stands in `{` and `}`"
    if expected == {"EQUAL"}:
        return f"write `{previous} = …`"
    if token == "+" and "MINUS" in expected:
        return "leave out the `+`"
    return None


def _misspelt_keyword(word: str, expected: frozenset[str]) -> str | None:
    candidates = STATEMENT_KEYWORDS | ITEM_KEYWORDS
    if word in candidates:
        return None
    if "EQUAL" not in expected and "ATTENTION" not in expected:
        return None
    close = get_close_matches(word, sorted(candidates), n=1)
    return close[0] if close else None
