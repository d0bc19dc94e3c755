"""What both training and decoding do to a prompt that is too long."""

from __future__ import annotations


def shorten_prompt(prompt: list[int], room: int, bos_token_id: int | None) -> list[int]:
    """Cut a prompt's first tokens, but for a start token, so that ``room`` are left; its end says what is asked.

    Args:
        prompt: Token ids, at least one.
        room: Tokens that fit, at least one.
        bos_token_id: The tokenizer's start token, if it has one.

    Returns:
        The prompt itself where it fits.
    """
    if len(prompt) <= room:
        return prompt
    head = prompt[:1] if prompt[0] == bos_token_id and room > 1 else []
    return head + prompt[len(prompt) - room + len(head) :]
