"""The command line: what is printed where, and with which exit status."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from attndsl.cli import main
from attndsl.cli.options import Shape, parse_shape
from attndsl.diagnostics import InternalError

WINDOW = """attention window(width: int = 20 where width > 0) {
    mask = causal and i - j < width
}
"""
ALIBI = """attention alibi {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask  = causal
}
"""
GRID = """attention near {
    axes y, x
    mask = abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 1
}
"""
WRONG = """attention window(width: int = 20) {
    mask = causal and i - j < widht
}
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def attndsl(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; exit status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([str(one) for one in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "spec.attn"
        path.write_text(text)
        return path

    return write


def test_check(attndsl: Run, spec: Callable[[str], Path]) -> None:
    path = spec(WINDOW + ALIBI)
    assert attndsl("check", path) == (0, f"{path}: window, alibi: ok\n", "")
    status, out, err = attndsl("check", spec(WRONG))
    assert (status, out) == (1, "")
    assert err.startswith("error[A012]: unknown name `widht`\n --> ")
    assert "\033" not in err


def test_check_as_json(attndsl: Run, spec: Callable[[str], Path], tmp_path: Path) -> None:
    good = tmp_path / "good.attn"
    good.write_text(WINDOW)
    status, out, err = attndsl("check", "--json", good, spec(WRONG))
    assert (status, err) == (1, "")
    first, second = json.loads(out)
    assert first["ok"]
    assert first["attentions"] == ["window"]
    (diagnostic,) = second["diagnostics"]
    place = {key: diagnostic[key] for key in ("line", "column", "end_line", "end_column")}
    assert place == {"line": 2, "column": 31, "end_line": 2, "end_column": 36}
    assert diagnostic["code"] == "A012"
    assert diagnostic["severity"] == "error"
    assert "width" in diagnostic["help"]


def test_check_reads_standard_input(attndsl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(WRONG))
    status, _, err = attndsl("check", "-")
    assert status == 1
    assert "<stdin>:2:31" in err


def test_a_warning_is_shown_and_is_no_failure(attndsl: Run, spec: Callable[[str], Path]) -> None:
    status, out, err = attndsl("check", spec("attention strict { mask = j < i }"))
    assert status == 0
    assert "strict: ok" in out
    assert err.startswith("warning[A051]")


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["check", "--no-such-option", "x.attn"],
        ["view"],
        ["view", "SPEC", "--shape", "0"],
        ["view", "SPEC", "--shape", "1,2,3"],
        ["view", "SPEC", "--shape", "N=3"],
        ["view", "SPEC", "--shape", "H=3,Hkv=2,L=8"],
        ["view", "SPEC", "--shape", "1000000"],
        ["view", "SPEC", "--tile", "1,2,3"],
        ["view", "SPEC", "--head", "9"],
        ["view", "SPEC", "-o", "mask.docx"],
        ["show", "SPEC", "--plan", "-o", "x.png"],
        ["show", "SPEC", "--backward", "-o", "x.png"],
        ["show", "SPEC", "--plan", "--gradient", "q"],
        ["show", "SPEC", "--cpp", "--target", "cuda:90"],
        ["show", "SPEC", "--triton", "--target", "cpu"],
        ["show", "SPEC", "--backward", "--triton", "--target", "cpu"],
        ["show", "SPEC", "--backward", "--head-dim", "32"],
        ["show", "SPEC", "--graph", "--dtype", "fp16"],
        ["show", "SPEC", "--ast", "--param", "width=9"],
        ["show", "SPEC", "--ast", "--attention", "window"],
        ["show", "SPEC", "--attention", "other"],
        ["show", "SPEC", "--plan", "--param", "width"],
        ["show", "SPEC", "--plan", "--param", "width=wide"],
        ["run", "SPEC", "--device", "abacus"],
        ["run", "SPEC", "--input", "slope"],
        ["explain", "A999"],
    ],
    ids=" ".join,
)
def test_wrong_usage(attndsl: Run, spec: Callable[[str], Path], arguments: list[str]) -> None:
    path = spec(WINDOW)
    status, out, err = attndsl(*(path if one == "SPEC" else one for one in arguments))
    assert status == 2
    assert out == ""
    assert err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["check", "nowhere.attn"], "A043"),
        (["show", "nowhere.attn", "--ast"], "A043"),
        (["show", "SPEC", "--plan", "--param", "width=0"], "A06"),
        (["show", "SPEC", "--plan", "--param", "windw=3"], "A06"),
        (["show", "SPEC", "--triton", "--target", "tpu"], "A081"),
        (["view", "SPEC", "--grid", "8,8"], "A077"),
        (["run", "SPEC", "--input", "slope=nowhere.npy"], "A097"),
        (["run", "SPEC", "--input", "slope=SPEC"], "A097"),
        (["run", "SPEC", "--dtype", "fp8"], "A074"),
        (["show", "SPEC", "--param", "windw=3"], "A06"),
        (["show", "SPEC", "--backward", "--triton", "--target", "tpu"], "A081"),
        (["show", "SPEC", "--backward", "--gradient", "width"], "A072"),
        (["show", "SPEC", "--backward", "--cpp", "--dtype", "fp8"], "A074"),
        (["compile", "SPEC", "--direction", "backward"], "A082"),
        (["compile", "SPEC", "--direction", "sideways"], "A082"),
        (["compile", "SPEC", "--gradient", "q"], "A082"),
        (["compile", "SPEC", "--direction", "both", "--gradient", "width"], "A072"),
        (["compile", "SPEC", "--target", "abacus"], "A081"),
    ],
    ids=" ".join,
)
def test_the_users_mistakes(
    attndsl: Run, spec: Callable[[str], Path], arguments: list[str], code: str
) -> None:
    path = spec(WINDOW)
    status, out, err = attndsl(*(one.replace("SPEC", str(path)) for one in arguments))
    assert (status, out) == (1, "")
    assert err.startswith(f"error[{code}")


def test_a_bug_of_ours(
    attndsl: Run, spec: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(attention: object) -> object:
        raise InternalError("an invariant is broken")

    monkeypatch.setattr("attndsl.planner.plan", broken)
    status, out, err = attndsl("show", spec(WINDOW), "--plan")
    assert (status, out) == (70, "")
    assert "internal error: InternalError: an invariant is broken" in err
    assert "bug of attndsl" in err
    assert "attndsl show" in err
    assert "in broken" in err


def test_help_teaches(attndsl: Run) -> None:
    commands = ["compile", "check", "show", "view", "run", "explain", "bench", "tune", "env"]
    status, out, _ = attndsl("--help")
    assert status == 0
    assert all(command in out for command in [*commands, "cache"])
    for command in commands:
        status, out, _ = attndsl(command, "--help")
        assert status == 0
        assert "Examples:" in out or command == "env"
    assert attndsl("--version")[1].startswith("attndsl ")


def test_show(attndsl: Run, spec: Callable[[str], Path]) -> None:
    path = spec("def near(x, y) = x - y < 9\nattention a { mask = causal and near(i, j) }")
    status, out, _ = attndsl("show", path)
    assert status == 0
    assert "mask = j <= i and i - j < 9" in out
    assert "Definition" in attndsl("show", path, "--ast")[1]
    assert "j <= i and i - j < 9" in attndsl("show", path, "--plan")[1]
    assert attndsl("show", path, "--graph")[1] == "k, q, v  →  [attend]  →  out, log_sum_exp\n"
    assert "#include" in attndsl("show", path, "--cpp")[1]
    assert "@triton.jit" in attndsl("show", path, "--triton")[1]


def test_show_binds_parameters(attndsl: Run, spec: Callable[[str], Path]) -> None:
    assert "i - j < 7" in attndsl("show", spec(WINDOW), "--param", "width=7")[1]


VIEWS = {
    "--plan": "backward of `alibi`",
    "--graph": "[fold into slope_gradient]  →  slope.gradient",
    "--triton": "@triton.jit",
    "--cpp": "#include",
    "--ast": "target: Name score",
}


@pytest.mark.parametrize("count", range(len(VIEWS) + 1))
def test_every_view_of_a_backward(attndsl: Run, spec: Callable[[str], Path], count: int) -> None:
    """Of all combinations of options: what is asked for is there, and nothing else."""
    path = spec(ALIBI)
    for asked in combinations(VIEWS, count):
        status, out, err = attndsl("show", path, "--backward", *asked)
        assert (status, err) == (0, "")
        shown = {view for view, text in VIEWS.items() if text in out}
        assert shown == ({*asked} if {*asked} - {"--ast"} else {*asked, "--plan"}), asked
        assert "[attend]" not in out


def test_show_the_source_of_a_backward(attndsl: Run, spec: Callable[[str], Path]) -> None:
    path = spec(ALIBI)
    status, out, _ = attndsl("show", path, "--backward", "--triton", "--target", "hip:gfx942")
    assert status == 0
    titles = [line for line in out.splitlines() if line.startswith("# Stage ")]
    assert titles[:4] == [f"# Stage {number} of 7" for number in (1, 2, 3, 4)]
    assert titles[6] == "# Stage 7 of 7: slope_gradient, which torch adds up."
    names = [one.name for one in ast.parse(out).body if isinstance(one, ast.FunctionDef)]
    assert "alibi_queries" in names
    assert "alibi_keys" in names
    narrow = attndsl("show", path, "--backward", "--triton", "--gradient", "v")[1]
    assert "alibi_keys" in narrow
    assert "alibi_queries" not in narrow
    wide = attndsl("show", path, "--backward", "--cpp", "--head-dim", "128")[1]
    assert "slope_sum" in wide
    assert "slope_sum" not in attndsl("show", path, "--backward", "--cpp", "--gradient", "q")[1]
    for dim in ("64", "128"):
        given = ("--backward", "--cpp", "--head-dim", dim, "--dtype", "bf16")
        assert f"D = {dim}" in attndsl("show", path, *given)[1]


def test_a_drawn_graph_of_a_backward(
    attndsl: Run, spec: Callable[[str], Path], tmp_path: Path
) -> None:
    place = tmp_path / "stages.svg"
    assert attndsl("show", spec(ALIBI), "--backward", "--graph", "-o", place)[0] == 0
    assert "slope.gradient" in place.read_text()


def test_several_attentions_need_a_choice(attndsl: Run, spec: Callable[[str], Path]) -> None:
    path = spec(WINDOW + ALIBI)
    status, _, err = attndsl("show", path)
    assert status == 2
    assert "window, alibi" in err
    assert "slope" in attndsl("show", path, "--attention", "alibi")[1]


def test_view_in_the_terminal(attndsl: Run, spec: Callable[[str], Path]) -> None:
    status, out, _ = attndsl("view", spec(WINDOW), "--shape", "256", "--param", "width=128")
    assert status == 0
    assert out.splitlines()[:4] == ["▒▒······", "██▒▒····", "▒▒██▒▒··", "··▒▒██▒▒"]
    assert "3 full" in out
    assert "\033" not in out


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_view_draws(attndsl: Run, spec: Callable[[str], Path], tmp_path: Path, suffix: str) -> None:
    place = tmp_path / "pictures" / f"mask.{suffix}"
    status, out, _ = attndsl("view", spec(GRID), "--shape", "64", "--grid", "8,8", "-o", place)
    assert (status, out) == (0, f"{place}\n")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert place.read_bytes().startswith(start)


def test_a_drawn_graph(attndsl: Run, spec: Callable[[str], Path], tmp_path: Path) -> None:
    place = tmp_path / "stages.svg"
    assert attndsl("show", spec(ALIBI), "--graph", "-o", place)[0] == 0
    assert "attend" in place.read_text()


def test_run_compares_with_the_reference(
    attndsl: Run, spec: Callable[[str], Path], tmp_path: Path
) -> None:
    slope, out_file = tmp_path / "slope.npy", tmp_path / "out.npy"
    np.save(slope, np.linspace(0.1, 1, 4, dtype=np.float32))
    arguments = ["run", spec(ALIBI), "--shape", "2,4,70,32", "--input", f"slope={slope}"]
    status, out, err = attndsl(*arguments, "-o", out_file)
    assert (status, err) == (0, "")
    assert "largest error against the float64 reference" in out
    assert np.load(out_file).shape == (2, 4, 70, 32)
    status, out, _ = attndsl(*arguments, "--json")
    facts = json.loads(out)
    assert facts["agrees"]
    assert 0 < facts["largest_error"] < 1e-5
    assert facts["shape"]["Lq"] == 70


def test_run_takes_operands_from_files(
    attndsl: Run, spec: Callable[[str], Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "q.npy", np.ones((1, 6, 20, 16), np.float32))
    np.save(tmp_path / "k.npy", np.ones((1, 2, 30, 16), np.float32))
    files = [f"--input={name}={tmp_path / name}.npy" for name in "qk"]
    status, out, _ = attndsl("run", spec(WINDOW), *files, "--json")
    assert status == 0
    sizes = {"B": 1, "H": 6, "Hkv": 2, "Lq": 20, "Lk": 30, "D": 16, "Dv": 64}
    assert json.loads(out)["shape"] == sizes


def test_files_of_the_wrong_kind(attndsl: Run, spec: Callable[[str], Path], tmp_path: Path) -> None:
    path = spec(ALIBI)
    for name, array, code in (
        ("slope", np.ones(3, np.float32), "A073"),
        ("slope", np.ones(4, np.int32), "A074"),
        ("slop", np.ones(4, np.float32), "A072"),
        ("q", np.ones((4, 20, 16), np.float32), "A073"),
        ("slope", np.array([{}]), "A097"),
    ):
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        status, _, err = attndsl("run", path, "--input", f"{name}={tmp_path / 'x.npy'}")
        assert status == 1
        assert err.startswith(f"error[{code}]")


def test_explain(attndsl: Run, spec: Callable[[str], Path]) -> None:
    status, out, _ = attndsl("explain", "a012")
    assert status == 0
    assert out.startswith("A012: unknown name")
    arguments = ["explain", spec(WINDOW), "--shape", "1,2,4096,64", "--param", "width=256"]
    status, out, _ = attndsl(*arguments)
    assert status == 0
    assert "bound by" in out
    facts = json.loads(attndsl(*arguments, "--json")[1])
    assert facts["all_pairs"] == 2 * 4096 * 4096
    visible = sum(min(row + 1, 256) for row in range(4096)) * 2
    assert facts["visible_pairs"] == pytest.approx(visible, rel=0.02)


def test_compile_and_the_cache(
    attndsl: Run, spec: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNDSL_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "build"
    arguments = ["compile", spec(WINDOW), "-o", place, "--head-dim", "32", "--dtype", "fp32"]
    status, out, _ = attndsl(*arguments)
    assert status == 0
    assert "cpu attend" in out
    assert (place / "cpu.so").is_file()
    assert json.loads(attndsl(*arguments, "--json")[1])["attention"] == "window"
    listed = json.loads(attndsl("cache", "--json")[1])
    assert "cpp" in {entry["kind"] for entry in listed["entries"]}
    assert str(tmp_path / "cache") in attndsl("cache")[1]
    assert "entries removed" in attndsl("cache", "clear")[1]
    assert json.loads(attndsl("cache", "--json")[1])["entries"] == []


def test_compile_both_directions(attndsl: Run, spec: Callable[[str], Path], tmp_path: Path) -> None:
    place = tmp_path / "build"
    arguments = ["compile", spec(ALIBI), "-o", place, "--head-dim", "16", "--dtype", "fp32"]
    status, out, _ = attndsl(*arguments, "--direction", "both")
    assert status == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("cpu ")] == [
        *("attend_0", "prepare_0", "prepare_1", "sums_2"),
    ]
    manifest = json.loads(
        attndsl(*arguments, "--direction", "both", "--gradient", "v", "--json")[1]
    )
    assert manifest["gradients"] == ["v"]
    assert (place / "cpu.backward.so").is_file()
    # The next one is of the forward alone, and leaves nothing of the backward behind.
    assert attndsl(*arguments)[0] == 0
    assert not list(place.glob("*backward*"))


def test_env(attndsl: Run) -> None:
    facts = json.loads(attndsl("env", "--json")[1])
    assert {"attndsl", "python", "torch", "compiler", "gpus", "cache"} <= facts.keys()
    assert "torch" in attndsl("env")[1]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("512", Shape(1, 4, 4, 512, 512, 64, 64)),
        ("1,8192", Shape(1, 4, 4, 1, 8192, 64, 64)),
        ("2,8,100,32", Shape(2, 8, 8, 100, 100, 32, 32)),
        ("B=2,H=8,Hkv=2,Lq=5,Lk=9,D=32,Dv=16", Shape(2, 8, 2, 5, 9, 32, 16)),
        ("L=7,D=8", Shape(1, 4, 4, 7, 7, 8, 8)),
        ("Lk=7", Shape(1, 4, 4, 7, 7, 64, 64)),
    ],
)
def test_shapes(text: str, shape: Shape) -> None:
    assert parse_shape(text) == shape
