"""`python tests/parity/opdb`: see `command`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from opdb.command import main  # noqa: E402

sys.exit(main())
