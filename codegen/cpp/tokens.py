"""Work per token, before scoring: prepared vectors and scalars, and running sums.

Lanes are tokens, as in the tiles: LANES of them are worked on side by side.
"""

from __future__ import annotations

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.expressions import Expressions, as_vector
from attndsl.codegen.cpp.kernel import Kernel
from attndsl.codegen.cpp.reads import DTYPES, Array, Reads
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.cpp.sources import Sources
from attndsl.codegen.cpp.vectors import ElementOf, Vectors
from attndsl.codegen.program import Entry, Specialization
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    FLOAT,
    OPERANDS,
    QUERY_OPERANDS,
    Operand,
    Vector,
    walk,
)
from attndsl.planner.plan import Plan, Prepare, Scan


class TokenKernel:
    """What a kernel with tokens in its lanes has in common. `lanes` are the indices that vary."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        name: str,
        specialization: Specialization,
        arrays: dict[str, Array],
        lanes: tuple[str, ...],
    ):
        self.function = f"{name}_{number}"
        self.arguments = Arguments(f"{name.title()}{number}Arguments")
        self.sources = Sources(self.arguments, specialization, arrays, None)
        self.number = number
        levels = dict.fromkeys(("b", "h", "g"), Level.UNIFORM) | dict.fromkeys(lanes, Level.LANE)
        self.scopes = {Level.UNIFORM: Scope("head"), Level.LANE: Scope("token")}
        self.expressions = Expressions(
            self.arguments,
            Reads(self.arguments, arrays),
            specialization,
            plan.attention.axes,
            levels,
            {},
            self.scopes,
            Vectors({name: _element_of(name) for name in OPERANDS}),
        )
        for name in ("B", "H", "Hkv", "threads"):
            self.arguments.size(name)

    def kernel(self, body: Writer, support: set[str]) -> Kernel:
        """The struct and the function around `body`."""
        w = Writer(comment="//")
        self.arguments.write_struct(w)
        w.blank()
        struct = self.arguments.struct
        with w.block(f'extern "C" void {self.function}(const {struct} *passed) {{', "}"):
            w.line(f"const {struct} &arguments = *passed;")
            self.arguments.write_locals(w, body.text())
            w.line(body.text().rstrip())
        entry = Entry(self.number, self.function, self.arguments.collected, over_pairs=False)
        used = support | self.expressions.used_support | self.sources.used_support
        return Kernel(w.text(), entry, frozenset(used))


def _element_of(name: str) -> ElementOf:
    return lambda index: Text(f"{_elements(name)}[{index}]", Level.LANE)


def _elements(name: str) -> str:
    """What an operand's elements are called."""
    return f"{name.replace('.', '_')}_elements"


def emit_prepare(
    plan: Plan,
    stage: Prepare,
    number: int,
    specialization: Specialization,
    arrays: dict[str, Array],
) -> Kernel:
    """A vector or a scalar for every token of one side."""
    on_query = stage.side == "query"
    lanes = ("i", "row") if on_query else ("j",)
    self = TokenKernel(plan, number, "prepare", specialization, arrays, lanes)
    length = "Lq" if on_query else "Lk"
    self.arguments.size(length)
    if on_query:
        self.arguments.size("offset")
    heads, head = ("H", "h") if stage.head_index == "h" else ("Hkv", "g")
    element = stage.element
    operands = sorted({node.name for node in walk(element) if isinstance(node, Operand)})
    support = {"transpose"}

    loading = Writer(comment="//")
    for name in operands:
        size = specialization.head_dim if name in ("q", "k") else specialization.value_dim
        place = self.sources.token(name, "start", "h" if name in QUERY_OPERANDS else "g")
        loading.line(f"Floats {_elements(name)}[{size}];")
        loading.line(
            f"load_columns<{size}>({place.pointer}, {place.stride}, rows, 1.0f, "
            f"{_elements(name)}, 1);"
        )
    target = self.sources.buffer(stage.buffer.name, "start", head)
    storing = Writer(comment="//")
    expressions = self.expressions
    expressions.count([element])
    if isinstance(element.type, Vector):
        size = expressions.vectors.size(expressions, element)
        array = expressions.vectors.whole(expressions, element, Level.LANE)
        storing.line("const Floats one = floats(1.0f);")
        storing.line(
            f"store_columns<{size}>({array}, &one, {target.pointer}, {target.stride}, rows, 1);"
        )
    else:
        text = as_vector(expressions.text(element, Level.LANE), FLOAT)
        storing.line(f"const Floats prepared = {text.text};")
        storing.line(
            f"for (int lane = 0; lane < rows; ++lane) "
            f"({target.pointer})[lane * {target.stride}] = prepared[lane];"
        )

    w = Writer(comment="//")
    w.line(f"const int64_t chunks = (static_cast<int64_t>({length}) + LANES - 1) / LANES;")
    w.line(f"const int64_t tasks = chunks * {heads} * B;")
    w.line("const int threads = threads_for(tasks * 64, arguments.threads);")
    w.line("#pragma omp parallel for schedule(static) num_threads(threads)")
    with w.block("for (int64_t task = 0; task < tasks; ++task) {", "}"):
        w.line("const int32_t start = static_cast<int32_t>(task % chunks) * LANES;")
        w.line(f"const int32_t rows = minimum(LANES, {length} - start);")
        w.line(f"const int32_t b = static_cast<int32_t>(task / chunks / {heads});")
        w.line(f"const int32_t {head} = static_cast<int32_t>(task / chunks % {heads});")
        if head == "h":
            w.line("[[maybe_unused]] const int32_t g = h / (H / Hkv);")
        for line in self.scopes[Level.UNIFORM].lines:
            w.line(line)
        _write_positions(w, expressions.used_indices)
        w.line(loading.text().rstrip())
        for line in self.scopes[Level.LANE].lines:
            w.line(line)
        w.line(storing.text().rstrip())
    return self.kernel(w, support)


def _write_positions(w: Writer, used: set[str]) -> None:
    if not used & {"i", "row", "j", "t"}:
        return
    w.comment("Lanes past the last token repeat it.")
    w.line("const Ints token = start + minimum(lane_numbers(), ints(rows - 1));")
    for name in ("row", "j", "t"):
        if name in used:
            w.line(f"const Ints {name} = token;")
    if "i" in used:
        w.line("const Ints i = token + offset;")


def emit_scan(
    plan: Plan,
    stage: Scan,
    number: int,
    specialization: Specialization,
    arrays: dict[str, Array],
) -> Kernel:
    """A running sum along the last dimension, kept in double precision on the way."""
    self = TokenKernel(plan, number, "scan", specialization, arrays, ("t",))
    expressions = self.expressions
    expressions.count([stage.element])
    text = as_vector(expressions.text(stage.element, Level.LANE), FLOAT)
    if stage.buffer.element != FLOAT:
        raise InternalError("a scan over numbers that are not floats")
    length = expressions.text(stage.buffer.dimensions[-1], Level.UNIFORM).text
    leading = [
        expressions.text(dimension, Level.UNIFORM).text
        for dimension in stage.buffer.dimensions[:-1]
    ]
    name = stage.buffer.name
    pointer = self.arguments.tensor(name, DTYPES[FLOAT], written=True)
    address = " + ".join(
        [pointer]
        + [
            f"{index} * {self.arguments.stride(name, axis)}"
            for axis, index in enumerate(stage.indices)
        ]
    )
    stride = self.arguments.stride(name, len(stage.indices))
    w = Writer(comment="//")
    tasks = " * ".join(["static_cast<int64_t>(1)", *leading])
    w.line(f"const int32_t length = {length};")
    w.line(f"const int64_t tasks = {tasks};")
    w.line("const int threads = threads_for(tasks * length, arguments.threads);")
    w.line("#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)")
    with w.block("for (int64_t task = 0; task < tasks; ++task) {", "}"):
        rest = "task"
        for index, dimension in reversed(list(zip(stage.indices, leading, strict=True))):
            w.line(f"const int32_t {index} = static_cast<int32_t>({rest} % {dimension});")
            rest = f"{rest} / {dimension}"
        if "h" in stage.indices and "g" not in stage.indices:
            w.line("[[maybe_unused]] const int32_t g = h / (H / Hkv);")
        for line in self.scopes[Level.UNIFORM].lines:
            w.line(line)
        w.line(f"float *const sums = {address};")
        w.line("double sum = 0.0;")
        steps = "int32_t start = 0; start < length; start += LANES"
        lanes = "int lane = 0; lane < rows; ++lane"
        if stage.from_end:
            steps = "int32_t start = (length - 1) / LANES * LANES; start >= 0; start -= LANES"
            lanes = "int lane = rows - 1; lane >= 0; --lane"
        with w.block(f"for ({steps}) {{", "}"):
            w.line("const int32_t rows = minimum(LANES, length - start);")
            _write_positions(w, expressions.used_indices)
            for line in self.scopes[Level.LANE].lines:
                w.line(line)
            w.line(f"const Floats summand = {text.text};")
            with w.block(f"for ({lanes}) {{", "}"):
                w.line("sum += summand[lane];")
                w.line(
                    f"sums[static_cast<int64_t>(start + lane) * {stride}] = "
                    "static_cast<float>(sum);"
                )
    return self.kernel(w, set())
