"""Checkpoints at the URL of a folder: versions by SHA256SUMS or ETag, resumed, checked, offline."""

import shutil

import pytest

import clipmed
from clipmed.checkpoint_files import CARD_FILE, CONFIG_FILE, SUMS_FILE, WEIGHTS_FILE
from clipmed.checkpoints import load_checkpoint
from clipmed.errors import CheckpointError
from clipmed.hub import fetch
from clipmed.hub.web_folders import cache_of_url
from tests.clipmed.tiny import save_tiny
from tests.clipmed.tiny_text_tower import bert_config, save_bert

NAME = "org/tiny"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("web")
    return save_tiny(root / "model", config=bert_config(save_bert(root / "bert")))


@pytest.fixture
def url(local_hub, checkpoint):
    local_hub.add(NAME, checkpoint)
    return f"{local_hub.url}/files/{NAME}"


def weights_requests(hub):
    return [seen for seen in hub.seen if seen.path.endswith(WEIGHTS_FILE) and seen.method == "GET"]


def test_a_folder_is_fetched_once_and_again_when_it_changes(local_hub, url, checkpoint):
    folder = fetch(url)
    names = {path.name for path in checkpoint.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert all((folder / name).read_bytes() == (checkpoint / name).read_bytes() for name in names)
    assert fetch(f"{url}/") == folder
    assert len(weights_requests(local_hub)) == 1
    local_hub.commit(NAME, {CARD_FILE: b"# Another card\n"})
    other = fetch(url)
    assert other != folder
    assert (other / CARD_FILE).read_text() == "# Another card\n"
    assert folder.is_dir()  # who uses it still has it
    assert clipmed.load(url, device="cpu", offline=True).embed_texts(["a lung"]).shape == (1, 16)


def test_without_sums_files_are_those_that_a_checkpoint_may_have(local_hub, url, checkpoint):
    local_hub.commit(NAME, {SUMS_FILE: None})
    folder = fetch(url)
    assert {path.name for path in folder.iterdir()} == {path.name for path in checkpoint.iterdir()} - {SUMS_FILE}
    expected = load_checkpoint(checkpoint).model.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in load_checkpoint(folder).model.state_dict().items())


def test_a_cut_download_is_continued_by_the_next_pull(local_hub, url, checkpoint):
    local_hub.fail(WEIGHTS_FILE, after=1000)
    local_hub.fail(WEIGHTS_FILE, after=0, times=50)
    with pytest.raises(CheckpointError, match="1000 bytes are kept"):
        fetch(url)
    local_hub.faults.clear()
    folder = fetch(url)
    assert weights_requests(local_hub)[-1].range == "bytes=1000-"
    assert (folder / WEIGHTS_FILE).read_bytes() == (checkpoint / WEIGHTS_FILE).read_bytes()
    assert not list(cache_of_url(f"{url}/").rglob("*partial*"))


def test_other_bytes_than_the_sums_are_refused(local_hub, url):
    local_hub.fail(WEIGHTS_FILE, corrupt=True)
    with pytest.raises(CheckpointError, match="sent other bytes than it should: sha256"):
        fetch(url)
    local_hub.commit(NAME, {CONFIG_FILE: b"{}"})
    with pytest.raises(CheckpointError, match="sent other bytes than it should"):
        fetch(url)


def test_what_is_no_checkpoint_is_refused(local_hub, url, tmp_path):
    with pytest.raises(CheckpointError, match=f"has no {CONFIG_FILE}; give the URL of a checkpoint's folder"):
        fetch(f"{local_hub.url}/files/org/none")
    local_hub.commit(NAME, {WEIGHTS_FILE: None, SUMS_FILE: None})
    with pytest.raises(CheckpointError, match=f"has no {WEIGHTS_FILE}; .*pickled weights are not read"):
        fetch(url)


def test_offline_and_without_a_network(local_hub, url, caplog):
    with pytest.raises(CheckpointError, match=rf"not in the cache .*clipmed pull {url}"):
        fetch(url, offline=True)
    folder = fetch(url)
    seen = len(local_hub.seen)
    assert fetch(url, offline=True) == folder
    assert len(local_hub.seen) == seen
    dead = "http://127.0.0.1:9/folder"
    with pytest.raises(CheckpointError, match=r"cannot fetch http://127\.0\.0\.1:9/folder/: .*no answer"):
        fetch(dead)
    shutil.copytree(cache_of_url(f"{url}/"), cache_of_url(f"{dead}/"), dirs_exist_ok=True)
    assert fetch(dead).name == folder.name
    assert "does not answer; the cache's copy is used" in caplog.text


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_out_of_the_web_are_not_followed(local_hub, url, target):
    local_hub.fail(SUMS_FILE, redirect=target)
    with pytest.raises(CheckpointError, match="is not followed"):
        fetch(url)


def test_a_listed_name_cannot_leave_the_folder(local_hub, url, tmp_path):
    local_hub.commit(NAME, {SUMS_FILE: f"{'0' * 64}  ../../outside.json\n".encode()})
    with pytest.raises(CheckpointError, match="line 1: got"):
        fetch(url)
    assert not list(tmp_path.rglob("outside.json"))


def test_a_server_in_trouble_is_named(local_hub, url):
    local_hub.fail(SUMS_FILE, status=500, times=9)
    with pytest.raises(CheckpointError, match=r"cannot fetch .*HTTP 500"):
        fetch(url)


def test_a_wrong_pin_is_found_before_the_weights_are_asked_for(local_hub, url):
    with pytest.raises(CheckpointError, match=r"the weights are others .* nothing was downloaded"):
        fetch(f"{url}#sha256={'0' * 64}")
    assert not weights_requests(local_hub)


def test_sums_that_change_while_files_come_are_found_out(local_hub, url, checkpoint):
    lines = (checkpoint / SUMS_FILE).read_text().splitlines()
    others = "".join(f"{'0' * 64}{line[64:]}\n" for line in lines)
    local_hub.commit(NAME, {"others": others.encode()})
    local_hub.fail(f"/{SUMS_FILE}")  # as it is: it is asked for first to see what there is
    local_hub.fail(f"/{SUMS_FILE}", redirect=f"{url}/others")
    with pytest.raises(CheckpointError, match="is not the file that it should be"):
        fetch(url)
    with pytest.raises(CheckpointError, match="is not in the cache"):
        fetch(url, offline=True)


def test_weights_come_last(local_hub, url):
    fetch(url)
    asked = [seen.path.rpartition("/")[2] for seen in local_hub.seen if seen.method == "GET"]
    assert asked[-1] == WEIGHTS_FILE
    assert "tokenizer.json" in asked
