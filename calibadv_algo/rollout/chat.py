"""The first observation as a user's message, and what a chat template writes for the policy.

Templates of reasoning models open the policy's message with ``<think>``, or with an empty thought
where thinking is switched off. The policy then never writes that tag. It was written all the same:
the text of the first turn begins with it, and the environment judges that text.

Later observations go on in the policy's one message, so nothing that was sampled is ever rendered
again: its tokens stay as they are, and so do its thoughts, also under templates that strip the
thoughts of earlier messages. ``conversation.py`` has observations as messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from calibadv_env.info import THINK_OPEN

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.base import Tokenizer

THINK_CLOSE: Final = "</think>"

_PROBE: Final = "question"

_OPENED: Final = re.compile(rf"{THINK_OPEN}\s*(?:{THINK_CLOSE}\s*)?\Z")


def encode_prompt(
    tokenizer: Tokenizer, text: str, is_chat: bool, settings: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Encodes the first observation.

    Args:
        tokenizer: A Hugging Face tokenizer; with ``is_chat`` it must have a template.
        text: What ``env.reset`` returned.
        is_chat: If true, it becomes one user message, followed by the template's opening of the
            policy's message. An opening think tag at its end (``prepend_think``) is the policy's
            and goes behind that. Otherwise the text is encoded as it stands, with the special
            tokens that the tokenizer puts before a text (a beginning-of-sequence token).
        settings: Variables of the chat template, such as ``enable_thinking``.

    Raises:
        ValueError: if the tokenizer has no chat template, or the template does not read one of
            the settings.
    """
    if not is_chat:
        return tuple(tokenizer.encode(text, add_special_tokens=True))
    settings = settings or {}
    check_template(tokenizer, settings)
    is_open = text.endswith(THINK_OPEN)
    message = {"role": "user", "content": text.removesuffix(THINK_OPEN) if is_open else text}
    apply: Any = tokenizer.apply_chat_template  # type: ignore[attr-defined]
    ids = tuple(
        apply([message], add_generation_prompt=True, tokenize=True, return_dict=False, **settings)
    )
    if is_open and not template_opening(tokenizer, settings):
        ids += tuple(tokenizer.encode(THINK_OPEN, add_special_tokens=False))
    return ids


def first_turn(opening: str, prompt: str, text: str) -> str:
    """The text of a first turn as the environment gets it.

    Args:
        opening: What the template opened the policy's message with.
        prompt: The first observation; a think tag at its end the environment puts back itself.
        text: What was sampled. A policy for which thinking is switched off and that thinks all
            the same has one thought, not the template's empty one as well.
    """
    if THINK_CLOSE in opening and text.lstrip().startswith(THINK_OPEN):
        return text
    given = opening.removeprefix(THINK_OPEN) if prompt.endswith(THINK_OPEN) else opening
    return given + text


def template_opening(tokenizer: Any, settings: Mapping[str, Any]) -> str:
    """Text from the think tag on with which a template opens the policy's message.

    Returns:
        Such as ``<think>`` and a line end; "" if the template writes no such tag there.
    """
    texts = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": _PROBE}],
                add_generation_prompt=is_open,
                tokenize=False,
                **settings,
            )
        )
        for is_open in (False, True)
    ]
    without, whole = texts
    tail = whole.removeprefix(without) if whole.startswith(without) else whole.split(_PROBE)[-1]
    place = tail.find(THINK_OPEN)
    return tail[place:] if place >= 0 else ""


def think_part(rendered: str) -> str:
    """Text from the think tag on at the end of a rendered conversation: a template's opening."""
    found = _OPENED.search(rendered)
    return "" if found is None else found.group()


def check_template(tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Refuses a tokenizer without a chat template, and settings that its template never reads.

    Raises:
        ValueError: naming the setting and those that there are.
    """
    template = getattr(tokenizer, "chat_template", None)
    if template is None or getattr(tokenizer, "apply_chat_template", None) is None:
        raise ValueError("chat_template needs a tokenizer with a chat template, got one without")
    if not settings:
        return
    texts = template.values() if isinstance(template, Mapping) else (template,)
    known = set().union(*(template_variables(str(each)) for each in texts))
    for name in settings:
        if name not in known:
            raise ValueError(
                f"chat_template_kwargs must name variables of the chat template, got {name!r}; "
                f"this template reads: {', '.join(sorted(known)) or 'none'}"
            )


def template_variables(template: str) -> set[str]:
    """Variables that a chat template reads, without those that every rendering sets."""
    from jinja2 import Environment, meta, nodes

    # Tags of transformers that plain Jinja does not know; what stands in them is kept.
    plain = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    plain = plain.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    tree: nodes.Template = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    always = {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}
    return meta.find_undeclared_variables(tree) - always


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` words; a value is JSON (``false``, ``3``), else text.

    Raises:
        ValueError: if a word has no name or no "=", or a name comes twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier() or name in found:
            raise ValueError(
                f"chat_template_kwargs must be words NAME=VALUE with different names, got {word!r}"
            )
        try:
            found[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            found[name] = value
    return found
