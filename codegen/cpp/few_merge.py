"""How the parts of a few queries become one output: the associative merge of the normaliser."""

from __future__ import annotations

from attndsl.attention import Elementwise, Softmax, has_statistic
from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.products import LOG2_E, Unit
from attndsl.codegen.cpp.reads import Array, Reads
from attndsl.codegen.cpp.scope import Level, Scope
from attndsl.codegen.cpp.vectors import Vectors
from attndsl.codegen.program import Specialization
from attndsl.codegen.writer import Writer
from attndsl.expression import Element, Expression, Index, Literal
from attndsl.planner.plan import Attend, Plan

_LN_2 = "0.693147181f"


def write_merge(
    w: Writer,
    plan: Plan,
    stage: Attend,
    specialization: Specialization,
    arrays: dict[str, Array],
    arguments: Arguments,
    unit: Unit,
    partials: str,
) -> set[str]:
    """Emit `merge_few(arguments, parts)`; gives the support pieces that it uses."""
    levels = dict.fromkeys(("b", "h", "g", "i", "row", "d"), Level.UNIFORM)
    scope = Scope("row")
    expressions = Expressions(
        arguments,
        Reads(arguments, arrays),
        specialization,
        plan.attention.axes,
        levels,
        {},
        {Level.UNIFORM: scope},
        Vectors({}),
    )
    body = Writer(comment="//")
    match stage.normalizer:
        case Softmax(sink, sink_value):
            _write_softmax(body, expressions, scope, unit, sink, sink_value)
        case Elementwise(_, divisor, epsilon):
            _write_elementwise(body, expressions, scope, divisor, epsilon)
    _write_output(body, stage, specialization, arguments, unit)
    text = body.text()
    with w.block("static void merge_few(const AttendArguments &arguments, int32_t parts) {", "}"):
        arguments.write_locals(
            w, "B H Lq " + text + (" offset Hkv" if uses(text, "i") or uses(text, "g") else "")
        )
        w.line("const int64_t rows = static_cast<int64_t>(B) * H * Lq;")
        w.line("const int threads = threads_for(rows * Dv, arguments.threads);")
        w.line("#pragma omp parallel for schedule(static) num_threads(threads)")
        with w.block("for (int64_t task = 0; task < rows; ++task) {", "}"):
            w.line("const int32_t row = static_cast<int32_t>(task % Lq);")
            w.line("const int32_t h = static_cast<int32_t>(task / Lq % H);")
            w.line("const int32_t b = static_cast<int32_t>(task / Lq / H);")
            if uses(text, "g"):
                w.line("const int32_t g = h / (H / Hkv);")
            if uses(text, "i"):
                w.line("const int32_t i = row + offset;")
            strides = [arguments.stride(partials, axis) for axis in range(4)]
            w.line(
                f"const float *partial = {arguments.tensor(partials, 'fp32', written=True)} + "
                f"b * {strides[0]} + h * {strides[1]} + row * {strides[2]};"
            )
            w.line(f"const int64_t stride = {strides[3]};")
            w.line(text.rstrip())
    return expressions.used_support


def _write_softmax(
    w: Writer,
    expressions: Expressions,
    scope: Scope,
    unit: Unit,
    sink: Expression | None,
    value: Expression | None,
) -> None:
    scale = "" if unit.factor is None else f" * {LOG2_E}"
    text = None if sink is None else expressions.text(sink, Level.UNIFORM)
    w.lines(*scope.lines)
    done = len(scope.lines)
    if text is None:
        w.line("float highest = -INFINITE;")
    else:
        factor = f" * {LOG2_E}" if unit.factor is None else ""
        w.line(f"const float sink = {text.inside(12)}{factor};")
        w.line("float highest = sink;")
    w.line("for (int part = 0; part < parts; ++part)")
    with w.indented():
        w.line("highest = maximum(highest, partial[part * stride + Dv]);")
    w.line("const float reference = highest == -INFINITE ? 0.0f : highest;")
    w.line("float total = 0.0f, output[Dv] = {};")
    with w.block("for (int part = 0; part < parts; ++part) {", "}"):
        w.line("const float *const one = partial + part * stride;")
        w.line(f"const float factor = exp2((one[Dv] - reference){scale});")
        w.line("if (factor == 0.0f) continue;")
        w.line("total += one[Dv + 1] * factor;")
        w.line("for (int d = 0; d < Dv; ++d) output[d] += one[d] * factor;")
    if text is not None:
        w.line(f"const float sunk = exp2((sink - reference){scale});")
        w.line("total += sunk;")
    if value is not None:
        element = expressions.text(Element(value, Index("d")), Level.UNIFORM)
        w.lines(*scope.lines[done:])
        w.line(f"for (int d = 0; d < Dv; ++d) output[d] += sunk * {element.inside(12)};")
    w.line("const float final_factor = total == 0.0f ? 0.0f : 1.0f / total;")


def _write_elementwise(
    w: Writer,
    expressions: Expressions,
    scope: Scope,
    divisor: Expression | str | None,
    epsilon: float,
) -> None:
    w.line("float total = 0.0f, output[Dv] = {};")
    with w.block("for (int part = 0; part < parts; ++part) {", "}"):
        w.line("total += partial[part * stride + Dv + 1];")
        w.line("for (int d = 0; d < Dv; ++d) output[d] += partial[part * stride + d];")
    if divisor is None:
        w.line("const float final_factor = 1.0f;")
        return
    if isinstance(divisor, str):
        text = f"total + {expressions.text(Literal(float(epsilon)), Level.UNIFORM).text}"
    else:
        text = expressions.text(divisor, Level.UNIFORM).text
    w.lines(*scope.lines)
    w.line(f"const float divisor = {text};")
    w.line("const float final_factor = divisor == 0.0f ? 0.0f : 1.0f / divisor;")


def _write_output(
    w: Writer, stage: Attend, specialization: Specialization, arguments: Arguments, unit: Unit
) -> None:
    partial = stage.partial
    name, dtype = "out", specialization.dtype.value
    if partial is not None:
        name, dtype = partial.output.name, "fp32"
    place = " + ".join(
        f"{index} * {arguments.stride(name, axis)}" for axis, index in enumerate(("b", "h", "row"))
    )
    w.line(f"auto *const out = {arguments.tensor(name, dtype, written=True)} + {place};")
    w.line("for (int d = 0; d < Dv; ++d) store_one(out + d, output[d] * final_factor);")
    if not has_statistic(stage.normalizer):
        return
    statistics = "log_sum_exp"
    if partial is not None:
        statistics = partial.log_sum_exp.name
    elif not specialization.log_sum_exp:
        return
    place = " + ".join(
        f"{index} * {arguments.stride(statistics, axis)}"
        for axis, index in enumerate(("b", "h", "row"))
    )
    target = f"{arguments.tensor(statistics, 'fp32', written=True)}[{place}]"
    if not isinstance(stage.normalizer, Softmax):
        w.line(f"{target} = divisor;")
        return
    natural = f"reference * {_LN_2}" if unit.factor is None else "reference"
    w.line(f"{target} = total == 0.0f ? -INFINITE : {natural} + __builtin_logf(total);")
