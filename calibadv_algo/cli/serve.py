"""`calibadv serve`: a search server over a corpus, an index or a dataset."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro
from rich.console import Console

from calibadv_algo.cli.documents import DocumentFlags
from calibadv_env.common.proxies import is_loopback
from calibadv_env.data.loading import Options
from calibadv_env.data.registry import get_dataset, list_datasets
from calibadv_env.data.sources.text_files import is_document_folder
from calibadv_env.errors import DataError
from calibadv_env.retrieval import Retriever, make_retriever
from calibadv_env.retrieval.index_files import read_manifest
from calibadv_env.retrieval.opening import open_index
from calibadv_env.retrieval.pages import pages_of
from calibadv_env.retrieval.parallel import ParallelRetriever
from calibadv_env.retrieval.remote.access import AccessRules
from calibadv_env.retrieval.remote.batcher import BatchLimits
from calibadv_env.retrieval.remote.connections import ConnectionLimits
from calibadv_env.retrieval.remote.requests import RequestLimits
from calibadv_env.retrieval.remote.server import ServerConfig, open_port, run_server

_SEARCH_ONLY: Final = (
    "batch", "limits", "connections", "allow_host", "token_variable", "max_body_bytes", "grace_s",
    "processes",
)  # fmt: skip
"""Settings that the server of the Model Context Protocol has no use for."""
SINGLE_CORE_KINDS: Final = ("bm25", "tantivy")
MAX_PROCESSES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """Serve searches over HTTP, as Search-R1, CalibAdv, SkyRL, GEM and ReSearch ask for them."""

    source: Annotated[str, tyro.conf.Positional]
    """A corpus (a file in any form, or a folder of documents), the folder of an index, or the name
    of a dataset."""
    documents: Annotated[DocumentFlags, tyro.conf.arg(name="")] = field(
        default_factory=DocumentFlags
    )
    """How a corpus is read."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where a dense index is searched and queries are encoded; cuda needs a GPU and faiss-gpu."""
    retriever: str = "bm25"
    """Retriever of a corpus or a dataset; an index says itself."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in. See --token-variable."""
    port: int = 8000
    """Port; 0 takes a free one."""
    batch: BatchLimits = field(default_factory=BatchLimits)
    """Limits of the batches that requests are put together into."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    """Limits of a request."""
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    """Patience with clients, and how many there may be."""
    allow_host: tuple[str, ...] = ()
    """Names that clients use for this server, beside IP addresses, localhost and the machine's own
    name; * allows all. Others are refused, since a page in a browser may have made them up."""
    token_variable: str = ""
    """Environment variable with a token that every request must bring. Empty: none is asked for."""
    max_body_bytes: int = 32 * 1024 * 1024
    """Longest request."""
    grace_s: float = 30.0
    """Seconds that a stop waits for requests that run."""
    processes: int | None = None
    """Processes that share a batch. None: for BM25 on disk one a core, at most 4; else 1."""
    verify: bool = False
    """If true, every file of an index is read and hashed first."""
    mcp: Literal["stdio", "http"] | None = None
    """Speak the Model Context Protocol instead, with the tools search, open and find: over standard
    input and output, or over HTTP at /mcp."""

    def run(self) -> int:
        """Serves until it is interrupted."""
        console = Console(highlight=False, stderr=True, soft_wrap=True)
        if self.mcp is not None:
            return self._run_mcp(self.mcp, console)
        config = ServerConfig(
            host=self.host,
            port=self.port,
            batch=self.batch,
            limits=self.limits,
            connections=self.connections,
            access=AccessRules(allow_host=self.allow_host, token_variable=self.token_variable),
            max_body_bytes=self.max_body_bytes,
            grace_s=self.grace_s,
        )

        _check_device(self.source, self.device)

        def load() -> Retriever:
            started = time.monotonic()
            retriever = open_source(
                self.source,
                self.retriever,
                verify=self.verify,
                device=self.device,
                options=self.documents.options(),
            )
            retriever = in_parallel(retriever, self.processes)
            took = time.monotonic() - started
            console.print(f"ready after {took:.1f} s: {describe(retriever)}", markup=False)
            return retriever

        # A corpus is read before the port is open, since reading may find it faulty; an index
        # and a dataset that are known load while clients are told to wait.
        first: Retriever | None = None
        if Path(self.source).is_file() or is_document_folder(Path(self.source)):
            console.print(f"reading {self.source}", markup=False)
            first = load()

        def announce(address: str) -> None:
            what = "" if first is not None else f", loading {self.source}"
            console.print(f"listening on {address}/retrieve{what}", markup=False)
            if not self.token_variable and not is_loopback(self.host):
                console.print(
                    "whoever reaches this machine may search; --token-variable asks for a token",
                    markup=False,
                )

        run_server(load if first is None else lambda: first, config, announce)
        return 0

    def _run_mcp(self, transport: Literal["stdio", "http"], console: Console) -> int:
        """Serves the tools of the pages.

        Raises:
            ValueError: if the source has no pages, or a flag is given that MCP has no use for.
            OSError: if the port is taken.
        """
        from calibadv_env.integrations.mcp import page_server

        self._refuse_unused()
        retriever = open_source(
            self.source,
            self.retriever,
            verify=self.verify,
            device=self.device,
            options=self.documents.options(),
        )
        pages = pages_of(retriever)
        if pages is None:
            raise ValueError(f"source must have its corpus here to be opened, got {self.source!r}")
        server = page_server(pages, top_k=self.limits.default_top_k)
        if transport == "stdio":
            console.print(f"{self.source}: speaking MCP on standard input and output", markup=False)
            server.run("stdio")
            return 0
        with open_port(
            self.host, self.port
        ) as listener:  # says so if it is taken; finds a free one
            port = listener.getsockname()[1]
        console.print(f"listening on http://{self.host}:{port}/mcp", markup=False)
        server.run("streamable-http", host=self.host, port=port)
        return 0

    def _refuse_unused(self) -> None:
        """Refuses flags that only the server of searches heeds, rather than drop them.

        Raises:
            ValueError: naming them.
        """
        bare = Serve(
            source=self.source, limits=RequestLimits(default_top_k=self.limits.default_top_k)
        )
        unused = [name for name in _SEARCH_ONLY if getattr(self, name) != getattr(bare, name)]
        if unused:
            raise ValueError(
                f"{', '.join(unused)} must not be set with mcp, whose server has no such setting"
                + ("; put a server that checks a token in front" * ("token_variable" in unused))
            )


def open_source(
    source: str,
    retriever: str,
    *,
    verify: bool = False,
    device: str = "cpu",
    options: Options | None = None,
) -> Retriever:
    """The retriever that is to be served.

    Args:
        source: A corpus, the folder of an index, or the name of a dataset.
        retriever: How a corpus or a dataset is searched.
        verify: If true, every file of an index is read and hashed first.
        device: "cuda" for a dense index on a GPU.
        options: How the documents of a corpus are read and cut.

    Raises:
        DataError: if there is no such thing, or it is damaged.
        ValueError: if the retriever is unknown, or the device is not for it.
    """
    options = options or Options()
    path = Path(source)
    is_index = path.is_dir() and not is_document_folder(path)
    _check_device(source, device)
    if is_index and device != "cpu":
        from calibadv_env.retrieval.dense.index import DenseIndex

        return DenseIndex(path, verify=verify, device=device)
    if is_index:
        return open_index(path, verify=verify)
    if path.exists():
        return make_retriever(retriever, options.corpus(source))
    if source.lower() in {name.lower() for name in list_datasets()}:
        return get_dataset(source).retriever(retriever)
    known = ", ".join(list_datasets())
    raise DataError(f"{source}: there is no such file or folder, nor a dataset; those are {known}")


def _check_device(source: str, device: str) -> None:
    """Refuses a device that a source has no use for, before anything is read or listened to.

    Raises:
        ValueError: if the source is no dense index.
        DataError: if it is a damaged one.
    """
    path = Path(source)
    is_index = path.is_dir() and not is_document_folder(path)
    if device != "cpu" and not (is_index and read_manifest(path).kind == "dense"):
        raise ValueError(f"device {device!r} is for a dense index (calibadv index dense, faiss)")


def in_parallel(retriever: Retriever, processes: int | None) -> Retriever:
    """A retriever that spreads a batch over several processes, or the given one.

    None takes one process a core, at most 4, for an index on disk whose search keeps one core busy,
    and one for everything else.

    Raises:
        ValueError: if ``processes`` is below 1.
    """
    if processes is None:
        is_single = getattr(getattr(retriever, "manifest", None), "kind", "") in SINGLE_CORE_KINDS
        processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0))) if is_single else 1
    return retriever if processes == 1 else ParallelRetriever(retriever, processes)


def describe(retriever: Retriever) -> str:
    """Names a retriever for the person who started it."""
    if isinstance(retriever, ParallelRetriever):
        return f"{describe(retriever.retriever)}, {retriever.num_processes} processes"
    return type(retriever).__name__
