"""The dataset card and what the manifest says of licences."""

import json

import yaml

from shards.card import card_text
from shards.manifest import checksum, license_of_set
from shards.verify import verify


def test_the_card_states_what_the_manifest_holds(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    text = (packed / "README.md").read_text()
    _, block, body = text.split("---\n", 2)
    metadata = yaml.safe_load(block)
    assert metadata["license"] == "other"
    assert metadata["license_name"] == "mixed-noncommercial"
    assert metadata["size_categories"] == ["n<1K"]
    assert {"ct", "xray", "webdataset"} <= set(metadata["tags"])
    for name in ("split", "modality", "source", "license"):
        for value, count in manifest["counts"][name].items():
            assert f"| {value} | {count:,} |" in body
    assert "| plan | duplicate_exact | −1 |" in body
    assert "Credit the authors" in body
    assert "None: the set was packed without lists" in body
    assert manifest["checksum"] in body


def test_a_card_that_is_not_the_manifests_is_named(own_set):
    card = own_set / "README.md"
    card.write_text(card.read_text().replace("noncommercial", "commercial"))
    assert [(p.shard, p.reason) for p in verify(own_set, progress=False)] == [
        ("README.md", "differs from the card that the manifest makes")
    ]
    card.unlink()
    assert [(p.shard, p.reason) for p in verify(own_set, progress=False)] == [("README.md", "missing")]


def test_one_known_licence_and_lists_are_said_as_the_hub_says_them(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    counts = {"license": {"CC-BY-4.0": 3}, "license_group": {"commercial": 3}}
    dropped = [{"list": "exam", "rule": "picture", "samples": 1200}]
    lists = [{"list": "exam", "sha256": "ab" * 32}, {"list": "other", "sha256": "cd" * 32}]
    manifest |= {"license": license_of_set(counts), "decontamination": {"lists": lists, "dropped": dropped}}
    manifest["counts"]["source"] = {"phantom_ct": 3}
    text = card_text({**manifest, "checksum": checksum(manifest)})
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "| exam | 1,200 by picture |" in text
    assert "| other | 0 |" in text
    assert "**All of these images are phantoms**" in text


def test_the_licence_of_a_set_is_its_most_restrictive_one():
    licenses = {"CC0-1.0": 5, "CC-BY-SA-4.0": 2, "CC-BY-NC-ND-4.0": 1}
    terms = license_of_set({"license": licenses, "license_group": {"commercial": 7, "noncommercial": 1}})
    assert terms == {
        "group": "noncommercial",
        "licenses": licenses,
        "most_restrictive": ["CC-BY-NC-ND-4.0"],
        "attribution": True,
        "share_alike": True,
        "no_derivatives": True,
        "noncommercial": True,
        "unknown": False,
    }
    free = license_of_set({"license": {"CC0-1.0": 1}, "license_group": {"commercial": 1}})
    assert not any(free[name] for name in ("attribution", "share_alike", "no_derivatives", "noncommercial", "unknown"))
