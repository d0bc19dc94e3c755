"""Rows of trajectories: which tokens count, and that whatever is too long is cut as said, counted and never silent."""

from __future__ import annotations

import pytest
from transformers import DataCollatorForSeq2Seq
from trl import SFTConfig, SFTTrainer

from toolscaler.data import (
    AgentProtocol,
    ToolCall,
    ToolDocument,
    Trajectory,
    TrajectoryMessage,
    finish_document,
    trajectory_turns,
)
from toolscaler.errors import ConfigError, TrainingError, UnknownToolError
from toolscaler.tokenization import ConversationEncoder, ToolscalerTokenizer
from toolscaler.training import first_step_rows, trajectory_rows
from toolscaler.training.trajectory_data import IGNORE_INDEX

M, C = TrajectoryMessage, ToolCall
DOCUMENTS = [
    ToolDocument(
        "convert",
        "Convert a length.",
        provider="units",
        parameters={"type": "object", "properties": {"value": {"type": "number"}}, "required": ["value"]},
    ),
    ToolDocument("today", "Tell the day.", provider="dates"),
    finish_document(),
]
TOOLS = ["units/convert", "dates/today", "Finish"]
SHORT = AgentProtocol("", finish_documentation=False)


def steps(count: int, result: str = "6.56", answer: str = "Done.") -> Trajectory:
    messages = [M("user", "How many feet are they?")]
    for number in range(count):
        messages.append(M("assistant", f"Step {number}.", (C("units/convert", {"value": number}),)))
        messages.append(M("tool", result))
    return Trajectory((*messages, M("assistant", "", (C.finish(answer),))), id=f"t{count}")


@pytest.fixture
def tokenizer(make_tiny_tokenizer) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0, 1], [1, 0], [2, 2]], tool_ids=TOOLS, code_sizes=(3, 3)
    )


def text_of(tokenizer, row) -> str:
    return tokenizer.decode(row["input_ids"])


def trained_text(tokenizer, row) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != IGNORE_INDEX])


def test_rows_are_the_turns_and_only_the_assistants_tokens_count(tokenizer) -> None:
    given = [steps(1), steps(2)]
    rows = trajectory_rows(given, tokenizer, DOCUMENTS)
    code_text = {name: tokenizer.tool_code_text(name) for name in TOOLS}
    encoder = ConversationEncoder(tokenizer)
    for trajectory, row in zip(given, rows.dataset, strict=True):
        turns = trajectory_turns(trajectory, {item.id: item for item in DOCUMENTS}, code_text)
        expected = encoder.encode(turns)
        assert row["input_ids"] == expected.ids
        assert [label != IGNORE_INDEX for label in row["labels"]] == expected.trained
        assert all(label in (IGNORE_INDEX, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
        said = "".join(f"{turn.text}</s>" for turn in turns if turn.role == "assistant")
        assert trained_text(tokenizer, row) == said
    report = rows.report
    assert (report.trajectories, report.rows, report.truncated, dict(report.skipped)) == (2, 2, 0, {})
    assert report.tokens == sum(len(row["input_ids"]) for row in rows.dataset)
    assert report.longest == max(len(row["input_ids"]) for row in rows.dataset)
    assert report.trained_tokens == sum(label != IGNORE_INDEX for row in rows.dataset for label in row["labels"])
    assert rows.sources == (0, 1)


def test_trl_takes_the_rows_as_they_are(tokenizer, make_tiny_model, tmp_path) -> None:
    rows = trajectory_rows([steps(1), steps(2)], tokenizer, DOCUMENTS, protocol=SHORT)
    settings = SFTConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, max_length=6144
    )
    trainer = SFTTrainer(
        make_tiny_model(tokenizer=tokenizer), settings, train_dataset=rows.dataset, processing_class=tokenizer
    )
    prepared = [dict(row) for row in trainer.train_dataset]
    assert prepared == [dict(row) for row in rows.dataset]
    batch = trainer.data_collator(prepared)
    theirs = DataCollatorForSeq2Seq(tokenizer, padding=True)([dict(row) for row in rows.dataset])
    assert batch["labels"].tolist() == theirs["labels"].tolist()
    assert batch["attention_mask"].tolist() == theirs["attention_mask"].tolist()


def test_drop_turns_takes_the_first_steps(tokenizer, caplog) -> None:
    whole = [
        len(trajectory_rows([steps(k)], tokenizer, DOCUMENTS, protocol=SHORT).dataset[0]["input_ids"])
        for k in (1, 2, 4)
    ]
    rows = trajectory_rows([steps(4), steps(1)], tokenizer, DOCUMENTS, protocol=SHORT, max_length=whole[1])
    text = text_of(tokenizer, rows.dataset[0])
    assert text.startswith("User: How many feet are they?\nThought: Step 2.")
    assert "Step 3." in text
    assert "Done." in text
    assert len(rows.dataset[0]["input_ids"]) == whole[1]
    assert (rows.report.truncated, rows.report.dropped_steps) == (1, 2)
    assert rows.report.dropped_tokens > 0
    assert "2 of 2 trajectories became rows, 1 of them shortened (steps dropped 2" in caplog.text
    only_last = trajectory_rows([steps(4), steps(0)], tokenizer, DOCUMENTS, protocol=SHORT, max_length=whole[0] - 1)
    assert text_of(tokenizer, only_last.dataset[0]) == text_of(tokenizer, only_last.dataset[1])


def test_drop_documentation_takes_the_first_ones(tokenizer) -> None:
    whole = trajectory_rows([steps(4)], tokenizer, DOCUMENTS, protocol=SHORT)
    limit = whole.report.longest - 1
    rows = trajectory_rows(
        [steps(4)], tokenizer, DOCUMENTS, protocol=SHORT, max_length=limit, truncation="drop_documentation"
    )
    text = text_of(tokenizer, rows.dataset[0])
    assert (text.count("<documentation>\n...\n"), text.count("name: convert")) == (1, 3)
    assert text.index("...") < text.index("name: convert")
    assert (rows.report.dropped_documents, rows.report.dropped_tokens) == (1, 0)
    assert trained_text(tokenizer, rows.dataset[0]) == trained_text(tokenizer, whole.dataset[0])


def test_shorten_results_cuts_the_longest_to_one_length(tokenizer) -> None:
    given = steps(2, result="0123456789" * 10)
    whole = trajectory_rows([given], tokenizer, DOCUMENTS, protocol=SHORT)
    limit = whole.report.longest - 50
    rows = trajectory_rows(
        [given], tokenizer, DOCUMENTS, protocol=SHORT, max_length=limit, truncation="shorten_results"
    )
    text = text_of(tokenizer, rows.dataset[0])
    assert limit - 10 < rows.report.longest <= limit
    assert text.count("...\n</result>") == rows.report.shortened_results == 2
    assert trained_text(tokenizer, rows.dataset[0]) == trained_text(tokenizer, whole.dataset[0])


def test_left_keeps_the_end_and_counts_no_half_turn(tokenizer) -> None:
    whole = trajectory_rows([steps(2)], tokenizer, DOCUMENTS, protocol=SHORT).dataset[0]
    for limit in range(len(whole["input_ids"]) - 1, 70, -7):
        rows = trajectory_rows([steps(2)], tokenizer, DOCUMENTS, protocol=SHORT, max_length=limit, truncation="left")
        row = rows.dataset[0]
        assert row["input_ids"] == whole["input_ids"][-limit:]
        said = trained_text(tokenizer, whole).split("</s>")
        assert trained_text(tokenizer, row).split("</s>") == said[-len(trained_text(tokenizer, row).split("</s>")) :]
        lost = sum(label != IGNORE_INDEX for label in whole["labels"]) - rows.report.trained_tokens
        assert rows.report.dropped_tokens == lost


@pytest.mark.parametrize("truncation", ["drop_turns", "drop_documentation", "shorten_results", "left", "skip"])
def test_no_way_cuts_the_last_turn(tokenizer, truncation, caplog) -> None:
    long = steps(1, answer="a very long answer " * 30)
    rows = trajectory_rows(
        [long, steps(0)], tokenizer, DOCUMENTS, protocol=SHORT, max_length=100, truncation=truncation
    )
    assert rows.sources == (1,)
    assert list(rows.report.skipped) == [0]
    assert "expected at most 100" in rows.report.skipped[0]
    assert "1 left out" in caplog.text


def test_what_cannot_be_a_row_is_named(tokenizer) -> None:
    with pytest.raises(TrainingError, match=r"trajectory 0 \(t2\): .* expected at most 20"):
        trajectory_rows([steps(2)], tokenizer, DOCUMENTS, max_length=20, truncation="raise")
    with pytest.raises(TrainingError, match=r"no row; the first: .*expected at most 20"):
        trajectory_rows([steps(2)], tokenizer, DOCUMENTS, max_length=20)
    with pytest.raises(TrainingError, match="got 0"):
        trajectory_rows([], tokenizer, DOCUMENTS)
    silent = trajectory_rows([Trajectory((M("user", "x"),)), steps(0)], tokenizer, DOCUMENTS)
    assert dict(silent.report.skipped) == {0: "the assistant says nothing"}
    with pytest.raises(UnknownToolError, match="units/convert"):
        trajectory_rows([Trajectory((M("user", "x"), M("assistant", "", (C("convert"),))))], tokenizer, DOCUMENTS)
    with pytest.raises(UnknownToolError, match="finish_document"):
        trajectory_rows([steps(1)], tokenizer, DOCUMENTS[:2])
    with pytest.raises(ConfigError, match="truncation"):
        trajectory_rows([steps(1)], tokenizer, DOCUMENTS, truncation="right")
    with pytest.raises(ConfigError, match="max_length"):
        trajectory_rows([steps(1)], tokenizer, DOCUMENTS, max_length=0)


def test_facts_of_the_data_are_counted(tokenizer, caplog) -> None:
    given = Trajectory(
        (
            M("user", "q"),
            M("assistant", "Action: go", (C("dates/today"), C("dates/today"))),
            M("tool", "no day", is_error=True),
            M("assistant", "It is Monday."),
            M("user", "thanks"),
        )
    )
    rows = trajectory_rows([given], tokenizer, DOCUMENTS, protocol=SHORT)
    assert (rows.report.missing_results, rows.report.changed_thoughts) == (1, 1)
    assert "1 calls have no result" in caplog.text
    assert text_of(tokenizer, rows.dataset[0]).endswith('"final_answer": "It is Monday."}</s>')
    careful = trajectory_rows([given], tokenizer, DOCUMENTS, protocol=SHORT, train_failed_calls=False)
    assert careful.report.tokens == rows.report.tokens
    assert trained_text(tokenizer, rows.dataset[0]).count("Action Input:") == 3
    assert trained_text(tokenizer, careful.dataset[0]).count("Action Input:") == 2


def test_marks_in_the_data_are_text(tokenizer) -> None:
    bad = "</s> <a_1><b_0> </result> <|tool|>"
    given = Trajectory(
        (
            M("user", bad),
            M("assistant", bad, (C("units/convert", {bad: bad}),)),
            M("tool", bad),
            M("assistant", "", (C.finish(bad),)),
        )
    )
    documents = [ToolDocument("convert", bad, provider="units"), finish_document()]
    row = trajectory_rows([given], tokenizer, documents).dataset[0]
    special = [token for token in row["input_ids"] if token in tokenizer.all_special_ids]
    codes = [token for token in row["input_ids"] if token >= tokenizer.first_code_id]
    assert codes == tokenizer.encode_tool("units/convert") + tokenizer.encode_tool("Finish")
    assert special == [tokenizer.eos_token_id] * 4


def test_first_steps_end_after_the_first_arguments(tokenizer) -> None:
    plain = Trajectory((M("user", "Sing."), M("assistant", "I cannot.")))
    protocol = AgentProtocol("", documentation=False)
    made = first_step_rows([steps(2), plain], tokenizer, DOCUMENTS, protocol=protocol)
    first, second = made.dataset
    call, finish = tokenizer.tool_code_text(TOOLS[0]), tokenizer.tool_code_text("Finish")
    assert trained_text(tokenizer, first) == f'Thought: Step 0.\nAction:{call}\nAction Input:{{"value": 0}}</s>'
    assert trained_text(tokenizer, second).startswith(f"Action:{finish}\nAction Input:")
    assert "6.56" not in text_of(tokenizer, first)
    assert made.report.missing_results == 0  # the row ends where the result would stand
    limit = len(first["input_ids"])
    short = first_step_rows([steps(2), plain], tokenizer, DOCUMENTS, protocol=protocol, max_length=limit)
    assert short.report.rows == 1 + (len(second["input_ids"]) <= limit)
    assert max(len(row["input_ids"]) for row in short.dataset) <= limit
