"""What huggingface_hub says of this machine: its folders, its endpoint, its token, and offline mode.

$HF_HOME, $HF_HUB_CACHE, $HF_ENDPOINT, $HF_TOKEN and $HF_HUB_OFFLINE are read when huggingface_hub is imported.
"""

from __future__ import annotations

from pathlib import Path


def endpoint() -> str:
    """Return the hub's address without a slash at its end."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip("/")


def hub_cache() -> Path:
    """Return the folder of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def own_cache(kind: str) -> Path:
    """Return the folder of what the hub's cache has no place for."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "clipmed" / kind


def is_offline(offline: bool | None) -> bool:
    """Whether the network is not to be used: as asked, or as the environment says."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode()) if offline is None else offline


def hub_headers() -> dict[str, str]:
    """Return the headers of a request to the hub that say who asks: the user's token, where there is one.

    huggingface_hub's own headers tell more of the machine, and now and then it asks the hub for how to word them.
    """
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"authorization": f"Bearer {token}"} if token else {}
