"""Fixtures of the library's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipmed.hub import transfer
from tests.clipmed.tiny import NAME, save_tiny
from tests.hub_server import HubServer, serve


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub that this process's clients ask, with a cache of its own and no token."""
    from huggingface_hub import constants

    monkeypatch.setattr(transfer, "WAIT_S", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the hub of tests does not speak it
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve(tmp_path / "hub") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if (client := sys.modules.get("transformers.utils.hub")) is not None:
            monkeypatch.setattr(client, "_hf_api", None)  # it remembers the hub that it asked first
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint's folder."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def hub(local_hub: HubServer, checkpoint: Path) -> HubServer:
    """A hub that has the tiny checkpoint as NAME."""
    local_hub.add(NAME, checkpoint)
    return local_hub
