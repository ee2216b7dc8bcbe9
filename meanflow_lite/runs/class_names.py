"""Classes by name: ``golden retriever`` for 207 of ImageNet, or the names that a run stores."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

IMAGENET = 1000


@cache
def imagenet_names() -> tuple[str, ...]:
    """Names of the 1,000 classes in their usual order, synonyms with commas, from timm's table."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(i, detailed=False) for i in range(IMAGENET))


def class_number(name: str, num_classes: int, classes: Sequence[str] | None = None) -> int:
    """The number of a class that is written as a number or as a name, in any case.

    Raises:
        ValueError: no such name; the message has what is near. Or two classes have it.
    """
    wanted = name.strip()
    if wanted.lstrip("-").isdigit():
        return int(wanted)
    known = list(classes or (imagenet_names() if num_classes == IMAGENET else ()))
    spoken = [{part.strip().lower() for part in n.split(",")} | {n.lower()} for n in known]
    found = [i for i, names in enumerate(spoken) if wanted.lower() in names]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"the classes {found} are all called {wanted!r}: give the number")
    near = get_close_matches(wanted.lower(), [n for names in spoken for n in names], 3, 0.5)
    hint = f"near are {', '.join(near)}" if near else "write its number"
    raise ValueError(f"no class is called {wanted!r}: {hint}")
