"""Commands that are killed, and the files that they read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A command to kill.

    Attributes:
        name: Its name in the table.
        command: Arguments of ``calibadv``; paths are relative to the folder that it runs in.
        place: What it makes.
        before: Commands that are run first, undisturbed.
        is_replaced_whole: If true, the place must be as before, as afterwards or absent at any
            moment.
        is_refused_when_done: If true, the command refuses where its result stands already.
        kills_runs: If true, the processes that the command starts are killed in its place.
        needs: Names of what :func:`write_models` makes that it reads.
    """

    name: str
    command: str
    place: str
    before: tuple[str, ...] = ()
    is_replaced_whole: bool = True
    is_refused_when_done: bool = False
    kills_runs: bool = False
    needs: tuple[str, ...] = ()


TRAINING = (
    "--rollout.num-questions 1 --rollout.group-size 2 --rollout.num-slots 2 "
    "--rollout.max-tokens 4 --optim.num-minibatches 1 --optim.entropy-coef 0.1 "
    "--evaluation.episodes 1 --evaluation.every 1 --checkpoint-every 1 "
    "--env.max-turns 1 --env.dataset toy"
)
TRAIN = f"train --output-dir run --model start --quiet {TRAINING} --optim.num-updates"
RUNS = (
    "--output-dir runs --seeds 0 --num-workers 1 --train.model start --train.optim.num-updates 1 "
    + TRAINING.replace("--", "--train.")
)
COMPARE = f"compare --arms grpo {RUNS}"
SWEEP = f"sweep --vary optim.lr=1e-4,3e-4 --arms grpo {RUNS}"
WARMSTART = (
    "warmstart --output-dir policy --dataset toy --cloning.num-steps 1 --cloning.batch-size 1 "
    "--shape.hidden-size 16 --shape.num-layers 1 --shape.num-heads 2 --shape.num-kv-heads 1 "
    "--shape.intermediate-size 16 --shape.max-context 400"
)
BM25 = "index bm25 corpus.jsonl"
DENSE = "index dense corpus.jsonl index --model encoder --family e5 --chunk-size 8"
PREPARE = "data prepare ./data --from csv questions.csv --corpus corpus.jsonl --force"
PLAY = "--env.max-turns 1 --max-tokens 4"
SUITE = f"eval start --suite toy --subset 3 --chunk 1 --output-dir eval {PLAY}"
CREDIT = (
    "credit start --questions 1 --group-size 2 --continuations 4 --output credit "
    f"--env.dataset toy {PLAY} --estimators grpo"
)
TRAINED = ("start",)
CASES = (
    Case("train", f"{TRAIN} 2", "run", is_replaced_whole=False, needs=TRAINED),
    Case(
        "train, more updates",
        f"{TRAIN} 2",
        "run",
        (f"{TRAIN} 1",),
        is_replaced_whole=False,
        needs=TRAINED,
    ),
    Case("compare", COMPARE, "runs", is_replaced_whole=False, needs=TRAINED),
    Case(
        "compare, its runs",
        COMPARE,
        "runs",
        is_replaced_whole=False,
        kills_runs=True,
        needs=TRAINED,
    ),
    Case("sweep", SWEEP, "runs", is_replaced_whole=False, needs=TRAINED),
    Case("report", "report runs", "runs", (COMPARE,), is_replaced_whole=False, needs=TRAINED),
    Case("eval --suite", SUITE, "eval", is_replaced_whole=False, needs=TRAINED),
    Case(
        "eval --output",
        f"eval start --episodes 3 --env.dataset toy {PLAY} --output answers.jsonl",
        "answers.jsonl",
        (f"eval start --episodes 1 --env.dataset toy {PLAY} --output answers.jsonl",),
        needs=TRAINED,
    ),
    Case("credit", CREDIT, "credit", is_replaced_whole=False, needs=TRAINED),
    Case("warmstart", WARMSTART, "policy"),
    Case("warmstart, again", f"{WARMSTART} --cloning.seed 1", "policy", (WARMSTART,)),
    Case("index bm25", f"{BM25} index", "index", is_refused_when_done=True),
    Case(
        "index bm25 --overwrite", f"{BM25} index --overwrite", "index", (f"{BM25} index --k1 0.5",)
    ),
    Case(
        "index tantivy",
        "index tantivy corpus.jsonl index --overwrite",
        "index",
        (f"{BM25} index",),
    ),
    Case("index dense", DENSE, "index", is_refused_when_done=True, needs=("encoder",)),
    Case(
        "index dense --vectors-dir",
        f"{DENSE} --vectors-dir vectors --overwrite",
        "index",
        (f"{BM25} index",),
        needs=("encoder",),
    ),
    Case(
        "index faiss --overwrite",
        "index faiss made/vectors.faiss corpus.jsonl index --model encoder --family e5 --overwrite",
        "index",
        (DENSE.replace(" index ", " made "), f"{BM25} index"),
        needs=("encoder",),
    ),
    Case(
        "index hybrid",
        "index hybrid index a b --overwrite",
        "index",
        (f"{BM25} a", f"{BM25} b --k1 0.5", f"{BM25} index"),
    ),
    Case(
        "index rerank",
        "index rerank a index --model encoder",
        "index",
        (f"{BM25} a",),
        is_refused_when_done=True,
        needs=("encoder",),
    ),
    Case("data prepare", PREPARE, "data"),
    Case("data prepare, again", f"{PREPARE} --seed 1", "data", (PREPARE,)),
    Case("data audit", "data audit ./data", "data/audit.json", (PREPARE,)),
    Case(
        "trace import",
        "trace import log.jsonl --output out/traces.jsonl --overwrite",
        "out/traces.jsonl",
    ),
    Case(
        "diagnose",
        "diagnose log.jsonl --output out/page.html --json out/counts.json",
        "out",
        is_replaced_whole=False,
    ),
    Case("plan", "plan --model start --json plan.json", "plan.json", needs=TRAINED),
)


def write_inputs(folder: Path) -> None:
    """The files that the commands read."""
    rows = [f"What is the capital of land{i}?,city{i}\n" for i in range(12)]
    (folder / "questions.csv").write_text("question,answer\n" + "".join(rows))
    passages = [
        {"id": str(i), "contents": f'"Land {i}"\ncity{i} is the capital of land{i}'}
        for i in range(24)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in passages))
    turn = "<think> t </think><search> land </search>"
    found = "<information>Doc 1(Title: Land 1) city1 is the capital</information>"
    end = "<think> t </think><answer> city1 </answer>"
    logs = [
        {"messages": [
            {"role": "user", "content": "What is the capital of land1?"},
            {"role": "assistant", "content": turn}, {"role": "user", "content": found},
            {"role": "assistant", "content": end}], "reward": float(i % 2)}
        for i in range(4)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in logs))


def write_models(folder: Path) -> None:
    """What the commands train, evaluate and encode with: ``start`` and ``encoder``."""
    from calibadv_algo.cli.main import main

    command = WARMSTART.replace("--output-dir policy", f"--output-dir {folder / 'start'}")
    main(command.replace("max-context 400", "max-context 2048").split())
    write_encoder(folder / "encoder")


def write_encoder(folder: Path) -> None:
    """A tiny encoder of random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    raw = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertModel(
        BertConfig(vocab_size=len(words), intermediate_size=16, max_position_embeddings=40, **shape)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
