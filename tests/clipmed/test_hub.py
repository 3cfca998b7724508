"""Checkpoints fetched from a hub: pinned, resumed, checked, cached, offline; and what goes wrong, said clearly."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from clipmed.checkpoint_files import CONFIG_FILE, SUMS_FILE, WEIGHTS_FILE
from clipmed.errors import CheckpointError, ConfigError
from clipmed.hub import fetch, fetch_snapshot, resolve, transfer
from tests.clipmed.tiny import NAME, same_files
from tests.hub_server import serve

LOCATION = f"hf-hub:{NAME}"


def weights_blob(hub):
    return hub.repositories[NAME].commits[hub.repositories[NAME].branches["main"]][WEIGHTS_FILE]


def test_a_repository_is_fetched_once(hub, checkpoint):
    folder = fetch(LOCATION)
    same_files(folder, checkpoint)
    assert folder.name == hub.repositories[NAME].branches["main"]
    assert all(NAME in seen.path or "/cdn/" in seen.path for seen in hub.seen)  # nothing else is asked
    sent = len(hub.sent)
    assert fetch(LOCATION) == folder
    assert len(hub.sent) == sent


def test_the_hubs_own_client_finds_the_files_in_the_cache_and_the_other_way_round(hub, checkpoint):
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    folder = fetch(LOCATION)
    assert Path(try_to_load_from_cache(NAME, WEIGHTS_FILE)) == folder / WEIGHTS_FILE
    assert Path(hf_hub_download(NAME, WEIGHTS_FILE)) == folder / WEIGHTS_FILE
    hub.commit("org/other", {WEIGHTS_FILE: checkpoint / WEIGHTS_FILE})
    theirs = hf_hub_download("org/other", WEIGHTS_FILE)
    sent = len(hub.sent)
    assert fetch_snapshot("hf-hub:org/other", [WEIGHTS_FILE]) / WEIGHTS_FILE == Path(theirs)
    assert len(hub.sent) == sent


def test_revisions_are_branches_tags_and_commits(hub):
    first = hub.repositories[NAME].branches["main"]
    hub.repositories[NAME].tags["v1"] = first
    second = hub.commit(NAME, {"README.md": b"# Another card\n"})
    assert resolve(LOCATION).commit == second
    for revision in (f"{LOCATION}@v1", f"{LOCATION}@{first}"):
        assert resolve(revision).commit == first
    assert resolve(LOCATION, revision="v1").commit == first
    with pytest.raises(CheckpointError, match="no branch, tag or commit 'v2'"):
        fetch(LOCATION, revision="v2")


def test_a_commit_that_is_there_is_not_asked_for_again(hub):
    commit = resolve(LOCATION).commit
    seen = len(hub.seen)
    fetch(f"{LOCATION}@{commit}")
    assert len(hub.seen) == seen


def test_a_cut_download_is_continued(hub, checkpoint):
    size = (checkpoint / WEIGHTS_FILE).stat().st_size
    hub.fail("/cdn/", after=size // 3, times=2)
    same_files(fetch(LOCATION), checkpoint)
    ranges = [seen.range for seen in hub.seen if seen.path.startswith("/cdn/")]
    assert ranges == [None, f"bytes={size // 3}-", f"bytes={2 * (size // 3)}-"]


def test_what_an_earlier_process_left_is_continued(hub, checkpoint):
    size = (checkpoint / WEIGHTS_FILE).stat().st_size
    hub.fail("/cdn/", after=1000)
    hub.fail("/cdn/", after=0, times=50)
    with pytest.raises(CheckpointError, match=r"cut again and again .* 1000 bytes are kept"):
        fetch(LOCATION)
    hub.faults.clear()
    same_files(fetch(LOCATION), checkpoint)
    assert hub.seen[-1].range == "bytes=1000-"
    assert size > 1000


def test_a_server_without_ranges_starts_again(hub, checkpoint):
    hub.fail("/cdn/", after=1000)
    hub.fail("/cdn/", ignore_range=True, times=1)
    same_files(fetch(LOCATION), checkpoint)


def test_a_left_over_of_other_bytes_is_thrown_away(hub, checkpoint):
    fetch_snapshot(LOCATION, ["*.json"])
    blobs = _blobs()
    (blobs / f"{weights_blob(hub).sha256}.clipmed-partial").write_bytes(b"x" * 5000)
    same_files(fetch(LOCATION), checkpoint)
    (blobs / weights_blob(hub).sha256).unlink()
    (blobs / f"{weights_blob(hub).sha256}.clipmed-partial").write_bytes(b"x" * 10**7)
    same_files(fetch(LOCATION), checkpoint)


def _blobs():
    from clipmed.hub.repositories import repository_folder

    return repository_folder(NAME) / "blobs"


def test_wrong_bytes_of_the_right_size_are_refused(hub, checkpoint):
    """huggingface_hub's own client takes them: it checks the size alone."""
    from huggingface_hub import hf_hub_download

    hub.fail("open_clip_config.json", corrupt=True)
    with pytest.raises(CheckpointError, match="git's sha1"):
        fetch(LOCATION)
    hub.fail("/cdn/", corrupt=True)
    with pytest.raises(CheckpointError, match=r"sent other bytes than it should: sha256 [0-9a-f]{64}, expected"):
        fetch(LOCATION)
    assert not list(_blobs().glob(f"{weights_blob(hub).sha256}*"))
    hub.fail("/cdn/", corrupt=True)
    theirs = Path(hf_hub_download(NAME, WEIGHTS_FILE))
    assert theirs.read_bytes() != (checkpoint / WEIGHTS_FILE).read_bytes()
    same_files(fetch(LOCATION), checkpoint)  # theirs is found out, and replaced


def test_a_damaged_cache_is_found_out_offline(hub):
    folder = fetch(LOCATION)
    path = (folder / WEIGHTS_FILE).resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        CheckpointError, match=r"in the cache was damaged: sha256 .* remove .*clipmed pull hf-hub:org/tiny"
    ):
        fetch(LOCATION, offline=True)


def test_pinned_weights_are_checked(hub, checkpoint):
    right = hashlib.sha256((checkpoint / WEIGHTS_FILE).read_bytes()).hexdigest()
    assert fetch(LOCATION, sha256=right) == fetch(f"{LOCATION}#sha256={right}")
    wrong = "0" * 64
    with pytest.raises(CheckpointError, match=f"sha256 {right}, expected {wrong}; the weights are others"):
        fetch(LOCATION, sha256=wrong, offline=True)
    with pytest.raises(CheckpointError, match="the weights are others"):
        fetch(checkpoint, sha256=wrong)


def test_a_wrong_pin_is_found_before_anything_is_downloaded(hub):
    with pytest.raises(CheckpointError, match=r"the weights are others .* nothing was downloaded"):
        fetch(f"{LOCATION}#sha256={'0' * 64}")
    assert hub.sent == []


def test_offline_uses_the_cache_alone(hub, monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"not in the cache .*, and offline mode is on; .*clipmed pull hf-hub:org/tiny"
    ):
        fetch(LOCATION, offline=True)
    folder = fetch(LOCATION)
    seen = len(hub.seen)
    assert fetch(LOCATION, offline=True) == folder
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(LOCATION) == folder
    assert len(hub.seen) == seen


def test_offline_wants_all_of_a_checkpoint(hub, monkeypatch):
    """What a pull that was cut, or another fetch of some files, left is not taken for a checkpoint without weights."""
    from huggingface_hub import constants, hf_hub_download

    commit = hub.repositories[NAME].branches["main"]
    hub.fail("/cdn/", status=404)
    with pytest.raises(CheckpointError, match="cannot fetch"):
        fetch(f"{LOCATION}@{commit}")
    with pytest.raises(
        CheckpointError, match=f"{WEIGHTS_FILE} of {LOCATION}@{commit} is not in the cache .*clipmed pull {LOCATION}@"
    ):
        fetch(f"{LOCATION}@{commit}", offline=True)
    fetch_snapshot(LOCATION, ["*.json"])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE} of {LOCATION} is not in the cache"):
        fetch(LOCATION, offline=True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        fetch(LOCATION)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    hub.commit("org/other", {CONFIG_FILE: b"{}", WEIGHTS_FILE: b"x"})
    hf_hub_download("org/other", CONFIG_FILE)  # by another client: nobody knows what else there is
    with pytest.raises(CheckpointError, match=f"the cache has no {WEIGHTS_FILE} of commit .*nobody knows"):
        fetch("hf-hub:org/other", offline=True)


def test_weights_come_last(hub):
    hub.commit(NAME, {"vocab.txt": b"lung"})
    fetch(LOCATION)
    asked = [seen.path.rpartition("/")[2] for seen in hub.seen if "/resolve/" in seen.path]
    assert asked[-1] == WEIGHTS_FILE
    assert "vocab.txt" in asked


def test_a_disk_without_room_is_said_before_it_is_full(hub, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=weights_blob(hub).size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=rf"has {usage.free} bytes free, and {usage.free + 1} are to come"):
        fetch(LOCATION)
    assert not list(_blobs().glob(f"{weights_blob(hub).sha256}*"))


def test_without_a_network_the_cache_serves_and_says_so(hub, monkeypatch, caplog):
    from huggingface_hub import constants

    folder = fetch(LOCATION)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(LOCATION) == folder
    assert f"the cache's copy of commit {folder.name} is used" in caplog.text
    with pytest.raises(CheckpointError, match=r"the hub cannot be reached .*HF_HUB_OFFLINE=1"):
        fetch("hf-hub:org/absent")


def test_a_hub_in_trouble_is_named(hub, caplog):
    hub.fail("/api/models/", status=503, times=9)
    with pytest.raises(CheckpointError, match=r"the hub has trouble .*HTTP 503"):
        fetch(LOCATION)
    hub.faults.clear()
    hub.fail("/cdn/", status=503)
    folder = fetch(LOCATION)
    hub.fail("/api/models/", status=503)
    assert fetch(LOCATION) == folder


def test_a_hub_that_says_nothing_is_given_up_soon(hub, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.2)
    hub.fail("/api/models/", hang_s=2, times=9)
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        fetch(LOCATION)
    assert len(hub.seen) == 2


def test_a_hub_in_trouble_for_a_moment_is_asked_again(hub, checkpoint):
    hub.fail("/api/models/", status=503, times=3)
    same_files(fetch(LOCATION), checkpoint)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_the_hub_takes_back_is_not_served_from_the_cache(hub, status):
    fetch(LOCATION)
    hub.fail("/api/models/", status=status)
    with pytest.raises(CheckpointError, match="cannot fetch"):
        fetch(LOCATION)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_does_not_stop_who_has_the_files(hub, caplog, status):
    folder = fetch(LOCATION)
    hub.fail("/api/models/", status=status, times=9)
    assert fetch(LOCATION) == folder
    assert "the cache's copy" in caplog.text


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_private_repositories_ask_for_a_token_and_never_show_it(hub, monkeypatch, token):
    hub.repositories[NAME].token = "hf_right"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match=r"or it is private: .*set HF_TOKEN") as caught:
        fetch(LOCATION)
    assert "hf_" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    fetch(LOCATION)
    assert {seen.token for seen in hub.seen[-3:] if "/cdn/" not in seen.path} == {"hf_right"}


def test_a_token_stays_with_the_hub(hub, monkeypatch, tmp_path, checkpoint):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serve(tmp_path / "cdn") as other:
        other.add(NAME, checkpoint)
        address = f"http://localhost:{other.server_port}"
        hub.fail(
            f"/resolve/{hub.repositories[NAME].branches['main']}/{WEIGHTS_FILE}",
            redirect=f"{address}/cdn/{weights_blob(hub).sha256}",
        )
        same_files(fetch(LOCATION), checkpoint)
        assert [seen.token for seen in other.seen] == [None]
    assert hub.seen[0].token == "hf_secret"


def test_gated_repositories_name_the_page_of_their_terms(hub):
    hub.repositories[NAME].gated = True
    with pytest.raises(CheckpointError, match=f"it is gated.*accept its terms at {hub.url}/{NAME}"):
        fetch(LOCATION)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("hf-hub:org", "allowed: org/name"),
        ("hf-hub:../..", "allowed: org/name"),
        ("hf-hub:org/..", "allowed: org/name"),
        ("hf-hub:org/tiny@../x", "allowed: a branch, a tag or a commit"),
        ("hf-hub:org/tiny#sha256=abc", "64 lower-case hex digits"),
        ("s3://bucket/folder", "got the scheme s3://"),
        ("file:///etc", "got the scheme file://"),
        ("https://user:secret@host/x", "without user"),
        ("https://host/x?token=1", "not the URL of a folder"),
    ],
)
def test_malformed_locations_are_refused(location, message):
    with pytest.raises(ConfigError, match=message) as caught:
        fetch(location)
    assert "secret" not in str(caught.value)


def test_what_is_no_checkpoint_is_said_before_its_weights_come(hub):
    hub.commit("org/pickle", {"open_clip_config.json": b"{}", "open_clip_pytorch_model.bin": b"x"})
    with pytest.raises(CheckpointError, match=r"pickled weights are not read.*clipmed import hf-hub:org/pickle"):
        fetch("hf-hub:org/pickle")
    hub.commit("org/other", {"config.json": b"{}"})
    with pytest.raises(CheckpointError, match="no checkpoint in OpenCLIP's layout"):
        fetch("hf-hub:org/other")
    assert "org/pickle/open_clip_pytorch_model.bin" not in hub.sent


@pytest.mark.parametrize("name", ["../../../outside.json", "/outside.json", "a/../../outside.json", "..", "sub/x.json"])
def test_a_hostile_file_name_is_not_written(hub, tmp_path, name):
    commit = hub.repositories[NAME].branches["main"]
    hub.repositories[NAME].commits[commit][name] = hub.blob(name, b"hostile")
    fetch(LOCATION)
    assert not [path for path in tmp_path.rglob("*outside*") if "hub/" not in str(path.relative_to(tmp_path))]
    assert {path.parent for path in fetch(LOCATION).iterdir()} == {fetch(LOCATION)}


@pytest.mark.parametrize(
    "facts",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"sha": "../x", "siblings": []}',
        b'{"sha": 3, "siblings": [3]}',
        b"null",
        b'{"sha": "a"}',
    ],
)
def test_a_server_that_is_no_hub_is_named(hub, facts, monkeypatch):
    hub.commit("org/raw", {"facts": facts})
    address = f"{hub.url}/files/org/raw/facts"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"{hub.url}/nowhere")
    hub.fail("/nowhere", redirect=address)
    with pytest.raises(CheckpointError, match="look at HF_ENDPOINT"):
        fetch(LOCATION)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", "data:,x"])
def test_redirects_to_other_schemes_are_not_followed(hub, target):
    hub.fail("/resolve/", redirect=target)
    with pytest.raises(CheckpointError, match="is not followed; allowed: http and https"):
        fetch(LOCATION)


def test_a_redirect_may_not_leave_https():
    """Asked of the handler itself: a server with a certificate is not at hand."""

    def followed(old, new):
        request = transfer.urllib.request.Request(old, headers={"Authorization": "Bearer x"})
        return transfer._Redirects().redirect_request(request, None, 302, "Found", {}, new)

    with pytest.raises(CheckpointError, match="from https only https"):
        followed("https://host/a", "http://host/a")
    assert followed("https://host/a", "https://host/b").get_header("Authorization") == "Bearer x"
    assert followed("http://host/a", "https://host/b").get_header("Authorization") is None


def test_a_file_larger_than_any_checkpoints_is_refused(hub, monkeypatch):
    from clipmed.hub import repositories

    monkeypatch.setattr(repositories, "SMALL_BYTES_MAX", 10)
    with pytest.raises(CheckpointError, match="bytes; allowed: 10"):
        fetch(LOCATION)


def test_a_folder_of_this_machine_is_returned_as_it_is(checkpoint):
    assert fetch(checkpoint) == checkpoint
    assert json.loads((checkpoint / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == 16
    assert (checkpoint / SUMS_FILE).is_file()
