"""Lets the tests of the suite import the faulty device, and the suite from source where its wheel
is not installed."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "plugins" / "conformance"))
