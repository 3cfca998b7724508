"""Imports that wait until something of the module is used.

OpenCLIP imports timm, transformers and, through torchvision, PyTorch's compiler, whether a model needs them or not:
more than half of the time from a command to the first image. Under `deferred` such imports give stand-ins, whose
names become the real ones when they are called, looked into, or asked about by isinstance.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_open_clip() -> None:
    """Import OpenCLIP, unless it is imported already, without the packages that wait for a model of theirs.

    A version of it, or of torchvision, that does more with them than bind their names is imported as usual.
    """
    import torch  # noqa: F401 (what its own import needs of its compiler does not wait)

    before = set(sys.modules)
    try:
        with deferred("timm", "transformers", "torch._dynamo"):
            import open_clip
    except (ImportError, AttributeError, TypeError):
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in {"open_clip", "torchvision"}:
                del sys.modules[name]
        import open_clip  # noqa: F401


@contextmanager
def deferred(*packages: str) -> Iterator[None]:
    """Let imports of these packages and of their modules wait, as far as they are not imported already.

    Only for imports of others' code that binds names and does nothing with them: assignments to attributes of a
    stand-in are lost, and a class cannot be derived from one.

    Args:
        packages: names such as `timm` or `torch._dynamo`.
    """
    finders = [_Finder(package) for package in packages if package not in sys.modules]
    sys.meta_path[:0] = finders
    try:
        yield
    finally:
        for finder in finders:
            finder.withdraw()


class _Finder:
    """Finds stand-ins for the modules of one package, and makes them."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a stand-in, or None for modules of other packages."""
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a stand-in."""
        return _StandIn(spec.name, self)

    def exec_module(self, _module: ModuleType) -> None:
        """Do nothing: a stand-in has no code."""

    def withdraw(self) -> None:
        """Take the stand-ins out of the way of the real modules; names bound to them stay and find the real ones."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        own = {name: one for name, one in sys.modules.items() if isinstance(one, _StandIn) and one.finder is self}
        for name, stand_in in own.items():
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(child) is stand_in:
                delattr(sys.modules[parent], child)

    def real(self, module: str, name: str) -> Any:
        """Return what a name of a module is."""
        self.withdraw()
        found = importlib.import_module(module)
        try:
            return getattr(found, name)
        except AttributeError:
            return importlib.import_module(f"{module}.{name}")


class _StandIn(ModuleType):
    """Stands in for a module: within `deferred` each of its names is a `_Later`, afterwards the real one."""

    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        if self.finder not in sys.meta_path:
            return self.finder.real(self.__name__, name)
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(name, (), {"_where": (self.finder, self.__name__, name)})


class _Later(type):
    """A class that stands in for a name of a module: a class, a function or a module."""

    def _real(cls) -> Any:
        finder, module, name = cls.__dict__["_where"]
        return finder.real(module, name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __instancecheck__(cls, instance: object) -> bool:
        return cls._is_imported() and isinstance(instance, cls._real())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return cls._is_imported() and issubclass(subclass, cls._real())

    def _is_imported(cls) -> bool:
        """Whether the real module is there: without it nothing can be of its classes."""
        module = sys.modules.get(cls.__dict__["_where"][1])
        return module is not None and not isinstance(module, _StandIn)
