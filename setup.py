"""Builds `_C` (schemas, autograd, composite definitions), one module of CPU kernels per instruction
set, and one of CUDA kernels where CUDA is: setuptools gives every file of an extension the same
flags, and mixing instruction sets inside one library risks illegal instructions.

Environment variables:
  TORCHSOFTMAX_CUDA              1 or 0: with or without CUDA kernels; left out, they are built
                                 where CUDA_HOME is known and torch is a CUDA build
  TORCHSOFTMAX_INSTRUCTION_SETS  the CPU kernels to build, such as avx512 or default,avx2; left
                                 out, all of them
"""

import os
import platform
import shutil
import subprocess
from glob import glob

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

STANDARD = "-std=c++20"  # releases of torch have defaults of their own
FLAGS = [STANDARD, "-O3", "-g0", "-fopenmp", "-fvisibility=hidden"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"]
LINK = ["-fopenmp"]
SANITIZE = os.environ.get("TORCHSOFTMAX_SANITIZE") == "1"  # `make sanitize`: the kernels alone
# `make emulated-cuda`: the CUDA kernels, to run on the CPU, in the place of those for old ones.
EMULATED = os.environ.get("TORCHSOFTMAX_EMULATED_CUDA") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover"]
LAST = [*SANITIZERS, "-O1", "-g1"] if SANITIZE else []

INSTRUCTION_SETS = {"default": ["-DCPU_CAPABILITY=DEFAULT", "-DCPU_CAPABILITY_DEFAULT"]}
if platform.machine() in ("x86_64", "AMD64"):
    # For processors from before 2013: half the time of compiling counts for more here.
    INSTRUCTION_SETS["default"].append("-O2")
    AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
    INSTRUCTION_SETS["avx2"] = ["-DCPU_CAPABILITY=AVX2", "-DCPU_CAPABILITY_AVX2", *AVX2]
    # GCC warns of its own AVX-512 intrinsics.
    AVX512 += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    INSTRUCTION_SETS["avx512"] = ["-DCPU_CAPABILITY=AVX512", "-DCPU_CAPABILITY_AVX512", *AVX512]

CUDA_FLAGS = [STANDARD, "-O3", "--expt-relaxed-constexpr", "--threads=2"]
CUDA_FLAGS += ["-Xcompiler=-fvisibility=hidden"]
HEADERS = glob("csrc/**/*.h", recursive=True)


def with_cuda() -> bool:
    found = CUDA_HOME is not None and torch.version.cuda is not None
    chosen = os.environ.get("TORCHSOFTMAX_CUDA", "1" if found else "0")
    if chosen not in ("0", "1"):
        raise SystemExit(f"TORCHSOFTMAX_CUDA: expected 0 or 1, got {chosen!r}")
    if chosen == "1" and not found:
        raise SystemExit(
            "TORCHSOFTMAX_CUDA=1: expected a CUDA toolkit and a CUDA build of torch, got "
            f"CUDA_HOME={CUDA_HOME} and torch {torch.__version__}"
        )
    return chosen == "1" and not SANITIZE


def instruction_sets() -> list[str]:
    chosen = os.environ.get("TORCHSOFTMAX_INSTRUCTION_SETS")
    names = chosen.split(",") if chosen else list(INSTRUCTION_SETS)
    if not set(names) <= set(INSTRUCTION_SETS):
        raise SystemExit(
            f"TORCHSOFTMAX_INSTRUCTION_SETS: expected some of {','.join(INSTRUCTION_SETS)}, "
            f"got {chosen!r}"
        )
    return names


def sources(*folders: str, kinds: tuple[str, ...] = ("cpp",)) -> list[str]:
    return sorted(
        file for folder in folders for kind in kinds for file in glob(f"{folder}/*.{kind}")
    )


def extension(name: str, folders: list[str], flags: list[str]) -> CppExtension:
    return CppExtension(
        f"torchsoftmax.{name}",
        sources(*folders),
        depends=HEADERS,
        extra_compile_args=FLAGS + WARNINGS + flags + LAST,
        extra_link_args=LINK + LAST,
    )


def cuda_extension() -> CppExtension:
    return CUDAExtension(
        "torchsoftmax._cuda",
        sources("csrc/cuda", "csrc/module", kinds=("cpp", "cu")),
        depends=HEADERS,
        extra_compile_args={"cxx": FLAGS + WARNINGS, "nvcc": CUDA_FLAGS},
    )


def emulated_extension() -> CppExtension:
    folder = "tests/emulated_cuda"
    macros = ["-DTORCHSOFTMAX_EMULATED_CUDA", "-DTORCHSOFTMAX_KEY=CPU"]
    return CppExtension(
        "torchsoftmax._cpu_default",
        sources(folder, "csrc/module"),
        depends=HEADERS,
        include_dirs=[os.path.abspath(f"{folder}/include")],
        extra_compile_args=[
            *FLAGS, *WARNINGS, *macros, "-include", os.path.abspath(f"{folder}/emulator.h"), "-O1",
        ],
        extra_link_args=LINK,
    )  # fmt: skip


class BuildEach(BuildExtension):
    """Each module's objects in a folder of its own, so that what did not change stays, and behind a
    header compiled beforehand, where the compiler takes one."""

    def build_extension(self, ext: CppExtension) -> None:
        folder = self.build_temp
        self.build_temp = os.path.join(folder, ext.name)
        plain = isinstance(ext.extra_compile_args, list) and not EMULATED
        if self.compiler.compiler_type == "unix" and plain:
            self.precompile(ext, os.path.abspath(os.path.join(self.build_temp, "precompiled.h")))
        super().build_extension(ext)
        self.build_temp = folder

    def precompile(self, ext: CppExtension, header: str) -> None:
        os.makedirs(self.build_temp, exist_ok=True)
        shutil.copyfile("csrc/precompiled.h", header)
        # A compiler ignores what was made with other options.
        folders = [f"-I{folder}" for folder in ext.include_dirs + self.compiler.include_dirs]
        options = [*folders, *ext.extra_compile_args, "-x", "c++-header"]
        compiler = [self.compiler.compiler_cxx[0], *self.compiler.compiler_so[1:]]
        if subprocess.run([*compiler, *options, header, "-o", f"{header}.gch"]).returncode == 0:
            ext.extra_compile_args += ["-include", header]


CUDA = with_cuda()
if EMULATED:
    modules = [emulated_extension()]
else:
    modules = [
        extension(f"_cpu_{name}", ["csrc/cpu", "csrc/module"], INSTRUCTION_SETS[name])
        for name in instruction_sets()
    ]
    if CUDA:
        modules.append(cuda_extension())
    if not SANITIZE:
        macro = ["-DTORCHSOFTMAX_CUDA"] if CUDA else []
        modules.insert(0, extension("_C", ["csrc", "csrc/autograd", "csrc/composite"], macro))

setup(ext_modules=modules, cmdclass={"build_ext": BuildEach})
