"""Exercises whose check says what is wrong, and not only that something is.

An exercise holds the right answer and the mistakes people make, each with the sentence that names
it. An answer is tried, compared with the right one, then with each mistake; a test runs them all,
so every sentence here is known to be said when it should.
"""

from __future__ import annotations

import dis
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

EXERCISES: dict[str, Exercise] = {}
_ROWS = "(To multiply rows by a time [B], write t[:, None].)"
_NAMING = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")
_RETURNING = ("LOAD_CONST", "RETURN_CONST", "RETURN_VALUE")


@dataclass(frozen=True)
class Exercise:
    """One exercise: ``use`` turns an answer into something comparable (a tensor, number or word).

    A dict of those, such as ``{"the loss of each row": ..., "its gradient": ...}``, is compared
    part by part, and the message names the part.

    For a function, ``use`` calls it, as in ``lambda jump: jump(z, r, t, u)``. ``right`` is a right
    answer, ``mistakes`` maps a sentence to a wrong answer that deserves it, ``praise`` is what a
    right answer is told. Numbers are compared with ``tolerance``, relative and absolute.
    """

    id: str
    right: Any
    mistakes: Mapping[str, Any]
    use: Callable[[Any], Any] = lambda answer: answer
    praise: str = "Right."
    tolerance: float = 1e-6
    hint: str = ""

    def verdict(self, answer: Any) -> Verdict:
        """Whether ``answer`` is filled in and right, and the sentence that says so."""
        if _unfilled(answer):
            return Verdict(
                "open", "Not done yet: replace the `...` above, then run this cell again."
            )
        try:
            got = self.use(answer)
        except Exception as error:  # a learner's code may raise anything; the message is the answer
            told = f"It stopped with {type(error).__name__}: {error}"
            return Verdict(
                "wrong", f"{told} {_ROWS if 'must match the size' in told else ''}".strip()
            )
        if _unfilled(got):
            return Verdict("wrong", "The function returned nothing: does it end with `return`?")
        want = self.use(self.right)
        if _same(got, want, self.tolerance):
            return Verdict("right", self.praise)
        for sentence, mistake in self.mistakes.items():
            if _same(got, self.use(mistake), self.tolerance):
                return Verdict("wrong", sentence)
        return Verdict("wrong", f"{_difference(got, want, self.tolerance)} {self.hint}".strip())


@dataclass(frozen=True)
class Verdict:
    """``state`` is "open", "wrong" or "right"; ``message`` is what the reader is told."""

    state: str
    message: str = field(default="")


def exercise(id: str, right: Any, mistakes: Mapping[str, Any], **options: Any) -> Exercise:
    """Register an `Exercise`; ``id`` starts with its chapter, as in ``"05-jump"``."""
    if id in EXERCISES:
        raise ValueError(f"exercise id={id!r} is taken; ids are unique in the book")
    if not mistakes:
        raise ValueError(
            f"exercise {id!r} names no mistake: a check must be able to say what is wrong"
        )
    EXERCISES[id] = Exercise(id, right, mistakes, **options)
    return EXERCISES[id]


def find(id: str) -> Exercise:
    """The exercise called ``id``, from ``meanflow_lite.notebook.checks.chapter_NN``."""
    if id not in EXERCISES:
        module = f"meanflow_lite.notebook.checks.chapter_{id[:2]}"
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    if id not in EXERCISES:
        raise ValueError(f"no exercise is called {id!r}; known: {sorted(EXERCISES)}")
    return EXERCISES[id]


def check(id: str, answer: Any) -> None:
    """Print what is right or wrong about ``answer`` to exercise ``id``."""
    verdict = find(id).verdict(answer)
    mark = {"open": "[ ]", "wrong": "[x]", "right": "[ok]"}[verdict.state]
    print(mark, verdict.message)


def _unfilled(answer: Any) -> bool:
    if answer is ... or answer is None:
        return True
    code = getattr(answer, "__code__", None)
    if code is None:
        return False
    done = [i for i in dis.get_instructions(code) if i.opname not in ("RESUME", "NOP")]
    if any(a.argval is ... and b.opname.startswith(_NAMING) for a, b in pairwise(done)):
        return True  # `name = ...` is still somewhere inside; z[..., 0] is not meant
    # A body that is only `...` compiles to returning None.
    return all(i.opname in _RETURNING for i in done) and [
        i.argval for i in done if i.opname != "RETURN_VALUE"
    ] == [None]


def _same(got: Any, want: Any, tolerance: float) -> bool:
    """Equal as a reader means it: a float, a list and tensors [B] or [B, 1] may be one answer."""
    if isinstance(want, dict):
        return isinstance(got, dict) and all(_same(got[k], want[k], tolerance) for k in want)
    if isinstance(want, str) or isinstance(got, str):
        return (
            isinstance(got, str) and isinstance(want, str) and got.strip().lower() == want.lower()
        )
    a, b = _array(got), _array(want)
    if a is not None and b is not None:
        return _agree(a, b, tolerance)
    if isinstance(want, tuple | list) and isinstance(got, tuple | list):
        return len(got) == len(want) and all(
            _same(a, b, tolerance) for a, b in zip(got, want, strict=True)
        )
    return got == want


def _agree(a: Any, b: Any, tolerance: float) -> bool:
    """Equal numbers; axes of length one do not count."""
    a, b = np.squeeze(a), np.squeeze(b)
    return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance)


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float64)
    elif isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
        value = [_array(v) for v in value]
        if any(v is None for v in value):
            return None
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _difference(got: Any, want: Any, tolerance: float) -> str:
    """The first difference there is to tell: kind, shape, then value."""
    if isinstance(want, dict):
        part = next(k for k in want if not _same(got[k], want[k], tolerance))
        told = _difference(got[part], want[part], tolerance)
        return f"Look at {part}. {told}"
    a, b = _array(got), _array(want)
    if b is None:
        return f"{got!r} is not it."
    if a is None:
        return f"Expected {_shaped(b)}, got {type(got).__name__}."
    if not np.isfinite(a).all():
        return "The result is not finite (nan or inf)."
    if a.squeeze().shape != b.squeeze().shape:
        return _shape(a, b, tolerance)
    if _agree(np.negative(a), b, tolerance):
        return "The sign is turned round."
    if b.size == 1:
        return f"{float(a):.4g} is not it."
    worst = float(np.abs(a - b).max())
    return f"The shape is right, the values are not: the largest difference is {worst:.2g}."


def _shaped(b: np.ndarray) -> str:
    return "a number" if b.size == 1 else f"numbers of shape {tuple(b.shape)}"


def _shape(a: np.ndarray, b: np.ndarray, tolerance: float) -> str:
    """What a wrong shape usually comes from."""
    told = f"The shape is {tuple(a.shape)}, it should be {tuple(b.shape)}."
    if a.size == 1 and b.ndim and _agree(a, b.mean(), tolerance):
        return f"{told} That is the mean over the rows: return a value for each row."
    if a.size == 1 and b.ndim and _agree(a, b.sum(), tolerance):
        return f"{told} That is the sum over the rows: return a value for each row."
    if a.ndim == 2 and a.shape == (len(b), len(b)):
        return f"{told} Every row met every time. {_ROWS}"
    return told
