"""Files that are written whole or not at all, and read with their checksum and their schema.

Everything that the library writes goes through here. A file is written under another name that
says whose it is (``.run.json.HOST-PID.partial``), synchronized to the disk, given the mode that
the umask wants and renamed; then its folder is synchronized. A process killed at any moment leaves
the old file or the new one. ``write_json`` and ``tensors.write_tensors`` put a checksum *inside*
the file, so that it survives being moved and copied; reading compares it.

What is wrong with a file is said in one of three ways, because the remedies differ:

* :class:`Damage`: the *content* is wrong: cut, changed, not of this kind. Take another copy.
* :class:`OtherVersion`: the content is sound, but of another version of this library.
* ``OSError``: the file system refuses: no permission, a full disk, a network mount that is away.
  The content may be sound, so nobody is told to remove anything. It always names the path.
"""

from meanflow_lite.files.locks import Locked, locked
from meanflow_lite.files.read import (
    Damage,
    OtherVersion,
    fits,
    read_bytes,
    read_json,
    read_npz,
    sha256,
)
from meanflow_lite.files.write import (
    append,
    clear_partials,
    naming,
    set_aside,
    sync_folder,
    write_bytes,
    write_json,
    writing,
    writing_folder,
)

__all__ = [
    "Damage",
    "Locked",
    "OtherVersion",
    "append",
    "clear_partials",
    "fits",
    "locked",
    "naming",
    "read_bytes",
    "read_json",
    "read_npz",
    "set_aside",
    "sha256",
    "sync_folder",
    "write_bytes",
    "write_json",
    "writing",
    "writing_folder",
]
