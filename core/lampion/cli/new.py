"""Write a package to start from: a backend for a device, or ops of your own."""

from __future__ import annotations

import argparse
import keyword
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`lampion new backend acme`, `lampion new ops acme-ops`."""
    parser.add_argument("kind", choices=("backend", "ops"), help="a device, or ops for all devices")
    parser.add_argument("name", help="the device's name, or the wheel's")
    parser.add_argument("--dir", type=Path, help="where the folder is made (default: here)")


def run(args: argparse.Namespace) -> int:
    """Write the files and say what to do next."""
    words = backend_words(args.name) if args.kind == "backend" else ops_words(args.name)
    folder = (args.dir or Path()) / words["wheel"]
    if folder.exists():
        raise ValueError(f"{folder} exists already; choose another name or --dir")
    source = TEMPLATES / args.kind
    for template in sorted(source.rglob("*.txt")):
        path = folder / place(template.relative_to(source).as_posix().removesuffix(".txt"), words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.read_text(encoding="utf-8").format_map(words), encoding="utf-8")
        print(f"  {path}")
    print(f"\nnext:\n  cd {folder}\n  pip install -e \".[test]\"\n  pytest")
    return 0


def place(path: str, words: dict[str, str]) -> str:
    """Where a template's text goes."""
    if path == "ci.yml":
        return ".github/workflows/tests.yml"
    return path.replace("NAME", words.get("name", "")).replace("MODULE", words.get("module", ""))


def backend_words(name: str) -> dict[str, str]:
    """The words of a backend's templates. ValueError if the name cannot be a device's."""
    from lampion.plugins.discovery import is_device_name

    if not is_device_name(name):
        raise ValueError(f"{name!r} cannot be the name of a device: use lower-case letters, digits "
                         "and _, as in \"acme\"")
    title = "".join(part.capitalize() for part in name.split("_"))
    return {"name": name, "wheel": f"lampion-{name}", "Class": f"{title}Backend", "api": _api()}


def ops_words(wheel: str) -> dict[str, str]:
    """The words of an op package's templates. ValueError if the name cannot be a wheel's."""
    module = wheel.replace("-", "_").lower()
    if not module.isidentifier() or keyword.iskeyword(module):
        raise ValueError(f"{wheel!r} cannot be the name of a package: use letters, digits and -, "
                         "as in \"acme-ops\"")
    return {"wheel": wheel.lower(), "module": module, "api": _api(),
            "namespace": module.removesuffix("_ops") or module}


def _api() -> str:
    """The plug-in API of this lampion, as an entry point names it."""
    from lampion.plugins.versions import CURRENT

    return f"v{CURRENT.major}_{CURRENT.minor}"
