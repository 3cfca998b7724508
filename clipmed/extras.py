"""Optional dependencies: what only some commands need, brought by the extras of the package."""

from __future__ import annotations

import importlib
from types import ModuleType

from clipmed.errors import ConfigError


def require(module: str, extra: str) -> ModuleType:
    """Import and return a module of an extra.

    Args:
        module: its name, such as `pydicom` or `pydicom.config`.
        extra: the extra of clipmed that brings it, such as `dicom`.

    Raises:
        ConfigError: it is not installed; the message names the command that installs it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the module is there, and lacks something of its own
        raise ConfigError(f"{package} is not installed; pip install 'clipmed[{extra}]' brings it") from error
