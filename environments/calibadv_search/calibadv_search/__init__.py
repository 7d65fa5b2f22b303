"""The search environments of calibadv under the name that verifiers looks for."""

from calibadv_env.integrations.verifiers import (
    ChatHarness,
    SearchEnv,
    SearchTaskset,
    load_environment,
)

__all__ = ["ChatHarness", "SearchEnv", "SearchTaskset", "load_environment"]
