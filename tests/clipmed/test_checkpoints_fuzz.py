"""Checkpoints with anything wrong in them: a model equal to the original, or a ClipmedError; nothing else, ever."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipmed.checkpoint_files import CONFIG_FILE, SUMS_FILE, WEIGHTS_FILE, read_sums, write_sums
from clipmed.checkpoints import load_checkpoint, read_config
from clipmed.errors import ClipmedError
from clipmed.safetensors_header import read_header
from tests.clipmed.tiny import save_tiny
from tests.clipmed.tiny_text_tower import bert_config, save_bert

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 100)
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["../../x", "/etc", "hf-hub:a/b", ".", "a/b", "bert", "gelu", "cls_pooler", "mlp", "linear"])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    config = bert_config(save_bert(root / "bert"))
    config["vision_cfg"] = {"image_size": 16, "patch_size": 8, "width": 8, "layers": 1, "head_width": 4}
    return save_tiny(root / "model", config=config)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(original, tmp_path):
    """A folder that each example fills anew."""
    return tmp_path / "example"


def fresh(original, folder):
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(original, folder))


def loads(folder):
    """Whether the checkpoint loads; anything but a ClipmedError, a warning too, fails the test."""
    try:
        two_tower = load_checkpoint(folder)
    except ClipmedError:
        return None
    return two_tower.model.state_dict()


def same(state, original):
    expected = load_checkpoint(original).model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def places(value, path=()):
    """Every place of a JSON value that holds something."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def mutate(config, draw):
    path = draw(st.sampled_from([place for place in places(config) if place]))
    *parents, last = path
    place = config
    for key in parents:
        place = place[key]
    how = draw(st.sampled_from(["replace", "remove", "add"]))
    if how == "replace":
        place[last] = draw(VALUES)
    elif how == "remove":
        del place[last]
    elif isinstance(place, dict):
        place[draw(st.text(max_size=10))] = draw(VALUES)
    return config


@pytest.mark.parametrize("name", [CONFIG_FILE, "config.json", "tokenizer_config.json", "tokenizer.json"])
@FUZZ
@given(data=st.data())
def test_json_with_values_changed(original, folder, name, data):
    fresh(original, folder)
    config = json.loads((folder / name).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        config = mutate(config, data.draw)
    (folder / name).write_text(json.dumps(config), encoding="utf-8", errors="surrogatepass")
    write_sums(folder)
    state = loads(folder)
    assert state is None or same(state, original)


@pytest.mark.parametrize("name", [CONFIG_FILE, "config.json", "tokenizer.json", WEIGHTS_FILE, SUMS_FILE])
@FUZZ
@given(data=st.data())
def test_bytes_changed_or_cut(original, folder, name, data):
    fresh(original, folder)
    raw = bytearray((folder / name).read_bytes())
    header = min(len(raw), 3000)  # where a change means something
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, header - 1) | st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    changed = bytes(raw) != (folder / name).read_bytes()
    (folder / name).write_bytes(bytes(raw))
    with_sums = data.draw(st.booleans())
    if with_sums and name != SUMS_FILE:
        state = loads(folder)
        assert (state is None) == changed
        write_sums(folder)
    elif name != SUMS_FILE:
        (folder / SUMS_FILE).unlink()
    state = loads(folder)
    if state is not None and name != WEIGHTS_FILE:  # without sums, other numbers are other numbers
        assert same(state, original)


@FUZZ
@given(raw=st.binary(max_size=400), text=st.text(max_size=200))
def test_readers_of_anything(folder, raw, text):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for content in (raw, text.encode(errors="surrogatepass"), len(raw).to_bytes(8, "little") + raw):
        for name, reader in ((CONFIG_FILE, read_config), (SUMS_FILE, read_sums)):
            (folder / name).write_bytes(content)
            try:
                reader(folder)
            except ClipmedError:
                continue
        (folder / WEIGHTS_FILE).write_bytes(content)
        try:
            read_header(folder / WEIGHTS_FILE)
        except ClipmedError:
            continue
