"""The mask function of a model while dynamo makes a graph of it.

There it is no function yet, but what dynamo knows of one: code, and cells whose tensors are
proxies. It is rebuilt with those in its cells, as far as `describe` reads it. Of dynamo's own
objects, which may change, only those here are touched; where they are not as expected, the model is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

from torch import Tensor
from torch._dynamo.comptime import comptime

from attndsl.diagnostics import AttnError, error
from attndsl.runtime.integrations.masks import describe


def describe_in_graph(function: Callable[..., Any]) -> tuple[Any, Tensor | None]:
    """What makes the `Pattern`, and the documents; only dynamo can follow this. See `describe`."""
    arguments = document = None
    comptime(_read)
    return arguments, document


def _read(context: Any) -> None:
    """Give the frame of `describe_in_graph` its results, while the graph is made."""
    try:
        frame = context._i_will_not_complain_if_bc_breaks_InstructionTranslator()
        known = frame.symbolic_locals
        pattern, document = describe(_rebuilt(known["function"], frame))
        known["arguments"] = _variable(frame, tuple(pattern))
        if document is not None:
            known["document"] = document
    except AttnError:
        raise
    except Exception as fault:
        raise error(
            "A102",
            f"the model's mask cannot be read while it is compiled: {fault!r}",
            help="call the model without `torch.compile`, and report this with torch's version",
        ) from fault


def _rebuilt(variable: Any, frame: Any) -> Any:
    """The constant that a variable of dynamo's stands for; a tensor's variable is left as it is."""
    variable = variable.realize()
    if variable.is_tensor():
        return variable
    match type(variable).__name__:
        case "NestedUserFunctionVariable":
            cells = variable.closure.items if variable.closure else ()
            load = frame.output.side_effects.load_cell
            held = tuple(CellType(_rebuilt(load(one), frame)) for one in cells)
            code = variable.code.as_python_constant()
            return FunctionType(code, variable.f_globals, closure=held or None)
        case "TupleVariable":
            return tuple(_rebuilt(one, frame) for one in variable.items)
    return variable.as_python_constant()


def _variable(frame: Any, constant: Any) -> Any:
    from torch._dynamo.variables.base import VariableTracker

    return VariableTracker.build(frame, constant)
