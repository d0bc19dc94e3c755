"""Contract: what is saved comes back bit for bit; what is missing, damaged or from elsewhere is refused by name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from toolscaler.codebook import Codebook, codebook_from_files
from toolscaler.errors import ArtifactError

FILES = ("codebook.safetensors", "codebook_config.json")


@pytest.fixture
def folder(codebook, tmp_path):
    codebook.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder, **changes):
    path = folder / FILES[1]
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("policy", ["reassign", "suffix", "share"])
@pytest.mark.parametrize("bare", [False, True])
def test_round_trip_is_bit_identical(tmp_path, embeddings, policy, bare):
    names = [f"Wetter «{j}»/größe\n" for j in range(len(embeddings))]
    codebook = Codebook.fit(embeddings, names, num_centroids=5, reduced_dim=4, collisions=policy)
    codebook = codebook.without_tools() if bare else codebook
    paths = codebook.save_pretrained(tmp_path)
    assert [path.rsplit("/", 1)[1] for path in paths] == list(FILES)
    loaded = Codebook.from_pretrained(tmp_path)
    assert loaded == codebook == Codebook.from_tensors(codebook.to_tensors(), codebook.to_config())
    assert codebook_from_files(*paths) == codebook
    for name, array in codebook.to_tensors().items():
        assert loaded.to_tensors()[name].tobytes() == array.tobytes()
        assert loaded.to_tensors()[name].dtype == array.dtype
    assert loaded.tool_ids == codebook.tool_ids
    assert loaded.code_sizes == codebook.code_sizes
    np.testing.assert_array_equal(loaded.quantize(embeddings), codebook.quantize(embeddings))


def test_saving_twice_writes_the_same_bytes_and_leaves_other_files(codebook, folder):
    (folder / "config.json").write_text("{}")
    before = {name: (folder / name).read_bytes() for name in FILES}
    Codebook.from_pretrained(folder).save_pretrained(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "config.json"])


def test_subfolders(codebook, folder):
    assert Codebook.from_pretrained(folder.parent, subfolder="saved") == codebook


@pytest.mark.parametrize("name", FILES)
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Codebook.from_pretrained(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 7, 100, -1])
def test_truncated_files(folder, name, keep):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:keep] if keep >= 0 else data[: len(data) - 2])
    with pytest.raises(ArtifactError):
        Codebook.from_pretrained(folder)


def test_any_flipped_byte_of_the_arrays_is_noticed(folder):
    path = folder / FILES[0]
    data = path.read_bytes()
    for place in np.linspace(0, len(data) - 1, 60).astype(int):
        damaged = bytearray(data)
        damaged[place] ^= 0x41
        path.write_bytes(bytes(damaged))
        with pytest.raises(ArtifactError):
            Codebook.from_pretrained(folder)


def test_files_of_two_codebooks_do_not_mix(make_embeddings, folder, tmp_path):
    other = Codebook.fit(make_embeddings(150, seed=4), num_centroids=5, reduced_dim=4)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / FILES[0], folder / FILES[0])
    with pytest.raises(ArtifactError, match="checksum"):
        Codebook.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format_version 1 or 2, got 3"),
        ({"format_version": 2}, "missing .*'level_sizes', 'quantization'"),
        ({"more": 1}, "unexpected .*'more'"),
        ({"format_version": None}, "got None"),
        ({"collisions": "ignore"}, "reassign"),
        ({"collisions": None}, "collisions"),
        ({"tool_ids": ["a"]}, "one tool id per row"),
        ({"tool_ids": 5}, "does not fit"),
        ({"suffix_size": 4}, "suffix"),
        ({"num_levels": 3}, "num_levels"),
        ({"code_sizes": [5, 5]}, "code_sizes"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_configurations_that_do_not_fit(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        Codebook.from_pretrained(folder)


def test_a_configuration_that_is_no_object(folder):
    (folder / FILES[1]).write_text("[1]")
    with pytest.raises(ArtifactError, match="format_version"):
        Codebook.from_pretrained(folder)


def test_arrays_of_wrong_name_or_type(codebook):
    tensors, config = codebook.to_tensors(), codebook.to_config()
    with pytest.raises(ArtifactError, match=r"missing \['codes'\]"):
        Codebook.from_tensors({k: v for k, v in tensors.items() if k != "codes"}, config)
    with pytest.raises(ArtifactError, match=r"unexpected \['more'\]"):
        Codebook.from_tensors({**tensors, "more": np.zeros(1)}, config)
    with pytest.raises(ArtifactError, match="expected int32, got int64"):
        Codebook.from_tensors({**tensors, "codes": tensors["codes"].astype(np.int64)}, config)


def test_no_folder_and_no_repository(tmp_path, folder):
    for source in (tmp_path / "nowhere", "not a repository name", folder / FILES[1]):
        with pytest.raises(ArtifactError, match=r"expected (a|the) folder"):
            Codebook.from_pretrained(source, local_files_only=True)


def test_hub_arguments_are_handed_on(codebook, folder, monkeypatch):
    calls = []

    def download(repo, name, **options):
        calls.append((repo, name, options))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    loaded = Codebook.from_pretrained("user/name", revision="v1", subfolder="codes", token="t", local_files_only=True)
    assert loaded == codebook
    assert [(repo, name) for repo, name, _ in calls] == [("user/name", FILES[0]), ("user/name", FILES[1])]
    assert calls[0][2] == {
        "revision": "v1",
        "subfolder": "codes",
        "token": "t",
        "cache_dir": None,
        "local_files_only": True,
    }
