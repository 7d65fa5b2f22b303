"""Words of BM25: plain ones, and those of scripts without spaces or with vowel signs."""

import pickle
import unicodedata

import pytest

import calibadv_env
from calibadv_env.data.base import QATask
from calibadv_env.data.registry import get_dataset
from calibadv_env.env import DeepSearchEnv
from calibadv_env.errors import DataError, MissingDependencyError
from calibadv_env.retrieval import Corpus, Passage, make_retriever, open_index
from calibadv_env.retrieval.bm25 import words as module
from calibadv_env.retrieval.bm25.build import build_bm25_index
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.bm25.rank_bm25 import RankBm25Retriever
from calibadv_env.retrieval.bm25.settings import Bm25Settings
from calibadv_env.retrieval.bm25.tantivy_index import TantivyIndex, build_tantivy_index
from calibadv_env.retrieval.bm25.words import rules_for, split_plain, split_unicode
from calibadv_env.retrieval.filled import with_fillers

pytest.importorskip("icu4py")

TEXTS = {
    "wall": "长城是中国古代的防御工程",
    "palace": "故宫位于北京市中心",
    "river": "黄河发源于青海省",
    "tokyo": "東京都は日本の首都である。",
    "bangkok": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "hindi": "हिन्दी भारत की भाषा है।",
    "seoul": "서울은 대한민국의 수도이다.",
    "singer": "Beyoncé sang at O’Hare in C++ for 3.5 hours.",
}
CORPUS = Corpus([Passage(name, "", text) for name, text in TEXTS.items()])
QUERIES = {
    "故宫位于哪个城市": "palace",
    "北京": "palace",
    "黄河发源于哪个省": "river",
    "日本の首都はどこですか": "tokyo",
    "เมืองหลวงของไทย": "bangkok",
    "हिन्दी भाषा": "hindi",
    "서울": "seoul",
    unicodedata.normalize("NFD", "Beyoncé"): "singer",
    "ＢＥＹＯＮＣÉ": "singer",
    "O'Hare": "singer",
    "C++": "singer",
}


def first(retriever):
    rows = retriever.search(list(QUERIES), 3)
    return {
        query: row[0].passage.id if row else None for query, row in zip(QUERIES, rows, strict=True)
    }


@pytest.mark.parametrize("kind", ["memory", "okapi", "disk", "tantivy"])
def test_every_bm25_finds_words_in_any_script(kind, tmp_path):
    kinds = {
        "memory": lambda: Bm25Retriever(CORPUS),
        "okapi": lambda: RankBm25Retriever(CORPUS),
        "disk": lambda: open_index(build_bm25_index(CORPUS, tmp_path / "i")),
        "tantivy": lambda: TantivyIndex(build_tantivy_index(CORPUS, tmp_path / "i")),
    }
    retriever = kinds[kind]()
    assert first(retriever) == QUERIES
    assert retriever.search(["zzz", "鼠"], 3) == [[], []]
    assert first(pickle.loads(pickle.dumps(retriever))) == QUERIES
    assert retriever.identity() != Bm25Retriever(CORPUS, words="plain").identity()


def test_disk_and_memory_agree_to_the_last_bit(tmp_path):
    disk = open_index(build_bm25_index(CORPUS, tmp_path / "i"))
    assert disk.search(list(QUERIES), 5) == Bm25Retriever(CORPUS).search(list(QUERIES), 5)


def test_plain_words_lose_these_scripts():
    found = first(Bm25Retriever(CORPUS, words="plain"))
    assert [found["故宫位于哪个城市"], found["北京"], found["서울"]] == [None] * 3


def test_auto_chooses_by_the_scripts_of_the_corpus():
    english = [Passage(str(i), "", "words and words " * 9) for i in range(500)]
    assert rules_for(english, "auto") == "plain"
    assert rules_for([*english, Passage("x", "Beijing", "Beijing (北京)")], "auto") == "plain"
    assert rules_for(CORPUS.passages, "auto") == "unicode"
    assert rules_for(CORPUS.passages, "plain") == "plain"
    for name in ("atlas", "toy"):
        assert get_dataset(name).retriever("bm25").words == "plain"


def test_names_choose_the_words():
    assert make_retriever("bm25_plain", CORPUS).words == "plain"
    assert make_retriever("bm25_unicode", get_dataset("toy").corpus()).words == "unicode"
    assert make_retriever("bm25", CORPUS).words == "unicode"


def test_plain_words_and_their_records_are_what_they_were(tmp_path):
    toy = get_dataset("toy").corpus()
    manifest = open_index(build_bm25_index(toy, tmp_path / "i")).manifest
    assert manifest.settings == {
        "k1": 1.2,
        "b": 0.75,
        "method": "lucene",
        "words": r"(?u)\b\w\w+\b",
        "stop_words": "english",
    }
    assert not {"words", "icu"} & Bm25Retriever(toy).identity().keys()
    assert split_plain("The C++ of Élan_1 x") == ["the", "of", "élan_1"]


def test_parts_of_compounds_find_them():
    assert split_unicode("北京市") == ["北京市", "北京", "京市"]
    assert split_unicode("서울은 수도") == ["서울은", "서울", "울은", "수도"]
    assert split_unicode("東京 Tower 3.5") == ["東京", "tower", "3.5"]
    assert split_unicode("น้ำตก") == ["น้ำตก"]


def test_another_icu_is_refused_and_a_missing_one_is_named(tmp_path, monkeypatch):
    folder = build_bm25_index(CORPUS, tmp_path / "i", Bm25Settings(words="unicode"))
    monkeypatch.setattr(module, "icu_version", lambda: "12")
    with pytest.raises(
        DataError, match=r"built with icu '\d+', this code has '12'; build it again"
    ):
        open_index(folder)

    def missing(name, extra, purpose):
        raise MissingDependencyError(f"{purpose}: pip install 'calibadv[{extra}]'")

    monkeypatch.setattr(module, "import_extra", missing)
    module._breaker.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"scripts? without spaces.*calibadv\[icu\]"):
        Bm25Retriever(CORPUS)
    assert split_unicode("plain words") == ["plain", "words"]
    monkeypatch.undo()
    module._breaker.cache_clear()


def test_version_0_splits_as_it_did():
    old = with_fillers(Bm25Retriever(CORPUS))
    assert old.search(["北京"], 2)[0][0].passage.id == "wall"
    assert old.identity() == with_fillers(Bm25Retriever(CORPUS, words="plain")).identity()
    chosen = with_fillers(Bm25Retriever(CORPUS, words="unicode"))
    assert chosen.search(["北京"], 2)[0][0].passage.id == "palace"
    task = QATask(id="q", question="?", golden_answers=("北京",), gold_passages=(("palace",),))
    calibadv_env.register_dataset("scripts", [task], corpus=CORPUS, overwrite=True)
    for rules, gold in (("first", ()), ("none", ("palace",))):
        env = DeepSearchEnv(dataset="scripts", no_hits=rules, top_k=1)
        env.reset(seed=0)
        *_, info = env.step("<think>x</think><search>北京</search>")
        assert info["gold_new"] == gold
