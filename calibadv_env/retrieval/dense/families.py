"""Families of encoders: a wrong prefix or pooling costs recall without any error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFamily:
    """Prefixes, pooling and lengths of a family of encoders.

    Attributes:
        query_prefix: Text put before every query.
        passage_prefix: Text put before every passage.
        pooling: "mean" over the tokens that are no padding, "cls": the first token, or "pooler":
            what the model itself calls its pooled output.
        is_normalized: If true, vectors are scaled to length 1, so that the inner product is the
            cosine.
        max_tokens: Longer texts are cut.
        has_title_pair: If true, title and text go in as a pair of segments; else as one text.
        passage_class: Class in transformers of the passage encoder; "" for the usual one.
        source: Where the facts stand.
    """

    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    is_normalized: bool = True
    max_tokens: int = 512
    has_title_pair: bool = False
    passage_class: str = ""
    source: str = ""


FAMILIES: Final[dict[str, EncoderFamily]] = {
    "e5": EncoderFamily(
        query_prefix="query: ",
        passage_prefix="passage: ",
        source="Wang et al. (2022), arXiv 2212.03533; model card of intfloat/e5-base-v2",
    ),
    "bge": EncoderFamily(
        query_prefix="Represent this sentence for searching relevant passages: ",
        pooling="cls",
        source="Xiao et al. (2023), arXiv 2309.07597; model card of BAAI/bge-base-en-v1.5",
    ),
    "contriever": EncoderFamily(
        is_normalized=False,
        source="Izacard et al. (2022), arXiv 2112.09118; model card of facebook/contriever",
    ),
    "minilm": EncoderFamily(
        max_tokens=256,
        source="model card of sentence-transformers/all-MiniLM-L6-v2",
    ),
    "dpr": EncoderFamily(
        pooling="pooler",
        is_normalized=False,
        max_tokens=256,
        has_title_pair=True,
        passage_class="DPRContextEncoder",
        source="Karpukhin et al. (2020), arXiv 2004.04906; facebook/dpr-*-single-nq-base",
    ),
}
"""The families by name."""


def family_of(model: str) -> str:
    """Guesses the family of an encoder, a key of :data:`FAMILIES`, from its name or path.

    Raises:
        ValueError: if the name does not tell; the family has to be named then.
    """
    name = model.lower()
    found = [family for family in FAMILIES if family in name]
    if len(found) != 1:
        known = ", ".join(FAMILIES)
        raise ValueError(f"family must be named ({known}) for the encoder {model!r}")
    return found[0]
