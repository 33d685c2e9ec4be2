"""Builds `_C` (schemas, autograd, composite definitions) and one module of CPU kernels per
instruction set: setuptools gives every file of an extension the same flags, and mixing instruction
sets inside one library risks illegal instructions."""

import os
import platform
import shutil
import subprocess
from glob import glob

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

FLAGS = ["-O3", "-g0", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
WARNINGS = ["-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"]
LINK = ["-fopenmp"]
SANITIZE = os.environ.get("TORCHSOFTMAX_SANITIZE") == "1"  # `make sanitize`: the kernels alone
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


def extension(name: str, folders: list[str], flags: list[str]) -> CppExtension:
    return CppExtension(
        f"torchsoftmax.{name}",
        sorted(file for folder in folders for file in glob(f"{folder}/*.cpp")),
        depends=glob("csrc/**/*.h", recursive=True),
        extra_compile_args=FLAGS + WARNINGS + flags + LAST,
        extra_link_args=LINK + LAST,
    )


class BuildEach(BuildExtension):
    """Each module's objects in a folder of its own, so that what did not change stays, and behind a
    header compiled beforehand, where the compiler takes one."""

    def build_extension(self, ext: CppExtension) -> None:
        folder = self.build_temp
        self.build_temp = os.path.join(folder, ext.name)
        if self.compiler.compiler_type == "unix":
            self.precompile(ext, os.path.abspath(os.path.join(self.build_temp, "precompiled.h")))
        super().build_extension(ext)
        self.build_temp = folder

    def precompile(self, ext: CppExtension, header: str) -> None:
        os.makedirs(self.build_temp, exist_ok=True)
        shutil.copyfile("csrc/precompiled.h", header)
        # A compiler ignores what was made with other options, such as another language standard.
        folders = [f"-I{folder}" for folder in ext.include_dirs + self.compiler.include_dirs]
        options = [*folders, *ext.extra_compile_args, "-std=c++20", "-x", "c++-header"]
        compiler = [self.compiler.compiler_cxx[0], *self.compiler.compiler_so[1:]]
        if subprocess.run([*compiler, *options, header, "-o", f"{header}.gch"]).returncode == 0:
            ext.extra_compile_args += ["-include", header]


modules = [
    extension(f"_cpu_{name}", ["csrc/cpu"], flags) for name, flags in INSTRUCTION_SETS.items()
]
if not SANITIZE:
    modules.insert(0, extension("_C", ["csrc", "csrc/autograd", "csrc/composite"], []))

setup(ext_modules=modules, cmdclass={"build_ext": BuildEach})
