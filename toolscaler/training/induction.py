"""Attention heads that copy, written into a random Llama by hand.

A causal LM learns to repeat what stands earlier in its context with two heads in a row: one carries each token to the
place after it, the other looks for the present token among what was carried and reads the token that came next (Elhage
et al. 2021, "A mathematical framework for transformer circuits"; Olsson et al. 2022, "In-context learning and induction
heads"). Small models need tens of millions of tokens before such heads form. A base made from scratch on the spot sees
far less, and arguments of tool calls are copied out of the query: so the heads are there from the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from toolscaler.errors import ConfigError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

#: Rotary base under which most of a head's dimensions hardly turn over a thousand positions.
INDUCTION_ROPE_THETA = 1e12
#: Width of a head with room for two carried tokens.
INDUCTION_HEAD_DIM = 64

# Radians a position: below, a pair of dimensions counts as still.
_STILL = 2.5e-3
_LOOK_BACK = 400.0  # attention logit of the wanted offset; its neighbours get some 4 less
_MATCH = 40.0  # attention logit where both tokens match
_NULL = 0.75  # share of it that the begin token gets: more than no match, less than a match of one token
_FIRST_SHARE = 0.68  # of the match, for the nearer token
_MADE_ROOM = 0.7  # share of an embedding that goes where other tokens are carried
_GAIN = 4.0  # length of a token that is read, against an embedding
_READER_GAIN = 3.0
_WRITTEN = ((0, 2), (1, 1))  # layer, and how many of its heads copy
_READERS = ((1, 1), (2, 0), (2, 1))  # layer and head, from 0


def write_induction_heads(model: LlamaForCausalLM, seed: int = 0) -> None:
    """Write heads into the first two layers, in place, that go on with what followed the last two tokens before.

    Layer 1, heads 1 and 2, look one and two positions back, whatever stands there, by biases that the rotary embedding
    turns (so the model needs ``attention_bias``). They carry projections of what they find along. Layer 2, head 1,
    compares the present and the last token with what was carried to each earlier position, and adds the token of the
    best position to the output; where nothing matches it looks at the begin token, of which it reads nothing. The next
    head of layer 2 and two of layer 3, where there are such, add what they look at in the same way, and have yet to
    learn where to look: at the first token of a value. Everything else that writes to the residual stream starts at
    zero, as gates do, and learns as usual; nothing is frozen. The embeddings change a little: all tokens get the same
    length in the directions that are compared.

    Args:
        model: A freshly drawn Llama with at least two layers, two heads, ``attention_bias`` and tied embeddings.
        seed: Seed of the projections.

    Raises:
        ConfigError: The model is too small or has no attention biases.
    """
    config = model.config
    width, dim = config.hidden_size, config.head_dim
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
    still = [pair for pair in range(dim // 2) if float(frequencies[pair]) < _STILL]
    slots = [place for pair in still for place in (pair, pair + dim // 2)]
    first = round(_FIRST_SHARE * (len(slots) - 1))
    second = len(slots) - 1 - first
    fits = config.num_hidden_layers >= 2 and config.num_attention_heads >= 2 and second >= 4
    if not fits or not config.attention_bias or first + 2 * second >= width or dim >= width:
        raise ConfigError(
            "base.scratch.induction_heads",
            f"{config.num_hidden_layers} layers, {config.num_attention_heads} heads of {dim}, width {width}",
            f"attention biases, two layers, two heads of at least {INDUCTION_HEAD_DIM} and narrower than the model",
        )
    generator = torch.Generator().manual_seed(seed)
    begin = _unit(torch.randn(width, generator=generator))

    def orthonormal(rows: int) -> torch.Tensor:
        """Draw orthonormal rows at right angles to the begin token."""
        drawn = torch.cat([begin[:, None], torch.randn(width, rows, generator=generator)], 1)
        return torch.linalg.qr(drawn)[0][:, 1:].T

    kept, places, read = orthonormal(first + second), orthonormal(first + 2 * second), orthonormal(dim)
    near, far, again = places[:first], places[first : first + second], places[first + second :]
    root = math.sqrt(width)  # length of a normed vector
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        _even_embeddings(
            model.get_input_embeddings().weight, begin, config.bos_token_id, [kept[:first], kept[first:]], places
        )
        carry = model.model.layers[0].self_attn
        _look_back(carry, head=0, offset=1, dim=dim, frequencies=frequencies)
        _look_back(carry, head=1, offset=2, dim=dim, frequencies=frequencies)
        carry.v_proj.weight[: 2 * dim] = 0
        carry.v_proj.weight[: first + second] = kept
        carry.v_proj.weight[dim : dim + second] = kept[first:]
        carry.o_proj.weight[:, : first + second] = torch.cat([near, again]).T / root
        carry.o_proj.weight[:, dim : dim + second] = far.T / root
        match = model.model.layers[1].self_attn
        match.q_proj.weight[:dim] = 0
        match.k_proj.weight[:dim] = 0
        # Carried parts have the length that they have in an embedding of length 1; the stream's length is 1 and these.
        stream = math.sqrt(1 + (first + 2 * second) / width)
        size = math.sqrt(_MATCH * math.sqrt(dim) / (first + second) * stream**2)
        match.q_proj.weight[slots[:-1]] = torch.cat([kept[:first], again]) * size
        match.k_proj.weight[slots[:-1]] = torch.cat([near, far]) * size
        null = math.sqrt(_NULL * _MATCH * math.sqrt(dim))
        match.q_proj.bias[slots[-1]] = null
        match.k_proj.weight[slots[-1]] = begin * null / root
        _read(match, 0, read, _GAIN * stream / root)
        for layer, head in _READERS:
            if layer < config.num_hidden_layers and head < config.num_attention_heads:
                _read(model.model.layers[layer].self_attn, head, orthonormal(dim), _READER_GAIN / root)


def protect_induction_heads(model: LlamaForCausalLM) -> None:
    """Keep the copying heads as they were written, in place, through all training of this object.

    Adam moves a weight by as much for a tiny gradient as for a large one, so that training on anything but copying
    takes the heads apart. Their rows and columns get no gradient here; with weight decay they still shrink by a common
    factor. The heads that have yet to learn where to look go on learning.

    Args:
        model: A model whose heads :func:`write_induction_heads` wrote, trained since or not.
    """
    dim = model.config.head_dim
    for layer, heads in _WRITTEN:
        attention = model.model.layers[layer].self_attn
        rows = slice(0, heads * dim)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            _hold(projection.weight, (rows, slice(None)))
            _hold(projection.bias, (rows,))
        _hold(attention.o_proj.weight, (slice(None), rows))
        model.model.layers[layer].input_layernorm.weight.requires_grad_(False)


def _hold(parameter: torch.nn.Parameter, place: tuple[slice, ...]) -> None:
    """Take the gradient from a part of a parameter."""

    def without(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[place] = 0
        return gradient

    parameter.register_hook(without)


def _read(attention: torch.nn.Module, head: int, read: torch.Tensor, gain: float) -> None:
    """Make a head add the tokens that it looks at to the stream, as far as ``read`` sees them."""
    rows = slice(head * len(read), (head + 1) * len(read))
    attention.v_proj.weight[rows] = read
    attention.o_proj.weight[:, rows] = read.T * gain


def _unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm(dim=-1, keepdim=True).clamp(min=1e-9)  # the padding token's row is zero


def _even_embeddings(
    weight: torch.Tensor, begin: torch.Tensor, begin_id: int | None, kept: Sequence[torch.Tensor], places: torch.Tensor
) -> None:
    """Give all tokens one length in each compared part, and the begin token a direction of its own."""
    weight -= (weight @ begin)[:, None] * begin
    weight -= _MADE_ROOM * (weight @ places.T) @ places
    for part in kept:
        inside = weight @ part.T
        weight += (_unit(inside) * math.sqrt(len(part) / weight.shape[1]) - inside) @ part
    if begin_id is not None:
        weight[begin_id] = begin


def _look_back(attention: torch.nn.Module, head: int, offset: int, dim: int, frequencies: torch.Tensor) -> None:
    """Make a head attend ``offset`` positions back: constant query and key, the key turned on by ``offset``."""
    rows, half = slice(head * dim, (head + 1) * dim), dim // 2
    size = math.sqrt(2 * _LOOK_BACK / math.sqrt(dim))
    for projection, turned in ((attention.q_proj, 0), (attention.k_proj, offset)):
        projection.weight[rows] *= 0.1
        bias = projection.bias[rows]
        bias[:half] = size * torch.cos(turned * frequencies)
        bias[half:] = size * torch.sin(turned * frequencies)
