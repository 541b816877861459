"""What came of a check: counts and failures, in a form that JSON takes."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any

from . import compare


class Missing(Exception):
    """lampion has no such function."""


@dataclass
class Outcome:
    """Of one check of one entry in one dtype: `total` samples, of which `passed`, and a failure
    for each of the others: {sample, kind, text}."""

    total: int = 0
    passed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, sample: Any, kind: str, text: str) -> None:
        """Note a failure."""
        self.failures.append({"sample": sample, "kind": kind, "text": " ".join(text.split())[:300]})

    def attempt(self, sample: Any, body: Any) -> None:
        """Run `body`; whatever it raises is a failure of the sample."""
        self.total += 1
        try:
            body()
            self.passed += 1
        except (Missing, ModuleNotFoundError) as e:
            self.fail(sample, "missing", str(e))
        except compare.Difference as d:
            self.fail(sample, d.kind, str(d))
        except Exception as e:
            last = traceback.extract_tb(e.__traceback__)[-1]
            at = "/".join(last.filename.split("/")[-2:])
            self.fail(sample, "raised", f"{type(e).__name__}: {e} [{at}:{last.lineno}]")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"total": self.total, "passed": self.passed, "failures": self.failures}
