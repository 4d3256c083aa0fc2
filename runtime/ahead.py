"""One target's part of an artifact: its source, its binaries, and what they need."""

from __future__ import annotations

import dataclasses

from attndsl.attention import Attention
from attndsl.codegen.program import ArgumentKind, Entry, Program, Specialization
from attndsl.planner.plan import Plan
from attndsl.runtime.compilation import emit
from attndsl.runtime.manifest import Kernel, TargetBuild
from attndsl.runtime.targets import Target

Part = tuple[Program, TargetBuild, dict[str, bytes]]


def build_for(
    plan: Plan, attention: Attention, specialization: Specialization, target: Target
) -> Part:
    """The program, what the manifest says of it, and the files by name.

    Raises `AttnError` A08x for what the target cannot do, A09x where its compiler is missing.
    """
    if target.language == "cpp":
        return _for_cpu(attention, specialization, target)
    return _for_gpu(plan, specialization, target)


def _for_cpu(attention: Attention, specialization: Specialization, target: Target) -> Part:
    from attndsl.runtime.cpp import OBJECT, built_directory
    from attndsl.runtime.cpp_compiler import find_compiler
    from attndsl.runtime.processor import instruction_sets

    _, program = emit(attention, specialization, target)
    binary = (built_directory(program) / OBJECT).read_bytes()
    files = {"cpu.cpp": program.text.encode(), "cpu.so": binary}
    kernels = tuple(
        Kernel(entry.function, "cpu.so", len(binary), _arguments(entry))
        for entry in program.entries
    )
    compiler = find_compiler()
    build = TargetBuild(
        target=target.name,
        source="cpu.cpp",
        tile={"block_m": program.tile.block_m, "block_n": program.tile.block_n},
        compiler=" ".join((*compiler.command, *compiler.flags)),
        kernels=kernels,
        processor=instruction_sets(),
    )
    return program, build, files


def _for_gpu(plan: Plan, specialization: Specialization, target: Target) -> Part:
    import triton

    from attndsl.runtime.triton_compile import choose, warps_and_stages

    program, binaries = choose(plan, specialization, target.name)
    prefix = target.name.replace(":", "-")
    suffix = "cubin" if target.name.startswith("cuda") else "hsaco"
    files = {f"{prefix}.py": program.text.encode()}
    kernels = []
    for binary in binaries.kernels:
        name = f"{prefix}.{binary.entry.function}.{suffix}"
        files[name] = binary.data
        metadata = binary.kernel.metadata
        kernels.append(
            Kernel(
                function=binary.entry.function,
                file=name,
                size=len(binary.data),
                arguments=_arguments(binary.entry),
                symbol=binary.symbol,
                warps=binary.warps,
                warp_size=binaries.target.warp_size,
                stages=warps_and_stages(program, binary.entry)[1],
                dynamic_shared=metadata.shared,
                scratch=getattr(metadata, "global_scratch_size", 0) or 0,
                registers=binary.resources.registers,
                stack=binary.resources.stack,
                shared=binary.resources.shared,
                instructions=binary.resources.instructions,
            )
        )
    build = TargetBuild(
        target=target.name,
        source=f"{prefix}.py",
        tile=dataclasses.asdict(program.tile),
        compiler=f"triton {triton.__version__}",
        kernels=tuple(kernels),
    )
    return program, build, files


def _arguments(entry: Entry) -> tuple[str, ...]:
    """The signature for people: `tensor q`, `stride q 2`, `size Lk` …"""
    return tuple(
        f"{one.kind.value} {one.name}" + (f" {one.axis}" if one.kind is ArgumentKind.STRIDE else "")
        for one in entry.arguments
    )
