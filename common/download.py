"""A file from the network, fetched once and checked."""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path

import torch

from .errors import InputError
from .files import make_folder


def cached_download(url: str, sha256: str) -> Path:
    """The file of an address, kept in the user's cache beside torch's own downloads.

    Raises InputError where it cannot be fetched or its content has another SHA-256.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file() and file_sha256(path) == sha256:
        return path
    make_folder(path.parent)
    try:
        # Written under another name and renamed after the check.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise InputError(
            f"{url} cannot be downloaded ({error}); without a network, fetch it elsewhere and "
            f"save it as {path}"
        ) from error
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
