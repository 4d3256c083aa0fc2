"""The entry point of a kernel over tiles: one task for every head and tile, on all threads."""

from __future__ import annotations

from attndsl.codegen.cpp.few import MOST_QUERIES
from attndsl.codegen.cpp.places import Places
from attndsl.codegen.cpp.products import Products
from attndsl.codegen.writer import Writer


def write_entry(w: Writer, name: str, places: Places, products: Products, *, has_few: bool) -> None:
    """The function `name`, which the caller knows."""
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
        places.write_tasks(w)
        w.line("const int64_t pairs = heads * static_cast<int64_t>(arguments.Lq) * arguments.Lk;")
        w.line("const int threads = threads_for(pairs, arguments.threads);")
        w.line("#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)")
        with w.block("for (int64_t task = 0; task < tasks; ++task) {", "}"):
            w.line("const FlushDenormals flush;")
            products.write_task(w)
            w.line("static thread_local AttendScratch scratch;")
            places.write_task(w)
            w.line("const int32_t b = static_cast<int32_t>(head / arguments.H);")
            w.line("const int32_t h = static_cast<int32_t>(head % arguments.H);")
            w.line(f"attend_tile(arguments, scratch, b, h, {places.passed});")
