"""Asking somebody's data set and collate_fn for a few records, after which all is as if nobody had asked."""

from __future__ import annotations

import copy
import functools
import random
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..random_streams import undisturbed_randomness

_MOST, _DEEP = 256, 6
"""Objects that are looked into, and how far within one another: a data set of a subset, the transforms of its transform."""

_OF_THREADS = ("threading", "_thread", "queue", "logging", "concurrent.futures.thread")
"""Where what other threads change meanwhile is from."""

_STREAMS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


@contextmanager
def as_before(*asked: Any) -> Iterator[None]:
    """After the block what was asked, and what it holds, has the attributes and the random streams that it had.

    So a loop draws the same numbers, counts the same calls and opens the same files as without the block. Streams are looked for in the
    attributes of objects, in what a function closes over, and among the globals that it names. What is changed within a list or an array
    stays changed.
    """
    with undisturbed_randomness(torch.device("cpu")):
        held = list(_held(asked))
        attributes = [(one, dict(vars(one))) for one in held if not isinstance(one, (*_STREAMS, *_FUNCTIONS))]
        streams = [_stream_of(one) for one in held if isinstance(one, _STREAMS)]
        try:
            yield
        finally:
            for one, before in attributes:
                own = vars(one)
                for name in own.keys() - before.keys():
                    del own[name]
                own.update(before)
            for go_back in streams:
                go_back()


def _held(asked: tuple[Any, ...]) -> Iterator[Any]:
    """What is asked and what it holds: random streams, functions, and objects whose attributes can be set."""
    skipped = (type, types.ModuleType, torch.Tensor, torch.nn.Module)
    seen: set[int] = set()
    waiting = [(one, 0) for one in asked]
    while waiting and len(seen) < _MOST:
        one, deep = waiting.pop(0)
        if id(one) in seen or isinstance(one, skipped) or type(one).__module__ in _OF_THREADS:
            continue
        if isinstance(one, (list, tuple, Mapping)):
            inner = list(one.values() if isinstance(one, Mapping) else one) if len(one) <= _MOST else []
        elif isinstance(one, (*_STREAMS, *_FUNCTIONS)):
            seen.add(id(one))
            yield one
            inner = _held_by_function(one)
        elif isinstance(getattr(one, "__dict__", None), dict):
            seen.add(id(one))
            yield one
            called = (getattr(type(one), name, None) for name in ("__getitem__", "__call__"))
            inner = [*vars(one).values(), *(each for each in called if isinstance(each, types.FunctionType))]
        else:
            continue
        if deep < _DEEP:
            waiting += [(each, deep + 1) for each in inner]


def _held_by_function(function: Any) -> list[Any]:
    if isinstance(function, functools.partial):
        return [function.func, *function.args, *function.keywords.values()]
    if isinstance(function, types.MethodType):
        return [function.__self__, function.__func__]
    if not isinstance(function, types.FunctionType):
        return []
    closed = []
    for cell in function.__closure__ or ():
        try:
            closed.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    known = function.__globals__
    named = [known[name] for name in function.__code__.co_names if name in known]
    return [*closed, *(one for one in named if isinstance(one, (*_STREAMS, types.FunctionType)))]


def _stream_of(stream: Any) -> Callable[[], Any]:
    """What has a random stream go on from where it is now."""
    if isinstance(stream, random.Random):
        return functools.partial(stream.setstate, stream.getstate())
    if isinstance(stream, np.random.Generator):
        generator, state = stream.bit_generator, copy.deepcopy(stream.bit_generator.state)
        return functools.partial(setattr, generator, "state", state)
    if isinstance(stream, np.random.RandomState):
        return functools.partial(stream.set_state, stream.get_state())
    return functools.partial(stream.set_state, stream.get_state())
