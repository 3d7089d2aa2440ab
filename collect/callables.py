"""Finding what a user names as `package.module:function`."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from ..store.errors import InvalidInput, InvalidOption

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def a(name: str) -> str:
    """The name of a type with its article: an int, a DataFrame."""
    return f"{'an' if name[:1].lower() in set('aeiou') else 'a'} {name}"


def is_callable_spec(spec: str) -> bool:
    """Whether `spec` has the form `package.module:function`."""
    return _SPEC.fullmatch(spec) is not None


def refuse_unnamed(whose: str, *functions: tuple[str, str, str]) -> None:
    """Raises InvalidOption where a lake would choose the code that runs.

    ``functions`` are (what it is of ``whose``, its spec, its option), as a lake has them, whose files may come from others; a function runs
    only where the user named it, on the command line or in a recipe of their own. All that are to be named again are told at once.
    """
    unnamed = [each for each in functions if is_callable_spec(each[1])]
    if not unnamed:
        return
    whats, specs = (" and the ".join(each[0] for each in unnamed), " and ".join(each[1] for each in unnamed))
    one = len(unnamed) == 1
    again = " ".join(f"{option} {spec}" for _, spec, option in unnamed)
    raise InvalidOption(
        f"the {whats} of {whose} {'is the function' if one else 'are the functions'} {specs}, and a lake's word alone runs no code: if you trust "
        f"{'it, name it' if one else 'them, name them'} again with {again}"
    )


def load_callable(spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Modules in the current directory are found too, after everything that is installed.

    Raises InvalidOption where the spec, the module or the function does not exist, InvalidInput where
    importing the module fails.
    """
    if not is_callable_spec(spec):
        raise InvalidOption(f"{spec!r} is not of the form package.module:function")
    module_name, name = spec.split(":")
    module = _import(module_name)
    found = getattr(module, name, None)
    if found is None:
        public = {
            key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")
        }
        # What the module imports is hardly meant, unless it does nothing else.
        own = [key for key, value in public.items() if getattr(value, "__module__", None) == module.__name__]
        raise unknown_choice(f"function of {module_name}", name, own or public)
    if not callable(found):
        raise InvalidOption(f"{spec} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def _import(module_name: str) -> ModuleType:
    here = os.getcwd()
    appended = here not in sys.path
    if appended:
        # At the end, so that a file in the working directory never shadows an installed package.
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if appended:
            sys.path.remove(here)
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise InvalidOption(
                f"no module {error.name!r}; install it, or run from the directory that holds it"
            ) from error
        raise InvalidInput(f"importing {module_name} failed: {error}") from error
    except Exception as error:  # whatever a user's module raises while it is imported
        if appended:
            sys.path.remove(here)
        raise InvalidInput(f"importing {module_name} failed: {type(error).__name__}: {error}") from error


def unknown_choice(what: str, given: object, valid: Iterable[str], *, more: str = "") -> InvalidOption:
    """The error for `given` where one of `valid` was expected; returned, so that callers `raise` it.

    `what` names the thing ("model", "recipe field"); `more` is appended, for forms that no list can name.
    """
    names = list(valid)
    by_folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(str(given).casefold(), by_folded, n=1)
    hint = f" Did you mean {by_folded[near[0]]!r}?" if near else ""
    listed = f"valid: {', '.join(names)}" if names else "it takes none"
    return InvalidOption(f"unknown {what} {given!r};{hint} {listed}{more}".replace("; Did", ". Did"))
