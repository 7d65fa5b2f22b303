"""A recording of `calibadv play`: an asciinema cast, and the same as an animated picture.

    python -m benchmarks.recording --output docs/play.svg

The command runs in a real terminal of this machine, and what is typed here is typed into it. Only
the pace is made up: so much time for a letter, so much for reading. The cast is for asciinema; the
picture needs no player.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from rich.text import Text

COMMAND: Final = ("play", "--env.dataset", "atlas", "--env.split", "dev", "--task-index", "12")
TYPED: Final = ("s Les Cayes country", "s Haiti highest point", "a Pic la Selle")
WIDTH: Final = 92
LETTER_S: Final = 0.06
READING_S: Final = 2.2
END_S: Final = 5.0
_QUIET_S: Final = 1.5
_START_S: Final = 120.0

FONT_PX: Final = 14
LINE_PX: Final = 19
LETTER_PX: Final = 8.43
COLOURS: Final = {"cyan": "#56b4e9", "dim": "#8b93a1", "": "#e6e9ee"}


@dataclass(frozen=True)
class Event:
    """Text that appears in the terminal at a time."""

    at_s: float
    text: str


def record(command: tuple[str, ...], typed: tuple[str, ...]) -> list[Event]:
    """Runs a command of ours in a terminal and types into it; returns what it showed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, WIDTH, 0, 0))
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color", "NO_COLOR": ""}
    environment.pop("NO_COLOR")
    process = subprocess.Popen(
        [sys.executable, "-m", "calibadv", *command],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
    )
    os.close(slave)
    shown = [Event(0.0, "$ ")]
    now = 0.4
    for letter in f"calibadv {' '.join(command)}":
        shown.append(Event(now, letter))
        now += LETTER_S
    shown.append(Event(now, "\r\n"))
    now += 0.6
    shown.append(Event(now, _read(master, _START_S)))
    for line in typed:
        now += READING_S
        os.write(master, line.encode())
        for letter in _read(master, 5.0):
            shown.append(Event(now, letter))
            now += LETTER_S
        os.write(master, b"\n")
        now += 0.3
        shown.append(Event(now, _read(master, 20.0)))
    process.wait(timeout=20)
    if process.returncode:
        raise RuntimeError(f"calibadv {command[0]} ended with {process.returncode}")
    return [event for event in shown if event.text]


def _read(master: int, first_s: float) -> str:
    """What comes until nothing comes for a while; the first of it may take longer."""
    found = b""
    while select.select([master], [], [], _QUIET_S if found else first_s)[0]:
        try:
            part = os.read(master, 65536)
        except OSError:  # the program ended
            break
        if not part:
            break
        found += part
    return found.decode("utf-8")


def cast(events: list[Event], height: int) -> str:
    """The recording in asciinema's format, version 2."""
    lines = [json.dumps({"version": 2, "width": WIDTH, "height": height})]
    lines += [json.dumps([round(event.at_s, 3), "o", event.text]) for event in events]
    return "\n".join(lines) + "\n"


def screen_lines(events: list[Event]) -> list[list[tuple[float, str, str]]]:
    """Pieces of text by line, each with the time at which it appears and its style.

    Raises:
        ValueError: if the program moved the cursor, which a picture made of lines cannot follow.
    """
    lines: list[list[tuple[float, str, str]]] = [[]]
    for event in events:
        for number, line in enumerate(event.text.replace("\r\n", "\n").split("\n")):
            if number:
                lines.append([])
            text = Text.from_ansi(line)
            if "\x1b" in text.plain or "\r" in text.plain:
                raise ValueError(f"the program moved the cursor: {line!r}")
            for piece in text.divide([i for span in text.spans for i in (span.start, span.end)]):
                style = str(piece.spans[0].style) if piece.spans else ""
                kind = next((name for name in ("cyan", "dim") if name in style), "")
                # Text.from_ansi drops the space at the end of a line, such as that of a prompt.
                lines[-1].append((event.at_s, piece.plain, kind))
            if line.endswith(" ") and lines[-1]:
                at, plain, kind = lines[-1][-1]
                lines[-1][-1] = (at, plain if plain.endswith(" ") else plain + " ", kind)
    while lines and not any(text.strip() for _, text, _ in lines[-1]):
        lines.pop()
    return lines


def picture(lines: list[list[tuple[float, str, str]]], end_s: float) -> str:
    """The recording as an SVG that plays by itself, again and again."""
    height = LINE_PX * len(lines) + 32
    width = round(LETTER_PX * WIDTH) + 32
    parts, rules = [], []
    times = sorted({at for line in lines for at, _, _ in line})
    for number, at in enumerate(times):
        share = 100 * at / end_s
        rules.append(
            f"@keyframes k{number}{{0%,{max(0.0, share - 0.01):.2f}%{{opacity:0}}"
            f"{share:.2f}%,100%{{opacity:1}}}}"
            f".t{number}{{animation:k{number} {end_s:.1f}s infinite}}"
        )
    for row, line in enumerate(lines):
        column = 0
        for at, text, kind in line:
            if text.strip():
                x, y = 16 + LETTER_PX * column, 16 + LINE_PX * (row + 0.78)
                parts.append(
                    f'<text class="t{times.index(at)}" x="{x:.2f}" y="{y:.1f}" '
                    f'textLength="{LETTER_PX * len(text):.2f}" fill="{COLOURS[kind]}" '
                    f'xml:space="preserve">{escape(text)}</text>'
                )
            column += len(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="calibadv play: a person searches and answers a question in the terminal">'
        f"<style>text{{font:{FONT_PX}px 'DejaVu Sans Mono',Menlo,Consolas,monospace}}"
        f"{''.join(rules)}@media (prefers-reduced-motion){{text{{animation:none!important}}}}"
        f'</style><rect width="100%" height="100%" rx="8" fill="#14171c"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Records, and writes the picture and the cast beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/play.svg"))
    output = parser.parse_args().output
    events = record(COMMAND, TYPED)
    lines = screen_lines(events)
    output.write_text(picture(lines, events[-1].at_s + END_S), encoding="utf-8")
    cast_file = output.with_suffix(".cast")
    cast_file.write_text(cast(events, len(lines) + 1), encoding="utf-8")
    print(f"wrote {output} and {cast_file}: {len(lines)} lines, {events[-1].at_s:.1f} s")


if __name__ == "__main__":
    main()
