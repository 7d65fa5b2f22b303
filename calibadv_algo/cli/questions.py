"""`calibadv data questions`: a model drafts questions about documents, a person corrects them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from calibadv_algo.cli.documents import mapping_of
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.common.http import HttpSettings, require_http
from calibadv_env.data.cutting import Cutting
from calibadv_env.data.loading import Options
from calibadv_env.data.preparing.drafting import (
    Drafted,
    DraftSettings,
    draft_questions,
    write_drafts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions(Checked):
    """Draft questions about your documents with a language model, for a person to correct.

    The model writes a question, an answer and the sentence that states it; drafts whose sentence
    is not in the passage, or whose answer is not in the sentence, are dropped and counted.
    """

    corpus: Path
    """Documents: a file or a folder in any form."""
    endpoint: str
    """Server with OpenAI's route /chat/completions: http://127.0.0.1:8000/v1. A key in the
    environment variable that --key-variable names is sent along."""
    model: str
    """Name of the model there."""
    output: Path = Path("questions.csv")
    """File of the drafts, CSV or JSON lines by its ending. Every reply is kept beside it, in a file
    that ends in .replies.jsonl: the same command goes on from there."""
    questions: Annotated[int, POSITIVE] = 100
    """Passages that are asked about, drawn at random; each gives at most one question."""
    min_words: Annotated[int, POSITIVE] = 12
    """Shorter passages are not asked about."""
    passage_words: int | None = None
    """Cut documents into passages of so many words, as `data prepare` will; None leaves them whole,
    but for the files of a folder of texts, which become passages of 100 words."""
    passage_overlap: int = 0
    """Words that a passage repeats of the one before."""
    corpus_columns: str = ""
    """Keys of your documents where guessing fails: text=KEY,title=KEY,id=KEY."""
    temperature: Annotated[float, NOT_NEGATIVE] = 0.0
    """Sampling temperature."""
    max_tokens: Annotated[int, POSITIVE] = 400
    """Most tokens of a reply."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key."""
    timeout_s: Annotated[float, POSITIVE] = 120.0
    """Most seconds of one attempt."""
    concurrency: Annotated[int, POSITIVE] = 8
    """Most requests at a time."""
    seed: int = 0
    """Seed of the draw of passages."""
    replay: bool = False
    """If true, no server is asked: every reply has to be on record."""

    def run(self) -> int:
        """Drafts, writes the file, and says what was dropped and what comes next."""
        require_http(endpoint=self.endpoint)
        if self.output.exists():
            raise ValueError(
                f"{self.output} is there already, and somebody may have corrected it: move it "
                "away, or name another --output"
            )
        options = Options(
            corpus_columns=mapping_of(self.corpus_columns),
            cutting=Cutting(words=self.passage_words, overlap=self.passage_overlap),
        )
        replies = self.output.with_name(f"{self.output.name}.replies.jsonl")
        replies.parent.mkdir(parents=True, exist_ok=True)
        done = draft_questions(options.corpus(self.corpus), self.settings(), replies)
        write_drafts(self.output, done.drafts)
        self._say(done, replies)
        return 0

    def settings(self) -> DraftSettings:
        """The same for the library."""
        return DraftSettings(
            endpoint=self.endpoint,
            model=self.model,
            questions=self.questions,
            min_words=self.min_words,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            key_variable=self.key_variable,
            seed=self.seed,
            replay=self.replay,
            http=HttpSettings(timeout_s=self.timeout_s, max_concurrency=self.concurrency),
        )

    def _say(self, done: Drafted, replies: Path) -> None:
        console = Console(highlight=False)
        lines = [
            f"asked about {done.num_passages} passages ({done.num_asked} now, the others are on "
            f"record); {done.num_short} passages are shorter than {self.min_words} words",
            f"kept {len(done.drafts)} drafts",
            *(f"dropped {count}: {reason}" for reason, count in sorted(done.dropped.items())),
        ]
        for draft in done.drafts[:3]:
            lines.append(f"  {draft.question}  →  {draft.answer}  [{draft.passage}]")
        words = "" if self.passage_words is None else f" --passage-words {self.passage_words}"
        words += f" --passage-overlap {self.passage_overlap}" if self.passage_overlap else ""
        separator = ' --answer-separator "|"' if self.output.suffix == ".csv" else ""
        lines += [
            f"wrote {self.output}; the replies are in {replies}",
            "next: read every row, correct it, change its status, delete what is no good; then",
            f"      calibadv data prepare my-questions --from {self.output}{separator} "
            f"--corpus {self.corpus}{words}",
        ]
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
