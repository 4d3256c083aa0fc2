"""Compiling ahead of time: an attention's programs, their sources and binaries, for any targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from attndsl.attention import Attention, has_statistic
from attndsl.codegen.program import ArgumentKind, Entry, Program, Specialization
from attndsl.diagnostics import error
from attndsl.planner.plan import Plan
from attndsl.runtime.artifact import Artifact, BackwardPrograms
from attndsl.runtime.artifact_files import assemble
from attndsl.runtime.backward import (
    backward_plan,
    check_depends,
    gradients_of,
    program_for_cpu,
)
from attndsl.runtime.compilation import emit, plan_of, specialize
from attndsl.runtime.gradients import has_log_sum_exp
from attndsl.runtime.manifest import Kernel, ProgramBuild, TargetBuild
from attndsl.runtime.targets import Target, parse_target
from attndsl.runtime.triton_compile import Binaries, choose, choose_stage, warps_and_stages

DIRECTIONS = ("forward", "both")

_Files = dict[str, bytes]
_Built = tuple[Program, ProgramBuild, _Files]


@dataclass(frozen=True)
class Wanted:
    """What is compiled: an attention for a specialization, and the `gradients` of its backward,
    none if there is to be no backward."""

    attention: Attention
    specialization: Specialization
    gradients: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        return plan_of(self.attention)

    @property
    def of_backward(self) -> Specialization:
        """A backward writes no results of rows."""
        return dataclasses.replace(self.specialization, log_sum_exp=False)

    @property
    def log_sum_exp_gradient(self) -> bool:
        """Whoever has the log-sum-exp may differentiate it."""
        return has_log_sum_exp(self.attention)


def compile_artifact(
    attention: Attention,
    targets: Iterable[str],
    *,
    head_dim: int,
    value_dim: int | None,
    dtype: str,
    return_lse: bool,
    parameters: Mapping[str, bool | int | float],
    direction: str = "forward",
    gradients: Iterable[str] | None = None,
    on_target: Callable[[str], None] = lambda target: None,
) -> Artifact:
    """Compile a bound attention for targets; `on_target` is told of each before it is compiled.

    `direction` is one of `DIRECTIONS`; `gradients` are names of what `both` differentiates: all
    operands and inputs of floats unless given.

    Raises `AttnError` A072 and A082 for gradients that there are not, A08x for what a target cannot
    do, A09x where a compiler is missing.
    """
    chosen = list(dict.fromkeys(parse_target(name).name for name in targets))
    names = _gradients(attention, direction, gradients)
    specialization = specialize(
        attention,
        head_dim,
        value_dim,
        dtype,
        return_lse=return_lse or (bool(names) and has_statistic(attention.normalizer)),
    )
    wanted = Wanted(attention, specialization, names)
    programs: dict[str, Program] = {}
    backwards: dict[str, BackwardPrograms] = {}
    builds: list[TargetBuild] = []
    files: _Files = {}
    for name in chosen:
        on_target(name)
        target = parse_target(name)
        compiled = _for_cpu if target.language == "cpp" else _for_gpu
        forward, backward, build, contents = compiled(wanted, target)
        programs[name] = forward
        if backward is not None:
            backwards[name] = backward
        builds.append(build)
        files |= contents
    return assemble(wanted.plan, programs, backwards, builds, files, names, parameters)


def _gradients(
    attention: Attention, direction: str, names: Iterable[str] | None
) -> tuple[str, ...]:
    """What is differentiated, in the order of a call; nothing where only the forward is wanted."""
    if direction not in DIRECTIONS:
        raise error(
            "A082",
            f"the direction `{direction}` is not compiled by itself",
            help="it is `forward`, or `both` for a backward with the forward that it continues",
        )
    if direction == "forward":
        if names:
            raise error(
                "A082",
                "gradients are computed by a backward, and only the forward is compiled",
                help="compile with `--direction both`",
            )
        return ()
    return gradients_of(attention, names)


_Part = tuple[Program, BackwardPrograms | None, TargetBuild, _Files]


def _for_cpu(wanted: Wanted, target: Target) -> _Part:
    from attndsl.runtime.cpp_compiler import find_compiler
    from attndsl.runtime.processor import instruction_sets

    program = emit(wanted.attention, wanted.specialization, target)[1]
    forward, files = _built_for_cpu(program, "cpu")
    backward, backward_builds = None, []
    if wanted.gradients:
        plan, of_backward = program_for_cpu(
            wanted.attention,
            wanted.of_backward,
            target,
            wanted.gradients,
            wanted.log_sum_exp_gradient,
        )
        check_depends(plan, wanted.gradients)
        build, more = _built_for_cpu(of_backward, "cpu.backward")
        backward, backward_builds = BackwardPrograms(plan, (of_backward,)), [build]
        files |= more
    compiler = find_compiler()
    described = TargetBuild(
        target=target.name,
        compiler=" ".join((*compiler.command, *compiler.flags)),
        forward=forward,
        backward=tuple(backward_builds),
        processor=instruction_sets(),
    )
    return program, backward, described, files


def _built_for_cpu(program: Program, name: str) -> tuple[ProgramBuild, _Files]:
    from attndsl.runtime.cpp import OBJECT, built_directory

    binary = (built_directory(program) / OBJECT).read_bytes()
    kernels = tuple(
        Kernel(entry.function, f"{name}.so", len(binary), _arguments(entry))
        for entry in program.entries
    )
    tile = {"block_m": program.tile.block_m, "block_n": program.tile.block_n}
    files = {f"{name}.cpp": program.text.encode(), f"{name}.so": binary}
    return ProgramBuild(f"{name}.cpp", tile, kernels), files


def _for_gpu(wanted: Wanted, target: Target) -> _Part:
    import triton

    name = target.name.replace(":", "-")
    program, binaries = choose(wanted.plan, wanted.specialization, target.name)
    forward, files = _built_for_gpu(program, binaries, name)
    backward, backward_builds = None, []
    if wanted.gradients:
        from attndsl.runtime.triton_backward import stages_with_kernels

        asked = wanted.attention, wanted.gradients, wanted.log_sum_exp_gradient
        plan = backward_plan(*asked, wanted.of_backward.dropout, by_side=True)
        check_depends(plan, wanted.gradients)
        programs = []
        for number in stages_with_kernels(plan):
            of_stage, binaries = choose_stage(plan, number, wanted.of_backward, target.name)
            # Numbered as the plan's text numbers them.
            build, more = _built_for_gpu(of_stage, binaries, f"{name}.backward-{number + 1}")
            programs.append(of_stage)
            backward_builds.append(build)
            files |= more
        backward = BackwardPrograms(plan, tuple(programs))
    described = TargetBuild(
        target=target.name,
        compiler=f"triton {triton.__version__}",
        forward=forward,
        backward=tuple(backward_builds),
    )
    return program, backward, described, files


def _built_for_gpu(program: Program, binaries: Binaries, name: str) -> tuple[ProgramBuild, _Files]:
    suffix = "cubin" if binaries.target.kind == "cuda" else "hsaco"
    files = {f"{name}.py": program.text.encode()}
    kernels = []
    for binary in binaries.kernels:
        file = f"{name}.{binary.entry.function}.{suffix}"
        files[file] = binary.data
        metadata = binary.kernel.metadata
        kernels.append(
            Kernel(
                function=binary.entry.function,
                file=file,
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
    return ProgramBuild(f"{name}.py", dataclasses.asdict(program.tile), tuple(kernels)), files


def _arguments(entry: Entry) -> tuple[str, ...]:
    """The signature for people: `tensor q`, `stride q 2`, `size Lk` …"""
    return tuple(
        f"{one.kind.value} {one.name}" + (f" {one.axis}" if one.kind is ArgumentKind.STRIDE else "")
        for one in entry.arguments
    )
