"""Ahead-of-time compilation of emitted Triton source, on a machine with or without a GPU.

Binaries are promised that pointers and strides of q, k, v, out and float inputs are multiples of
16 bytes, which lets tiles be copied asynchronously. The launch keeps it (`runtime/triton.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attndsl.codegen import triton as emitter
from attndsl.codegen.program import (
    Argument,
    ArgumentKind,
    DType,
    Entry,
    Program,
    Specialization,
    Tile,
)
from attndsl.codegen.triton.targets import GpuTarget, parse_target
from attndsl.diagnostics import error
from attndsl.planner.plan import ROW_RESULTS, Plan
from attndsl.runtime.triton_resources import Resources, of_amdgcn, of_cubin
from attndsl.runtime.triton_source import load_module

if TYPE_CHECKING:
    from triton.compiler import CompiledKernel

# Preparations and scans are bound by memory; four warps fill a multiprocessor.
_PREPARE_WARPS = 4

# What a thread may use; AMD's count those for accumulating.
_REGISTERS = {"cuda": 255, "hip": 512}

_POINTERS = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16", "int32": "*i32", "bool": "*u8"}
ALIGNMENT = 16  # bytes
_OPERANDS = frozenset({"q", "k", "v", "out", "out.gradient"})
# Addressed as contiguous, and read or written one by one.
_OF_ROWS = frozenset(ROW_RESULTS)


@dataclass(frozen=True)
class Binary:
    """One kernel of a program for one target.

    `data` is a cubin or an hsaco; `assembly` is PTX or AMD assembly; `compile_seconds` is next to
    nothing where Triton's cache had it. `kernel` is Triton's own handle, which can launch it.
    """

    entry: Entry
    data: bytes
    assembly: str
    symbol: str
    warps: int
    resources: Resources
    compile_seconds: float
    kernel: CompiledKernel


@dataclass(frozen=True)
class Binaries:
    """The kernels of a program, in the order of its entries."""

    target: GpuTarget
    kernels: tuple[Binary, ...]

    @property
    def fit(self) -> bool:
        """Whether no kernel spills or needs more shared memory than the target has."""
        return all(kernel.resources.fits(self.target) for kernel in self.kernels)

    @property
    def main(self) -> Binary:
        """The kernel of the attention itself, which comes last."""
        return self.kernels[-1]


def compile_ahead(program: Program, target: str | None = None) -> Binaries:
    """Binaries of every kernel of the program for `target`, by default the program's own.

    Raises `AttnError` A081 for an unknown target, A096 where Triton is missing or interprets, and
    A083 where Triton's compiler finds no way to fit a kernel.
    """
    gpu = parse_target(target or program.target)
    require_compiler()
    module = load_module(program)
    kernels = (
        _compile(program, entry, getattr(module, entry.function), gpu) for entry in program.entries
    )
    return Binaries(gpu, tuple(kernels))


def candidates(
    plan: Plan, specialization: Specialization, target: str
) -> Iterator[tuple[Program, Binaries]]:
    """The program with one candidate tile after another; each is compiled when it is asked for."""
    gpu = parse_target(target)
    for tile in emitter.tiles(plan, specialization, target):
        if not _may_fit(tile, specialization, gpu):
            continue  # and it would take minutes to compile
        program = emitter.emit(plan, specialization, tile, target)
        yield program, compile_ahead(program)


def stage_candidates(
    plan: Plan, number: int, specialization: Specialization, target: str
) -> Iterator[tuple[Program, Binaries]]:
    """As `candidates`, of the program of one stage of a backward."""
    for tile in emitter.stage_tiles(plan.stages[number], specialization, target):
        program = emitter.emit_stage(plan, number, specialization, tile, target)
        yield program, compile_ahead(program)


def choose(plan: Plan, specialization: Specialization, target: str) -> tuple[Program, Binaries]:
    """The program with the first of the candidate tiles whose binaries fit the target.

    Raises `AttnError` A083 where none does, and what `emit` and `compile_ahead` raise.
    """
    found = candidates(plan, specialization, target)
    return _first_that_fits(found, plan, specialization, target)


def choose_stage(
    plan: Plan, number: int, specialization: Specialization, target: str
) -> tuple[Program, Binaries]:
    """As `choose`, for the program of one stage of a backward."""
    found = stage_candidates(plan, number, specialization, target)
    return _first_that_fits(found, plan, specialization, target)


def _first_that_fits(
    found: Iterator[tuple[Program, Binaries]],
    plan: Plan,
    specialization: Specialization,
    target: str,
) -> tuple[Program, Binaries]:
    gpu = parse_target(target)
    problem = None
    for program, binaries in found:
        if binaries.fit:
            return program, binaries
        problem = max((kernel.resources for kernel in binaries.kernels), key=lambda r: r.shared)
    needed = f"more registers than the {_REGISTERS[gpu.kind]} that a thread may use"
    if problem is not None:
        needed = (
            f"{problem.shared} bytes of shared memory and {problem.stack} of stack, of "
            f"{gpu.shared} and 0"
        )
    raise error(
        "A083",
        f"`{plan.attention.name}` does not fit {target} at head dimension "
        f"{specialization.head_dim}: the smallest tile needs {needed}",
        plan.attention.span,
        help="choose smaller head dimensions, or 16-bit elements",
    )


def _may_fit(tile: Tile, specialization: Specialization, gpu: GpuTarget) -> bool:
    """Whether a thread can hold its share of the result, which is accumulated in float32.

    From cuda:100 on, tensor cores have memory of their own for it.
    """
    share = tile.block_m * specialization.value_dim / (tile.warps * gpu.warp_size)
    return gpu.generation >= 100 or share <= _REGISTERS[gpu.kind]


def require_compiler() -> None:
    """Raises `AttnError` A096 where Triton cannot compile in this process."""
    try:
        import triton
    except ImportError as problem:
        raise error(
            "A096",
            f"Triton cannot be imported: {problem}",
            help="install it with `pip install triton`; it exists for Linux",
        ) from problem
    if triton.knobs.runtime.interpret:
        raise error(
            "A096",
            "Triton interprets kernels in this process and cannot compile them",
            help="unset TRITON_INTERPRET",
        )


def warps_and_stages(program: Program, entry: Entry) -> tuple[int, int]:
    """Launch parameters of one kernel; the tile's are for those over pairs."""
    if entry.over_pairs:
        return program.tile.warps, program.tile.stages
    return _PREPARE_WARPS, 1


def signature_of(entry: Entry) -> dict[str, str]:
    """The Triton type of every argument, by identifier."""
    return {argument.identifier: _type_of(argument) for argument in entry.arguments}


def _type_of(argument: Argument) -> str:
    match argument.kind:
        case ArgumentKind.TENSOR:
            return _POINTERS[argument.dtype]
        case ArgumentKind.TABLE:
            return "*i32"
        case ArgumentKind.STRIDE:
            return "i64"
        case ArgumentKind.SIZE:
            return "i32"
        case ArgumentKind.SCALE:
            return "fp32"


def promises(program: Program) -> dict[str, int]:
    """The tensors whose alignment kernels rely on, and what their strides are multiples of, in
    elements. Buffers are allocated aligned, and statistics are written one by one."""
    operand = ALIGNMENT // (4 if program.specialization.dtype is DType.FLOAT32 else 2)
    found = {}
    for entry in program.entries:
        for argument in entry.arguments:
            if argument.kind is not ArgumentKind.TENSOR:
                continue
            if argument.name in _OPERANDS:
                found[argument.name] = operand
            elif argument.name not in _OF_ROWS | {one.name for one in program.buffers}:
                found[argument.name] = ALIGNMENT // 4 if argument.dtype == "fp32" else 1
    return found


def _divisibility(program: Program, entry: Entry) -> dict[tuple[int], list[list[Any]]]:
    """The promises in Triton's terms: bytes for pointers, elements for strides."""
    multiples = promises(program)
    buffers = {buffer.name for buffer in program.buffers}
    divisible = {}
    for number, argument in enumerate(entry.arguments):
        multiple = 1
        match argument.kind:
            case ArgumentKind.TABLE:
                multiple = ALIGNMENT
            case ArgumentKind.TENSOR if argument.name in multiples or argument.name in buffers:
                multiple = ALIGNMENT
            case ArgumentKind.STRIDE:
                multiple = multiples.get(argument.name, 1)
        if multiple > 1:
            divisible[(number,)] = [["tt.divisibility", multiple]]
    return divisible


def _compile(program: Program, entry: Entry, function: Any, gpu: GpuTarget) -> Binary:
    warps, stages = warps_and_stages(program, entry)
    options = {"num_warps": warps, "num_stages": stages}
    if gpu.kind == "hip" and entry.over_pairs:
        # Two groups of threads hide each other's waiting, with half of the registers each; where
        # that is too few, one group alone.
        binary = _compiled(program, entry, function, gpu, {**options, "waves_per_eu": 2})
        if binary.resources.stack == 0:
            return binary
    return _compiled(program, entry, function, gpu, options)


def _compiled(
    program: Program, entry: Entry, function: Any, gpu: GpuTarget, options: dict[str, int]
) -> Binary:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    architecture = gpu.generation if gpu.kind == "cuda" else gpu.architecture
    source = ASTSource(function, signature_of(entry), {}, _divisibility(program, entry))
    started = time.perf_counter()
    kernel = triton.compile(
        source,
        target=GPUTarget(gpu.kind, architecture, gpu.warp_size),
        options=options,
    )
    seconds = time.perf_counter() - started
    shared = kernel.metadata.shared
    if gpu.kind == "cuda":
        data, assembly = kernel.asm["cubin"], kernel.asm["ptx"]
        resources = of_cubin(data, shared)
    else:
        data, assembly = kernel.asm["hsaco"], kernel.asm["amdgcn"]
        resources = of_amdgcn(assembly, shared)
    name, warps = kernel.metadata.name, options["num_warps"]
    return Binary(entry, data, assembly, name, warps, resources, seconds, kernel)
