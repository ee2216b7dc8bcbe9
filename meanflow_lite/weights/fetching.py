"""Files of the Hugging Face Hub: asked for by name, kept in its cache, resumed where cut."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from meanflow_lite.weights.published import PUBLISHED, Published
from meanflow_lite.weights.reading import WeightsError

PREFIX = "hf:"


def fetched(source: str) -> tuple[Path, Published | None]:
    """A file or folder on this machine, and what is published about it.

    ``source`` is a path, a name in ``PUBLISHED``, or ``hf:OWNER/REPOSITORY/PATH``, where the
    ending ``.zip`` may be left out.

    Raises:
        WeightsError: there is no such thing, or no network; then it says what to fetch by hand.
    """
    known = PUBLISHED.get(source)
    if Path(source).exists():
        return Path(source), known
    if known is not None and not known.where.startswith(PREFIX):
        raise WeightsError(
            f"{source} is behind a page, not in a repository: fetch it from {known.where}, then "
            "`meanflow-lite import FILE --out RUN`"
        )
    where = known.where if known else source
    if not where.startswith(PREFIX):
        raise WeightsError(
            f"{source}: there is no such file or folder, and no such published name (they are "
            f"{', '.join(PUBLISHED)})"
        )
    if known is None:
        known = next((p for p in PUBLISHED.values() if p.where in (where, where + ".zip")), None)
    return fetch(where), known


def fetch(where: str) -> Path:
    """The file or folder ``hf:OWNER/REPOSITORY[/PATH]``; the whole repository without a path.

    Raises:
        WeightsError: see :func:`fetched`.
    """
    owner, _, rest = where.removeprefix(PREFIX).partition("/")
    name, _, path = rest.partition("/")
    if not owner or not name:
        raise WeightsError(f"{where}: write hf:OWNER/REPOSITORY or hf:OWNER/REPOSITORY/PATH")
    repository = f"{owner}/{name}"
    try:
        files = _listed(repository, path)
        return _download(repository, path, files)
    except WeightsError:
        raise
    except Exception as error:  # the libraries of the network share no base class
        cached = _cached(repository, path)
        if cached is not None:
            print(f"no network: {cached} of the cache is taken", file=sys.stderr)
            return cached
        raise WeightsError(_by_hand(repository, path, error)) from error


def _listed(repository: str, path: str) -> list[str]:
    """Names of the files wanted; prints their size and the licence first."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint()).model_info(repository, files_metadata=True)
    sizes = {s.rfilename: s.size or 0 for s in info.siblings or []}
    wanted = [
        n for n in sizes if not path or n in (path, f"{path}.zip") or n.startswith(path + "/")
    ]
    if not wanted:
        shown = ", ".join(sorted(sizes)[:8])
        raise WeightsError(f"{repository} has no file {path!r}: it has {shown}")
    licence = info.card_data.get("license") if info.card_data else None
    total = sum(sizes[name] for name in wanted) / 2**20
    print(
        f"{repository}: {len(wanted)} file{'s' * (len(wanted) > 1)}, {total:.1f} MiB, licence "
        f"{licence or 'not stated there'}",
        file=sys.stderr,
    )
    return wanted


def _download(repository: str, path: str, files: list[str]) -> Path:
    from huggingface_hub import hf_hub_download

    kept = [Path(hf_hub_download(repository, name, endpoint=endpoint())) for name in files]
    if len(files) == 1 and (path == files[0] or files[0] == f"{path}.zip"):
        return kept[0]
    root = kept[0].parents[len(Path(files[0]).parts) - 1]
    return root / path


def _cached(repository: str, path: str) -> Path | None:
    """What an earlier call has left in the Hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        root = Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    found = [p for p in (root / path, root / f"{path}.zip") if p.exists() and any(_files(p))]
    return found[0] if found else None


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def endpoint() -> str | None:
    """Another Hub, by the variable that its own programs read."""
    return os.environ.get("HF_ENDPOINT")


def _by_hand(repository: str, path: str, error: Exception) -> str:
    known = next((p.where for p in PUBLISHED.values() if path and path in p.where), None)
    file = known.split("/", 2)[-1] if known else path
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"cannot fetch {repository} ({reason[:120]}). Where there is a network, open "
        f"https://huggingface.co/{repository}/tree/main, save {file or 'its files'}, put it on "
        "this machine, and run `meanflow-lite import FILE --out RUN`"
    )
