"""Artifacts of both directions: gradients without compiling, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from naive import CASES, Case
from test_cpp_catalogue import tensor
from torch import Tensor
from triton_interpreted import Interpreter

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.runtime import cpp, cpp_compiler
from attndsl.runtime.artifact import Artifact
from attndsl.runtime.kernel import Kernel

# What differs most in what a backward needs: tables, folds, scans, sums of weights, and values that
# are made of keys.
QUICK = {"documents", "forgetting", "hedgehog", "mla"}
EXAMPLES = [
    pytest.param(case, id=case.name, marks=() if case.name in QUICK else pytest.mark.slow)
    for case in CASES
]
ALIBI = """attention alibi {
    input slope: float[H]
    input near: float[8, H]
    input start: int[B]
    score = dot(q, k) * scale - slope[h] * (i - j) + near[min(i - j, 7), h]
    mask  = causal and j >= start[b]
}
"""


@pytest.fixture(scope="module")
def kernel() -> attndsl.Kernel:
    return attndsl.parse(ALIBI).alibi


@pytest.fixture(scope="module")
def saved(kernel: attndsl.Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact = attndsl.compile(kernel, "cpu", head_dim=32, dtype="fp32", direction="both")
    return artifact.save(tmp_path_factory.mktemp("artifact") / "alibi")


def arguments(*wanted: str) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 70, 32, generator=random) for heads in (4, 2, 2))
    given = {"q": q, "k": k, "v": v, "slope": torch.rand(4, generator=random)}
    given["near"] = torch.randn(8, 4, generator=random)
    for name in wanted:
        given[name].requires_grad_()
    return {**given, "start": torch.tensor([0, 9])}


ALL = ("q", "k", "v", "slope", "near")


def gradients(
    attention: Callable[..., Any], given: dict[str, Any], loss: Callable[[Any], Tensor], **more: Any
) -> tuple[Tensor, ...]:
    leaves = [one for one in given.values() if isinstance(one, Tensor) and one.requires_grad]
    return torch.autograd.grad(loss(attention(**given, **more)), leaves)


def of_output(out: Tensor) -> Tensor:
    return out.float().sin().sum()


def of_both(results: tuple[Tensor, Tensor]) -> Tensor:
    return results[0].sin().sum() + results[1].cos().sum()


def of_log_sum_exp(results: tuple[Tensor, Tensor]) -> Tensor:
    return results[1].cos().sum()


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what comes after the artifact was made and the kernel was run."""
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(AttnError, match="A090"):
        cpp_compiler.find_compiler()
    monkeypatch.setattr(cpp, "build", None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", EXAMPLES)
def test_gradients_are_those_of_the_kernel(
    case: Case, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, call = case.shapes[0], case.call(case.shapes[0])
    given = {name: tensor(getattr(call, name), dtype) for name in ("q", "k", "v")}
    given |= {name: tensor(one, torch.float32) for name, one in call.inputs.items()}
    for one in given.values():
        if one is not None and one.is_floating_point():
            one.requires_grad_()
    options: dict[str, Any] = {"scale": call.scale, "offset": shape.offset, "grid": shape.grid}
    kernel = Kernel(case.load())
    expected = gradients(kernel, given, of_output, **options)
    kernel.artifact(
        head_dim=shape.width,
        value_dim=shape.value_width,
        dtype="fp32" if dtype is torch.float32 else "bf16",
        direction="both",
    ).save(tmp_path / "made")
    monkeypatch.setenv("CXX", "/nowhere/g++")
    artifact = attndsl.load_artifact(tmp_path / "made")
    assert_same(gradients(artifact, given, of_output, **options), expected)


@pytest.mark.parametrize("wanted", [("q",), ("k", "slope"), ALL], ids=" ".join)
def test_whatever_requires_a_gradient_has_it(
    saved: Path, kernel: attndsl.Kernel, wanted: tuple[str, ...], without_compiler: None
) -> None:
    artifact = attndsl.load_artifact(saved)
    assert artifact.manifest.gradients == ALL
    found = gradients(artifact, arguments(*wanted), of_output)
    whole = dict(zip(ALL, gradients(artifact, arguments(*ALL), of_output), strict=True))
    assert_same(found, tuple(whole[name] for name in wanted))


@pytest.mark.parametrize("loss", [of_both, of_log_sum_exp])
def test_the_log_sum_exp_has_a_gradient(
    saved: Path, kernel: attndsl.Kernel, loss: Callable[[Any], Tensor]
) -> None:
    expected = gradients(kernel, arguments(*ALL), loss, return_lse=True)
    artifact = attndsl.load_artifact(saved)
    assert_same(gradients(artifact, arguments(*ALL), loss, return_lse=True), expected)


def test_without_gradients_it_runs_forward(saved: Path, kernel: attndsl.Kernel) -> None:
    artifact = attndsl.load_artifact(saved)
    assert torch.equal(artifact(**arguments()), kernel(**arguments()))
    with torch.no_grad():
        out = artifact(**arguments(*ALL))
    assert not out.requires_grad


def test_there_is_no_second_derivative(saved: Path) -> None:
    given = arguments("q")
    out = attndsl.load_artifact(saved)(**given)
    (gradient,) = torch.autograd.grad(of_output(out), given["q"], create_graph=True)
    with pytest.raises(AttnError, match="A086"):
        gradient.sum().backward()


def test_packed_sequences(kernel: attndsl.Kernel, tmp_path: Path) -> None:
    causal = attndsl.parse("attention causal_softmax { mask = causal }").causal_softmax
    artifact = attndsl.compile(causal, head_dim=16, dtype="fp32", direction="both")
    loaded = attndsl.load_artifact(artifact.save(tmp_path / "packed"))
    random = torch.Generator().manual_seed(1)
    given: dict[str, Any] = {
        name: torch.randn(60, heads, 16, generator=random).requires_grad_()
        for name, heads in (("q", 4), ("k", 2), ("v", 2))
    }
    more: dict[str, Any] = {"cu_seqlens": torch.tensor([0, 23, 24, 60], dtype=torch.int32)}
    assert_same(
        gradients(loaded, given, of_output, **more), gradients(causal, given, of_output, **more)
    )


def test_a_module_of_parameters_is_trained(saved: Path) -> None:
    """Parameters are tensors of a class of their own."""
    artifact = attndsl.load_artifact(saved)
    given = arguments()
    slope = torch.nn.Parameter(given.pop("slope"))
    of_output(artifact(**given, slope=slope)).backward()
    assert slope.grad is not None
    assert slope.grad.abs().max() > 0


LOADED = """
import sys, torch
import attndsl
artifact = attndsl.load_artifact(sys.argv[1])
q, k, v = (torch.ones(1, heads, 20, 32).requires_grad_() for heads in (4, 2, 2))
slope, near = torch.ones(4).requires_grad_(), torch.ones(8, 4)
start = torch.zeros(1, dtype=torch.int32)
artifact(q, k, v, slope=slope, near=near, start=start).sum().backward()
assert slope.grad.isfinite().all()
print(*sorted(name for name in sys.modules if name.startswith("attndsl.")), sep="\\n")
"""


def test_loading_takes_neither_spec_nor_emitter(saved: Path, tmp_path: Path) -> None:
    """In a process of its own, whose cache is empty and stays so."""
    environment = os.environ | {"ATTNDSL_CACHE": str(tmp_path), "CXX": "/nowhere/g++"}
    run = subprocess.run(
        [sys.executable, "-c", LOADED, str(saved)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "attndsl.runtime.backward" in loaded
    for module in ("parsing", "planner.lower", "planner.backward", "codegen.cpp"):
        assert f"attndsl.{module}" not in loaded
    assert not list(tmp_path.glob("*/*"))


def test_what_is_in_the_folder(saved: Path) -> None:
    names = {"plan.txt", "manifest.json", "program.json", "cpu.cpp", "cpu.so"}
    names |= {"plan.backward.cpu.txt", "cpu.backward.cpp", "cpu.backward.so"}
    assert {path.name for path in saved.iterdir()} == names
    plan = (saved / "plan.backward.cpu.txt").read_text()
    assert plan.startswith("backward of `alibi`")
    assert "\ngradients\n" in plan
    assert "slope" in (saved / "cpu.backward.cpp").read_text()
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["gradients"] == list(ALL)
    assert manifest["specialization"]["log_sum_exp"]
    ((program,),) = (target["backward"] for target in manifest["targets"])
    assert program["source"] == "cpu.backward.cpp"
    assert program["tile"].keys() == {"block_m", "block_n"}
    listed = {one for kernel in program["kernels"] for one in kernel["arguments"]}
    assert {"tensor out.gradient", "tensor log_sum_exp", "tensor slope", "size Lq"} <= listed


def test_prepare_loads_both_directions(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = cpp.load

    def counted(path: Path, program: Any) -> Any:
        loaded.append(path.name)
        return load(path, program)

    monkeypatch.setattr(cpp, "load", counted)
    artifact = attndsl.load_artifact(saved)
    artifact.prepare("cpu")
    assert loaded == ["cpu.so", "cpu.backward.so"]
    gradients(artifact, arguments(*ALL), of_output)
    assert loaded == ["cpu.so", "cpu.backward.so"]


def test_gradients_that_were_left_out(kernel: attndsl.Kernel, tmp_path: Path) -> None:
    artifact = attndsl.compile(
        kernel, head_dim=32, dtype="fp32", direction="both", gradients=("v", "q", "k")
    )
    loaded = attndsl.load_artifact(artifact.save(tmp_path / "alibi"))
    assert loaded.manifest.gradients == ("q", "k", "v")
    assert "slope" not in dict(loaded.backwards["cpu"].plan.gradients)
    wanted = arguments("q", "k", "v")
    expected = gradients(kernel, wanted, of_output)
    assert_same(gradients(loaded, wanted, of_output), expected)
    with pytest.raises(AttnError, match=r"A082.*`slope` requires a gradient.*q, k, v only") as told:
        loaded(**arguments("q", "slope"))
    assert "--gradient slope" in str(told.value)


def test_an_artifact_of_the_forward_says_what_it_lacks(kernel: attndsl.Kernel) -> None:
    artifact = attndsl.compile(kernel, head_dim=32, dtype="fp32")
    with pytest.raises(AttnError, match=r"A082.*`slope` requires a gradient") as told:
        artifact(**arguments("slope"))
    assert "--direction both" in str(told.value)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"direction": "backward"}, "A082"),
        ({"direction": "sideways"}, "A082"),
        ({"gradients": ("q",)}, "A082"),
        ({"direction": "both", "gradients": ("start",)}, "A072"),
        ({"direction": "both", "gradients": ("q", "slop")}, "A072"),
    ],
)
def test_wrong_directions(kernel: attndsl.Kernel, options: dict[str, Any], code: str) -> None:
    with pytest.raises(AttnError, match=code):
        attndsl.compile(kernel, head_dim=32, dtype="fp32", **options)


def test_an_output_that_depends_on_nothing_wanted() -> None:
    cut = attndsl.parse("attention cut { input limit: float[H]\n mask = i - j < limit[h] }").cut
    with pytest.raises(AttnError, match=r"A082.*`cut` does not depend on limit"):
        attndsl.compile(cut, direction="both", gradients=("limit",))
    # Among others it has zeros, as the kernel says.
    artifact = attndsl.compile(cut, head_dim=16, dtype="fp32", direction="both")
    limit = torch.full((2,), 3.0, requires_grad=True)
    q, k, v = (torch.ones(1, 2, 9, 16) for _ in range(3))
    of_output(artifact(q, k, v, limit=limit)).backward()
    assert torch.equal(limit.grad, torch.zeros(2))  # type: ignore[arg-type]


def rewritten(saved: Path, place: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose program says something else, with the checksum of that."""
    copied = Path(shutil.copytree(saved, place))
    program = json.loads((copied / "program.json").read_text())
    change(program)
    text = json.dumps(program).encode()
    (copied / "program.json").write_bytes(text)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["program.json"] = sha256(text).hexdigest()
    (copied / "manifest.json").write_text(json.dumps(manifest))
    return copied


def drop_backwards(program: dict[str, Any]) -> None:
    program["backwards"] = {}


def of_another_target(program: dict[str, Any]) -> None:
    program["backwards"]["cuda:90"] = program["backwards"]["cpu"]


def forward_for_backward(program: dict[str, Any]) -> None:
    program["backwards"]["cpu"]["plan"] = program["plan"]


def no_programs(program: dict[str, Any]) -> None:
    program["backwards"]["cpu"]["programs"] = []


def a_list(program: dict[str, Any]) -> None:
    program["backwards"]["cpu"] = []


def replaced(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(program: dict[str, Any]) -> None:
        text = json.dumps(program["backwards"])
        assert old in text
        program["backwards"] = json.loads(text.replace(old, new))

    change.__name__ = f"{old} → {new}"
    return change


@pytest.mark.parametrize(
    "change",
    [
        drop_backwards,
        of_another_target,
        forward_for_backward,
        no_programs,
        a_list,
        replaced('TENSOR"}, "out.gradient"', 'TENSOR"}, "secret"'),
        replaced('STRIDE"}, "out.gradient"', 'STRIDE"}, "slope"'),
        replaced('TENSOR"}, "log_sum_exp"', 'TENSOR"}, "weights.sum"'),
        replaced('"cpu"', '"cuda:90"'),
        replaced('["program.Entry", 0', '["program.Entry", 77'),
        replaced('["program.Entry", 0', '["program.Entry", 1'),
        replaced('{"tuple": ["slope", ', '{"tuple": ["doc", '),
        replaced('{"tuple": ["q", "', '{"tuple": ["q", "never_'),
    ],
    ids=lambda change: change.__name__,
)
def test_a_hostile_program(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(AttnError, match="A096"):
        attndsl.load_artifact(rewritten(saved, tmp_path / "copy", change))


def test_the_copy_of_those_tests_is_one_that_loads(saved: Path, tmp_path: Path) -> None:
    copied = rewritten(saved, tmp_path / "copy", lambda program: None)
    assert attndsl.load_artifact(copied).manifest.gradients == ALL


@pytest.mark.parametrize("name", ["cpu.backward.so", "cpu.backward.cpp", "plan.backward.cpu.txt"])
@pytest.mark.parametrize("harm", ["truncated", "removed"])
def test_damage_is_noticed(saved: Path, tmp_path: Path, name: str, harm: str) -> None:
    copied = Path(shutil.copytree(saved, tmp_path / "copy"))
    if harm == "removed":
        (copied / name).unlink()
    else:
        (copied / name).write_bytes((copied / name).read_bytes()[:-1])
    with pytest.raises(AttnError, match=f"A096.*{name}"):
        attndsl.load_artifact(copied)


# GPUs, without one


@pytest.fixture(scope="module")
def for_gpus(kernel: attndsl.Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton cannot compile where it interprets")
    artifact = attndsl.compile(kernel, "cuda:90", head_dim=32, dtype="fp16", direction="both")
    return artifact.save(tmp_path_factory.mktemp("artifact") / "gpus")


def check_binaries(artifact: Artifact) -> list[str]:
    """The functions that a GPU runs over pairs in the backward."""
    (build,) = artifact.manifest.targets
    made = artifact.backwards[build.target]
    found = []
    for program, part in zip(made.programs, build.backward, strict=True):
        (one,), (entry,) = part.kernels, program.entries
        if entry.over_pairs:
            found.append(one.function)
        assert artifact.files[one.file].startswith(b"\x7fELF")
        assert one.symbol is not None
        assert one.symbol.encode() in artifact.files[one.file]
        assert one.registers is not None
        assert one.registers > 0
        assert one.stack == 0
        assert one.shared is not None
        assert one.warps in (2, 4, 8)
        assert part.tile["block_m"] == program.tile.block_m
        assert f"def {one.function}(" in artifact.files[part.source].decode()
        assert len(one.arguments) == len(entry.arguments)
    name = build.target.replace(":", "-")
    plan = artifact.files[f"plan.backward.{name}.txt"].decode()
    assert plan == f"{made.plan}\n"
    return found


def test_a_gpu_artifact_has_a_kernel_for_every_stage(for_gpus: Path) -> None:
    loaded = attndsl.load_artifact(for_gpus)
    assert {name for name, _ in loaded.backwards["cuda:90"].plan.gradients} == set(ALL)
    assert check_binaries(loaded) == ["alibi_queries", "alibi_keys", "alibi_near_sum"]
    assert b"def alibi_prepare_shift(" in loaded.files["cuda-90.backward-1.py"]
    assert "\n1. prepare shift" in loaded.files["plan.backward.cuda-90.txt"].decode()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:80", "hip:gfx942"])
@pytest.mark.parametrize("name", ["gpt_oss", "hedgehog", "documents", "dilated"])
def test_more_gpu_artifacts(name: str, target: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.example == name)
    made = Kernel(case.load()).artifact(target, head_dim=64, direction="both")
    loaded = attndsl.load_artifact(made.save(tmp_path / name))
    assert loaded.manifest == made.manifest
    assert len(check_binaries(loaded)) >= 2


def interpreted_gradients(place: str) -> list[Tensor]:
    """In a process where Triton interprets: the kernels' own sources, in place of binaries."""
    from attndsl.runtime import artifact, driver
    from attndsl.runtime.targets import Target
    from attndsl.runtime.triton import InterpretedProgram
    from attndsl.runtime.triton_source import load_module

    driver.load = lambda program, kernels, files: InterpretedProgram(  # type: ignore[assignment, return-value]
        program, load_module(program)
    )
    artifact.device_target = lambda device: Target("cuda:90")  # type: ignore[assignment]
    loaded = attndsl.load_artifact(place)
    return list(gradients(loaded, halves(), of_output))


def halves() -> dict[str, Any]:
    given = arguments()
    half = {name: given[name].half().requires_grad_() for name in ("q", "k", "v")}
    return {**given, **half, **{name: given[name].requires_grad_() for name in ("slope", "near")}}


def test_what_a_gpu_runs_computes_the_gradients(for_gpus: Path, kernel: attndsl.Kernel) -> None:
    worker = Interpreter()
    try:
        found = worker.call(interpreted_gradients, str(for_gpus))
    finally:
        worker.close()
    expected = gradients(kernel, arguments(*ALL), of_output)
    for one, other in zip(found, expected, strict=True):
        assert torch.linalg.norm(one.float() - other) < 4e-3 * torch.linalg.norm(other)
