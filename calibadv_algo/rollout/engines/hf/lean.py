"""Forward passes of Llama and Qwen2 models without their modules, for float32 on a CPU.

A decoding step of a small model spends more time between the matrix products than in them. Here
queries, keys and values are one product, so are the two halves of the gated layer; the weights of
the norms are part of the products that follow, and a rotation is one complex product, for which
the two numbers that turn together stand side by side. The logits differ from the model's own by
rounding only. Everything else goes through the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from calibadv_algo.rollout.engines.hf.kv_cache import SlotCache

FAMILIES = (LlamaForCausalLM, Qwen2ForCausalLM)
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotations whose frequencies do not depend on the length of what is read."""
MAX_COPIED_BYTES = 2**28
"""Most memory for the copies of fused weights."""


@dataclass(frozen=True, slots=True)
class _Product:
    """Weight and bias of a product that stands for some of a model's linear layers.

    Attributes:
        weight: ``[out, in]``.
        bias: ``[out]`` or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Products of a decoder layer, in the order in which they happen."""

    qkv: _Product
    out: _Product
    gate_up: _Product
    down: _Product


@dataclass(frozen=True, slots=True)
class Piece:
    """New tokens of one row.

    Attributes:
        row: Row of the store.
        start: Columns that the row holds already.
        token_ids: The new tokens, at least one.
        longest: Columns that attention reads, at least ``start + len(token_ids)``.
    """

    row: int
    start: int
    token_ids: Sequence[int]
    longest: int


class LeanForward:
    """Forward passes over a :class:`SlotCache`; holds copies of the weights that it fuses.

    The copies are made again when a weight has changed since (:meth:`refresh`).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Takes a model that :func:`is_lean` accepts."""
        config = model.config
        self._model = model
        self._modules, self._parameters = tuple(model.modules()), tuple(model.parameters())
        self._num_heads = int(config.num_attention_heads)
        self._num_kv_heads = int(config.num_key_value_heads)
        self._head_dim = int(model.model.layers[0].self_attn.head_dim)
        self._eps = float(config.rms_norm_eps)
        self._marks: tuple[tuple[int, int], ...] = ()
        self._layers: list[_Layer] = []
        self._turns = torch.empty(0, self._head_dim // 2, dtype=torch.complex64)

    def refresh(self, force: bool = False) -> None:
        """Fuses the weights again if one of them has changed, or in any case."""
        marks = tuple((each.data_ptr(), each._version) for each in self._parameters)
        if marks == self._marks and not force:
            return
        self._layers = [self._fuse(layer) for layer in self._model.model.layers]
        self._marks = marks

    def is_watched(self) -> bool:
        """Whether something hangs on a forward pass: a hook, or a replaced ``forward``."""
        return any(
            module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
            for module in self._modules
        )

    def decode(
        self, cache: SlotCache, token_ids: Tensor, positions: Tensor, columns: Tensor, longest: int
    ) -> Tensor:
        """Feeds one token to each of the first rows of a store.

        Args:
            cache: The store, large enough for ``columns`` and ``longest``.
            token_ids: ``[row]``.
            positions: ``[row]``; a row reads the columns up to its position.
            columns: ``[row]``, where the new keys and values go.
            longest: Columns that attention reads.

        Returns:
            Logits ``[row, vocabulary]``.
        """
        count, heads, size = len(token_ids), self._num_kv_heads, self._head_dim
        turns = self._rotations(int(positions.max()) + 1)[positions][:, None]
        cache.plan(columns[:, None], longest)
        group = self._num_heads // heads
        mask = torch.zeros(count, longest)
        mask.masked_fill_(torch.arange(longest) > positions[:, None], torch.finfo(mask.dtype).min)
        shown = mask[:, None, None].expand(count, heads, group, longest)
        hidden = self._embed(token_ids)
        for index, layer in enumerate(self._layers):
            query, key, value = self._project(layer, hidden, turns)
            keys, values = cache.update(key[:, :, None], value[:, :, None], index)
            attended = functional.scaled_dot_product_attention(
                query.reshape(count, heads, group, size), keys, values, attn_mask=shown
            )
            hidden = self._rest(layer, hidden, attended.reshape(count, -1))
        return self._logits(hidden)

    def prefill(self, cache: SlotCache, pieces: Sequence[Piece], align: int) -> Tensor:
        """Feeds several tokens to some rows.

        Attention goes row by row, so that no row reads the columns of a longer one; all else is
        computed for all tokens together. Each row is filled up to a multiple of ``align`` tokens;
        the keys of the filling lie right of the row's end, where they are overwritten before a
        real token reads them.

        Args:
            cache: The store, large enough for every piece with its filling.
            pieces: New tokens, of different rows.
            align: Multiple up to which a row's tokens are filled up.

        Returns:
            Logits after each piece's last token, ``[piece, vocabulary]``.
        """
        widths = [-(-len(piece.token_ids) // align) * align for piece in pieces]
        ends = torch.tensor(widths).cumsum(0).tolist()
        spans = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        token_ids = torch.zeros(ends[-1], dtype=torch.int64)
        positions = torch.empty(ends[-1], dtype=torch.int64)
        masks = []
        for piece, span, width in zip(pieces, spans, widths, strict=True):
            token_ids[span.start : span.start + len(piece.token_ids)] = torch.tensor(
                piece.token_ids
            )
            own = torch.arange(piece.start, piece.start + width, out=positions[span])
            mask = torch.zeros(width, piece.longest)
            hidden_columns = torch.arange(piece.longest) > own[:, None]
            masks.append(mask.masked_fill_(hidden_columns, torch.finfo(mask.dtype).min))
        last = [
            span.start + len(piece.token_ids) - 1 for piece, span in zip(pieces, spans, strict=True)
        ]
        turns = self._rotations(int(positions.max()) + 1)[positions][:, None]
        hidden = self._embed(token_ids)
        attended = hidden.new_empty(len(hidden), self._num_heads * self._head_dim)
        heads = attended.view(len(hidden), self._num_heads, self._head_dim)
        for index, layer in enumerate(self._layers):
            query, key, value = self._project(layer, hidden, turns)
            keys, values = cache.layer(
                index, key[None].transpose(1, 2), value[None].transpose(1, 2)
            )
            for piece, span, width, mask in zip(pieces, spans, widths, masks, strict=True):
                new = slice(piece.start, piece.start + width)
                keys[piece.row, :, new] = key[span].transpose(0, 1)
                values[piece.row, :, new] = value[span].transpose(0, 1)
                seen = functional.scaled_dot_product_attention(
                    query[None, span].transpose(1, 2),
                    keys[None, piece.row, :, : piece.longest],
                    values[None, piece.row, :, : piece.longest],
                    attn_mask=mask,
                    enable_gqa=True,
                )
                heads[span] = seen[0].transpose(0, 1)
            hidden = self._rest(layer, hidden, attended)
        rows = -(-len(last) // align) * align
        chosen = hidden[torch.tensor(last + last[:1] * (rows - len(last)))]
        return self._logits(chosen)[: len(last)]

    def _embed(self, token_ids: Tensor) -> Tensor:
        weight: Tensor = self._model.model.embed_tokens.weight
        return functional.embedding(token_ids, weight)

    def _normed(self, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, hidden.shape[-1:], None, self._eps)

    def _project(
        self, layer: _Layer, hidden: Tensor, turns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[token, head, head_dim]``, the first two rotated."""
        heads, kv_heads, size = self._num_heads, self._num_kv_heads, self._head_dim
        states = layer.qkv(self._normed(hidden)).view(len(hidden), -1, size)
        pairs = states[:, : heads + kv_heads].view(len(hidden), -1, size // 2, 2)
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(2)
        return turned[:, :heads], turned[:, heads:], states[:, heads + kv_heads :]

    def _rest(self, layer: _Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """What follows attention in a layer."""
        hidden = layer.out(attended).add_(hidden)
        gate, up = layer.gate_up(self._normed(hidden)).chunk(2, dim=-1)
        return layer.down(functional.silu(gate).mul_(up)).add_(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        norm, head = self._model.model.norm.weight, self._model.lm_head.weight
        return functional.linear(
            functional.rms_norm(hidden, hidden.shape[-1:], norm, self._eps), head
        )

    def _rotations(self, count: int) -> Tensor:
        """Complex factors of the first positions, ``[position, head_dim / 2]``."""
        if len(self._turns) < count:
            count = max(count, 2 * len(self._turns), 256)
            like = torch.empty(0)
            cos, sin = self._model.model.rotary_emb(like, torch.arange(count)[None])
            half = self._head_dim // 2
            self._turns = torch.complex(cos[0, :, :half], sin[0, :, :half])
        return self._turns

    def _fuse(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        queries = self._paired(attention.q_proj, self._num_heads)
        keys = self._paired(attention.k_proj, self._num_kv_heads)
        values = _product(attention.v_proj)
        return _Layer(
            qkv=_joined((queries, keys, values), layer.input_layernorm.weight),
            out=_product(attention.o_proj),
            gate_up=_joined(
                (_product(mlp.gate_proj), _product(mlp.up_proj)),
                layer.post_attention_layernorm.weight,
            ),
            down=_product(mlp.down_proj),
        )

    def _paired(self, linear: nn.Linear, heads: int) -> _Product:
        """A product whose outputs that turn together stand side by side."""
        half = self._head_dim // 2
        order = torch.arange(heads * self._head_dim).view(heads, 2, half).transpose(1, 2).flatten()
        product = _product(linear)
        bias = None if product.bias is None else product.bias[order]
        return _Product(product.weight[order], bias)


def _product(linear: nn.Linear) -> _Product:
    bias = None if linear.bias is None else linear.bias.detach()
    return _Product(linear.weight.detach(), bias)


def _joined(products: Sequence[_Product], norm: Tensor) -> _Product:
    """One product for several of the same normed input, the norm's weight part of it."""
    weight = torch.cat([product.weight for product in products]) * norm.detach()
    if all(product.bias is None for product in products):
        return _Product(weight, None)
    biases = [
        product.weight.new_zeros(len(product.weight)) if product.bias is None else product.bias
        for product in products
    ]
    return _Product(weight, torch.cat(biases))


def is_lean(model: PreTrainedModel) -> bool:
    """Whether :class:`LeanForward` computes what this model does.

    True for plain Llama and Qwen2 models in float32 on a CPU, with PyTorch's attention: no
    adapters, no quantised layers, no rotation that depends on the length. Large models gain
    nothing, and the copies of their weights are large: they are left to their modules.
    """
    config = model.config
    if type(model) not in FAMILIES or config._attn_implementation != "sdpa":
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    is_fixed = rope.get("rope_type", "default") in ROPE_TYPES
    if not is_fixed or rope.get("partial_rotary_factor", 1.0) != 1.0 or config.hidden_act != "silu":
        return False
    if not all(_is_float_on_cpu(parameter) for parameter in model.parameters()):
        return False
    parts = [(layer.self_attn, layer.mlp) for layer in model.model.layers]
    fused = [
        each
        for attention, mlp in parts
        for each in (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            mlp.gate_proj,
            mlp.up_proj,
        )
    ]
    kept = [each for attention, mlp in parts for each in (attention.o_proj, mlp.down_proj)]
    if any(type(each) is not nn.Linear for each in (*fused, *kept, model.lm_head)):
        return False
    num_copied = sum(each.weight.numel() * each.weight.element_size() for each in fused)
    is_plain = model.lm_head.bias is None and type(model.model.embed_tokens) is nn.Embedding
    return is_plain and num_copied <= MAX_COPIED_BYTES


def _is_float_on_cpu(parameter: Tensor) -> bool:
    is_tracked = not parameter.is_inference()
    return parameter.dtype == torch.float32 and parameter.device.type == "cpu" and is_tracked
