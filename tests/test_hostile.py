"""A spec that means harm costs neither code execution, nor a crash, nor unbounded time.

Each spec runs in a process of its own, with a limit on time and memory, and must end in a
diagnostic or be accepted for what it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from attndsl.diagnostics import AttnError, render
from attndsl.module import load_text

SECONDS = 60
MEGABYTES = 2048

# Loads a file and prints the codes of its faults. Anything but an `AttnError` ends the process.
LOADER = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEGABYTES} << 20, {MEGABYTES} << 20))
from attndsl.diagnostics import AttnError, render
from attndsl.module import load_file
try:
    module = load_file(sys.argv[1])
    found = list(module.warnings)
    kind = "accepted"
except AttnError as fault:
    found = list(fault.diagnostics)
    kind = "refused"
longest = max([len(render(one)) for one in found], default=0)
print(json.dumps([kind, [one.code for one in found], longest]))
"""


@dataclass(frozen=True)
class Outcome:
    kind: str
    codes: tuple[str, ...]
    longest: int


def load(path: Path) -> Outcome:
    """What comes of a file, in a process with limits."""
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(path)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=path.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kind, codes, longest = json.loads(done.stdout)
    return Outcome(kind, tuple(codes), longest)


def spec(body: str, parameters: str = "") -> str:
    return f"attention spec{parameters} {{ {body} }}\n"


def deep_calls(levels: int) -> str:
    """Definitions that call each other in a chain: f1 calls f0, and so on."""
    lines = ["def f0(x) = x + 1.0"]
    lines += [f"def f{n}(x) = f{n - 1}(x)" for n in range(1, levels)]
    return "\n".join(lines) + "\n" + spec(f"score = f{levels - 1}(dot(q, k))")


def doubling(levels: int) -> str:
    """Each definition uses its argument twice: two to the power of `levels` additions."""
    lines = ["def f0(x) = x + x"]
    lines += [f"def f{n}(x) = f{n - 1}(f{n - 1}(x))" for n in range(1, levels)]
    return "\n".join(lines) + "\n" + spec(f"score = f{levels - 1}(dot(q, k))")


def doubling_lets(levels: int) -> str:
    lets = ["let x0 = dot(q, k)"] + [f"let x{n} = x{n - 1} + x{n - 1}" for n in range(1, levels)]
    return spec("\n".join([*lets, f"score = x{levels - 1}"]))


def doubling_vectors(levels: int) -> str:
    lets = ["let x0 = q"] + [f"let x{n} = concat(x{n - 1}, x{n - 1})" for n in range(1, levels)]
    return spec("\n".join([*lets, f"score = sum(x{levels - 1})"]))


NESTED = 10_000
REFUSED: dict[str, tuple[str, str]] = {
    # Depth and size.
    "parentheses": (spec("score = " + "(" * NESTED + "0.0" + ")" * NESTED), "A005"),
    "megabyte-of-parentheses": (spec("score = " + "(" * 2**20), "A005"),
    "megabyte-of-closed-parentheses": (")" * 2**20, "A005"),
    "brackets": (spec("score = " + "q[" * NESTED + "0" + "]" * NESTED), "A005"),
    "braces": ("attention a {" * NESTED, "A005"),
    "quarter-of-a-megabyte-of-brackets": ("(" * 250_000, "A005"),
    "not": (spec("mask = " + "not " * NESTED + "causal"), "A005"),
    "minus": (spec("score = " + "-" * NESTED + "1.0"), "A005"),
    "minus-apart": (spec("score = " + "- " * NESTED + "1.0"), "A005"),
    "power": (spec("score = " + "2.0 ** " * NESTED + "2.0"), "A005"),
    "conditional": (spec("score = " + "1.0 if causal else " * NESTED + "0.0"), "A005"),
    "and": (spec("mask = " + "causal and " * NESTED + "causal"), "A005"),
    "sum": (spec("score = " + "1.0 + " * NESTED + "1.0"), "A005"),
    "calls": (spec("score = " + "exp(" * NESTED + "1.0" + ")" * NESTED), "A005"),
    "comment": ("# " + "x" * 2**22, "A005"),
    "definitions-in-a-chain": (deep_calls(2000), "A042"),
    "doubling-definitions": (doubling(40), "A042"),
    "doubling-lets": (doubling_lets(60), "A042"),
    "doubling-vectors": (doubling_vectors(60), "A042"),
    "recursion": ("def f(x) = f(f(x))\n" + spec("score = f(1.0)"), "A041"),
    "let-recursion": (spec("let x = y let y = x score = x"), "A041"),
    # Numbers.
    "huge-integer": (spec("mask = i < " + "9" * 5000), "A006"),
    "integer-of-a-quarter-megabyte": (spec("mask = i < " + "9" * 250_000), "A006"),
    "past-32-bits": (spec("mask = i < 2147483648"), "A006"),
    "huge-exponent": (spec("score = 1e999999999"), "A006"),
    "tower-as-a-default": (spec("", "(a: int = 9**9**9**9)"), "A0"),
    "tower-as-a-size": (spec("score = sum(arange(9**9**9**9))"), "A0"),
    "tower-as-a-slice": (spec("score = dot(q[0:9**9**9**9], k[0:9**9**9**9])"), "A0"),
    "tower-as-a-dimension": (spec("input u: float[9**9**9**9] score = u[0]"), "A0"),
    "shift-as-a-default": (spec("", "(a: int = (2**30)**(2**30))"), "A0"),
    "modulo-zero-as-a-default": (spec("", "(a: int = 1 % 0)"), "A029"),
    "power-of-zero-as-a-default": (spec("", "(a: float = 0.0 ** -1.0)"), "A029"),
    # Names.
    "import-by-name": (spec('score = __import__("os")'), "A001"),
    "dunder": (spec("score = __builtins__"), "A012"),
    "attribute": (spec("score = os.system"), "A0"),
    "call-of-an-attribute": (spec("score = os.system(1.0)"), "A013"),
    "class-of-a-name": (spec("score = q.__class__.__mro__"), "A0"),
    "format": (spec('score = "{0.__class__}".format(q)'), "A0"),
    "semicolon": (spec("score = 1.0; system(0)"), "A002"),
    "backquote": (spec("score = `id`"), "A002"),
    "dollar": (spec("score = $(id)"), "A002"),
    "newline-in-a-string": ('import "a\nb.attn"\n', "A002"),
    "nul": (spec("score = 1.0 \0"), "A002"),
    "escape-sequence": (spec("score = \x1b[2J\x1b]0;title\x07 1.0"), "A002"),
    "backslash": ("score = 1.0 \\\n", "A002"),
    "homoglyph": (spec("mask = саusal"), "A002"),  # Cyrillic letters
    "full-width": (spec("mask = ｃausal"), "A002"),
    "right-to-left": (spec("mask = causal \u202e and False"), "A002"),
    "zero-width": (spec("mask = cau\u200bsal"), "A002"),
    "line-separator": (spec("mask = causal \u2028 score = 1.0"), "A002"),
    "digits-of-other-scripts": (spec("mask = i < ٣"), "A002"),
    "superscript": (spec("score = dot(q, k)²"), "A002"),
    "long-name": (spec("score = " + "x" * 100_000), "A005"),
    "many-unknown-names": (spec("score = " + " + ".join(f"x{n}" for n in range(150))), "A012"),
    "many-faults": ("".join(f"attention a{n} {{ score = x }}\n" for n in range(3000)), "A012"),
    "many-syntax-faults": ("attention a { ] }\n" * 10_000, "A0"),
    "many-attentions-of-one-name": ("attention a {}\n" * 10_000, "A040"),
    # Files.
    "password-file": ('import "/etc/passwd"\n', "A0"),
    "memory": ('import "/dev/zero"\n', "A043"),
    "random": ('import "/dev/urandom"\n', "A043"),
    "own-standard-input": ('import "/dev/stdin"\n', "A043"),
    "terminal": ('import "/dev/tty"\n', "A043"),
    "process-memory": ('import "/proc/self/mem"\n', "A043"),
    "directory": ('import "."\n', "A043"),
    "root": ('import "/"\n', "A043"),
    "empty-path": ('import ""\n', "A043"),
    "nul-in-a-path": ('import "a\0b"\n', "A0"),
    "long-path": ('import "' + "a/" * 50_000 + '"\n', "A043"),
    "long-file-name": ('import "' + "a" * 5000 + '"\n', "A043"),
    "itself": ('import "spec.attn"\n', "A044"),
    "itself-in-another-way": ('import "./../hostile/spec.attn"\n', "A044"),
    "shell-in-a-path": (
        'import "$(touch harm)"\nimport "`touch harm`"\nimport "|touch harm"\n',
        "A043",
    ),
    "template-in-a-path": ('import "{{7*7}}%s%n"\n', "A043"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hostile").mkdir()
    return tmp_path / "hostile"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, folder: Path) -> None:
    text, code = REFUSED[name]
    (folder / "spec.attn").write_text(text, encoding="utf-8", newline="")
    outcome = load(folder / "spec.attn")
    assert outcome.kind == "refused"
    assert all(found.startswith(code) for found in outcome.codes[:1]), outcome.codes
    assert len(outcome.codes) <= 100
    assert outcome.longest < 4000
    assert not (folder / "harm").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 1000,
        bytes(range(256)),
        b"\xff\xfe" + "attention a {}".encode("utf-16-le"),
        b"\xed\xa0\x80",  # a lone surrogate
        b"\x7fELF" + bytes(10_000),
        b"\x1f\x8b\x08\x00" + bytes(100),
        b"attention a { mask = \xe9 }",  # Latin-1
        b"\n" * 200_000 + b"}",
        b"{" * 3,
    ],
    ids=["nul", "bytes", "utf-16", "surrogate", "elf", "gzip", "latin-1", "newlines", "braces"],
)
def test_binary_files_are_refused(data: bytes, folder: Path) -> None:
    (folder / "spec.attn").write_bytes(data)
    assert load(folder / "spec.attn").kind == "refused"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n# nothing\n",
        b"attention a {\r\n    mask = causal\r\n}\r\n",
        b"attention a {\n\tmask = causal\n}",
        "# Kommentar: größer, 大, \N{PILE OF POO}\nattention a {}\n".encode(),
        b"attention a {} # no newline at the end",
    ],
    ids=["empty", "comment", "crlf", "tabs", "unicode-comment", "no-newline"],
)
def test_odd_files_are_accepted(data: bytes, folder: Path) -> None:
    (folder / "spec.attn").write_bytes(data)
    assert load(folder / "spec.attn").kind == "accepted"


def test_a_byte_order_mark_is_accepted_or_named(folder: Path) -> None:
    (folder / "spec.attn").write_bytes(b"\xef\xbb\xbfattention a {}\n")
    outcome = load(folder / "spec.attn")
    assert outcome.kind == "accepted" or outcome.codes == ("A002",)


def test_import_cycles_end(folder: Path) -> None:
    for n in range(30):
        (folder / f"f{n}.attn").write_text(f'import "f{(n + 1) % 30}.attn"\n')
    outcome = load(folder / "f0.attn")
    assert outcome == Outcome("refused", ("A044",), outcome.longest)


def test_import_chains_end(folder: Path) -> None:
    for n in range(500):
        (folder / f"f{n}.attn").write_text(f'import "f{n + 1}.attn"\n')
    (folder / "f500.attn").write_text("def last = causal\n")
    assert load(folder / "f0.attn").codes == ("A044",)


def test_import_diamonds_are_read_once(folder: Path) -> None:
    """Each of 20 files imports the next one twice: a million readings, were they not remembered."""
    for n in range(20):
        (folder / f"f{n}.attn").write_text(f'import "f{n + 1}.attn"\nimport "./f{n + 1}.attn"\n')
    (folder / "f20.attn").write_text("def last = causal\n")
    assert load(folder / "f0.attn").kind == "accepted"


def test_a_fifo_does_not_block(folder: Path) -> None:
    import os

    os.mkfifo(folder / "fifo")
    (folder / "spec.attn").write_text('import "fifo"\n')
    assert load(folder / "spec.attn").codes == ("A043",)


def test_many_parameters_and_inputs(folder: Path) -> None:
    parameters = ", ".join(f"p{n}: int = {n}" for n in range(2000))
    (folder / "spec.attn").write_text(f"attention a({parameters}) {{ mask = i - j < p1999 }}\n")
    outcome = load(folder / "spec.attn")
    assert len(outcome.codes) <= 2000
    arguments = ", ".join(f"x{n}" for n in range(20_000))
    (folder / "spec.attn").write_text(spec(f"score = max({arguments})"))
    assert load(folder / "spec.attn").kind == "refused"


# Names that mean something in the languages that kernels are emitted in.

NAMES = """
    int float double class template for while return new delete this private public static void
    bool auto const struct union namespace using try catch throw goto switch case default break
    continue register volatile inline operator typename sizeof long short signed unsigned char
    extern asm xor bitand compl co_await constexpr nullptr restrict lambda def None True global
    yield async await pass raise with as is in assert except finally elif print len range type id
    exec eval open input acc tl triton q_ptr k_ptr v_ptr out_ptr pid offs_m offs_n BLOCK_M BLOCK_N
    num_warps row_max row_sum scores weights partial_offsets main errno stdin NULL EOF M_PI std
    memcpy expf INFINITY assert_ _Z __m512 __attribute__ __global__ __restrict__ kernel launch
    stage_0 temporary query key value out lse log_sum_exp strides sizes offset residue i_first
    i_last K S T x y z
"""


def is_refused_by_name(name: str) -> bool:
    """Whether an input may not have the name; the diagnostic must then say so."""
    try:
        load_text(f"attention a {{ input {name}: float[H] score = {name}[h] }}")
    except AttnError as fault:
        first = fault.diagnostics[0]
        if first.code not in ("A001", "A015") or name not in render(first):
            raise
        return True
    return False


def biased(names: list[str]) -> str:
    declared = " ".join(f"input {name}: float[H]" for name in names)
    total = " + ".join(f"{name}[h]" for name in names)
    return f"attention a {{ {declared} score = dot(q, k) * scale + {total} }}"


@pytest.mark.parametrize("role", ["inputs", "axes", "attention"])
def test_any_name_is_safe_in_emitted_code(role: str) -> None:
    """Whatever the spec's names are, compilers take what is emitted."""
    from attndsl.codegen import cpp, triton
    from attndsl.codegen.program import DType, Specialization
    from attndsl.planner import plan

    names = [name for name in NAMES.split() if not is_refused_by_name(name)]
    assert len(names) > 100
    texts = {
        "inputs": [biased(names[start : start + 20]) for start in range(0, len(names), 20)],
        "axes": ["attention a { axes tl, int mask = i.tl >= j.tl and i.int >= j.int }"],
        "attention": ["attention int { mask = causal }", "attention tl {}"],
    }
    specialization = Specialization(DType.FLOAT32, 64, 64)
    for text in texts[role]:
        (attention,) = load_text(text).attentions.values()
        made = plan(attention)
        compile(triton.emit(made, specialization, None, "cuda:90").text, "<emitted>", "exec")
        check_cpp(cpp.emit(made, specialization).text)


def check_cpp(text: str) -> None:
    """Whether a C++ compiler takes the text, without making code of it."""
    command = ["g++", "-x", "c++", "-std=c++17", "-fopenmp", "-march=native", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
