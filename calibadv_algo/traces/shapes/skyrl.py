"""Rollouts as SkyRL dumps them: ``input_prompt``, ``output_response``, a score a token."""

from __future__ import annotations

from typing import ClassVar

from calibadv_algo.traces.responses import ResponseReader


class SkyRl(ResponseReader):
    """Prompt and response as texts; the score may be a list of rewards by token."""

    name: ClassVar[str] = "skyrl"
    needs: ClassVar[str] = "input_prompt and output_response"
    prompts = ("input_prompt",)
    responses = ("output_response",)
    answers = ("env_extras.reward_spec.ground_truth", "env_extras.reward_model.ground_truth")


READERS = (SkyRl(),)
