"""An environment that holds the built wheel and what the wheel requires, nothing else.

`bare_environment` borrows the packages of this environment: the wheel is unpacked into a folder of its own, and a
finder refuses every module of a distribution that the wheel does not require. `empty_environment` is the real thing: a
virtual environment of its own, into which pip installs the wheel (several GB, minutes).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

REFUSE = """\
import sys
REFUSED = frozenset({refused!r})


class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"{{name}} is not among the wheel's requirements", name=name)


sys.meta_path.insert(0, Refusing())
"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, from a copy of what a wheel may be made of; return its path."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in ("clipmed", "shards", "train"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def bare_environment(wheel: Path, folder: Path, extras: tuple[str, ...] = ()) -> Mapping[str, str]:
    """Unpack the wheel into `folder`; return environment variables for a Python that sees it and its requirements."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    (info,) = (folder / "wheel").glob("*.dist-info")
    required = set(_closure(metadata.Distribution.at(info), extras))
    refused = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & required and module not in {"_distutils_hack", "pip"}
    }
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(REFUSE.format(refused=sorted(refused - {"clipmed"})))
    return {"PYTHONPATH": f"{hook}:{folder / 'wheel'}", "PYTHONSAFEPATH": "1"}


def empty_environment(wheel: Path, folder: Path) -> Path:
    """Install the wheel into a new virtual environment, known versions first; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(pip, check=True)
    return python


def _closure(distribution: metadata.Distribution, extras: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of a distribution and of all that it requires, directly or not."""
    seen: set[tuple[str, str]] = set()
    waiting = [(distribution, ("", *extras))]
    while waiting:
        current, wanted = waiting.pop()
        yield canonicalize_name(current.metadata["Name"])
        for line in current.requires or ():
            requirement = Requirement(line)
            if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in wanted):
                continue
            key = (canonicalize_name(requirement.name), ",".join(sorted(requirement.extras)))
            if key in seen:
                continue
            seen.add(key)
            try:
                waiting.append((metadata.distribution(requirement.name), ("", *requirement.extras)))
            except metadata.PackageNotFoundError:
                continue  # for another system, or this Python has the module itself
