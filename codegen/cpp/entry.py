"""The entry point of a kernel over tiles: one task for every head and tile, on all threads."""

from __future__ import annotations

from attndsl.codegen.cpp.few import MOST_QUERIES
from attndsl.codegen.cpp.products import Products
from attndsl.codegen.writer import Writer


def write_entry(
    w: Writer, name: str, residue: int | None, products: Products, *, has_few: bool
) -> None:
    """`residue` is the modulus where each class of positions is a problem of its own."""
    rows = "static_cast<int64_t>(arguments.Lq)"
    with w.block(f'extern "C" void {name}(const AttendArguments *passed) {{', "}"):
        w.line("const AttendArguments &arguments = *passed;")
        if has_few:
            few = f"arguments.Lq <= {MOST_QUERIES}"
            group = "arguments.H / arguments.Hkv * arguments.Lq <= BLOCK_N"
            with w.block(f"if ({few} && {group}) {{", "}"):
                w.line("attend_few(arguments);")
                w.line("return;")
        products.write_before_tiles(w)
        w.line("const int64_t heads = static_cast<int64_t>(arguments.B) * arguments.H;")
        if residue is None:
            w.line(f"const int64_t tiles = ({rows} + BLOCK_M - 1) / BLOCK_M;")
            w.line("const int64_t tasks = tiles * heads;")
        else:
            w.line(f"const int64_t class_rows = ({rows} + {residue - 1}) / {residue};")
            w.line("const int64_t tiles = (class_rows + BLOCK_M - 1) / BLOCK_M;")
            w.line(f"const int64_t tasks = {residue} * tiles * heads;")
        w.comment("The last tiles see most keys under a causal mask: they start first.")
        w.line("#pragma omp parallel for schedule(dynamic, 1) num_threads(arguments.threads)")
        with w.block("for (int64_t task = 0; task < tasks; ++task) {", "}"):
            products.write_task(w)
            w.line("static thread_local AttendScratch scratch;")
            w.line("const int32_t b = static_cast<int32_t>(task % heads / arguments.H);")
            w.line("const int32_t h = static_cast<int32_t>(task % arguments.H);")
            if residue is None:
                w.line("const int32_t tile = static_cast<int32_t>(tiles - 1 - task / heads);")
                w.line("attend_tile(arguments, scratch, b, h, tile);")
            else:
                w.line(f"const int32_t residue = static_cast<int32_t>(task / heads % {residue});")
                w.line(
                    "const int32_t tile = "
                    f"static_cast<int32_t>(tiles - 1 - task / heads / {residue});"
                )
                w.line("attend_tile(arguments, scratch, b, h, tile, residue);")
