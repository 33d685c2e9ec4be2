"""Compiles the sources against the headers of other torch releases, without installing them.

``python tests/compile_against.py 2.11.0 2.14.1`` takes the headers out of each release's wheel,
which pip downloads once (hundreds of MB, deleted afterwards), and checks every extension of
setup.py with its own flags. Left out, the releases are the first of each minor release of the range
that pyproject.toml declares. Only syntax and types are checked: nothing is linked or run.

With ``--cuda``, the CUDA sources are compiled to object files instead, in ``build/cuda``, which
takes nvcc but neither a GPU nor a CUDA build of torch that is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from setuptools import Extension
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
VERSION = "torch/version.py"


def declared_releases(source: Path) -> list[str]:
    """The first release of each minor release in the range of pyproject.toml."""
    project = (source / "pyproject.toml").read_text()
    ranges = set(re.findall(r"torch>=2\.(\d+),<2\.(\d+)", project))
    if len(ranges) != 1:
        raise SystemExit(f"pyproject.toml: expected one range torch>=2.A,<2.B, got {ranges}")
    [(first, end)] = ranges
    return [f"2.{minor}.0" for minor in range(int(first), int(end))]


def headers(release: str, cache: Path) -> Path | None:
    """The folder with the release's headers; None where pip, which says why, gives no wheel."""
    folder = cache / release
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        if subprocess.run([*download, "--dest", temporary, f"torch=={release}"]).returncode:
            return None
        [wheel] = Path(temporary).glob("*.whl")
        part = Path(temporary, "headers")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("torch/include/") or name == VERSION:
                    archive.extract(name, part)
        part.rename(folder)  # whole or not at all, should the download be interrupted
    return folder


def build(source: Path) -> dict[str, Any]:
    """The names that setup.py defines, and as ``extensions`` what it would build."""
    with mock.patch("setuptools.setup") as setup:
        names = runpy.run_path(str(source / "setup.py"))
    return {"extensions": setup.call_args.kwargs["ext_modules"], **names}


def system_folders(folder: Path) -> list[Path | str]:
    include = folder / "torch/include"
    return [include, include / "torch/csrc/api/include", sysconfig.get_path("include")]


def cuda_command(folder: Path, flags: list[str], path: str) -> list[str]:
    """nvcc's command line for the processors that PyTorch's own builds are for since 2020."""
    processors = ("80", "90")
    return [
        *("nvcc", "-c", path, "-o", f"build/cuda/{Path(path).name}.o", *flags),
        *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in processors),
        *(f"-isystem={path}" for path in system_folders(folder)),
        *("-Xcompiler=-fPIC", "-DTORCH_API_INCLUDE_EXTENSION_H", "-DTORCH_EXTENSION_NAME=_cuda"),
        # What BuildExtension defines.
        *(f"-D__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS")),
        *(f"-D__CUDA_NO_{name}__" for name in ("BFLOAT16_CONVERSIONS", "HALF2_OPERATORS")),
    ]


def command(extension: Extension, folder: Path) -> list[str]:
    """The compiler's command line, with the macros of the release's BuildExtension."""
    return [
        *(os.environ.get("CXX", "g++"), "-fsyntax-only", "-fmax-errors=5"),
        *(f"-isystem{path}" for path in system_folders(folder)),
        "-DTORCH_API_INCLUDE_EXTENSION_H",
        f"-DTORCH_EXTENSION_NAME={extension.name.rpartition('.')[2]}",
        *extension.extra_compile_args,
    ]


@dataclass(frozen=True)
class Job:
    """Files that are compiled with one command line each."""

    name: str
    files: list[str]
    command: Callable[[Path, str], list[str]]


def jobs_of(source: Path, cuda: bool) -> list[Job]:
    names = build(source)
    if cuda:
        flags = names["CUDA_FLAGS"]
        files = sorted(str(path.relative_to(source)) for path in source.glob("csrc/cuda/*.cu"))
        Path("build/cuda").mkdir(parents=True, exist_ok=True)
        return [Job("CUDA", files, lambda folder, path: cuda_command(folder, flags, path))]
    return [
        Job(module.name, module.sources, partial(lambda m, f, path: [*command(m, f), path], module))
        for module in names["extensions"]
    ]


def check(folder: Path, job: Job, pool: ThreadPoolExecutor, progress: tqdm) -> int:
    """How many of the job's files do not compile; prints that and the compiler's messages."""
    version = re.search(r"__version__ = '(.*)'", (folder / VERSION).read_text())[1]

    def compiled(path: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(job.command(folder, path), capture_output=True, text=True)
        progress.update()
        return done

    progress.set_description(f"torch {version}, {job.name}")
    results = list(pool.map(compiled, job.files))
    failed = sum(result.returncode != 0 for result in results)
    verdict = f"fail, {failed} of" if failed else "pass,"
    progress.write(f"torch {version}, {job.name}: {verdict} {len(results)} files")
    for result in results:  # warnings too
        if result.stderr:
            progress.write(result.stderr, file=sys.stderr)
    return failed


def main() -> int:
    at_once = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", help="such as 2.12.0 (default: the declared range)")
    parser.add_argument("--source", type=Path, default=ROOT, help="the checkout to compile")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/headers", help="for headers")
    parser.add_argument("--jobs", type=int, default=at_once, help="compilers at once (%(default)s)")
    parser.add_argument("--cuda", action="store_true", help="the CUDA sources, to object files")
    options = parser.parse_args()
    if options.cuda and shutil.which("nvcc") is None:
        raise SystemExit("compile_against: --cuda expects nvcc on the PATH, found none")
    source, cache = options.source.resolve(), options.cache.resolve()
    os.chdir(source)  # setup.py names its sources from there
    jobs = jobs_of(source, options.cuda)
    releases = options.releases or declared_releases(source)
    folders = {release: headers(release, cache) for release in tqdm(releases, desc="headers")}

    present = [folder for folder in folders.values() if folder]
    failed = 0
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        tqdm(total=len(present) * sum(len(job.files) for job in jobs)) as progress,
    ):
        for folder in present:
            failed += sum(check(folder, job, pool, progress) for job in jobs)
    for release, folder in folders.items():
        if folder is None:
            print(f"torch {release}: not checked, pip gives no wheel of it")
    return 1 if failed or not present else 0


if __name__ == "__main__":
    sys.exit(main())
