"""Tokenization: codes and tools in, a Hugging Face tokenizer that knows both out; and tool names from its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use, since the tokenizer brings transformers along (PEP 562).
_PUBLIC = {
    "ConversationEncoder": "toolscaler.tokenization.conversations",
    "EncodedConversation": "toolscaler.tokenization.conversations",
    "ToolIndex": "toolscaler.tokenization.tool_index",
    "ToolscalerTokenizer": "toolscaler.tokenization.tokenizer",
    "code_offsets": "toolscaler.tokenization.code_tokens",
    "code_token": "toolscaler.tokenization.code_tokens",
    "all_code_tokens": "toolscaler.tokenization.code_tokens",
    "codes_to_text": "toolscaler.tokenization.code_tokens",
    "encode_foreign_text": "toolscaler.tokenization.foreign_text",
    "find_codes": "toolscaler.tokenization.code_tokens",
    "position_letters": "toolscaler.tokenization.code_tokens",
}

if TYPE_CHECKING:
    from toolscaler.tokenization.code_tokens import (
        all_code_tokens,
        code_offsets,
        code_token,
        codes_to_text,
        find_codes,
        position_letters,
    )
    from toolscaler.tokenization.conversations import ConversationEncoder, EncodedConversation
    from toolscaler.tokenization.foreign_text import encode_foreign_text
    from toolscaler.tokenization.tokenizer import ToolscalerTokenizer
    from toolscaler.tokenization.tool_index import ToolIndex

__all__ = [
    "ConversationEncoder",
    "EncodedConversation",
    "ToolIndex",
    "ToolscalerTokenizer",
    "all_code_tokens",
    "code_offsets",
    "code_token",
    "codes_to_text",
    "encode_foreign_text",
    "find_codes",
    "position_letters",
]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
