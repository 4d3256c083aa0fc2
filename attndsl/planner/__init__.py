"""From the meaning of an attention to what will run.

`plan` lowers a bound attention and improves the result pass by pass, verifying it in between.
"""

from attndsl.planner.pipeline import plan

__all__ = ["plan"]
