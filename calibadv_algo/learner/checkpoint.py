"""Checkpoints: safetensors and JSON, written so that a reader never sees half of one.

A checkpoint is a folder ``update_000010`` that holds

* ``policy/``: weights, model config and tokenizer, as `transformers` loads them,
* ``optimizer.safetensors``: the optimiser's averages and step counts by parameter name,
* ``critic.safetensors``, ``critic_optimizer.safetensors``: the same of a critic, if there is one,
* ``state.json``: counters, generator states, the hash of the run's config,
* ``manifest.json``: size and SHA-256 of every file above; written last.

It is filled under another name, flushed to disk and then renamed, which is atomic: a folder
with the right name is complete, unless the disk itself did damage, and the manifest finds that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from calibadv_algo.errors import CheckpointError
from calibadv_algo.learner.ranks import full_tensor
from calibadv_algo.learner.sharding import shard_like
from calibadv_algo.lora import merged_state_dict, peft_model
from calibadv_env.common.checks import require_positive
from calibadv_env.common.files import replace_folder

FORMAT_VERSION = 1
"""Version of the layout; another one is refused."""

CRITIC_FILE = "critic.safetensors"
"""File of a checkpoint with the critic's weights, if there is a critic."""

_NAME = re.compile(r"update_(\d{6,})")
_TEMPORARY = re.compile(r"\.update_\d{6,}\.\w+\.(writing|replaced|old|partial)")


class SavableTokenizer(Protocol):
    """The part of a tokenizer that checkpoints use."""

    def save_pretrained(self, save_directory: str) -> Any:
        """Writes the tokenizer's files."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """Everything of a run that is neither weights nor optimiser.

    Attributes:
        update: Number of finished updates.
        num_questions_seen: Position in the order of questions.
        config_hash: Names the settings that determine the run's numbers.
        generators: States of the random generators, as plain JSON.
        extra: Anything else that must survive, as plain JSON (alarm counters and the like).
    """

    update: int
    num_questions_seen: int
    config_hash: str
    generators: Mapping[str, Any]
    extra: Mapping[str, Any]


def save_checkpoint(
    directory: Path,
    state: TrainerState,
    *,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer | Mapping[str, Tensor],
    tokenizer: SavableTokenizer | None = None,
    critic: tuple[nn.Module, torch.optim.Optimizer] | None = None,
    keep: int = 2,
) -> Path:
    """Writes a checkpoint and removes those that are too old.

    Args:
        directory: Folder of all checkpoints of the run; made if need be.
        state: Counters and generators.
        model: Its weights and config are saved in the type that they have.
        optimizer: AdamW or another whose state is made of tensors, over the model's parameters;
            or what `optimizer_tensors` made of it.
        tokenizer: Saved beside the weights, so that the policy can be used alone.
        critic: Critic and its optimiser.
        keep: How many of the latest checkpoints stay, at least 1.

    Returns:
        The new folder.

    Raises:
        ValueError: if ``keep`` is not positive.
        CheckpointError: if a weight is NaN or infinite, and nothing is written or removed then; or
            the disk does not take the files, and no half checkpoint is left.
    """
    require_positive(keep=keep)
    _check_finite(model, state.update, directory)
    if critic is not None:
        _check_finite(critic[0], state.update, directory)
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    target = directory / f"update_{state.update:06d}"
    temporary = directory / f".{target.name}.{os.getpid()}.writing"
    with _nothing_half(temporary, target):
        (temporary / "policy").mkdir(parents=True)
        _save_policy(model, temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(temporary / "policy"))
        if isinstance(optimizer, torch.optim.Optimizer):
            optimizer = optimizer_tensors(model, optimizer)
        save_file(dict(optimizer), temporary / "optimizer.safetensors")
        if critic is not None:
            save_file(_distinct_tensors(critic[0]), temporary / CRITIC_FILE)
            save_file(optimizer_tensors(*critic), temporary / "critic_optimizer.safetensors")
        _write_json(temporary / "state.json", {"format": FORMAT_VERSION, **asdict(state)})
        _write_json(temporary / "manifest.json", {"files": _manifest(temporary)})
        replace_folder(temporary, target)
    for old in list_checkpoints(directory)[:-keep]:
        _remove(old)
    return target


@contextmanager
def _nothing_half(temporary: Path, target: Path) -> Iterator[None]:
    """Removes a checkpoint that could not be written, and says which ones there are.

    Raises:
        CheckpointError: if the disk is full, or failed otherwise.
    """
    try:
        yield
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError | SafetensorError):
            raise
        there = list_checkpoints(target.parent)
        kept = f"the one before it, {there[-1]}, is as it was" if there else "there is none yet"
        raise CheckpointError(
            f"checkpoint {target} could not be written: {error}. What was written of it is removed "
            f"again; {kept}. Make room on the disk and start the run again: it goes on"
        ) from error


def list_checkpoints(directory: Path) -> list[Path]:
    """Finds the checkpoints of a run.

    Args:
        directory: Folder that holds them; it need not exist.

    Returns:
        Complete checkpoints from the oldest to the latest.
    """
    if not directory.is_dir():
        return []
    found = [
        (int(match.group(1)), path)
        for path in directory.iterdir()
        if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def checkpoint_update(path: Path) -> int:
    """Number of finished updates of a checkpoint, by its name.

    Raises:
        ValueError: if the folder is none.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"path must be a checkpoint update_000000, got {path}")
    return int(match.group(1))


def find_checkpoint(directory: Path, *, allow_older: bool = False) -> Path | None:
    """Finds the checkpoint to resume from, and checks it.

    Args:
        directory: Folder that holds the checkpoints.
        allow_older: If true, an earlier one is taken if the latest is damaged.

    Returns:
        The latest sound checkpoint, or None if there is none at all.

    Raises:
        CheckpointError: if the latest is damaged and going back was not allowed, or all are.
    """
    checkpoints = list_checkpoints(directory)
    for path in reversed(checkpoints):
        problem = _damage(path)
        if problem is None:
            return path
        if not allow_older:
            raise CheckpointError(
                f"checkpoint {path} is damaged: {problem}. Resume from the one before it with "
                "allow_older=True, or remove the folder"
            )
    if checkpoints:
        raise CheckpointError(
            f"all {len(checkpoints)} checkpoints in {directory} are damaged; start the run anew "
            "in an empty folder"
        )
    return None


def load_checkpoint(
    path: Path,
    *,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    config_hash: str,
    critic: tuple[nn.Module, torch.optim.Optimizer] | None = None,
    optimized: nn.Module | None = None,
) -> TrainerState:
    """Puts a checkpoint's weights and optimiser state into existing objects.

    Args:
        path: A checkpoint that `find_checkpoint` returned.
        model: Takes the weights; its shape and type must be those that were saved.
        optimizer: Takes the averages; made over the parameters of ``optimized``.
        config_hash: Hash of the settings of the run that wants to go on.
        critic: Critic and its optimiser, if the run has them.
        optimized: The model whose parameters the optimiser has, where that is a sharded copy
            of ``model``; None means ``model`` itself.

    Returns:
        Counters and generators.

    Raises:
        CheckpointError: if a file cannot be read, or the checkpoint belongs to another run.
    """
    try:
        values = json.loads((path / "state.json").read_text(encoding="utf-8"))
        weights = load_file(path / _weights_file(model))
        moments = load_file(path / "optimizer.safetensors")
        if critic is not None:
            critic_weights = load_file(path / CRITIC_FILE)
            critic_moments = load_file(path / "critic_optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if values.pop("format", None) != FORMAT_VERSION:
        raise CheckpointError(f"checkpoint {path} has another layout than version {FORMAT_VERSION}")
    state = TrainerState(**values)
    if state.config_hash != config_hash:
        raise CheckpointError(
            f"checkpoint {path} was not made by the run whose config.json stands in its folder, or "
            "that file is gone: put back the one that it was made with, or choose another "
            "output_dir"
        )
    if peft_model(model) is None:
        _restore_weights(model, weights, path)
    else:
        _restore_adapter(model, weights, path)
    _restore_optimizer(model if optimized is None else optimized, optimizer, moments, path)
    if critic is not None:
        _restore_weights(critic[0], critic_weights, path)
        _restore_optimizer(*critic, critic_moments, path)
    return state


def restore_critic(module: nn.Module, path: Path) -> None:
    """Puts the critic's weights of a checkpoint into an existing critic.

    Raises:
        CheckpointError: if the file cannot be read or does not fit.
    """
    try:
        weights = load_file(path / CRITIC_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"critic of {path} cannot be read: {error}") from error
    _restore_weights(module, weights, path)


def _check_finite(module: nn.Module, update: int, directory: Path) -> None:
    """Refuses weights that no policy can have; the checkpoints before stay as they are."""
    name = non_finite_weight(module)
    if name is None:
        return
    earlier = list_checkpoints(directory)
    kept = f"the last good one is {earlier[-1]}" if earlier else "there is none before"
    raise CheckpointError(
        f"weights after update {update} are no numbers ({name} holds NaN or infinity), so no "
        f"checkpoint was written; {kept}. The run diverged: begin again, or from that one, with a "
        "smaller optim.lr or optim.grad_clip"
    )


def non_finite_weight(module: nn.Module) -> str | None:
    """Name of the first weight that holds NaN or infinity, None if all are finite."""
    for name, tensor in module.state_dict().items():
        # A finite sum needs no second look; one of large weights may overflow.
        is_doubtful = tensor.is_floating_point() and not bool(tensor.sum().isfinite())
        if is_doubtful and not bool(tensor.isfinite().all()):
            return name
    return None


def _save_policy(model: PreTrainedModel, folder: Path) -> None:
    """Writes the weights; of a model with adapters merged ones, and the adapter beside them."""
    wrapped = peft_model(model)
    weights: dict[str, Any] = {} if wrapped is None else {"state_dict": merged_state_dict(model)}
    with _quiet_progress_bars():
        model.save_pretrained(str(folder / "policy"), max_shard_size="100TB", **weights)
    if wrapped is not None:
        wrapped.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)


def _weights_file(model: PreTrainedModel) -> str:
    """Where a checkpoint has the weights that learn."""
    if peft_model(model) is None:
        return "policy/model.safetensors"
    return "adapter/adapter_model.safetensors"


def _restore_adapter(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copies weights into the model's adapters."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    wrapped = peft_model(model)
    own = get_peft_model_state_dict(wrapped)
    if {name: item.shape for name, item in own.items()} != {
        name: item.shape for name, item in weights.items()
    }:
        raise CheckpointError(f"checkpoint {path} does not fit the model: other adapters")
    set_peft_model_state_dict(wrapped, dict(weights))


@contextmanager
def _quiet_progress_bars() -> Iterator[None]:
    """Keeps transformers from drawing a bar for a single file."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _distinct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights; of those that share memory the first one alone."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in module.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def _restore_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copies weights into the model; weights that are tied need not be in the file."""
    own = model.state_dict()
    known = {own[name].data_ptr() for name in weights if name in own}
    missing = [name for name, tensor in own.items() if tensor.data_ptr() not in known]
    strange = [name for name in weights if name not in own]
    if missing or strange:
        raise CheckpointError(
            f"checkpoint {path} does not fit the model: missing {missing[:3]}, "
            f"unknown {strange[:3]}"
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            if own[name].shape != tensor.shape or own[name].dtype != tensor.dtype:
                raise CheckpointError(
                    f"checkpoint {path} does not fit the model: {name} is {tensor.dtype} "
                    f"{tuple(tensor.shape)}, the model has {own[name].dtype} "
                    f"{tuple(own[name].shape)}"
                )
            own[name].copy_(tensor)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, flat: ``{parameter name}/{entry}``.

    Args:
        model: Whose parameters are optimised; of a sharded one all ranks have to call this.
        optimizer: Its optimiser.

    Returns:
        Whole tensors on the CPU.
    """
    names: dict[Tensor, str] = {tensor: name for name, tensor in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            tensor = full_tensor(torch.as_tensor(value))
            tensors[f"{names[parameter]}/{key}"] = tensor.detach().cpu().contiguous()
    return tensors


def _restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    path: Path,
) -> None:
    """Rebuilds the optimiser's state from `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, entry = key.rsplit("/", 1)
        if name not in parameters:
            raise CheckpointError(f"checkpoint {path} has optimiser state for unknown {name!r}")
        parameter = parameters[name]
        # Step counts stay on the CPU unless the optimiser is fused.
        is_there = tensor.dim() > 0 or bool(optimizer.defaults.get("fused"))
        device = parameter.device if is_there else torch.device("cpu")
        value = tensor.to(device, copy=True)
        optimizer.state[parameter][entry] = (
            shard_like(value, parameter) if tensor.dim() > 0 else value
        )


def _damage(path: Path) -> str | None:
    """Damage of a checkpoint's files in words, None if they are sound."""
    try:
        listed = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
        expected = {
            name: (int(entry["num_bytes"]), entry["sha256"]) for name, entry in listed.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest.json cannot be read ({type(error).__name__}: {error})"
    for name, (num_bytes, digest) in expected.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != num_bytes:
            return f"{name} has {file.stat().st_size} bytes instead of {num_bytes}"
        if _sha256(file) != digest:
            return f"{name} has other contents than were written"
    return None


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file in a folder."""
    return {
        str(file.relative_to(folder)): {"num_bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _sha256(file: Path) -> str:
    """Hash of a file's contents."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Writes readable JSON."""
    file.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    """Removes a checkpoint; it loses its name first, so that no half of it is ever found."""
    hidden = path.parent / f".{path.name}.{os.getpid()}.replaced"
    path.replace(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(directory: Path) -> None:
    """Removes the unfinished folders of a killed run; there need be none."""
    for path in list(directory.iterdir()) if directory.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path)
