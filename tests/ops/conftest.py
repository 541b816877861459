"""Lets the tests of the ops import the helper modules beside them, and the subjects of the
conformance suite from source where its wheel is not installed."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "plugins" / "conformance"))
