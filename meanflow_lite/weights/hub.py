"""Runs by name: published ones, and repositories of the Hugging Face Hub that hold a run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from meanflow_lite.files import write_bytes
from meanflow_lite.weights.fetching import PREFIX, endpoint, fetch, fetched
from meanflow_lite.weights.importing import RUN, open_checkpoint, write_files, write_run
from meanflow_lite.weights.published import PUBLISHED
from meanflow_lite.weights.reading import WeightsError

#: Variable that names the folder of runs that were made of published weights.
CACHE = "MEANFLOW_CACHE"


def run_folder(name: str) -> Path | None:
    """The run folder of a published name or of ``hf:OWNER/REPOSITORY``; None for other names.

    Published weights are fetched and imported once, into the folder that ``MEANFLOW_CACHE`` names
    (``~/.cache/meanflow_lite``).

    Raises:
        WeightsError: it cannot be fetched or imported, or the repository holds no run.
    """
    if name in PUBLISHED:
        return _published(name)
    if not name.startswith(PREFIX):
        return None
    folder = fetch(name)
    if not (folder / RUN).is_file():
        raise WeightsError(
            f"{name} holds no run (no {RUN}): make one with `meanflow-lite import {name} --out RUN`"
        )
    return folder


def _published(name: str) -> Path:
    out = cache() / name
    if not (out / RUN).is_file():
        path, known = fetched(name)
        write_run(open_checkpoint(path, known.average if known else None, called=name), out)
    return out


def cache() -> Path:
    """Where published weights lie as run folders."""
    named = os.environ.get(CACHE)
    return Path(named) if named else Path.home() / ".cache" / "meanflow_lite"


def push(net: nn.Module, info: Mapping[str, Any], repository: str, private: bool = True) -> str:
    """Write a run into ``OWNER/REPOSITORY`` of the Hub, and return its address.

    Raises:
        WeightsError: weights of others whose licence is not stated, to a public repository; or the
            Hub refuses.
    """
    from huggingface_hub import HfApi

    imported = info.get("imported") or {}
    if not private and str(imported.get("licence", "")).startswith("none stated"):
        raise WeightsError(
            f"these weights are not yours, and {imported['repository']} states no licence: push "
            "them to a private repository only"
        )
    api = HfApi(endpoint=endpoint())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, net, info)
        write_bytes(root / "README.md", card(info, repository).encode())
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=root, commit_message="A run")
        except Exception as error:  # the libraries of the network share no base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(
                f"cannot push to {repository} ({reason}): log in with `hf auth login`, and check "
                "the name and your rights"
            ) from error
    return f"{endpoint() or 'https://huggingface.co'}/{repository}"


def card(info: Mapping[str, Any], repository: str) -> str:
    """README of a pushed run: what it is, where it is from, how it is loaded."""
    imported = info.get("imported") or {}
    shape = "x".join(map(str, info["shape"]))
    what = (
        imported.get("name")
        or imported.get("family")
        or (info.get("settings") or {}).get("network")
    )
    lines = [
        "---",
        "library_name: meanflow-lite",
        "---",
        f"# {what}: one-step generation",
        "",
        f"A field on {shape} with {info['num_classes']} classes, for `meanflow_lite`:",
        "",
        "```python",
        "from meanflow_lite.runs import load",
        "",
        f'images = load("hf:{repository}").sample(labels=[0, 1])',
        "```",
        "",
    ]
    if imported:
        lines += [
            f"The weights are those of {imported['repository']} ({imported['source']}, SHA-256 "
            f"{imported['sha256']}), average {imported['average']}.",
            f"Licence: {imported['licence']}.",
            "",
        ]
    return "\n".join(lines)
