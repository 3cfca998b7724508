"""A run on a set behind a URL is the run on the folder, also where the loader is a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.shards.servers import http_server
from tests.train.test_loop import assert_same_weights, metrics
from train.config import TrainConfig
from train.loop import train


@pytest.mark.slow
def test_a_set_over_http_trains_to_the_same_bits(
    config: TrainConfig, shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMED_CACHE", str(tmp_path / "cache"))
    local = replace(config, out=tmp_path / "local")
    train(local)
    with http_server(shard_set.parent) as server:
        remote = replace(config, data=replace(config.data, sets=(f"{server.url}/{shard_set.name}",), workers=1))
        train(remote)
    assert_same_weights(remote.out, local.out)
    assert metrics(remote.out) == metrics(local.out)
