"""Pages for agents that speak the Model Context Protocol: the tools search, open and find.

The server is made with the official SDK (``pip install 'calibadv[mcp]'``), and is stateless: a
find names its page. ``calibadv serve SOURCE --mcp stdio`` and ``--mcp http`` run it.
"""

from __future__ import annotations

from typing import Any, Final

from calibadv_env.common.extras import import_extra
from calibadv_env.protocol.pages import found_within, hits_within, opened_within
from calibadv_env.retrieval.pages import DEFAULT_MAX_CHARS, Pages

INSTRUCTIONS: Final = (
    "A collection of pages. search lists sections that match a query, open reads a page or one "
    "section of it, find gives the sentences of a page that hold words."
)


def page_server(pages: Pages, *, top_k: int = 5, max_chars: int = DEFAULT_MAX_CHARS) -> Any:
    """An MCP server over pages, of the SDK's class ``MCPServer``.

    What a tool gives is the text that a policy reads in the environments of pages. A page that is
    not there is such a text too, with names that come near; a search that fails is an error.

    Args:
        pages: What is searched and opened.
        top_k: Sections that a search lists.
        max_chars: Most characters of a result.

    Raises:
        MissingDependencyError: if the SDK is not installed.
    """
    sdk = import_extra("mcp.server.mcpserver", "mcp", "the Model Context Protocol")
    server = sdk.MCPServer("calibadv", instructions=INSTRUCTIONS)

    @server.tool()  # type: ignore[untyped-decorator]
    def search(query: str) -> str:
        """List sections of pages that match a query, each as `page#section (title) snippet`."""
        (hits,) = pages.search([query], top_k)
        return hits_within(hits, query, max_chars)[1]

    @server.tool(name="open")  # type: ignore[untyped-decorator]
    def open_page(page: str) -> str:
        """Read a page by its name, or one section of it as `page#section`, with its links."""
        (opened,) = pages.open([page], max_chars)
        return opened_within(opened, max_chars)[1]

    @server.tool()  # type: ignore[untyped-decorator]
    def find(page: str, words: str) -> str:
        """Find the sentences of a page that hold words."""
        (found,) = pages.find([(page, words)], max_chars)
        return found_within(found, max_chars)[1]

    return server
