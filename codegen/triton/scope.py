"""Places in a kernel where lines can be added: the preamble, a loop's body, a loop inside it."""

from __future__ import annotations

from dataclasses import dataclass, field

from attndsl.codegen.triton.values import Value
from attndsl.codegen.triton.wrapping import WIDTH, wrapped
from attndsl.codegen.writer import Writer
from attndsl.expression import Expression


@dataclass
class Scope:
    """Lines so far, and the values that are known here by name, or will be when first used.

    An inner scope is appended when it is closed, so that what its body needs from outside
    can still be placed before it.
    """

    header: str = ""
    known: dict[Expression, Value] = field(default_factory=dict)
    lazy: dict[Expression, tuple[str, Value]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    inner_names: set[str] = field(default_factory=set)  # of blocks in it that are closed
    items: list[str | Scope] = field(default_factory=list)
    # What is known of a node while this is the innermost scope, by identity; see `Kernel.facts`.
    facts: dict[int, tuple[tuple[str, int], Expression]] = field(default_factory=dict)

    def line(self, text: str = "") -> None:
        self.items.append(text)

    def write(self, writer: Writer, indentation: int) -> None:
        """The scope's lines, with inner scopes as indented blocks."""
        width = WIDTH - indentation
        for item in self.items:
            if isinstance(item, Scope):
                writer.lines(*wrapped(item.header, width))
                with writer.indented():
                    item.write(writer, indentation + 4)
            elif item.startswith("#"):
                writer.comment(item[1:].lstrip())
            else:
                writer.lines(*wrapped(item, width))
