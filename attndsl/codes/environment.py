"""A09x: the machine: compiler, cache, files."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A090": CodeEntry(
        title="no C++ compiler",
        explanation="""\
CPU kernels are built with the system's C++ compiler: `g++` or `clang++` on the path, or the
one that `CXX` names. Without one, calls run on a tiled torch path, which is correct and
several times slower, and which a warning names; compiling ahead of time for `cpu` is
refused.""",
        wrong="""
CXX=/no/such/compiler attndsl compile spec.attn --target cpu
""",
        right="""
apt-get install g++
attndsl compile spec.attn --target cpu
""",
        language="shell",
    ),
    "A091": CodeEntry(
        title="a C++ compiler that does not work",
        explanation="""\
A compiler was found, but it cannot build an empty program with C++17 and OpenMP. Its last
message is shown.""",
        wrong="""
CXX=gcc-without-openmp attndsl run spec.attn --shape 1,8,512,64
""",
        right="""
CXX=g++ attndsl run spec.attn --shape 1,8,512,64
""",
        language="shell",
    ),
    "A093": CodeEntry(
        title="the GPU's driver refuses",
        explanation="""\
The driver could not be loaded, or refused a call: most often because the artifact was
compiled for another GPU, or the driver is older than the compiler that made it.""",
        wrong="""
attndsl compile spec.attn --target cuda:100 -o build    # and run on an older GPU
""",
        right="""
attndsl compile spec.attn --target cuda:90 -o build
""",
        language="shell",
    ),
    "A095": CodeEntry(
        title="the cache directory cannot be written",
        explanation="""\
Compiled kernels are kept in a directory: the user's cache directory, or the one that
`ATTNDSL_CACHE` names. The latter must exist, or be possible to make, and be writable.""",
        wrong="""
ATTNDSL_CACHE=/proc/kernels attndsl run spec.attn --shape 1,8,512,64
""",
        right="""
ATTNDSL_CACHE=$HOME/.cache/kernels attndsl run spec.attn --shape 1,8,512,64
""",
        language="shell",
    ),
    "A096": CodeEntry(
        title="a damaged artifact",
        explanation="""\
An artifact's directory lacks a file, or a file in it was changed, or it was written by
another version. Compile the spec again.""",
        wrong="""
attndsl.load_artifact("/no/such/directory")
""",
        right="""
module = attndsl.parse("attention full {}")
attndsl.compile(module.full, target="cpu", head_dim=64, dtype="fp32").save("build/full")
attndsl.load_artifact("build/full")
""",
        language="python",
    ),
    "A097": CodeEntry(
        title="a file that cannot be read or written",
        explanation="""\
A file that the command line names, for an input's values or for a picture, cannot be read
as what it should be, or its folder cannot be made. Inputs are files of `numpy.save`,
without pickled objects.""",
        wrong="""
attndsl run alibi.attn --shape 1,8,512,64 --input slope=slope.txt
""",
        right="""
python -c 'import numpy; numpy.save("slope.npy", numpy.ones(8, "float32"))'
attndsl run alibi.attn --shape 1,8,512,64 --input slope=slope.npy
""",
        language="shell",
    ),
}
