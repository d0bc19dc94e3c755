"""Contract: ``toolscaler push`` makes an artefact and its card out of a run folder, or says what the run lacks."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from toolscaler.cli import main
from toolscaler.hub import Artifact, CardFacts, make_card, run_facts

METRICS = {
    "n": 26,
    "catalogue_size": 12,
    "num_beams": 10,
    "scores": "full",
    "seed": 0,
    "confidence": 0.95,
    "results": [
        {"name": name, "n": 26, "metrics": {"ndcg@1": {"mean": mean, "low": mean - 0.1, "high": mean + 0.05}}}
        for name, mean in (("toolscaler", 0.875), ("bm25", 0.5))
    ],
}


@pytest.fixture(scope="module")
def made(parts, codes, tmp_path_factory):
    """A run folder as the stages leave it, of a LoRA run on a base with a name; and its parts."""
    import torch

    from toolscaler._files import write_json
    from toolscaler.codebook import codebook_statistics
    from toolscaler.compression import GistForToolCompression

    run = tmp_path_factory.mktemp("run")
    book, gists = parts.codebook()
    adapter = parts.adapted(parts.tiny.tiny_model("llama"), codes)
    parts.with_codes(parts.tiny.tiny_model("llama"), codes).save_pretrained(run / "vocabulary")
    adapter.save_pretrained(run / "retrieval/checkpoints/checkpoint-20", save_embedding_layers=False)
    with torch.no_grad():
        early = parts.adapted(parts.tiny.tiny_model("llama"), codes, seed=1)
    early.save_pretrained(run / "retrieval/checkpoints/checkpoint-30", save_embedding_layers=False)
    model = adapter.merge_and_unload()
    model.save_pretrained(run / "model")
    codes.save_pretrained(run / "model")
    write_json(run / "model/abstention.json", {"below": 0.5})
    compressor = GistForToolCompression.from_base_model(parts.tiny.tiny_model("llama"))
    compressor.save_pretrained(run / "compression/model", save_base=True)
    parts.tiny.tiny_tokenizer().save_pretrained(run / "compression/model")
    lines = [json.dumps(document.to_dict(), ensure_ascii=False) + "\n" for document in parts.documents()]
    (run / "data").mkdir()
    (run / "data/tools.jsonl").write_text("".join(lines), encoding="utf-8")
    write_json(run / "codebook/statistics.json", codebook_statistics(book, gists).to_dict())
    write_json(run / "evaluation/metrics.json", METRICS)
    query = 'convert *a* | <script> "now" \u2028 é'
    write_json(run / "evaluation/examples.json", {"tools": [], "queries": [{"query": query, "hit": True}]})
    write_json(run / "manifest.json", {"format_version": 1, "stages": {}})
    settings = {"base": {"model": "me/base", "revision": None}, "data": {"tools": "bundle:toole"}, "seed": 3}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    return run, model, query


def test_a_run_becomes_an_artefact_with_a_card(made, parts, tmp_path, capsys):
    run, model, query = made
    assert main(["push", str(run), "me/tools", "--license", "mit", "--save_to", str(tmp_path / "a")]) == 0
    assert "files ->" in capsys.readouterr().out
    artifact = Artifact.from_pretrained(tmp_path / "a")
    assert parts.same_weights(artifact.load_model(), model)
    assert len(artifact.documents()) == len(parts.TOOLS)
    assert json.loads((tmp_path / "a" / "abstention.json").read_text()) == {"below": 0.5}
    assert artifact.load_compressor()[0].config.num_gist_tokens == 2
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["base_model"], head["library_name"]) == ("mit", "me/base", "toolscaler")
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.875
    assert "0.8750 (0.7750 to 0.9250)" in card  # the interval of the run's file
    assert "n = 26 held-out queries, 12 tools, 10 beams" in card
    for words in ("Gini of code usage", "su2025toolscaler", "## Licence", "compressor/"):
        assert words in card
    assert str(run) not in card
    snippet = card.split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert json.dumps(query) in snippet


def test_the_adapter_of_a_run_is_found_among_its_checkpoints(made, parts, tmp_path, capsys, monkeypatch):
    run, model, _ = made
    loaded = []

    def named(name, keys):
        loaded.append(name)
        return parts.tiny.tiny_model("llama")

    monkeypatch.setattr("toolscaler.hub.artifact._causal_lm", named)
    words = ["push", str(run), "me/tools", "--adapter", "--no_compressor", "--save_to", str(tmp_path / "a")]
    assert main(words) == 0
    assert loaded == ["me/base"]  # put on its public base before anything is published
    artifact = Artifact.from_pretrained(tmp_path / "a")
    assert artifact.manifest.base.name == "me/base"
    assert parts.same_weights(artifact.load_model(), model)
    # The newer checkpoint gives other weights: without the right one the adapter is refused.
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "retrieval/checkpoints/checkpoint-20")
    assert main(["push", str(copy), "me/tools", "--adapter", "--save_to", str(tmp_path / "b")]) == 2
    assert "publish the whole model" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda run: shutil.rmtree(run / "model"), "retrieval stage is done"),
        (lambda run: (run / "config.yaml").unlink(), "the settings of a run"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), "the settings of a run"),
        (lambda run: (run / "data/tools.jsonl").write_text('{"name": "x"}\n'), "tools.jsonl with the tools"),
        (lambda run: (run / "evaluation/metrics.json").write_text("{"), "metrics.json"),
    ],
    ids=["model", "config", "yaml", "tools", "metrics"],
)
def test_what_a_run_lacks_is_one_line(made, tmp_path, capsys, break_it, words):
    run = shutil.copytree(made[0], tmp_path / "run")
    break_it(run)
    assert main(["push", str(run), "me/tools", "--save_to", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1]
    assert not (tmp_path / "a").exists()


def test_a_base_made_from_scratch_has_no_name(made, tmp_path, capsys):
    run = shutil.copytree(made[0], tmp_path / "run")
    (run / "config.yaml").write_text(yaml.safe_dump({"base": {"model": "scratch"}, "data": {"tools": "starter"}}))
    assert run_facts(run, repo_id="me/x").base_model is None
    assert main(["push", str(run), "me/x", "--adapter", "--save_to", str(tmp_path / "a")]) == 2
    assert "a run whose base has a name on the Hub" in capsys.readouterr().err


def test_text_of_data_cannot_become_markup_or_settings():
    evil = "x\n---\nlicense: mit\n# Title <script>alert(1)</script> [a](http://b) | c `d`"
    facts = CardFacts(
        "me/x", "model", 2, (2, 2), license=evil, datasets=(evil,), settings={evil: evil}, metrics=METRICS
    )
    card = make_card(facts)
    head = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert head["license"] == evil  # one value, quoted
    body = card.split("\n---\n", 1)[1] if card.count("\n---\n") == 1 else card.rpartition("\n---\n")[2]
    assert "<script>" not in body
    assert "\n# Title" not in body
    assert "[a](" not in body.replace("\\[a\\](", "")
