"""Plans and programs as JSON, and back.

Trees share nodes, so every node is stored once and named by its number; a node's operands come
before it. What is read back is checked against the classes' own annotations, since a file may be
damaged or hostile: only the classes listed here can come out, each field has its declared type, and
neither depth nor size can run away.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from attndsl.diagnostics import AttnError, error

_MODULES = (
    "attndsl.source",
    "attndsl.expression",
    "attndsl.attention",
    "attndsl.diagnostics",
    "attndsl.planner.block_map",
    "attndsl.planner.stripes",
    "attndsl.planner.plan",
    "attndsl.codegen.program",
)
_CLASSES: dict[str, type[Any]] = {}
for _module in _MODULES:
    _tag = _module.rpartition(".")[2]
    for _name, _class in vars(import_module(_module)).items():
        # Block lists are made for a call and never stored. Two classes are called `Source`.
        if not isinstance(_class, type) or _class.__module__ != _module or _name == "BlockTable":
            continue
        if dataclasses.is_dataclass(_class) or issubclass(_class, Enum):
            _CLASSES[f"{_tag}.{_name}"] = _class
_TAGS = {cls: tag for tag, cls in _CLASSES.items()}

Element = TypeVar("Element")
# What a spec's names and operators look like: trees that kernels may be emitted from hold no other
# text.
_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_WORD = re.compile(rf"(local\.axis\.)?{_NAME}|{_NAME}\.{_NAME}")
_OPERATOR = re.compile(r"[-+*/%<>]|//|\*\*|[<>=!]=|and|or|not")
_OF_WORDS = ("expression", "attention")

MAXIMUM_DEPTH = 400
MAXIMUM_SIZE = 1_000_000


def encode(value: object, *, spans: bool = True, paths: bool = False) -> dict[str, Any]:
    """The tree as plain lists, dicts, strings and numbers, ready for `json.dumps`.

    Without `spans` the text's places are left out, and two trees of one meaning encode alike.
    `paths` are those of sources: whoever is given a program need not know them.
    """
    left_out = {*(() if spans else ("span",)), *(() if paths else ("path",))}
    nodes: list[list[Any]] = []
    by_identity: dict[int, int] = {}
    by_content: dict[str, int] = {}
    alive: list[object] = []

    def stored(item: Any) -> Any:
        # Before the numbers: a block's kind is both.
        if isinstance(item, Enum):
            return {"enum": f"{_TAGS[type(item)]}.{item.name}"}
        if item is None or isinstance(item, bool | int | float | str):
            return item
        if isinstance(item, Path):
            return {"path": str(item)}
        if isinstance(item, tuple):
            return {"tuple": [stored(child) for child in item]}
        if isinstance(item, frozenset):
            return {"set": sorted(item)}
        return {"node": by_identity[id(item)]}

    # Operands before their nodes, without recursion: a sum of a thousand terms is a thousand deep.
    stack = list(_nodes(value))
    while stack:
        node = stack[-1]
        parts = [
            None if field.name in left_out else getattr(node, field.name)
            for field in _fields(type(node))
        ]
        missing = [
            child for part in parts for child in _nodes(part) if id(child) not in by_identity
        ]
        if missing:
            stack += missing
            continue
        stack.pop()
        if id(node) in by_identity:
            continue
        entry = [_TAGS[type(node)], *map(stored, parts)]
        content = repr(entry)
        if content not in by_content:
            by_content[content] = len(nodes)
            nodes.append(entry)
        by_identity[id(node)] = by_content[content]
        alive.append(node)
    return {"nodes": nodes, "root": stored(value)}


def _nodes(value: object) -> Iterator[object]:
    """The dataclass instances that a field's value is or holds."""
    if isinstance(value, tuple):
        for item in value:
            yield from _nodes(item)
    elif type(value) in _TAGS and not isinstance(value, Enum):
        yield value


def decode(data: object, expected: type[Any]) -> Any:
    """What `encode` was given. Raises `AttnError` A096 where `data` is not such a thing."""
    try:
        nodes, root = _part(data, "nodes", list), _part(data, "root", dict)
        built: list[Any] = []
        depths: list[int] = []
        sizes: list[int] = []
        for entry in nodes:
            below: list[int] = []
            built.append(_build(entry, built, below))
            depths.append(1 + max((depths[child] for child in below), default=0))
            sizes.append(1 + sum(sizes[child] for child in below))
            if depths[-1] > MAXIMUM_DEPTH or sizes[-1] > MAXIMUM_SIZE:
                raise _Malformed("it is nested too deep or too large")
        value = _value(root, built, [])
        if not isinstance(value, expected):
            raise _Malformed(f"it holds no {expected.__name__}")
    except _Malformed as problem:
        raise _damaged(str(problem)) from None
    return value


def decode_all(data: object, expected: type[Element]) -> tuple[Element, ...]:
    """As `decode`, for a tuple whose elements are all of one class."""
    values: tuple[Element, ...] = decode(data, tuple)
    if not all(isinstance(value, expected) for value in values):
        raise _damaged(f"it holds something other than {expected.__name__}")
    return values


class _Malformed(Exception):
    pass


def _damaged(reason: str) -> AttnError:
    return error(
        "A096", f"the stored program cannot be read: {reason}", help="compile the spec again"
    )


def _build(entry: object, built: list[Any], below: list[int]) -> Any:
    if not isinstance(entry, list) or not entry or entry[0] not in _TAGS.values():
        raise _Malformed("an entry is of no known class")
    cls = _CLASSES[entry[0]]
    fields = _fields(cls) if dataclasses.is_dataclass(cls) else ()
    if len(fields) != len(entry) - 1 or not fields:
        raise _Malformed(f"`{entry[0]}` has the wrong number of fields")
    values: dict[str, Any] = {}
    for field, stored, fits in zip(fields, entry[1:], _checks(entry[0]), strict=True):
        value = _value(stored, built, below)
        if not fits(value) and not (field.name == "span" and value is None):
            raise _Malformed(f"`{entry[0]}.{field.name}` is of the wrong type")
        values[field.name] = value
    return cls(**values)


def _value(stored: object, built: list[Any], below: list[int]) -> Any:
    match stored:
        case None | bool() | int() | float() | str():
            return stored
        case {"node": int(index)} if 0 <= index < len(built):
            below.append(index)
            return built[index]
        case {"tuple": list(items)}:
            return tuple(_value(item, built, below) for item in items)
        case {"path": str(path)}:
            return Path(path)
        case {"set": list(items)} if all(isinstance(item, str) for item in items):
            return frozenset(items)
        case {"enum": str(name)}:
            tag, _, member = name.rpartition(".")
            cls = _CLASSES.get(tag)
            if cls is not None and issubclass(cls, Enum) and member in cls.__members__:
                return cls[member]
    raise _Malformed("a value is of no known form")


def _part(data: object, key: str, kind: type[Any]) -> Any:
    if not isinstance(data, dict) or not isinstance(data.get(key), kind):
        raise _Malformed(f"`{key}` is missing")
    return data[key]


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(cls) if field.init)


@cache
def _checks(tag: str) -> tuple[Callable[[Any], bool], ...]:
    cls = _CLASSES[tag]
    hints = typing.get_type_hints(cls)
    of_words = tag.partition(".")[0] in _OF_WORDS
    return tuple(
        _check(
            hints[field.name],
            (_OPERATOR if field.name == "operator" else _WORD) if of_words else None,
        )
        for field in _fields(cls)
    )


def _check(hint: Any, words: re.Pattern[str] | None) -> Callable[[Any], bool]:
    """Whether a value is of an annotated type: classes, unions, `tuple[...]`, `frozenset[str]`.

    With `words`, every string must be such a word.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [_check(argument, words) for argument in arguments]
        return lambda value: any(option(value) for option in options)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        element = _check(arguments[0], words)
        return lambda value: isinstance(value, tuple) and all(map(element, value))
    if origin is tuple:
        parts = [_check(argument, words) for argument in arguments]
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(part(item) for part, item in zip(parts, value, strict=True))
        )
    if origin is frozenset:
        return lambda value: isinstance(value, frozenset)
    if hint is str and words is not None:
        return lambda value: isinstance(value, str) and words.fullmatch(value) is not None
    if hint in (int, float):
        # A bool is an int to Python and not here.
        return lambda value: type(value) is hint
    return lambda value: isinstance(value, hint)
