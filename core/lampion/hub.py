"""Models and weights by URL or from a local checkout. Floor 7; imports serialization.

`load` takes checkouts that are there (`source="local"`); it fetches no repository.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse as urlparse  # read from here by packages

from . import serialization

__all__ = ["download_url_to_file", "get_dir", "help", "list", "load", "load_state_dict_from_url",
           "set_dir"]

HASH_REGEX = re.compile(r"-([a-f0-9]*)\.")
_dir: str | None = None


def _get_torch_home() -> str:
    """The folder of kept files: $TORCH_HOME, or torch in $XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return os.path.expanduser(os.environ.get("TORCH_HOME", os.path.join(cache, "torch")))


def get_dir() -> str:
    """Where files are kept: what `set_dir` said, $TORCH_HOME/hub, or ~/.cache/torch/hub."""
    return os.path.join(_get_torch_home(), "hub") if _dir is None else _dir


def set_dir(d: str | os.PathLike[str]) -> None:
    """Keep files in a folder."""
    global _dir
    _dir = os.path.expanduser(d)


def download_url_to_file(url: str, dst: str, hash_prefix: str | None = None,
                         progress: bool = True) -> None:
    """Copy what a URL names to a file. RuntimeError if its SHA-256 does not begin with
    `hash_prefix`; the file is then not made."""
    place = Path(dst).expanduser()
    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "lampion.hub"})
    with urllib.request.urlopen(request) as source, tempfile.NamedTemporaryFile(
            dir=place.parent, suffix=".partial", delete=False) as target:
        try:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
            target.close()
            if hash_prefix and not digest.hexdigest().startswith(hash_prefix):
                raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got '
                                   f'"{digest.hexdigest()}")')
            os.replace(target.name, place)
        finally:
            target.close()
            if os.path.exists(target.name):
                os.remove(target.name)


def load_state_dict_from_url(url: str, model_dir: str | None = None, map_location: Any = None,
                             progress: bool = True, check_hash: bool = False,
                             file_name: str | None = None, weights_only: bool = True) -> Any:
    """`load` of the file that a URL names, which is fetched once and kept in `model_dir`
    (get_dir()/checkpoints). With `check_hash` the name carries its hash: "name-HASH.pth"."""
    folder = Path(model_dir or os.path.join(get_dir(), "checkpoints"))
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name or os.path.basename(urllib.parse.urlparse(url).path)
    file = folder / name
    if not file.exists():
        found = HASH_REGEX.search(name) if check_hash else None
        download_url_to_file(url, str(file), found.group(1) if found else None, progress)
    return serialization.load(file, map_location=map_location, weights_only=weights_only)


def _hubconf(repo_or_dir: str, source: str) -> Any:
    """The module hubconf.py of a local checkout."""
    if source not in ("github", "local"):
        raise ValueError(f'Unknown source: "{source}". Allowed values: "github" | "local".')
    if source != "local":
        raise RuntimeError(f"hub: {repo_or_dir!r} would be fetched from GitHub, which lampion does "
                           "not do; get a checkout and pass its path with source='local'")
    place = Path(repo_or_dir).resolve()
    sys.path.insert(0, str(place))
    try:
        spec = importlib.util.spec_from_file_location("hubconf", place / "hubconf.py")
        if spec is None or spec.loader is None:
            raise FileNotFoundError(place / "hubconf.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(place))
    missing = [m for m in getattr(module, "dependencies", ()) if not importlib.util.find_spec(m)]
    if missing:
        raise RuntimeError(f"Missing dependencies: {', '.join(missing)}")
    return module


def _entry(module: Any, name: str) -> Any:
    found = getattr(module, name, None)
    if not callable(found):
        raise RuntimeError(f"Cannot find callable {name} in hubconf")
    return found


def list(github: str, force_reload: bool = False, skip_validation: bool = False,
         trust_repo: Any = None, verbose: bool = True, *, source: str = "local") -> Any:
    """The names of what a checkout's hubconf.py offers."""
    module = _hubconf(github, source)
    return [n for n in dir(module) if callable(getattr(module, n)) and not n.startswith("_")]


def help(github: str, model: str, force_reload: bool = False, skip_validation: bool = False,
         trust_repo: Any = None, *, source: str = "local") -> Any:
    """The docstring of an entry of hubconf.py."""
    return _entry(_hubconf(github, source), model).__doc__


def load(repo_or_dir: str, model: str, *args: Any, source: str = "github", trust_repo: Any = None,
         force_reload: bool = False, verbose: bool = True, skip_validation: bool = False,
         **kwargs: Any) -> Any:
    """What an entry of a checkout's hubconf.py makes. RuntimeError for `source="github"`."""
    return _entry(_hubconf(repo_or_dir, source), model)(*args, **kwargs)
