"""A module of states with functions of a test in the place of Salt's."""

from pathlib import Path
from types import SimpleNamespace

STATES = Path(__file__).resolve().parents[2] / "_states"


def load(name, functions, test=False, **injected):
    """Return a module of `_states`.

    functions: what the module finds in `__salt__`. test: whether this is a dry run.
    injected: further names that Salt gives to a module, such as `__lowstate__`.
    """
    given = {"__salt__": functions, "__opts__": {"test": test}, "__context__": {}}
    given |= {"__name__": name, "__lowstate__": [], "__running__": {}}
    module = SimpleNamespace(**given | injected)
    exec(compile((STATES / f"{name}.py").read_text(), name, "exec"), vars(module))
    return module
