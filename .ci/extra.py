"""Print the requirements of an extra of the top-level pyproject.toml, one word each.

So the Makefile installs test tools without installing the meta package, whose wheels are not on
an index yet.
"""

import re
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
block = re.search(rf"^{re.escape(sys.argv[1])} = \[(.*?)\]$", text, re.DOTALL | re.MULTILINE)
if block is None:
    sys.exit(f"pyproject.toml has no extra {sys.argv[1]!r}")
print(*re.findall(r'"([^"]+)"', block[1]))
