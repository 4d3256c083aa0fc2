"""What is in an artifact's folder, made and read.

    plan.txt            what will run, for people
    manifest.json       sources, binaries, their checksums, resources, tiles, launch parameters
    program.json        the plans and the programs, for loading
    cpu.cpp  cpu.so     for every target its source and its binaries
    cuda-90.py  cuda-90.gemma2.cubin …

    plan.backward.cpu.txt  plan.backward.cuda-90.txt …                    where both directions were
    cpu.backward.cpp  cpu.backward.so                                     compiled; of GPUs for each
    cuda-90.backward-3.py  cuda-90.backward-3.gemma2_keys.cubin …         stage of its plan

Loading checks every file against its checksum and every part of the manifest against what it must
be. That finds damage, not malice: binaries are native code, so load only what you trust.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import attndsl
from attndsl.attention import Attention, Softmax, has_statistic
from attndsl.codegen.program import ArgumentKind, Program
from attndsl.planner.block_map import BlockTable, Table
from attndsl.planner.plan import Attend, Fold, PairStage, Plan
from attndsl.printing import text
from attndsl.runtime.artifact import Artifact, BackwardPrograms
from attndsl.runtime.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    ProgramBuild,
    TargetBuild,
    damaged,
    read_manifest,
)
from attndsl.runtime.serialize import decode, encode

PLAN, PROGRAMS = "plan.txt", "program.json"


def assemble(
    plan: Plan,
    programs: Mapping[str, Program],
    backwards: Mapping[str, BackwardPrograms],
    builds: Sequence[TargetBuild],
    files: Mapping[str, bytes],
    gradients: tuple[str, ...],
    parameters: Mapping[str, bool | int | float],
) -> Artifact:
    """The artifact of what was compiled. `files` are sources and binaries; the others are added.
    `gradients` are what the backward differentiates, if there is one."""
    contents = {**files, PLAN: f"{plan}\n".encode()}
    for target, backward in backwards.items():
        name = target.replace(":", "-")
        contents[f"plan.backward.{name}.txt"] = f"{backward.plan}\n".encode()
    contents[PROGRAMS] = _as_json(
        {
            "plan": encode(plan),
            "programs": {name: _without_source(program) for name, program in programs.items()},
            "backwards": {
                name: {
                    "plan": encode(backward.plan),
                    "programs": [_without_source(program) for program in backward.programs],
                }
                for name, backward in backwards.items()
            },
        }
    )
    attention = plan.attention
    specialization = next(iter(programs.values())).specialization
    manifest = Manifest(
        format=FORMAT,
        attndsl=attndsl.__version__,
        attention=attention.name,
        parameters=dict(parameters),
        inputs={
            one.name: f"{one.element}[{', '.join(map(text, one.dimensions))}]"
            for one in attention.inputs
        },
        axes=attention.axes,
        specialization={
            "dtype": specialization.dtype.value,
            "head_dim": specialization.head_dim,
            "value_dim": specialization.value_dim,
            "log_sum_exp": specialization.log_sum_exp,
        },
        gradients=gradients,
        targets=tuple(builds),
        files={name: sha256(data).hexdigest() for name, data in sorted(contents.items())},
    )
    contents[MANIFEST] = _as_json(dataclasses.asdict(manifest))
    return Artifact(manifest, plan, programs, backwards, contents)


def _without_source(program: Program) -> dict[str, Any]:
    """The source stands in its own file."""
    return encode(dataclasses.replace(program, text=""))


def load_artifact(directory: Path) -> Artifact:
    """The artifact in a folder. Raises `AttnError` A096 where it is damaged or is none."""
    manifest = read_manifest(directory / MANIFEST)
    files = {name: _read(directory / name) for name in manifest.files}
    for name, checksum in manifest.files.items():
        if sha256(files[name]).hexdigest() != checksum:
            raise damaged(directory, f"`{name}` is not what was written")
    for name in (PROGRAMS, *(file for build in manifest.targets for file in build.files())):
        if name not in files:
            raise damaged(directory, f"`{name}` is not listed")
    try:
        stored = json.loads(files[PROGRAMS])
    except ValueError:
        raise damaged(directory, f"`{PROGRAMS}` is no JSON") from None
    targets = {one.target for one in manifest.targets}
    encoded = _by_target(stored, "programs", targets, directory)
    of_backwards = _by_target(
        stored, "backwards", targets if manifest.gradients else set(), directory
    )
    plan = decode(stored.get("plan"), Plan)
    if not any(isinstance(stage, Attend) for stage in plan.stages):
        raise damaged(directory, "its plan computes nothing")
    programs: dict[str, Program] = {}
    backwards: dict[str, BackwardPrograms] = {}
    for build in manifest.targets:
        programs[build.target] = _program(encoded[build.target], build.forward, files)
        _check_program(plan, programs[build.target], build.forward, build.target, directory)
        if build.target in of_backwards:
            backwards[build.target] = _backward(
                of_backwards[build.target], manifest, build, files, directory
            )
    files[MANIFEST] = _read(directory / MANIFEST)
    return Artifact(manifest, plan, programs, backwards, files, directory)


def _by_target(stored: Any, key: str, targets: set[str], directory: Path) -> dict[str, Any]:
    found = stored.get(key) if isinstance(stored, dict) else None
    if not isinstance(found, dict) or set(found) != targets:
        raise damaged(directory, f"`{PROGRAMS}` does not match the manifest")
    return found


def _program(encoded: Any, build: ProgramBuild, files: Mapping[str, bytes]) -> Program:
    source = files[build.source].decode("utf-8", "replace")
    program: Program = decode(encoded, Program)
    return dataclasses.replace(program, text=source)


def _backward(
    stored: Any,
    manifest: Manifest,
    build: TargetBuild,
    files: Mapping[str, bytes],
    directory: Path,
) -> BackwardPrograms:
    """A target's backward: there is a kernel for every stage that needs one, and no other."""
    encoded = stored.get("programs") if isinstance(stored, dict) else None
    if not isinstance(encoded, list) or len(encoded) != len(build.backward):
        raise damaged(directory, f"`{PROGRAMS}` does not match the manifest")
    plan: Plan = decode(stored.get("plan"), Plan)
    if not plan.gradients or any(isinstance(stage, Attend) for stage in plan.stages):
        raise damaged(directory, "its backward computes no gradients")
    if not {name for name, _ in plan.gradients} <= set(manifest.gradients):
        raise damaged(directory, "its backward has other gradients than the manifest lists")
    written = {buffer.name for buffer in plan.buffers}
    if not {buffer for _, buffer in plan.gradients} <= written:
        raise damaged(directory, "its backward has gradients that no stage writes")
    programs = tuple(
        _program(one, part, files) for one, part in zip(encoded, build.backward, strict=True)
    )
    for program, part in zip(programs, build.backward, strict=True):
        _check_program(plan, program, part, build.target, directory)
    run = [entry.stage for program in programs for entry in program.entries]
    if run != [number for number, one in enumerate(plan.stages) if not isinstance(one, Fold)]:
        raise damaged(directory, f"`{build.target}` has other kernels than its backward's stages")
    return BackwardPrograms(plan, programs)


def _check_program(
    plan: Plan, program: Program, build: ProgramBuild, target: str, directory: Path
) -> None:
    """Every argument of every entry must be something that a call has."""
    if program.target != target:
        raise damaged(directory, f"`{target}` holds a program for `{program.target}`")
    if {one.function for one in program.entries} != {one.function for one in build.kernels}:
        raise damaged(directory, f"`{target}` has other kernels than its program")
    attention = plan.attention
    ranks = dict.fromkeys(("q", "k", "v", "out"), 4) | {"log_sum_exp": 3}
    if plan.gradients:
        ranks |= {"out.gradient": 4} | dict.fromkeys(_row_results(attention), 3)
    ranks |= {one.name: len(one.dimensions) for one in attention.inputs}
    ranks |= {one.name: len(one.dimensions) for one in program.buffers}
    sizes = {"B", "H", "Hkv", "Lq", "Lk", "D", "Dv", "offset", "threads"}
    sizes |= {f"axis.{axis}" for axis in attention.axes}
    fields = {field.name for field in dataclasses.fields(BlockTable)}
    for entry in program.entries:
        if not 0 <= entry.stage < len(plan.stages):
            raise damaged(directory, f"`{target}` has a kernel for no stage")
        stage = plan.stages[entry.stage]
        has_table = isinstance(stage, PairStage) and isinstance(stage.block_map, Table)
        turns = {"turn"} if entry.turns is not None else set()
        for argument in entry.arguments:
            match argument.kind:
                case ArgumentKind.TENSOR:
                    known = argument.name in ranks
                case ArgumentKind.STRIDE:
                    known = 0 <= argument.axis < ranks.get(argument.name, 0)
                case ArgumentKind.SIZE:
                    known = argument.name in sizes | turns
                case ArgumentKind.TABLE:
                    known = argument.name in fields and has_table
                case ArgumentKind.SCALE:
                    known = True
            if not known:
                raise damaged(directory, f"`{target}` has an argument `{argument.name}`")


def _row_results(attention: Attention) -> tuple[str, ...]:
    """What a backward may read of every row beside its output."""
    if isinstance(attention.normalizer, Softmax):
        return "log_sum_exp", "log_sum_exp.gradient"
    return ("weights.sum",) if has_statistic(attention.normalizer) else ()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise damaged(path.parent, f"`{path.name}`: {problem.strerror}") from None


def _as_json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
