"""Later observations as messages of a chat, with the thoughts of earlier turns kept or stripped.

By default the policy writes one message, which observations continue. Here each turn is a message
of its own and each observation one of the user or of a tool, as inference servers put them. Chat
templates of reasoning models then leave out the thoughts of earlier messages, so the context of a
turn need not begin with that of the turn before. What the policy saw is recorded either way: where
the context goes on, the sampled tokens stay as they were sampled, and where it does not, the whole
context is rendered by the template, and the turn begins another segment of its episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from calibadv_algo.rollout.chat import THINK_CLOSE, check_template, think_part
from calibadv_env.info import THINK_OPEN

Observations = Literal["continue", "user", "tool"]
"""Place of later observations: in the policy's own message, or as a message of this role."""

EarlierThoughts = Literal["keep", "strip", "template"]
"""Fate of the thoughts of earlier turns: as the setting says, or as the chat template does."""

_TURN: Final = "turn-7f3a9c"
"""Stands for the text of turns of which only what comes behind them is wanted."""

_THOUGHT: Final = "thought-7f3a9c"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn and the observation behind it.

    Attributes:
        action: The turn as the environment got it.
        observation: What followed.
    """

    action: str
    observation: str


@dataclass(frozen=True, slots=True)
class NextContext:
    """What the next turn is sampled from.

    Attributes:
        token_ids: All of it.
        observed: Tokens between the last turn and the next one, if the context goes on.
        goes_on: Whether it begins with the last context and the turn as it was sampled.
    """

    token_ids: tuple[int, ...]
    observed: tuple[int, ...]
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat whose later observations are messages.

    Attributes:
        tokenizer: A Hugging Face tokenizer with a chat template.
        role: Of the observations.
        thoughts: What becomes of those of earlier turns.
        settings: Variables of the template.
    """

    tokenizer: Any
    role: Literal["user", "tool"]
    thoughts: EarlierThoughts = "keep"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def after(
        self,
        prompt: str,
        exchanges: Sequence[Exchange],
        context: tuple[int, ...],
        sampled: tuple[int, ...],
    ) -> NextContext:
        """Context of the turn that follows some exchanges.

        Args:
            prompt: The first observation.
            exchanges: The turns so far, at least one.
            context: What the last of them was sampled from.
            sampled: Its tokens.

        Raises:
            ValueError: if the template does not write messages of this role.
        """
        bridge = self._bridge(prompt, exchanges)
        observed = self._encode(bridge)
        if sampled and observed and observed[0] == sampled[-1]:
            observed = observed[1:]  # the policy closed its message itself
        going_on = NextContext((*context, *sampled, *observed), observed, goes_on=True)
        if self.thoughts == "keep":
            return going_on
        rendered = self._rendered(prompt, exchanges)
        before = self._rendered(prompt, exchanges[:-1])
        begun = before.removesuffix(think_part(before))
        if rendered == f"{begun}{self._contents(prompt, exchanges)[-1]}{bridge}":
            return going_on
        return NextContext(self._encode(rendered), observed, goes_on=False)

    def check(self) -> None:
        """Tries an observation with a quotation mark and two lines.

        Raises:
            ValueError: if the template does not write it as it stands.
        """
        self._bridge("question", [Exchange("turn", 'found: "Oslo"\nand more')])

    def opening(self, prompt: str, exchanges: Sequence[Exchange]) -> str:
        """Text from the think tag on with which the template opens the turn behind exchanges."""
        return think_part(self._render(prompt, exchanges))

    def _bridge(self, prompt: str, exchanges: Sequence[Exchange]) -> str:
        """Text between a turn and the next one: the ends of messages and the observation."""
        hidden = [Exchange(_TURN, each.observation) for each in exchanges]
        bridge = self._rendered(prompt, hidden).rpartition(_TURN)[2]
        if message_text(exchanges[-1].observation) not in bridge:
            raise ValueError(
                f"the chat template does not write messages of role {self.role} as they stand: it "
                "escapes them or leaves them out; take observations=user"
            )
        return bridge

    def _rendered(self, prompt: str, exchanges: Sequence[Exchange]) -> str:
        """The whole context as text, with a thought opened where the environment wants it."""
        text = self._render(prompt, exchanges)
        last = exchanges[-1].observation if exchanges else prompt
        is_given = last.endswith(THINK_OPEN) and not think_part(text)
        return text + THINK_OPEN if is_given else text

    def _render(self, prompt: str, exchanges: Sequence[Exchange]) -> str:
        messages = [{"role": "user", "content": prompt.removesuffix(THINK_OPEN)}]
        for each, content in zip(exchanges, self._contents(prompt, exchanges), strict=True):
            if self.thoughts == "strip":
                content = without_thought(content)
            messages.append({"role": "assistant", "content": content})
            messages.append({"role": self.role, "content": message_text(each.observation)})
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False, **self.settings
                )
            )
        except Exception as error:  # templates refuse roles with errors of their own
            raise ValueError(
                f"the chat template writes no observations as messages of role {self.role}: {error}"
            ) from error

    def _contents(self, prompt: str, exchanges: Sequence[Exchange]) -> list[str]:
        """Messages of the policy, each with a tag that the environment gave."""
        given = [prompt, *(each.observation for each in exchanges)]
        return [
            THINK_OPEN + each.action if before.endswith(THINK_OPEN) else each.action
            for before, each in zip(given, exchanges, strict=False)
        ]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


def check_messages(is_chat: bool, observations: Observations, thoughts: EarlierThoughts) -> None:
    """Refuses observations as messages without a chat, and thoughts that cannot be stripped.

    Raises:
        ValueError: naming the setting that is missing.
    """
    if observations != "continue" and not is_chat:
        raise ValueError(
            f"observations={observations} needs the chat template (prompt_style chat, in eval "
            "--chat-template)"
        )
    if thoughts != "keep" and observations == "continue":
        raise ValueError(
            f"earlier_thoughts={thoughts} needs observations user or tool: in one message of the "
            "policy there are no earlier ones"
        )


def message_text(observation: str) -> str:
    """An observation as a message: without white space round it and a tag that opens a thought."""
    return observation.removesuffix(THINK_OPEN).strip()


def without_thought(text: str) -> str:
    """A turn from the end of its last thought on; all of it if none ends."""
    return text.rpartition(THINK_CLOSE)[2].lstrip("\n") if THINK_CLOSE in text else text


def strips_thoughts(
    tokenizer: Any, settings: Mapping[str, Any], role: Literal["user", "tool"] = "user"
) -> bool:
    """Tells whether a template leaves out the thought of a turn before a message of a role."""
    check_template(tokenizer, settings)
    action = f"{THINK_OPEN}\n{_THOUGHT}\n{THINK_CLOSE}\n\n{_TURN}"
    chat = Conversation(tokenizer, role, "template", settings)
    return _THOUGHT not in chat._render("question", [Exchange(action, "found")])


def thoughts_notice(
    tokenizer: Any,
    settings: Mapping[str, Any],
    observations: Observations,
    thoughts: EarlierThoughts,
) -> str | None:
    """Says that thoughts stay which the model's own template would strip; None if it would not.

    Raises:
        ValueError: if the template does not write observations as messages of that role.
    """
    role: Literal["user", "tool"] = "tool" if observations == "tool" else "user"
    if observations != "continue":
        chat = Conversation(tokenizer, role, thoughts, settings)
        chat.check()
    if thoughts != "keep" or not strips_thoughts(tokenizer, settings, role):
        return None
    kept = "the policy goes on seeing its own"
    if observations == "continue":
        return (
            "the model's chat template leaves out the thoughts of earlier messages; here all turns "
            f"are one message, and {kept}. As the template does it: observations=user, "
            "earlier_thoughts=template"
        )
    return (
        f"the model's chat template leaves out the thoughts of turns before a {role}'s message; "
        f"{kept}. As the template does it: earlier_thoughts=template"
    )
