"""The CPU target: a plan as one C++ file."""

from attndsl.codegen.cpp.emitter import emit

__all__ = ["emit"]
