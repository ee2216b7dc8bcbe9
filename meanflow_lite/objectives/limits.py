"""What of each published method is not here, as its docstring says it."""

from __future__ import annotations

import re
import sys

from meanflow_lite.objectives import OBJECTIVES


def not_here() -> dict[str, str]:
    """The sentence after "Not here:" in the docstring of each method's module, by name.

    Raises:
        ValueError: if a module has no such paragraph.
    """
    found = {}
    for name, kind in OBJECTIVES.items():
        text = sys.modules[kind.__module__].__doc__ or ""
        match = re.search(r"^Not here: (.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        if match is None:
            raise ValueError(f"the docstring of {kind.__module__} does not say what is not here")
        found[name] = " ".join(match.group(1).split())
    return found
