"""`calibadv serve --mcp` with the official client, over standard input and output and over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp.server.mcpserver")

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

PASSAGES = [
    {"id": "norway#area", "title": "Norway: area", "text": "Norway covers 323,802 sq km."},
    {"id": "norway#coast", "title": "Norway: coast", "text": "Its coastline is 25,148 km long."},
    {"id": "chad#area", "title": "Chad: area", "text": "Chad has no coast. See [Niger](niger)."},
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in PASSAGES), encoding="utf-8")
    return path


async def visit(transport: Any) -> dict[str, str]:
    """Names of the tools, and a result of each."""
    async with Client(transport) as client:
        tools = await client.list_tools()
        results = {"tools": ", ".join(sorted(tool.name for tool in tools.tools))}
        for name, arguments in (
            ("search", {"query": "coastline of Norway"}),
            ("open", {"page": "norway"}),
            ("find", {"page": "norway", "words": "coastline"}),
            ("open", {"page": "norwey"}),
        ):
            result = await client.call_tool(name, arguments)
            assert not result.is_error
            results[f"{name} {arguments.get('page', '')}"] = result.content[0].text
    return results


def check(results: dict[str, str]) -> None:
    assert results["tools"] == "find, open, search"
    assert results["search "].startswith("norway#coast")
    assert "323,802" in results["open norway"]
    assert results["find norway"] == "norway#coast: Its coastline is 25,148 km long."
    assert "norway" in results["open norwey"]  # a page that is not there, and a near name


def test_over_standard_input_and_output(corpus: Path) -> None:
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "calibadv", "serve", str(corpus), "--mcp", "stdio"]
    )
    check(asyncio.run(visit(stdio_client(server))))


def test_over_http(corpus: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "calibadv", "serve", str(corpus)]
    server = subprocess.Popen([*command, "--mcp", "http", "--port", str(port)])
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        check(asyncio.run(visit(f"http://127.0.0.1:{port}/mcp")))
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(
    ("flag", "value"), [("--token-variable", "TOKEN"), ("--limits.max-queries", "3")]
)
def test_what_it_has_no_use_for_is_refused(corpus: Path, flag: str, value: str) -> None:
    command = [sys.executable, "-m", "calibadv", "serve", str(corpus), "--mcp", "http"]
    done = subprocess.run([*command, flag, value], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert " must not be set with mcp" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_said(corpus: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "calibadv", "serve", str(corpus), "--mcp", "http"]
        done = subprocess.run(
            [*command, "--port", port], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
