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
        w.comment("Neighbouring tasks share a head, whose keys stay in a cache; its last tiles,")
        w.comment("which see most keys under a causal mask, come first.")
        w.line(f"const int64_t pairs = heads * {rows} * arguments.Lk;")
        w.line("const int threads = threads_for(pairs, arguments.threads);")
        w.line("#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)")
        with w.block("for (int64_t task = 0; task < tasks; ++task) {", "}"):
            w.line("const FlushDenormals flush;")
            products.write_task(w)
            w.line("static thread_local AttendScratch scratch;")
            w.line("const int32_t tile = static_cast<int32_t>(tiles - 1 - task % tiles);")
            classes, passed = "", ""
            if residue is not None:
                w.line(f"const int32_t residue = static_cast<int32_t>(task / tiles % {residue});")
                classes, passed = f" / {residue}", ", residue"
            w.line(f"const int64_t head = task / tiles{classes};")
            w.line("const int32_t b = static_cast<int32_t>(head / arguments.H);")
            w.line("const int32_t h = static_cast<int32_t>(head % arguments.H);")
            w.line(f"attend_tile(arguments, scratch, b, h, tile{passed});")
