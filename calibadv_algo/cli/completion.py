"""`calibadv completion`: a script with which a shell completes commands and flags."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import tyro
from rich.console import Console

_INNER: Final = {
    "data": ("prepare", "inspect", "audit"),
    "index": ("bm25", "dense", "faiss", "hybrid", "rerank", "tantivy", "verify"),
}
"""Commands whose first argument is another command."""

_SCRIPT: Final = """\
# calibadv: completion of commands and flags. {how}
{head}_calibadv() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" key="${{COMP_WORDS[1]}}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word")); return
  fi
  case "$key ${{COMP_WORDS[2]}}" in
{cases}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$inner" -- "$word") $(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _calibadv calibadv
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Print a script that completes commands and flags: source it in your shell's start-up file."""

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional] = "bash"
    """The shell."""

    def run(self) -> int:
        """Prints the script."""
        Console(highlight=False).print(completion_script(self.shell), markup=False, soft_wrap=True)
        return 0


def completion_script(shell: str) -> str:
    """The script for a shell."""
    from calibadv_algo.cli.main import COMMANDS

    names = [name for name in COMMANDS if " " not in name]
    cases = []
    for name in names:
        inner = _INNER.get(name, ())
        cases += [_case(f"{name} {each}", f"{name} {each}", ()) for each in inner]
        cases.append(_case(name, f"{name} *", inner))
    is_zsh = shell == "zsh"
    return _SCRIPT.format(
        how=f"In ~/.{shell}rc: source <(calibadv completion {shell})",
        head="autoload -U +X bashcompinit && bashcompinit\n" if is_zsh else "",
        commands=" ".join(names),
        cases="\n".join(cases),
    )


def _case(command: str, pattern: str, inner: tuple[str, ...]) -> str:
    shown = '"' + pattern.replace(" *", '"\\ *') if pattern.endswith("*") else f'"{pattern}"'
    flags = " ".join(flags_of(command))
    return f'    {shown}) local inner="{" ".join(inner)}" flags="{flags}" ;;'


def flags_of(command: str) -> list[str]:
    """Flags that the help of a command shows."""
    from calibadv_algo.cli.main import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return sorted(set(re.findall(r"--[a-z][\w.-]*", out.getvalue())))
