"""Matrix products and per-token work, pulled out of a score.

`Products` rewrites expressions so that the pair-wise part does as little as possible: a dot that
separates becomes a matrix product (`DotResult`), a heavy scalar or vector that varies with one side
is prepared once per token and read, and only vector arithmetic that mixes both sides stays.
"""

from __future__ import annotations

from functools import reduce

from attndsl.expression import (
    FLOAT,
    Call,
    DotResult,
    Expression,
    Index,
    Literal,
    Operand,
    Read,
    Scalar,
    Size,
    Slice,
    Vector,
    children,
    index_names,
    walk,
    with_children,
)
from attndsl.planner.plan import Buffer, Dot, Prepare, Source
from attndsl.planner.separate import (
    MAX_TERMS,
    Side,
    Term,
    add,
    has_vectors,
    is_plain,
    is_vector,
    multiply,
    product,
    scalar_factors,
    side_of,
    slice_of,
    terms,
)


class Products:
    """What a score needs beside its pair-wise part, collected while it is rewritten.

    `taken` are the names that buffers must not have.
    """

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken) | {"q", "k", "v", "out", "log_sum_exp"}
        self._prepares: dict[tuple[str, Expression], Prepare] = {}
        self._dots: dict[Dot, int] = {}

    @property
    def dots(self) -> tuple[Dot, ...]:
        return tuple(self._dots)

    @property
    def stages(self) -> tuple[Prepare, ...]:
        return tuple(self._prepares.values())

    def lower_scalar(self, expression: Expression) -> Expression:
        """The same value, with dots and per-token work pulled out."""
        if not has_vectors(expression):
            return expression
        side = side_of(expression)
        if side != Side.BOTH:
            return self._prepared(expression, key_side=side == Side.KEY)
        match expression:
            case Call("dot", (left, right)):
                return self._lower_dot(left, right, expression)
        return self._lower_children(expression)

    def lower_vector(self, expression: Expression) -> Expression:
        """A vector for pair-wise arithmetic: one-sided work in it is prepared."""
        if isinstance(expression, Read) or is_plain(expression):
            return expression
        side = side_of(expression)
        if side != Side.BOTH:
            return self._prepared(expression, key_side=side == Side.KEY)
        match expression:
            case Call("dot", _):
                parts = terms(expression)
                if len(parts) > 1:
                    total = self.lower_vector(parts[0].vector)
                    for part in parts[1:]:
                        total = add(total, self.lower_vector(part.vector))
                    return total
        return self._lower_children(expression)

    def readable_vector(self, expression: Expression) -> Expression:
        """A per-query vector as a read of an input or of a prepared buffer."""
        if isinstance(expression, Read):
            return expression
        return self._prepared(expression, key_side=False)

    def source(self, vector: Expression, *, key_side: bool) -> Source:
        """Where a one-sided vector is read from; it is prepared unless it lies in memory."""
        assert isinstance(vector.type, Vector)
        if is_plain(vector):
            start: Expression = Literal(0)
            inner: Expression = vector
            while isinstance(inner, Slice):
                start = inner.start if start == Literal(0) else add(inner.start, start)
                inner = inner.vector
            assert isinstance(inner, Operand)
            return Source(inner.name, start, vector.type.size)
        read = self._prepared(vector, key_side=key_side)
        assert isinstance(read, Read)
        return Source(read.name, Literal(0), vector.type.size)

    def _lower_children(self, expression: Expression) -> Expression:
        return with_children(
            expression,
            tuple(
                self.lower_vector(child) if is_vector(child) else self._lower_other(child)
                for child in children(expression)
            ),
        )

    def _lower_other(self, expression: Expression) -> Expression:
        return self.lower_scalar(expression) if isinstance(expression.type, Scalar) else expression

    def _lower_dot(self, left: Expression, right: Expression, whole: Expression) -> Expression:
        """A dot that varies with both sides, as a sum of matrix products where it separates."""
        if {side_of(left), side_of(right)} == {Side.QUERY, Side.KEY}:
            return self._product(Term((), (left, right)))
        split = _split_concatenation(left, right)
        if split is not None:
            return self.lower_scalar(split)
        pairs = [(one, two) for one in terms(left) for two in terms(right)]
        parts = [
            Term(one.coefficients + two.coefficients, one.atoms + two.atoms) for one, two in pairs
        ]
        if len(parts) > MAX_TERMS or not any(part.is_separate for part in parts):
            return self._lower_children(whole)
        values: list[Expression] = []
        for (one, two), part in zip(pairs, parts, strict=True):
            if part.is_separate:
                values.append(self._product(part))
            else:
                dot = Call("dot", (product(one.atoms), product(two.atoms)), FLOAT)
                values.append(self.lower_scalar(product((*part.coefficients, dot))))
        return reduce(add, values)

    def _product(self, term: Term) -> Expression:
        """The sum over elements of a product of one-sided vectors, as one matrix product."""
        query, key, shared = (
            product([atom for atom in term.atoms if side_of(atom) == side])
            for side in (Side.QUERY, Side.KEY, Side.NEITHER)
        )
        coefficients = product(term.coefficients)
        if not (is_vector(query) and is_vector(key)):
            one_sided = Call("sum", (multiply(multiply(query, key), shared),), FLOAT)
            return self.lower_scalar(multiply(one_sided, coefficients))
        # A factor of the heads alone joins the side that is not read as it lies in memory.
        if is_plain(query) and not is_plain(key):
            key = multiply(key, shared)
        else:
            query = multiply(query, shared)
        query_scalars, query = _pull_scalars(query)
        key_scalars, key = _pull_scalars(key)
        dot = Dot(self.source(query, key_side=False), self.source(key, key_side=True))
        result: Expression = DotResult(self._dots.setdefault(dot, len(self._dots)))
        scalars = (*term.coefficients, *query_scalars, *key_scalars)
        for side in (Side.NEITHER, Side.QUERY, Side.KEY, Side.BOTH):
            factor = product([scalar for scalar in scalars if side_of(scalar) == side])
            result = multiply(result, self.lower_scalar(factor))
        return result

    def _prepared(self, element: Expression, *, key_side: bool) -> Expression:
        """A read of the buffer that holds `element` for every token of one side."""
        side = "key" if key_side else "query"
        known = self._prepares.get((side, element))
        if known is None:
            known = Prepare(self._buffer(element, side), side, element)
            self._prepares[side, element] = known
        positions = ("b", known.head_index, "j" if key_side else "row")
        return Read(known.buffer.name, tuple(map(Index, positions)), element.type)

    def _buffer(self, element: Expression, side: str) -> Buffer:
        names = index_names(element)
        operands = sorted({node.name for node in walk(element) if isinstance(node, Operand)})
        head, length = "H", "Lq"
        if side == "key":
            head, length = ("H" if "h" in names else "Hkv"), "Lk"
        dimensions: tuple[Expression, ...] = (Size("B"), Size(head), Size(length))
        if isinstance(element.type, Vector):
            dimensions += (element.type.size,)
            kind = "prepared"
        else:
            kind = "scalar"
        stem = f"{operands[0] if len(operands) == 1 else side}_{kind}"
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return Buffer(name, Scalar.FLOAT, dimensions)


def _pull_scalars(vector: Expression) -> tuple[tuple[Expression, ...], Expression]:
    """The scalars that multiply a vector and are better multiplied onto its dot, and the rest.

    All of them where the rest then lies in memory as it is; otherwise the token has to be prepared
    anyway, and only factors that no token changes are worth taking out.
    """
    scalars, core = scalar_factors(vector)
    if is_plain(core):
        return scalars, core
    pulled: list[Expression] = []
    kept: list[Expression] = []
    for scalar in scalars:
        same_everywhere = side_of(scalar) == Side.NEITHER and not has_vectors(scalar)
        (pulled if same_everywhere else kept).append(scalar)
    return tuple(pulled), multiply(product(kept), core) if pulled else vector


def _split_concatenation(left: Expression, right: Expression) -> Expression | None:
    """`dot(x, concat(a, b))` as `dot(x[:A], a) + dot(x[A:], b)`; None where nothing is gained."""
    for whole, other in ((left, right), (right, left)):
        match whole:
            case Call("concat", parts) if side_of(whole) == Side.BOTH:
                total: Expression | None = None
                start: Expression = Literal(0)
                for part in parts:
                    assert isinstance(part.type, Vector)
                    size = part.type.size
                    dot = Call("dot", (slice_of(other, start, size), part), FLOAT)
                    total = dot if total is None else add(total, dot)
                    start = size if start == Literal(0) else add(start, size)
                return total
    return None
