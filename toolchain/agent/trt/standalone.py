"""A plan opened in a program that is no agent: what a bundle's infer.py loads, with the files that this one imports."""

from ..wire import AgentError
from . import engine, place, plans

__all__ = ["AgentError", "open_plan"]


def open_plan(path, provider):
    """The engine, and a remark about it or None.

    Raises:
        AgentError: it was built elsewhere or was changed, which is seen before TensorRT gets it; or it cannot run.
        ImportError: no TensorRT.
    """
    here = place.here()
    plan, about = plans.open_plan(path, here)
    built_in, now = about["made_of"]["here"].get("power_mode"), here["power_mode"]
    remark = None if built_in == now else "built in power mode %s, which is %s now" % (built_in, now)
    return engine.Engine(plan, about, provider, about["made_of"]["flags"].get("dla")), remark
