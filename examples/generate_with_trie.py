"""Constrained generation with nothing but transformers' own `generate`.

python examples/generate_with_trie.py runs/starter/model "reverse the words of a sentence"
"""

from __future__ import annotations

import argparse

from transformers import AutoModelForCausalLM

from toolscaler import CodeTrie, PrefixConstrainedLogitsProcessor, ToolscalerTokenizer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="model folder or Hub id")
    parser.add_argument("query")
    parser.add_argument("--num_beams", type=int, default=5)
    arguments = parser.parse_args()

    tokenizer = ToolscalerTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model)
    processor = PrefixConstrainedLogitsProcessor(CodeTrie.from_tokenizer(tokenizer), tokenizer.eos_token_id)

    prompt = tokenizer.encode_retrieval_prompt(arguments.query)
    inputs = tokenizer.pad({"input_ids": [prompt]}, return_tensors="pt")
    outputs = model.generate(
        **inputs,
        logits_processor=[processor],
        num_beams=arguments.num_beams,
        num_return_sequences=arguments.num_beams,
        max_new_tokens=tokenizer.code_length + 1,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for sequence, score in zip(outputs.sequences, outputs.sequences_scores, strict=True):
        print(f"{score.item():8.3f}  {', '.join(tokenizer.decode_tool(sequence[len(prompt) :]))}")


if __name__ == "__main__":
    main()
