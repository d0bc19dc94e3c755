"""Contract: a step is a label where its standardised names are one API's; nothing of the answer is in the text."""

from __future__ import annotations

import gzip
import json

import pytest

from toolscaler.data import load_bundle
from toolscaler.data.bundles.mgtoolbench import load_mgtoolbench
from toolscaler.errors import ConfigError, DataError

_KEYS = [("Sky Watch ", "10/day"), ("Sky Watch ", "alerts"), ("Maps", "Route"), ("maps", "route!")]


def _write(folder, rows):
    for kind, position in (("tool", 0), ("api", 1)):
        path = folder / f"coarse_instruction/{kind}_instruction_5000.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            {
                "query": f"Short.\n{kind.upper()}: {', '.join(step[position] for step in steps)}.",
                "new_instruction": "names the answer",
                "original_query": f" What {number}? ",
                "path": f"{number}.json",
            }
            for number, steps in enumerate(rows)
        ]
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))


def test_steps_become_labels_where_one_api_has_their_names(tmp_path):
    rows = [
        [("sky_watch", "alerts"), ("sky_watch", "alerts"), ("sky_watch", "nothing")],
        [("maps", "route")],  # two APIs have these names
        [("maps", "route"), ("sky_watch", "10_day")],
    ]
    _write(tmp_path, rows)
    queries, labels, counts = load_mgtoolbench(tmp_path, _KEYS)
    assert [(query.text, query.tools, query.split) for query in queries] == [
        ("What 0?", ("Sky Watch /alerts",), "G3_train"),
        ("What 2?", ("Sky Watch /10/day",), "G3_train"),
    ]
    assert len({query.id for query in queries}) == 2
    assert labels == {"Sky Watch /alerts": _KEYS[1], "Sky Watch /10/day": _KEYS[0]}
    assert counts == {
        "steps of unknown APIs": 1,
        "steps of several APIs": 2,
        "training queries without labels dropped": 1,
    }


def test_files_that_do_not_agree_are_an_error(tmp_path):
    _write(tmp_path, [[("maps", "route"), ("sky_watch", "alerts")]])
    path = tmp_path / "coarse_instruction/tool_instruction_5000.json.gz"
    good = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(good.replace("maps, ", "").encode()))
    with pytest.raises(DataError, match="as many tools as APIs"):
        load_mgtoolbench(tmp_path, _KEYS)
    path.write_bytes(gzip.compress(good.replace("TOOL: ", "").encode()))
    with pytest.raises(DataError, match=r"record 1.*last line"):
        load_mgtoolbench(tmp_path, _KEYS)
    path.unlink()
    with pytest.raises(DataError, match="tool_instruction_5000"):
        load_mgtoolbench(tmp_path, _KEYS)


def _toolbench(folder):
    record = {"category_name": "Weather", "tool_name": "Sky Watch ", "api_name": "alerts", "api_description": "Warns."}
    route = {"category_name": "Travel", "tool_name": "Maps", "api_name": "Route", "api_description": "Finds ways."}
    home = folder / "toolbench"
    home.mkdir()
    (home / "virtual_tokens.txt").write_text(
        "<<Finish>>\n<<Sky Watch &&alerts>>\n<<Sky Watch &&10/day>>\n<<Maps&&Route>>\n"
    )
    (home / "tool_details.json").write_text("{}")
    (home / "api_docs.jsonl").write_text(json.dumps(record) + "\n")
    draft = {
        "tool_name": "Mail",
        "tool_description": "Letters.",
        "api_list": [{"name": "send", "description": "Sends."}],
    }
    (home / "draft_tool_instruction_initial.json").write_text(json.dumps([draft]))
    other = folder / "elsewhere"
    _write(other, [[("sky_watch", "10_day")], [("maps", "route")]])
    (other / "retrieval/G3_clear").mkdir(parents=True)
    test = {"query": "Where?", "api_list": [route], "relevant APIs": [["Maps", "Route"]], "query_id": 1}
    (other / "retrieval/G3_clear/test.json").write_text(json.dumps([test]))
    return home


def test_the_bundle_takes_training_and_test_queries_from_the_other_folder(tmp_path):
    home = _toolbench(tmp_path)
    options = {"queries": "mgtoolbench", "documents": "documented", "mgtoolbench": "../elsewhere"}
    bundle = load_bundle("toolbench", home, **options)
    assert bundle.split_sizes() == {"G3_train": 2, "G3_instruction": 1}
    documents = {document.id: document for document in bundle.documents}
    assert set(documents) == {"Sky Watch /alerts", "Sky Watch /10/day", "Maps/Route", "Mail/send"}
    assert documents["Maps/Route"].description == "Finds ways."  # documented by the test queries' file alone
    assert bundle.counts["tools added for labels"] == 1
    assert bundle.counts["steps of unknown APIs"] == 0
    with pytest.raises(DataError, match="G3_clear"):
        load_bundle("toolbench", home, **{**options, "mgtoolbench": "../nowhere"})
    with pytest.raises(ConfigError, match="mgtoolbench"):
        load_bundle("toolbench", home, queries="g3")


@pytest.mark.shared_data
def test_the_real_files(shared_data):
    bundle = load_bundle("toolbench", shared_data / "toolbench", queries=["mgtoolbench", "solvable"])
    sizes = bundle.split_sizes()
    assert sizes["G3_instruction"] == 218
    assert bundle.counts["steps of unknown APIs"] + bundle.counts["steps of several APIs"] <= 14_432 - 13_712
    assert sizes["G3_train"] + bundle.counts["training queries without labels dropped"] == 4_982
    assert all("\nAPI: " not in query.text for query in bundle.split("G3_train"))
