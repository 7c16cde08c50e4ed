"""A mark on the path of a code file that a store names, which only this user can make.

sciinf runs the code of a file that a store's folder names. A folder from elsewhere could name any file. So the path
carries an HMAC-SHA-256, made with a key of this user. The key lies in the user's folder for settings of programs, or in
the folder that `SCIINF_STATE` names.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

_KEY = 32  # Length of the key in bytes.
_OF_THIS_PROCESS = secrets.token_bytes(_KEY)


def mark_of(path: str) -> str:
    """This user's mark of a path."""
    return hmac.new(_key(), path.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def is_marked(path: str, mark: object) -> bool:
    """Whether a mark of a path was made by this user."""
    return hmac.compare_digest(os.fsencode(str(mark)), os.fsencode(mark_of(path)))


def _key() -> bytes:
    """The user's key, created when it is first needed; a key of this process alone if no key can be stored."""
    from click import get_app_dir

    file = Path(os.environ.get("SCIINF_STATE") or get_app_dir("sciinf")) / "key"
    with suppress(OSError):
        if not file.is_file() or file.stat().st_size < _KEY:  # A full disk leaves a short file.
            file.parent.mkdir(parents=True, exist_ok=True)
            own = file.with_name(f"key.{os.getpid()}")
            own.unlink(missing_ok=True)
            descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, secrets.token_bytes(_KEY))
            os.close(descriptor)
            own.replace(file)
        if len(key := file.read_bytes()) == _KEY:
            return key
    return _OF_THIS_PROCESS
