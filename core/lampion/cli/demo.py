"""Train a small network on real data."""

from __future__ import annotations

import argparse
import importlib

# Each is a module of lampion.demos with main(argv) -> exit status.
DEMOS = {
    "digits": "a convolutional network learns scikit-learn's 1,797 handwritten digits",
    "text": "a character-level transformer learns the text of Python's own help topics",
}


def run(words: list[str]) -> int:
    """Hand the arguments to a demo; its own --help lists what it takes."""
    if words and words[0] in DEMOS:
        module = importlib.import_module(f"lampion.demos.{words[0]}")
        return int(module.main(words[1:]))
    lines = ["demos:"] + [f"  {name:8}{text}" for name, text in DEMOS.items()]
    lines += ["", "examples:", "  lampion demo digits --device cpu", "  lampion demo text --help"]
    parser = argparse.ArgumentParser(
        prog="lampion demo",
        usage="lampion demo {digits,text} [arguments]",
        description=__doc__,
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("demo", choices=list(DEMOS), help="which one")
    parser.parse_args(words)
    return 2
