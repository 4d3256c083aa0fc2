"""Artifacts: what is saved loads again without compiling, and damage is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.runtime import cpp_compiler, processor

SPEC = """attention packed(width: int = 30 where width > 0) {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j] and i - j < width
}"""


@pytest.fixture(scope="module")
def kernel() -> attndsl.Kernel:
    return attndsl.parse(SPEC).packed


@pytest.fixture(scope="module")
def saved(kernel: attndsl.Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact = attndsl.compile(kernel, "cpu", head_dim=32, dtype="fp32", return_lse=True, width=12)
    return artifact.save(tmp_path_factory.mktemp("artifact") / "packed")


def arguments() -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 70, 32, generator=random) for heads in (4, 2, 2))
    return {"q": q, "k": k, "v": v, "doc": (torch.arange(70) // 20).expand(2, 70)}


def test_it_loads_and_runs_without_a_compiler(
    saved: Path, kernel: attndsl.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, right_lse = kernel(**arguments(), width=12, return_lse=True)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(AttnError, match="A090"):
        cpp_compiler.find_compiler()
    artifact = attndsl.load_artifact(saved)
    out, log_sum_exp = artifact(**arguments(), return_lse=True)
    assert torch.equal(out, right)
    assert torch.equal(log_sum_exp, right_lse)
    assert torch.equal(artifact(**arguments()), right)
    assert repr(artifact) == "<attndsl artifact packed: fp32, D = 32, cpu>"


def test_what_is_in_the_folder(saved: Path) -> None:
    names = {"plan.txt", "manifest.json", "program.json", "cpu.cpp", "cpu.so"}
    assert {path.name for path in saved.iterdir()} == names
    assert "doc[b, i] == doc[b, j]" in (saved / "plan.txt").read_text()
    assert "doc" in (saved / "cpu.cpp").read_text()
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["attention"] == "packed"
    assert manifest["parameters"] == {"width": 12}
    assert manifest["inputs"] == {"doc": "int[B, Lk]"}
    assert manifest["specialization"] == {
        "dtype": "fp32",
        "head_dim": 32,
        "value_dim": 32,
        "log_sum_exp": True,
    }
    (target,) = manifest["targets"]
    assert target["target"] == "cpu"
    assert target["forward"]["tile"].keys() == {"block_m", "block_n"}
    assert "tensor q" in target["forward"]["kernels"][0]["arguments"]
    assert target["backward"] == manifest["gradients"] == []
    assert set(manifest["files"]) == names - {"manifest.json"}


def test_calls_that_it_was_not_compiled_for(saved: Path) -> None:
    artifact = attndsl.load_artifact(saved)
    given = arguments()
    half = {name: value.half() for name, value in given.items() if name != "doc"}
    narrow = {name: value[..., :16] for name, value in given.items() if name != "doc"}
    with pytest.raises(AttnError, match=r"A087.*dtype = fp32, the call has fp16"):
        artifact(**half, doc=given["doc"])
    with pytest.raises(AttnError, match=r"A087.*D = 32, the call has 16"):
        artifact(**narrow, doc=given["doc"])
    with pytest.raises(AttnError, match="A071"):
        artifact(given["q"], given["k"], given["v"])


def test_a_lesser_processor_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "instruction_sets", lambda: ("x86_64", "sse2"))
    artifact = attndsl.load_artifact(saved)
    with pytest.raises(AttnError, match=r"A087.*a processor with"):
        artifact(**arguments())


def test_saving_replaces_an_artifact_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    artifact = attndsl.load_artifact(saved)
    place = artifact.save(tmp_path / "deep" / "place")
    (place / "cpu.cpp").unlink()
    artifact.save(place)
    assert attndsl.load_artifact(place).manifest == artifact.manifest
    (place / "notes.txt").write_text("")
    with pytest.raises(AttnError, match=r"A097.*`notes.txt`"):
        artifact.save(place)
    assert (place / "notes.txt").exists()
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "mine.jpg").write_text("")
    with pytest.raises(AttnError, match="A097"):
        artifact.save(photos)
    assert (photos / "mine.jpg").exists()
    with pytest.raises(AttnError, match="A097"):
        artifact.save(photos / "mine.jpg" / "below")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["cpu.so", "cpu.cpp", "plan.txt", "program.json", "manifest.json"])
@pytest.mark.parametrize("harm", [truncate, Path.unlink], ids=["truncated", "removed"])
def test_damage_is_noticed(
    saved: Path, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    copied = Path(shutil.copytree(saved, tmp_path / "copy"))
    if name == "manifest.json" and harm is truncate:
        (copied / name).write_text((copied / name).read_text()[:-5])
    else:
        harm(copied / name)
    with pytest.raises(AttnError) as caught:
        attndsl.load_artifact(copied)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "A096"
    assert name in diagnostic.message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 1),
        (("targets",), []),
        (("targets", 0, "forward", "kernels"), []),
        (("targets", 0, "target"), "cuda:90"),
        (("targets", 0, "forward", "source"), "../../etc/passwd"),
        (("targets", 0, "forward", "kernels", 0, "file"), "/bin/true"),
        (("targets", 0, "forward", "kernels", 0, "file"), "other.so"),
        (("targets", 0, "forward", "kernels", 0, "function"), "system"),
        (("targets", 0, "forward", "kernels", 0, "warps"), -1),
        (("targets", 0, "forward", "kernels", 0, "size"), None),
        (("targets", 0, "forward", "kernels", 0, "arguments"), [1]),
        (("targets", 0, "forward", "tile", "block_m"), [64]),
        (("targets", 0, "backward"), [{}]),
        (("gradients",), ["q"]),
        (("gradients",), "q"),
        (("files", "..\\x"), "0"),
        (("files", "cpu.so"), 7),
        (("parameters",), []),
        (("axes",), "y"),
        (("specialization",), None),
        (("attention",), None),
    ],
)
def test_a_hostile_manifest(
    saved: Path, tmp_path: Path, path: tuple[str | int, ...], value: Any
) -> None:
    copied = Path(shutil.copytree(saved, tmp_path / "copy"))
    manifest = json.loads((copied / "manifest.json").read_text())
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AttnError, match="A096"):
        attndsl.load_artifact(copied)


@pytest.mark.parametrize("text", ["", "null", "[]", "7", "{}", "[" * 100_000])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(AttnError, match="A096"):
        attndsl.load_artifact(tmp_path)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(AttnError, match="A096"):
        attndsl.load_artifact(tmp_path / "nowhere")


def test_wrong_things_to_compile(kernel: attndsl.Kernel) -> None:
    with pytest.raises(AttnError, match="A081"):
        attndsl.compile(kernel, "cpus")
    with pytest.raises(AttnError, match="A074"):
        attndsl.compile(kernel, dtype="int8")
    with pytest.raises(AttnError, match="A070"):
        attndsl.compile("packed.attn")  # type: ignore[arg-type]


def test_a_gpu_artifact_is_made_without_a_gpu(kernel: attndsl.Kernel, tmp_path: Path) -> None:
    artifact = attndsl.compile(kernel, ("cuda:90", "hip:gfx942"), head_dim=64, dtype="bf16")
    loaded = attndsl.load_artifact(artifact.save(tmp_path / "gpu"))
    assert loaded.manifest == artifact.manifest
    assert {"cuda-90.py", "hip-gfx942.py"} < set(loaded.files)
    for build, magic in zip(loaded.manifest.targets, (b"\x7fELF", b"\x7fELF"), strict=True):
        for one in build.forward.kernels:
            assert loaded.files[one.file].startswith(magic)
            assert one.registers is not None
            assert one.registers > 0
            assert one.stack == 0
            assert one.warps in (2, 4, 8)
            assert one.symbol is not None
            assert one.symbol.encode() in loaded.files[one.file]
    with pytest.raises(AttnError, match=r"A087.*nothing for `cpu`"):
        loaded(**arguments())
