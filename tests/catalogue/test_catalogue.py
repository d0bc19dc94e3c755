"""Contract: a change of a catalogue changes index, documents, log and sums together and nothing else; the log leads
back byte for byte; codes are unique, and those of tools that are gone rest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from toolscaler.catalogue import ToolCatalogue
from toolscaler.errors import ArtifactError, CatalogueError, CodeSpaceError, TokenizationError, UnknownToolError
from toolscaler.hub import Artifact

CHANGED = {"tool_index.json", "tools.jsonl", "catalogue_log.jsonl", "catalogue_documents.jsonl", "toolscaler.json"}


def sums(folder) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_added_tools_get_the_codes_of_algorithm_1(catalogue, parts):
    from toolscaler.compression import encode_documents

    new = parts.extra_documents(5)
    expected = catalogue.codebook.quantize(
        encode_documents(*parts.compressor(), new, show_progress=False), unique_against=catalogue.index.codes
    )
    entry = catalogue.add(new, keep_codes=0, note="a test")
    assert np.array_equal([change.new_codes for change in entry.tools], expected)
    assert catalogue.tool_ids[-5:] == tuple(item.id for item in new)
    assert len({tuple(row) for row in catalogue.index.codes.tolist()}) == len(catalogue) == 21
    assert catalogue.documents()[-5:] == new
    assert catalogue.untrained == tuple(item.id for item in new)
    assert (entry.verb, entry.sequence, entry.note) == ("add", 1, "a test")


def test_a_change_leaves_a_whole_artefact_and_touches_nothing_else(catalogue, parts):
    before, weights = sums(catalogue.folder), (catalogue.folder / "model.safetensors").stat().st_ino
    catalogue.add(parts.extra_documents(3), embeddings=parts.gists(3))
    catalogue.remove([catalogue.tool_ids[2], catalogue.tool_ids[17]])
    after = sums(catalogue.folder)
    assert {name for name in after if after[name] != before.get(name)} == CHANGED
    assert (catalogue.folder / "model.safetensors").stat().st_ino == weights  # a link, not a copy
    artifact = Artifact.from_pretrained(catalogue.folder)  # compares every sum
    assert [item.id for item in artifact.documents()] == list(artifact.load_tokenizer().tool_names)
    assert artifact.load_tokenizer().tool_index == catalogue.index
    assert not [path.name for path in catalogue.folder.parent.iterdir() if path.name.startswith(".")]


def test_every_entry_can_be_gone_back_to_byte_for_byte(catalogue, parts):
    states = [((catalogue.folder / "tool_index.json").read_bytes(), catalogue.documents())]

    def done(entry):
        states.append(((catalogue.folder / "tool_index.json").read_bytes(), catalogue.documents()))
        assert entry.sequence == len(states) - 1

    done(catalogue.add(parts.extra_documents(4), embeddings=parts.gists(4)))
    done(catalogue.remove(["units/count_words", "units/extra_1", "units/sort_money"]))
    done(catalogue.rename({"units/extra_0": "units/extra_2", "units/extra_2": "units/extra_0"}))
    changed = [parts.document("sort_rows", "Bring rows into order."), parts.document("extra_3", "Another thing.")]
    done(catalogue.update(changed, embeddings=parts.gists(2, seed=5)))
    for target in (0, 3, 1, 4, 2, 5):
        done(catalogue.rollback(target))
        assert states[-1] == states[target]
        assert Artifact.from_pretrained(catalogue.folder)
    assert catalogue.rollback(0) is None
    assert ToolCatalogue.open(catalogue.folder).log[:] == catalogue.log[:]
    with pytest.raises(CatalogueError, match="from 0 to"):
        catalogue.rollback(99)


def test_removal_and_rename_reach_a_tokenizer_in_use_at_the_next_request(catalogue):
    tokenizer = catalogue.tokenizer()
    codes = tokenizer.tool_code_text("units/count_words")
    catalogue.rename({"units/count_words": "units/word_count"})
    assert tokenizer.decode_tool(codes) == ["units/word_count"]
    assert catalogue.document("units/word_count").name == "count_words"
    other = ToolCatalogue.open(catalogue.folder)
    other.remove(["units/word_count"])
    assert tokenizer.decode_tool(codes) == ["units/word_count"]  # another process has not told this one
    assert catalogue.refresh()
    assert not catalogue.refresh()
    assert tokenizer.decode_tool(codes) == []


def test_codes_of_removed_tools_rest_until_asked_for_or_their_tool_comes_back(catalogue, parts):
    gists = parts.gists(1, seed=3)
    first = catalogue.add([parts.document("one")], embeddings=gists).tools[0].new_codes
    catalogue.remove(["units/one"])
    assert catalogue.retired == {first: "units/one"}
    second = catalogue.add([parts.document("two")], embeddings=gists).tools[0].new_codes
    assert second != first
    back = catalogue.add([parts.document("one")], embeddings=gists).tools[0].new_codes
    assert back == first
    assert not catalogue.retired
    catalogue.remove(["units/one", "units/two"])
    again = catalogue.add([parts.document("three")], embeddings=gists, reuse_retired=True).tools[0].new_codes
    assert again == first


def test_a_trained_tool_that_comes_back_is_trained_and_one_that_moves_is_not(catalogue, parts):
    known = catalogue.document("units/count_words")
    catalogue.remove([known.id])
    catalogue.add([known], embeddings=parts.gists(1))
    assert catalogue.untrained == ()
    catalogue.rename({known.id: "units/other"})
    assert catalogue.untrained == ()
    far = -50 * parts.gists(1, seed=9)
    entry = catalogue.update([replace(known, id="units/other", description="far away")], embeddings=far)
    assert entry.tools[0].distance > 0
    assert catalogue.untrained == ("units/other",)
    catalogue.rollback(0)
    assert catalogue.untrained == ()


def test_an_update_says_how_the_code_moved(catalogue, parts):
    """Gists of the same text are the same: only what the words change moves."""
    same = replace(catalogue.document("units/sort_rows"), returns={"type": "string", "x-note": "not in the text"})
    assert same.to_text() != catalogue.document("units/sort_rows").to_text()
    hints = replace(
        catalogue.document("units/sort_words"),
        parameters={"type": "object", "properties": {}, "x-annotations": {"readOnlyHint": True}},
    )
    entry = catalogue.update([hints, catalogue.document("units/sort_money")])
    (change,) = entry.tools  # the other one is as before
    assert (change.kind, change.distance, change.prefix_kept) == ("updated", 0, 4)
    assert change.old_document != change.new_document == hints.content_hash
    assert catalogue.update([hints]) is None


@pytest.mark.parametrize(
    ("work", "error", "match"),
    [
        (lambda c, p: c.add([p.document("count_words")]), CatalogueError, "exist already"),
        (lambda c, p: c.add([]), CatalogueError, "at least one"),
        (lambda c, p: c.add([p.document("x"), p.document("x")]), CatalogueError, "several times"),
        (lambda c, p: c.add(["units/x"]), CatalogueError, "ToolDocument"),
        (lambda c, p: c.add([p.document("x")], embeddings=p.gists(2)), CatalogueError, "of shape"),
        (lambda c, p: c.add([p.document("x")], embeddings=p.gists(1), keep_codes=5), CatalogueError, "keep_codes"),
        (lambda c, p: c.add([p.document("x")], embeddings=p.gists(1), note="\ud800"), CatalogueError, "UTF-8"),
        (lambda c, p: c.remove(["units/count_word"]), UnknownToolError, "nearest"),
        (lambda c, p: c.remove("units/count_words"), CatalogueError, "list of ids"),
        (lambda c, p: c.remove([]), CatalogueError, "at least one"),
        (lambda c, p: c.rename({"units/no": "units/yes"}), UnknownToolError, "no tool named"),
        (lambda c, p: c.rename({"units/count_words": "units/sort_rows"}), TokenizationError, "each id once"),
        (lambda c, p: c.update([p.document("no_such")], embeddings=p.gists(1)), UnknownToolError, "no tool named"),
    ],
    ids=range(13),
)
def test_a_wrong_change_is_refused_and_changes_nothing(catalogue, parts, work, error, match):
    before = sums(catalogue.folder)
    with pytest.raises(error, match=match):
        work(catalogue, parts)
    assert sums(catalogue.folder) == before


def test_a_full_code_space_is_an_error_with_options(tmp_path, parts):
    parts.make_artefact(tmp_path / "small", num_centroids=2, reduced_dim=2)  # 16 sequences, all taken
    catalogue = ToolCatalogue.open(tmp_path / "small")
    before = sums(catalogue.folder)
    with pytest.raises(CodeSpaceError, match="all 16 code sequences") as caught:
        catalogue.add([parts.document("x")], embeddings=parts.gists(1))
    assert caught.value.tool == "units/x"
    assert any("widen" in option for option in caught.value.options)
    assert sums(catalogue.folder) == before
    catalogue.remove(list(catalogue.tool_ids[:3]))
    with pytest.raises(CodeSpaceError, match="reuse_retired=True"):
        catalogue.add([parts.document("x")], embeddings=parts.gists(1))
    entry = catalogue.add([parts.document("x")], embeddings=parts.gists(1), reuse_retired=True, keep_codes=0)
    assert entry.tools[0].new_codes not in {tuple(row) for row in catalogue.index.codes[:-1].tolist()}


def test_a_compressor_of_other_codes_is_refused(catalogue, folder, parts, tmp_path):
    import tiny
    from toolscaler.compression import GistForToolCompression

    tokenizer = tiny.tiny_tokenizer()
    other = GistForToolCompression.from_base_model(tiny.tiny_model("llama", tokenizer, seed=7), num_gist_tokens=2)
    other.save_pretrained(tmp_path / "other", save_base=True)
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(CatalogueError, match="not the one that this catalogue was coded with"):
        ToolCatalogue.open(folder, compressor=tmp_path / "other").add([parts.document("x")])
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        ToolCatalogue.open(folder, compressor=tmp_path / "nothing").add([parts.document("x")])


def test_a_folder_without_documents_or_manifest_serves_too(folder, parts):
    for name in ("tools.jsonl", "toolscaler.json"):
        (folder / name).unlink()
    catalogue = ToolCatalogue.open(folder)
    new = parts.extra_documents(2)
    catalogue.add(new, embeddings=parts.gists(2))
    catalogue.remove(["units/extra_0", "units/count_words"])
    catalogue.rollback(1)
    assert catalogue.document("units/extra_0") == new[0]
    assert catalogue.document("units/count_words") is None
    assert not {"tools.jsonl", "toolscaler.json"} & {path.name for path in folder.iterdir()}


def test_a_run_folder_is_opened_at_its_model(folder, tmp_path, parts):
    run = tmp_path / "run"
    (run / "compression").mkdir(parents=True)
    (folder / "compressor").rename(run / "compression" / "model")
    (folder / "toolscaler.json").unlink()
    folder.rename(run / "model")
    catalogue = ToolCatalogue.open(run)
    assert catalogue.folder == run / "model"
    assert catalogue.add(parts.extra_documents(1)).num_tools == 17


def test_damage_and_foreign_changes_are_refused(catalogue, folder, parts):
    catalogue.add(parts.extra_documents(1), embeddings=parts.gists(1))
    index = folder / "tool_index.json"
    whole = index.read_bytes()
    index.write_bytes(whole.replace(b"units/extra_0", b"units/extra_9"))
    with pytest.raises(ArtifactError, match="sum in the manifest"):
        ToolCatalogue.open(folder)
    (folder / "toolscaler.json").unlink()
    with pytest.raises(ArtifactError, match="something else has changed the tools"):
        ToolCatalogue.open(folder)
    index.write_bytes(whole)
    lines = (folder / "catalogue_log.jsonl").read_text().splitlines()
    entry = json.loads(lines[1])
    entry["note"] = "nothing happened"
    (folder / "catalogue_log.jsonl").write_text("\n".join([lines[0], json.dumps(entry)]) + "\n")
    with pytest.raises(ArtifactError, match="hash chain is broken"):
        ToolCatalogue.open(folder)
    (folder / "catalogue_log.jsonl").write_text(lines[1] + "\n")
    with pytest.raises(ArtifactError, match="hash chain is broken"):
        ToolCatalogue.open(folder)
    with pytest.raises(ArtifactError, match="expected the folder"):
        ToolCatalogue.open(folder / "nowhere")


def test_a_published_artefact_is_copied_before_it_is_changed(saved, tmp_path, parts):
    cache = tmp_path / "models--me--one" / "snapshots" / "0123"
    cache.mkdir(parents=True)
    for path in saved.rglob("*"):
        if path.is_file():
            link = cache / path.relative_to(saved)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path)
    with pytest.raises(ArtifactError, match="tools pull"):
        ToolCatalogue.open(cache)
    catalogue = ToolCatalogue.pull(cache, tmp_path / "mine")
    catalogue.remove(["units/count_words"])
    assert len(Artifact.from_pretrained(tmp_path / "mine").documents()) == 15
    assert len(Artifact.from_pretrained(saved).documents()) == 16
    with pytest.raises(ArtifactError, match="does not exist yet"):
        ToolCatalogue.pull(cache, tmp_path / "mine")


def test_writers_wait_for_each_other(catalogue, folder, parts):
    """Two objects with one folder, as two processes have: neither loses what the other did."""
    from concurrent.futures import ThreadPoolExecutor

    def work(number: int) -> None:
        own = ToolCatalogue.open(folder)
        for step in range(3):
            name = f"thread_{number}_{step}"
            own.add([parts.document(name)], embeddings=parts.gists(1, seed=10 * number + step))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert catalogue.refresh()
    assert len(catalogue) == 16 + 9
    assert [entry.sequence for entry in catalogue.log] == list(range(10))


def test_a_reader_sees_whole_states_while_another_writes(catalogue, folder, parts):
    import threading

    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            own = ToolCatalogue.open(folder)
            seen.add((len(own.log), len(own)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for step in range(6):
            catalogue.add([parts.document(f"more_{step}")], embeddings=parts.gists(1, seed=step))
    finally:
        stop.set()
        reader.join()
    assert seen <= {(0, 16), *((step + 2, 17 + step) for step in range(6))}
    assert seen


def test_an_empty_catalogue_can_be_filled_again(catalogue, folder, parts):
    catalogue.remove(list(catalogue.tool_ids))
    assert len(ToolCatalogue.open(folder)) == 0
    catalogue.add(parts.extra_documents(2), embeddings=parts.gists(2))
    assert catalogue.tool_ids == ("units/extra_0", "units/extra_1")
    assert len(catalogue.retired) == 16
    catalogue.rollback(0)
    assert catalogue.documents() == parts.documents()


def test_tools_without_a_codebook_can_go_but_not_come(folder, parts):
    index = json.loads((folder / "tool_index.json").read_text())
    (folder / "tool_index.json").write_text(json.dumps({**index, "has_codebook": False}))
    (folder / "toolscaler.json").unlink()
    catalogue = ToolCatalogue.open(folder)
    with pytest.raises(CatalogueError, match="no codebook"):
        catalogue.add(parts.extra_documents(1))
    catalogue.remove(["units/count_words"])
    catalogue.rollback(0)
    assert len(catalogue) == 16


def test_crowded_tools_that_were_added_do_not_make_the_compressor_look_wrong(catalogue, folder, parts):
    crowd = np.repeat(parts.gists(1), 60, axis=0)
    entry = catalogue.add(parts.extra_documents(60, "crowd"), embeddings=crowd)
    assert len({change.new_codes for change in entry.tools}) == 60
    assert len({change.new_codes[0] for change in entry.tools}) == 1  # all below their own first code
    assert ToolCatalogue.open(folder).add(parts.extra_documents(1)).num_tools == 77
