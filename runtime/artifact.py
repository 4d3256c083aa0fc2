"""Programs compiled ahead of time, as a folder that one can read, ship and load.

    plan.txt            what will run, for people
    manifest.json       sources, binaries, their checksums, resources, tiles, launch parameters
    program.json        the plan and the programs, for loading
    cpu.cpp  cpu.so     for every target its source and its binaries
    cuda-90.py  cuda-90.gemma2.cubin …

Loading checks every file against its checksum and every part of the manifest against what it must
be. That finds damage, not malice: binaries are native code, so load only what you trust.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attndsl
from attndsl.attention import Attention
from attndsl.codegen.program import ArgumentKind, Program
from attndsl.diagnostics import AttnError, error
from attndsl.planner.block_map import BlockTable, Table
from attndsl.planner.plan import Attend, Plan
from attndsl.printing import text
from attndsl.runtime.compilation import plan_of, specialize
from attndsl.runtime.manifest import FORMAT, Manifest, TargetBuild, damaged, read_manifest
from attndsl.runtime.options import Options
from attndsl.runtime.serialize import decode, encode
from attndsl.runtime.targets import Target, device_target, parse_target

if TYPE_CHECKING:
    import torch

    from attndsl.runtime.arguments import Call
    from attndsl.runtime.calls import Calls
    from attndsl.runtime.execution import Execution, Launcher

MANIFEST, PLAN, PROGRAMS = "manifest.json", "plan.txt", "program.json"


@dataclass(frozen=True, eq=False)
class Artifact:
    """One attention compiled for one dtype and head dimension, for one or several targets.

    It is called as a `Kernel` is. `files` are its contents by name; `place` is the folder that it
    was loaded from, if it was.
    """

    manifest: Manifest
    plan: Plan
    programs: Mapping[str, Program]
    files: Mapping[str, bytes]
    place: Path | None = None

    def save(self, directory: str | Path) -> Path:
        """Write the folder, in place of what an earlier `save` wrote there.

        Raises `AttnError` A097 where the folder holds something else or cannot be written.
        """
        target = Path(directory)
        try:
            _check_replaceable(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            # A reader never sees half of it: the folder is written beside its place and moved.
            written = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                for name, data in self.files.items():
                    (written / name).write_bytes(data)
                written.chmod(0o755)
                if target.exists():
                    shutil.rmtree(target)
                written.rename(target)
            finally:
                shutil.rmtree(written, ignore_errors=True)
        except OSError as problem:
            raise error(
                "A097", f"`{target}` cannot be written: {problem.strerror or problem}"
            ) from None
        return target

    def __call__(
        self,
        q: Any,
        k: Any,
        v: Any = None,
        *,
        scale: float | None = None,
        offset: int | None = None,
        grid: tuple[int, ...] | Mapping[str, int] | None = None,
        return_lse: bool = False,
        cu_seqlens: torch.Tensor | None = None,
        cu_seqlens_k: torch.Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Compute the attention; see `Kernel.__call__`. Nothing is compiled.

        Raises `AttnError` A087 where the artifact has nothing for these tensors.
        """
        options = Options(
            scale, offset, grid, return_lse, cu_seqlens=cu_seqlens, cu_seqlens_k=cu_seqlens_k
        )
        return self._calls(q, k, v, options, inputs)

    def prepare(self, device: str | torch.device) -> None:
        """Load the binaries for a device now, and not at the first call there.

        Raises `AttnError` A087 where the artifact has nothing for the device, and A093 where its
        driver cannot be loaded or refuses the binaries.
        """
        import torch

        place = torch.device(device)
        if place.type != "cuda":
            self._launcher(device_target(place))
            return
        from attndsl.runtime.driver import DriverProgram, driver_api

        driver_api()  # without it, nothing tells what the device is
        launcher = self._launcher(device_target(place))
        assert isinstance(launcher, DriverProgram)
        launcher.prepare(place)

    def __repr__(self) -> str:
        made = self.manifest.specialization
        kind = f"{made['dtype']}, D = {made['head_dim']}"
        return f"<attndsl artifact {self.manifest.attention}: {kind}, {', '.join(self.programs)}>"

    @cached_property
    def _calls(self) -> Calls:
        from attndsl.runtime.calls import Calls

        return Calls(self.plan.attention, self._execution_for)

    @cached_property
    def _executions(self) -> dict[str, Execution]:
        return {}

    def _execution_for(self, call: Call, return_lse: bool) -> Execution:
        from attndsl.runtime.execution import CompiledExecution, block_tables

        target = device_target(call.device)
        program = self._program(target)
        made = program.specialization
        wanted = {
            "dtype": (made.dtype.value, call.dtype.value),
            "D": (made.head_dim, call.sizes["D"]),
            "Dv": (made.value_dim, call.sizes["Dv"]),
        }
        for name, (has, needs) in wanted.items():
            if has != needs:
                raise error("A087", f"the artifact is for {name} = {has}, the call has {needs}")
        if return_lse and not made.log_sum_exp:
            raise error("A087", "the artifact writes no log-sum-exp", help="compile it with it")
        execution = self._executions.get(target.name)
        if execution is None:
            tables = block_tables(self.plan.attend, program, self.plan.attention.axes)
            execution = CompiledExecution(self.plan, program, self._launcher(target), tables)
            self._executions[target.name] = execution
        return execution

    def _program(self, target: Target) -> Program:
        program = self.programs.get(target.name)
        if program is None:
            raise error(
                "A087",
                f"the artifact has nothing for `{target}`, only for {', '.join(self.programs)}",
                help=f"compile it with the target `{target}` too",
            )
        return program

    @cached_property
    def _launchers(self) -> dict[str, Launcher]:
        return {}

    def _launcher(self, target: Target) -> Launcher:
        """The binaries for a target; they are loaded once."""
        launcher = self._launchers.get(target.name)
        if launcher is None:
            launcher = self._launchers[target.name] = self._load(target, self._program(target))
        return launcher

    def _load(self, target: Target, program: Program) -> Launcher:
        build = self.manifest.build(target.name)
        if target.language == "triton":
            from attndsl.runtime.driver import load as load_binaries

            return load_binaries(program, build.kernels, self.files)
        from attndsl.runtime.cpp import load as load_object
        from attndsl.runtime.processor import check_processor

        check_processor(build.processor)
        name = build.kernels[0].file
        if self.place is not None:
            return load_object(self.place / name, program)
        # Freshly compiled and not saved: the loader needs a file, for as long as it loads.
        with tempfile.TemporaryDirectory(prefix="attndsl-") as directory:
            path = Path(directory) / name
            path.write_bytes(self.files[name])
            return load_object(path, program)


def compile_artifact(
    attention: Attention,
    targets: Iterable[str],
    *,
    head_dim: int,
    value_dim: int | None,
    dtype: str,
    return_lse: bool,
    parameters: Mapping[str, bool | int | float],
    on_target: Callable[[str], None] = lambda target: None,
) -> Artifact:
    """Compile a bound attention for targets; `on_target` is told of each before it is compiled.

    Raises `AttnError` A08x for what a target cannot do, A09x where a compiler is missing.
    """
    from attndsl.runtime.ahead import build_for

    chosen = list(dict.fromkeys(parse_target(name).name for name in targets))
    plan = plan_of(attention)
    specialization = specialize(attention, head_dim, value_dim, dtype, return_lse=return_lse)
    files: dict[str, bytes] = {}
    programs: dict[str, Program] = {}
    builds: list[TargetBuild] = []
    for name in chosen:
        on_target(name)
        program, build, contents = build_for(plan, attention, specialization, parse_target(name))
        programs[name] = program
        builds.append(build)
        files |= contents
    files[PLAN] = f"{plan}\n".encode()
    files[PROGRAMS] = _as_json(
        {
            "plan": encode(plan),
            "programs": {
                # The source stands in its own file.
                name: encode(dataclasses.replace(program, text=""))
                for name, program in programs.items()
            },
        }
    )
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
        targets=tuple(builds),
        files={name: sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    files[MANIFEST] = _as_json(dataclasses.asdict(manifest))
    return Artifact(manifest, plan, programs, files)


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
    encoded = stored.get("programs") if isinstance(stored, dict) else None
    if not isinstance(encoded, dict) or set(encoded) != {one.target for one in manifest.targets}:
        raise damaged(directory, f"`{PROGRAMS}` does not match the manifest")
    plan = decode(stored.get("plan"), Plan)
    if not any(isinstance(stage, Attend) for stage in plan.stages):
        raise damaged(directory, "its plan computes nothing")
    programs = {}
    for build in manifest.targets:
        program = decode(encoded[build.target], Program)
        source = files[build.source].decode("utf-8", "replace")
        programs[build.target] = dataclasses.replace(program, text=source)
        _check_program(plan, program, build, directory)
    files[MANIFEST] = _read(directory / MANIFEST)
    return Artifact(manifest, plan, programs, files, directory)


def _check_program(plan: Plan, program: Program, build: TargetBuild, directory: Path) -> None:
    """Every argument of every entry must be something that a call has."""
    if program.target != build.target:
        raise damaged(directory, f"`{build.target}` holds a program for `{program.target}`")
    if {one.function for one in program.entries} != {one.function for one in build.kernels}:
        raise damaged(directory, f"`{build.target}` has other kernels than its program")
    attention = plan.attention
    ranks = dict.fromkeys(("q", "k", "v", "out"), 4) | {"log_sum_exp": 3}
    ranks |= {one.name: len(one.dimensions) for one in attention.inputs}
    ranks |= {one.name: len(one.dimensions) for one in program.buffers}
    sizes = {"B", "H", "Hkv", "Lq", "Lk", "D", "Dv", "offset", "threads"}
    sizes |= {f"axis.{axis}" for axis in attention.axes}
    fields = {field.name for field in dataclasses.fields(BlockTable)}
    for argument in (argument for entry in program.entries for argument in entry.arguments):
        match argument.kind:
            case ArgumentKind.TENSOR:
                known = argument.name in ranks
            case ArgumentKind.STRIDE:
                known = 0 <= argument.axis < ranks.get(argument.name, 0)
            case ArgumentKind.SIZE:
                known = argument.name in sizes
            case ArgumentKind.TABLE:
                known = argument.name in fields and isinstance(plan.attend.block_map, Table)
            case ArgumentKind.SCALE:
                known = True
        if not known:
            raise damaged(directory, f"`{build.target}` has an argument `{argument.name}`")


def _check_replaceable(directory: Path) -> None:
    """A folder is replaced only if all that it holds was written by `save`."""
    names = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if not names:
        return
    try:
        ours = {MANIFEST, *read_manifest(directory / MANIFEST).files}
    except AttnError:
        ours = set()
    if not names <= ours:
        raise error(
            "A097",
            f"`{directory}` exists and holds `{min(names - ours)}`, which is of no artifact",
            help="choose another folder, or empty this one",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise damaged(path.parent, f"`{path.name}`: {problem.strerror}") from None


def _as_json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
