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

# Where one of these may follow, an expression has just ended.
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
    "STRING": 'a file in quotes, as in `"patterns.attn"`',
    "$END": "the end of the text",
}
# How definitions begin in other languages.
_FOREIGN_ITEMS = {"fn", "func", "function", "lambda", "define", "kernel", "class", "struct"}


def unexpected_character(source: Source, offset: int) -> Diagnostic:
    """A character that the lexer could not place."""
    span = Span(source, offset, offset + 1)
    return Diagnostic("A002", f"unexpected character `{span.text}`", span, help="delete it")


def unexpected_token(source: Source, start: int, end: int, fault: UnexpectedToken) -> Diagnostic:
    """The diagnostic for a token that the grammar does not allow where it stands."""
    # What the parser can go on with; its states alone would name more than is true.
    expected = frozenset(fault.accepts)
    wanted = _expected(expected)
    token = str(fault.token)
    if fault.token.type == "$END":
        return Diagnostic(
            "A004",
            "the text ends too early",
            lexical.end_of_text(source, end),
            label=f"expected {wanted}",
            help=_help("", expected, list(lexical.lexemes(source, start, end))[-2:]),
        )
    at = start + (fault.token.start_pos or 0)
    span = Span(source, at, at + len(token))
    before = list(lexical.lexemes(source, start, at))[-2:]
    if token == "=" and before and before[-1].text == "=" and before[-1].end == at:
        # Where only `=` can stand, `==` is read as two of them.
        both = Span(source, at - 1, at + 1)
        return Diagnostic("A001", "unexpected `==`", both, "expected `=`", "write `=` to define")
    earlier = _without_operator(source, expected, before)
    earlier = earlier or _misspelt(source, token, span, expected, before)
    if earlier is not None:
        return earlier
    if token in KEYWORDS and "NAME" in expected and not expected & {"INTEGER", "LET"}:
        message = f"the keyword `{token}` cannot be a name"
        return Diagnostic("A001", message, span, f"expected {wanted}", "choose another name")
    kind = "keyword " if token in KEYWORDS else ""
    message = f"unexpected {kind}`{token}`"
    return Diagnostic("A001", message, span, f"expected {wanted}", _help(token, expected, before))


def _expected(expected: frozenset[str]) -> str:
    """What may stand here, in as few words as are true."""
    if "INTEGER" in expected:
        return "an expression or `)`" if "RPAR" in expected else "an expression"
    if expected & OPERATORS:
        closing = [_SPELLING[kind] for kind in ("RPAR", "RSQB", "COMMA") if kind in expected]
        if "LET" in expected:
            return "an operator, or the next statement"
        return _join(["an operator", *closing])
    if "LET" in expected:
        # After a type or an axis, it may also go on.
        more = [_SPELLING[kind] for kind in ("LSQB", "COMMA") if kind in expected]
        return _join([*more, "a statement", "`}`"])
    if "ATTENTION" in expected:
        return "`attention`, `def` or an import"
    return _join([_SPELLING.get(kind, f"`{kind.lower()}`") for kind in sorted(expected)])


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _help(token: str, expected: frozenset[str], before: list[Lexeme]) -> str | None:
    """The fix for a slip that is easy to recognise."""
    previous = before[-1].text if before else ""
    ended = bool(expected & OPERATORS)
    match token:
        case "=" if ended:
            return "write `==` to compare"
        case ":" if expected == {"EQUAL"} and before and before[-1].kind == "name":
            return f"declare an input with `input {previous}: …`, or define with `{previous} = …`"
        case ":" | "{" if "EQUAL" in expected:
            return "write a definition as `def name(x) = …`"
        case "attention" | "def" if "LET" in expected:
            return "close the `attention` before it with `}`"
        case "," if "LET" in expected:
            return "delete the comma: a statement ends where the next begins"
        case "=" | "+" | "*" | "/" | "<" | ">" | "<=" | ">=" | "==" | "!=" if previous:
            if "INTEGER" in expected:
                return f"write a value between `{previous}` and `{token}`"
        case "}" | ")" | "]" if "INTEGER" in expected and previous:
            return f"write a value after `{previous}`"
        case "[" if "INTEGER" in expected:
            return "write a value for each axis as a tuple, `(5, 7)`"
        case "if" | "else" | "where":
            return "write `a if condition else b`"
        case _ if token.startswith('"') and "INTEGER" in expected:
            return "write names without quotes"
        case ":" if expected <= {"COMMA", "RSQB"} or previous == ":":
            return "a slice is `start:stop`"
        case _ if expected <= OPERATORS | {"ELSE"} and "ELSE" in expected:
            return "write `a if condition else b`"
        case "float" | "int" | "bool" if "COLON" in expected:
            return f"write `{previous}: {token}`"
        case "}" | "input" | "let" if expected == {"COLON"}:
            return f"write its type, as in `{previous}: float[H]`"
    if ended and previous and (token[:1].isalnum() or token[:1] == "_"):
        comma = " or a comma" if "COMMA" in expected else ""
        return f"write an operator{comma} between `{previous}` and `{token}`"
    if expected == {"STRING"} and token.isidentifier():
        return f'write `"{token}.attn"`'
    if "LBRACE" in expected and "EQUAL" not in expected:
        return "write the body in `{` and `}`"
    if "EQUAL" in expected and "LPAR" in expected:
        return "write a definition as `def name(x) = …`"
    if "EQUAL" in expected and before and before[-1].kind == "name":
        if previous in ("for", "while"):
            return "a formula holds for every pair: there is nothing to loop over"
        if previous == "return" or not (token[:1].isalpha() or token[:1] in '_"'):
            return "give the formula a name, as in `score = …` or `mask = …`"
        return f"write `{previous} = …`"
    if expected == {"EQUAL"}:
        return "write `=` before the formula"
    return None


def _without_operator(
    source: Source, expected: frozenset[str], before: list[Lexeme]
) -> Diagnostic | None:
    """`mask = i j`: the parser takes `j` for a target, and stumbles behind it."""
    if expected != {"EQUAL"} or len(before) < 2:
        return None
    left, right = before
    ends = left.kind in ("number", "close") or (left.kind == "name" and left.text not in KEYWORDS)
    same_line = source.position(left.start)[0] == source.position(right.start)[0]
    if right.kind != "name" or not ends or not same_line or left.text == "}":
        return None
    help = f"write an operator between `{left.text}` and `{right.text}`"
    if right.text == "in":
        help = "compare with `<=` and `<`, as in `0 <= x < 3`"
    elif right.text == "is":
        help = "write `==` to compare"
    elif left.text == "lambda":
        help = "define a function with `def name(x) = …`"
    elif right.text in ("then", "where"):
        help = "write `a if condition else b`"
    span = Span(source, right.start, right.end)
    return Diagnostic("A001", f"unexpected `{right.text}`", span, "expected an operator", help)


def _misspelt(
    source: Source, token: str, span: Span, expected: frozenset[str], before: list[Lexeme]
) -> Diagnostic | None:
    """A keyword that is spelt wrongly, before a name or where an item should begin."""
    previous = before[-1] if before else None
    if "ATTENTION" in expected and token not in ITEM_KEYWORDS and not expected & OPERATORS:
        word, at, known = token, span, ITEM_KEYWORDS
    elif "EQUAL" in expected and previous is not None and previous.kind == "name":
        # `inptu doc: …`: the parser takes the first word for the target of an assignment.
        if not (token[:1].isalpha() or token[:1] == "_"):
            return None
        word, known = previous.text, STATEMENT_KEYWORDS
        at = Span(source, previous.start, previous.end)
        if len(before) > 1 and before[-2].text in KEYWORDS - {"True", "False"}:
            return None
    else:
        return None
    close = get_close_matches(word, sorted(known), n=1)
    help = f"did you mean `{close[0]}`?" if close else None
    if word in STATEMENT_KEYWORDS or word in ("score", "mask", "normalize"):
        help = "statements stand in the braces of an `attention`"
    elif word in _FOREIGN_ITEMS:
        help = "write `attention name { … }` or `def name(x) = …`"
    if help is None and known is STATEMENT_KEYWORDS:
        return None
    kind = "an item" if known is ITEM_KEYWORDS else "a statement"
    shown = "`attention`, `def` or an import" if known is ITEM_KEYWORDS else "a keyword, or `=`"
    return Diagnostic("A001", f"`{word}` does not begin {kind}", at, f"expected {shown}", help)
