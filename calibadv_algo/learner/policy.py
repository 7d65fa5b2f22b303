"""A causal language model as a policy: the log-probability of every sampled token.

Two ways to feed ragged sequences to the model give the same numbers:

* *packed*: all sequences lie end to end in one row, with positions that start again at each of
  them. The linear layers see no padding; attention runs within each sequence. On request
  (`shares_prefixes`) what sequences begin with in common goes through the model once.
* *padded*: one row a sequence, filled up on the right. It works for every model.

Logits are computed where an action token is predicted and nowhere else, if the model's logits
are its output head applied to its last hidden states. Both properties are tried out on a few
tokens when the policy is made, so that models with recurrent layers, soft-capped logits or
attention of their own fall back by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the name that PyTorch's own documentation uses)
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from calibadv_algo.batching import TokenBatch
from calibadv_algo.learner.prefixes import PrefixForest, plant
from calibadv_env.common.checks import require_positive

ATTENTION_NAME = "calibadv_varlen"
"""Name under which the attention of packed sequences is registered with transformers."""

Packing = Literal["auto", "packed", "padded"]

_PACKABLE_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
_PROBE_LENGTHS = (3, 7, 5)


class Policy:
    """Log-probabilities and entropies of sampled tokens under a Hugging Face causal LM.

    The model is shared, not copied: a generation engine may use the same object. It is put in
    evaluation mode and its dropout is switched off, because a ratio of probabilities with
    different dropout masks is noise. Its attention implementation is replaced only while
    `packed_attention` is entered.

    Attributes:
        model: The causal language model.
        is_packed: Whether sequences are packed; see the module's text.
        has_plain_head: Whether logits are the output head applied to the last hidden states.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        packing: Packing = "auto",
        autocast_dtype: torch.dtype | None = None,
        is_gradient_checkpointing: bool = False,
        max_logit_elements: int = 2**26,
        shares_prefixes: bool = False,
    ) -> None:
        """Tries out what the model can do.

        Args:
            model: Any Hugging Face causal language model.
            packing: ``auto`` packs if the model gives the same numbers that way.
            autocast_dtype: Compute in this type under autocast; None means the weights' own.
            is_gradient_checkpointing: Trade time for memory by computing activations twice.
            max_logit_elements: Largest block of logits, in numbers, that is held at a time.
            shares_prefixes: Whether common prefixes of packed sequences are computed once; the
                same numbers but for rounding.

        Raises:
            ValueError: if ``packing="packed"`` or prefixes are to be shared and the model cannot,
                or the block size is not positive.
        """
        require_positive(max_logit_elements=max_logit_elements)
        self.model = model
        self.autocast_dtype = autocast_dtype
        self.max_logit_elements = max_logit_elements
        self._is_attention_packed = False
        self._shares_prefixes = shares_prefixes
        _disable_dropout(model)
        if is_gradient_checkpointing:
            _enable_checkpointing(model)
        model.train(is_gradient_checkpointing)
        self.has_plain_head = False
        self.has_plain_head = self._probe_head()
        self.is_packed = packing != "padded" and self._probe_packing()
        if shares_prefixes and not self.is_packed:
            raise ValueError(
                f"prefixes must be 'separate' for {type(model).__name__}, got 'shared': packed "
                "sequences give other numbers with this model"
            )
        if packing == "packed" and not self.is_packed:
            raise ValueError(
                f"packing must be 'auto' or 'padded' for {type(model).__name__}, got 'packed': "
                "packed sequences give other numbers with this model"
            )

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    def logprobs(
        self, batch: TokenBatch, temperature: float = 1.0, *, has_entropy_grad: bool = False
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """Scores the action tokens of a batch, each given everything before it.

        Args:
            batch: Sequences; each begins with an observed token.
            temperature: Divides the logits; 0 is read as 1, as engines do when greedy.
            has_entropy_grad: Whether gradients shall flow through the entropies.

        Returns:
            Natural log-probability and entropy in nats of each action token's distribution,
            float32, in order of position.

        Raises:
            ValueError: if the temperature is negative or a sequence begins with an action.
        """
        if temperature < 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        positions = _action_positions(batch)
        if self.is_packed and self._shares_prefixes:
            return self._shared_logprobs(batch, positions, temperature or 1.0, has_entropy_grad)
        targets = batch.input_ids[positions].to(self.device)
        context = (positions - 1).to(self.device)
        with self._autocast():
            states = self._states(batch)[context]
            return self._score(states, targets, temperature or 1.0, has_entropy_grad)

    def _shared_logprobs(
        self,
        batch: TokenBatch,
        positions: Int[Tensor, " token"],
        temperature: float,
        has_entropy_grad: bool,
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """The same with common prefixes computed once, down to the output head."""
        forest = plant(batch)
        nodes, places = forest.node_of[positions].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        before = forest.node_of[forest.tokens[nodes] - 1].to(self.device)
        targets = batch.input_ids[forest.tokens[nodes]].to(self.device)
        with self._autocast(), self.packed_attention():
            states = self._forward_forest(batch, forest)[before]
            logprobs, entropies = self._score(states, targets, temperature, has_entropy_grad)
        places = places.to(self.device)
        return logprobs[places], entropies[places]

    def _forward_forest(
        self, batch: TokenBatch, forest: PrefixForest
    ) -> Float[Tensor, "node width"]:
        """Runs all nodes of all trees as one row."""
        output = self._call_model(
            input_ids=batch.input_ids[forest.tokens][None].to(self.device),
            position_ids=forest.depths[None].to(self.device),
            sequence_lengths=[len(mask) for mask in forest.masks],
            tree_masks=[mask.to(self.device) for mask in forest.masks],
            tree_depths=forest.depths.to(self.device),
        )
        return output[0]

    def squared_probs(self, batch: TokenBatch, temperature: float = 1.0) -> Float[Tensor, " token"]:
        """Sums of the squared probabilities of all tokens where action tokens are predicted.

        Args:
            batch: Sequences; each begins with an observed token.
            temperature: Divides the logits, positive.

        Returns:
            ``sum_v pi(v)^2`` before each action token, float32, in order of position.

        Raises:
            ValueError: if a sequence begins with an action.
        """
        context = _action_positions(batch) - 1
        if not (self.is_packed and self._shares_prefixes):
            with self._autocast():
                return self._squares(self._states(batch)[context.to(self.device)], temperature)
        forest = plant(batch)
        nodes, places = forest.node_of[context].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        with self._autocast(), self.packed_attention():
            states = self._forward_forest(batch, forest)[nodes.to(self.device)]
            return self._squares(states, temperature)[places.to(self.device)]

    def hidden_states(self, batch: TokenBatch) -> Float[Tensor, "token width"]:
        """The model's last hidden states just before the action tokens of a batch.

        Args:
            batch: Sequences; each begins with an observed token.

        Returns:
            What the output head would make each action token's distribution of, in order of
            position.

        Raises:
            ValueError: if the model's head is not plain or a sequence begins with an action.
        """
        if not self.has_plain_head:
            raise ValueError(
                f"model must apply its output head to its last hidden states, "
                f"{type(self.model).__name__} does not"
            )
        context = (_action_positions(batch) - 1).to(self.device)
        with self._autocast():
            return self._states(batch)[context]

    @contextmanager
    def packed_attention(self) -> Iterator[None]:
        """Switches the model to the attention of packed sequences, and back at the end.

        `logprobs` enters it by itself. Enter it round the forward *and* the backward pass when
        gradient checkpointing is on, since the backward pass then runs the layers again. On a
        model that is not packed it does nothing.
        """
        if self._is_attention_packed or not self.is_packed:
            yield
            return
        before = self.model.config._attn_implementation
        self._is_attention_packed = True
        self.model.set_attn_implementation(ATTENTION_NAME)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)
            self._is_attention_packed = False

    def _states(self, batch: TokenBatch) -> Float[Tensor, "position width"]:
        """Last hidden states of all positions, or logits if the head is not plain."""
        if self.is_packed:
            with self.packed_attention():
                return self._forward_packed(batch)
        return self._forward_padded(batch)

    def _forward_packed(self, batch: TokenBatch) -> Float[Tensor, "position width"]:
        """Runs all sequences, and all segments of them, as one row."""
        lengths = batch.row_lengths
        positions = torch.arange(batch.num_tokens) - batch.row_starts[:-1].repeat_interleave(
            lengths
        )
        output = self._call_model(
            input_ids=batch.input_ids[None].to(self.device),
            position_ids=positions[None].to(self.device),
            sequence_lengths=lengths.tolist(),
        )
        return output[0]

    def _forward_padded(self, batch: TokenBatch) -> Float[Tensor, "position width"]:
        """Runs one right-padded row a sequence, or a segment of one."""
        lengths = batch.row_lengths
        is_valid = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(is_valid.shape, dtype=torch.int64)
        ids[is_valid] = batch.input_ids
        output = self._call_model(
            input_ids=ids.to(self.device), attention_mask=is_valid.long().to(self.device)
        )
        return output[is_valid.to(self.device)]

    def _call_model(self, **inputs: Any) -> Float[Tensor, "row position width"]:
        """Runs the base model, or the whole model if its head is not plain."""
        if self.has_plain_head:
            states: Tensor = self.model.base_model(**inputs, use_cache=False).last_hidden_state
            return states
        logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits

    def _score(
        self,
        states: Float[Tensor, "token width"],
        targets: Int[Tensor, " token"],
        temperature: float,
        has_entropy_grad: bool,
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """Log-probabilities and entropies, in blocks that bound the memory of the logits."""
        head = _output_head(self.model) if self.has_plain_head else None
        vocab_size = self.model.config.get_text_config().vocab_size
        size = max(1, self.max_logit_elements // vocab_size)
        if len(states) <= size:
            return _score_block(states, targets, head, temperature, has_entropy_grad)
        blocks = [
            _checkpointed(_score_block, block, block_targets, head, temperature, has_entropy_grad)
            for block, block_targets in zip(
                torch.split(states, size), torch.split(targets, size), strict=True
            )
        ]
        logprobs, entropies = zip(*blocks, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _squares(
        self, states: Float[Tensor, "token width"], temperature: float
    ) -> Float[Tensor, " token"]:
        """Sums of squared probabilities, in blocks that bound the memory of the logits."""
        head = _output_head(self.model) if self.has_plain_head else None
        vocab_size = self.model.config.get_text_config().vocab_size
        blocks = torch.split(states, max(1, self.max_logit_elements // vocab_size))
        logits = (block if head is None else head(block) for block in blocks)
        return torch.cat(
            [(each.float() / temperature).softmax(-1).square().sum(-1) for each in logits]
        )

    def _autocast(self) -> Any:
        """The autocast context that was asked for."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    @torch.no_grad()
    def _probe_head(self) -> bool:
        """Tells whether the head applied to the last hidden states yields the model's logits."""
        head = _output_head(self.model)
        if head is None or self.model.base_model is self.model:
            return False
        ids = _probe_ids(self.model)[None, : max(_PROBE_LENGTHS)].to(self.device)
        logits = self.model(input_ids=ids, use_cache=False).logits
        states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        if states.shape[-1] != getattr(head, "in_features", states.shape[-1]):
            return False
        return _agree(head(states), logits)

    @torch.no_grad()
    def _probe_packing(self) -> bool:
        """Tells whether packed sequences yield the same states as each of them alone."""
        config = self.model.config.get_text_config()
        layer_types = set(getattr(config, "layer_types", None) or ())
        if not layer_types <= _PACKABLE_LAYER_TYPES:
            return False
        batch = _probe_batch(_probe_ids(self.model))
        self.is_packed = True
        try:
            packed = self._states(batch)
        except (TypeError, ValueError, RuntimeError):
            return False
        finally:
            self.is_packed = False
        return _agree(packed, self._forward_padded(batch))


def packed_attention_forward(
    module: nn.Module,
    query: Float[Tensor, "1 head position dim"],
    key: Float[Tensor, "1 kv_head position dim"],
    value: Float[Tensor, "1 kv_head position dim"],
    attention_mask: Tensor | None,
    *,
    sequence_lengths: list[int] | None = None,
    tree_masks: list[Tensor] | None = None,
    tree_depths: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 position head dim"], None]:
    """Causal attention within each of several sequences that share one row.

    Args:
        module: The attention layer.
        query: Queries of the whole row; ``key`` may have a divisor of its number of heads.
        key: Keys.
        value: Values.
        attention_mask: Not used: the lengths say it all.
        sequence_lengths: Number of tokens of each sequence, or nodes of each tree, in order.
        tree_masks: For each tree the nodes that each node sees; None for plain sequences.
        tree_depths: Position of each node, where there are trees.
        scaling: Factor on the scores; None means one over the root of the width.
        sliding_window: How many tokens a query sees, itself included; None means all.
        softcap: Not supported.
        s_aux: Not supported.
        position_bias: Not supported.
        **kwargs: What other layers take.

    Returns:
        The mixed values, and None in place of attention weights.

    Raises:
        ValueError: if the lengths are missing or the layer wants something not supported.
    """
    if sequence_lengths is None:
        raise ValueError(f"{ATTENTION_NAME} needs sequence_lengths; it serves Policy alone")
    if softcap is not None or s_aux is not None or position_bias is not None:
        raise ValueError(f"{ATTENTION_NAME} supports no softcap, attention sinks or biases")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    tensors = zip(*(torch.split(t, sequence_lengths, 2) for t in (query, key, value)), strict=True)
    if tree_masks is None or tree_depths is None:
        parts = [_attend(*each, scaling=scaling, window=sliding_window) for each in tensors]
    else:
        depths = torch.split(tree_depths, sequence_lengths)
        parts = [
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=_within(mask, depth, sliding_window), scale=scaling
            )
            for (q, k, v), mask, depth in zip(tensors, tree_masks, depths, strict=True)
        ]
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, window: int | None
) -> Tensor:
    """Causal attention of one sequence."""
    length = query.shape[2]
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    steps = torch.arange(length, device=query.device)
    distance = steps[:, None] - steps
    mask = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def _within(mask: Tensor, depths: Tensor, window: int | None) -> Tensor:
    """A tree's mask without what lies further above than a sliding window reaches."""
    if window is None or int(depths.max()) < window:
        return mask
    return mask & (depths[:, None] - depths < window)


def _score_block(
    states: Float[Tensor, "token width"],
    targets: Int[Tensor, " token"],
    head: nn.Module | None,
    temperature: float,
    has_entropy_grad: bool,
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """Log-probability of each target and entropy of its distribution, in float32."""
    logits = (states if head is None else head(states)).float()
    if temperature != 1.0:
        logits = logits / temperature
    log_norm = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - log_norm
    with nullcontext() if has_entropy_grad else torch.no_grad():
        probs = (logits - log_norm[:, None]).exp()
        # A token that is ruled out has the logit -inf and the share 0, and 0 times -inf is NaN.
        finite = logits.clamp_min(torch.finfo(logits.dtype).min)
        entropies = log_norm - torch.einsum("tv,tv->t", probs, finite)
    return logprobs, entropies


def _checkpointed(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function that keeps no activations: they are computed again when needed."""
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False)


def _action_positions(batch: TokenBatch) -> Int[Tensor, " token"]:
    """Places of the action tokens, checked to have something before them."""
    if bool(batch.action_mask[batch.row_starts[:-1]].any()):
        raise ValueError("action_mask must be False on the first token of every sequence")
    return batch.action_mask.nonzero().flatten()


def _output_head(model: PreTrainedModel) -> nn.Module | None:
    """The layer that makes logits, if the model names one."""
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def _enable_checkpointing(model: PreTrainedModel) -> None:
    """Turns gradient checkpointing on, under the name that this transformers gives it."""
    arguments = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments)
    else:
        enable: Callable[..., None] = model.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs=arguments)


def _disable_dropout(model: nn.Module) -> None:
    """Sets every dropout probability in the model to 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def _probe_ids(model: PreTrainedModel) -> Int[Tensor, " position"]:
    """A few different tokens."""
    vocab_size = int(model.config.get_text_config().vocab_size)
    stride = max(1, vocab_size // sum(_PROBE_LENGTHS))
    return torch.arange(sum(_PROBE_LENGTHS)) * stride % vocab_size


def _probe_batch(ids: Int[Tensor, " position"]) -> TokenBatch:
    """The tokens as a few short sequences, without actions."""
    ends = torch.tensor(_PROBE_LENGTHS).cumsum(0)
    return TokenBatch(
        input_ids=ids,
        sequence_starts=F.pad(ends, (1, 0)),
        action_mask=torch.zeros(len(ids), dtype=torch.bool),
        advantages=torch.zeros(0),
        sampling_logprobs=torch.zeros(0),
        sequence=torch.zeros(0, dtype=torch.int64),
        turn=torch.zeros(0, dtype=torch.int64),
    )


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    """Tells whether two results differ by rounding alone, relative to their largest entry."""
    if ours.shape != theirs.shape:
        return False
    is_precise = ours.dtype == torch.float32
    tolerance = (1e-4 if is_precise else 5e-2) * max(float(theirs.abs().max()), 1e-6)
    difference = float((ours.float() - theirs.float()).abs().max())
    return math.isfinite(difference) and difference <= tolerance


AttentionInterface.register(ATTENTION_NAME, packed_attention_forward)
