"""Shapes of decoder-only transformers: from a local ``config.json``, or by name from a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final

from calibadv_env.common.checks import POSITIVE, Checked

BF16: Final = 2
"""Bytes of a number in bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape(Checked):
    """A decoder-only transformer with grouped-query attention and a gated MLP.

    Attributes:
        name: Its name.
        num_layers: Blocks.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        num_heads: Heads of queries.
        num_kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        vocab_size: Rows of the output matrix.
        is_tied: True if the output matrix is the embedding.
    """

    name: str
    num_layers: Annotated[int, POSITIVE]
    hidden_size: Annotated[int, POSITIVE]
    intermediate_size: Annotated[int, POSITIVE]
    num_heads: Annotated[int, POSITIVE]
    num_kv_heads: Annotated[int, POSITIVE]
    head_dim: Annotated[int, POSITIVE]
    vocab_size: Annotated[int, POSITIVE]
    is_tied: bool

    @property
    def block_parameters(self) -> int:
        """Weights of one block without biases and norms, which are under a thousandth."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def output_parameters(self) -> int:
        """Weights of the output matrix."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All weights."""
        matrices = 1 if self.is_tied else 2
        return self.num_layers * self.block_parameters + matrices * self.output_parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in bf16."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * BF16

    def forward_flops(self, context: float) -> float:
        """Operations of one token's forward pass.

        Args:
            context: Tokens that it attends to.

        Returns:
            Two operations a weight that multiplies (an embedding is looked up), and four a token
            attended to and unit of all heads: scores and weighted sum.
        """
        weights = self.num_layers * self.block_parameters + self.output_parameters
        attention = 4.0 * context * self.num_layers * self.num_heads * self.head_dim
        return 2.0 * weights + attention


def _shape(name: str, *sizes: int, is_tied: bool = False) -> ModelShape:
    layers, hidden, inner, heads, kv_heads, head_dim, vocab = sizes
    return ModelShape(
        name=name,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        is_tied=is_tied,
    )


_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
_TABLE: Final = (
    # layers, hidden, intermediate, heads, kv heads, head width, vocabulary
    _shape("HuggingFaceTB/SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152, is_tied=True),
    _shape("Qwen/Qwen2.5-0.5B", 24, 896, 4864, 14, 2, 64, 151936, is_tied=True),
    _shape("Qwen/Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 128, 151936, is_tied=True),
    _shape("Qwen/Qwen2.5-3B", 36, 2048, 11008, 16, 2, 128, 151936, is_tied=True),
    _shape("Qwen/Qwen2.5-7B", 28, 3584, 18944, 28, 4, 128, 152064),
    _shape("Qwen/Qwen2.5-14B", 48, 5120, 13824, 40, 8, 128, 152064),
    _shape("Qwen/Qwen2.5-32B", 64, 5120, 27648, 40, 8, 128, 152064),
    _shape("Qwen/Qwen3-0.6B", 28, 1024, 3072, 16, 8, 128, 151936, is_tied=True),
    _shape("Qwen/Qwen3-1.7B", 28, 2048, 6144, 16, 8, 128, 151936, is_tied=True),
    _shape("Qwen/Qwen3-4B", 36, 2560, 9728, 32, 8, 128, 151936, is_tied=True),
    _shape("Qwen/Qwen3-8B", 36, 4096, 12288, 32, 8, 128, 151936),
    _shape("Qwen/Qwen3-32B", 64, 5120, 25600, 64, 8, 128, 151936),
    _shape("meta-llama/Llama-3.2-1B", 16, 2048, 8192, 32, 8, 64, 128256, is_tied=True),
    _shape("meta-llama/Llama-3.2-3B", 28, 3072, 8192, 24, 8, 128, 128256, is_tied=True),
    _shape("meta-llama/Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128256),
)
SHAPES: Final[Mapping[str, ModelShape]] = {shape.name: shape for shape in _TABLE}
"""Shapes of published configurations, by their names on the hub."""


def find_shape(name: str) -> ModelShape:
    """Finds a model's shape without any download.

    Args:
        name: A folder with a ``config.json``, that file, or a name of `SHAPES`; the owner may be
            left out, case and an ending -Instruct, -Base or -Chat do not matter.

    Raises:
        ValueError: if there is no such folder and no such name, or a key is missing.
    """
    path = Path(name)
    file = path if path.suffix == ".json" else path / "config.json"
    if file.is_file():
        return shape_from_config(name, _read(file))
    if path.exists():
        raise ValueError(f"model {name}: there is no config.json in it")
    names = {_key(each): shape for each, shape in SHAPES.items()}
    if _key(name) in names:
        return names[_key(name)]
    close = get_close_matches(_key(name), names, n=1, cutoff=0.7)
    hint = f"did you mean {names[close[0]].name!r}? " if close else ""
    raise ValueError(
        f"model must be a folder with a config.json or one of {', '.join(SHAPES)}, got {name!r}; "
        f"{hint}Nothing is downloaded: put the config.json of another model into a folder and name "
        "that"
    )


def _key(name: str) -> str:
    short = name.rsplit("/", 1)[-1].lower()
    for ending in ("-instruct", "-base", "-chat"):
        short = short.removesuffix(ending)
    return short


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} must hold JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold an object, got {type(config).__name__}")
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def shape_from_config(name: str, config: Mapping[str, Any]) -> ModelShape:
    """Reads a shape from the keys of a Hugging Face configuration.

    Raises:
        ValueError: if a key is missing, or the model is a mixture of experts, which the formulas
            here do not know.
    """
    found = next((key for key in _EXPERTS if config.get(key)), None)
    if found is not None:
        raise ValueError(f"model {name} is a mixture of experts ({found}): no plan can be made")

    def number(key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"config.json of {name} must have a number {key}, got {value!r}")
        return value

    heads = number("num_attention_heads")
    has_kv = config.get("num_key_value_heads") is not None
    has_width = config.get("head_dim") is not None
    return ModelShape(
        name=name,
        num_layers=number("num_hidden_layers"),
        hidden_size=number("hidden_size"),
        intermediate_size=number("intermediate_size"),
        num_heads=heads,
        num_kv_heads=number("num_key_value_heads") if has_kv else heads,
        head_dim=number("head_dim") if has_width else number("hidden_size") // heads,
        vocab_size=number("vocab_size"),
        is_tied=bool(config.get("tie_word_embeddings", False)),
    )
