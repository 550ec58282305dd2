"""Several columns of vectors, made of one vector of the model: which there are, and how each is made.

    vector_formats   settings (output.vectors) and the model's number of components -> a VectorFormat for each column
    told, parsed     those to the two texts that footers and run.json hold, and back
    derived          [N, M] float32 of the model -> [N, D] float32 of a column, before it is stored as its type
    whole            the column from which the others can be made again, bit for bit

The columns of a text are made of the same float32 numbers: one forward pass serves them all, whatever types are stored. The
main column is called `embedding`. A snapshot of that one column alone, with all components, says nothing here: its
footers have dim, vector and int8_scale, as they always had. N rows, M components of the model, D of a column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from workers.config import MAIN_VECTORS, VectorColumn, VectorType
from workers.errors import UsageError
from workers.table.vectors import Floats, VectorFormat, column_type, unit_rows


def vector_formats(columns: Sequence[VectorColumn], dim: int) -> tuple[VectorFormat, ...]:
    """The columns, `embedding` first, for a model of `dim` components; scales are not known yet.

    Raises:
        UsageError: more components than the model has, or binary with a number that is no multiple of 8.
    """
    formats = []
    for column in columns:
        width = column.dim or dim
        if width > dim:
            raise UsageError(
                f"output.vectors: {column.name}: dim={width}: the model's vectors have {dim} components; give at most that"
            )
        if len(columns) > 1 and column.type is VectorType.BINARY and width % 8:
            raise UsageError(
                f"output.vectors: {column.name}: type=binary packs 8 components into a byte and it has {width}; give it a "
                "dim that is a multiple of 8, or type int8"
            )
        column_type(width, column.type)
        formats.append(VectorFormat(column.type, None, column.name, width, dim if width < dim else None))
    return tuple(formats)


def with_scales(formats: Iterable[VectorFormat], scales: Mapping[str, float | None]) -> tuple[VectorFormat, ...]:
    """The int8 columns with their scales, by name."""
    return tuple(
        replace(form, int8_scale=scales.get(form.column)) if form.vector is VectorType.INT8 else form for form in formats
    )


def told(formats: Sequence[VectorFormat]) -> tuple[str, str]:
    """(`vectors`, `int8_scales`) as a stamp holds them, JSON. Both '' for the main column alone with all components."""
    if len(formats) == 1 and formats[0].of is None:
        return "", ""
    listed = [
        {"name": form.column, "type": form.vector.value, "dim": form.dim} | ({"of": form.of} if form.of else {})
        for form in formats
    ]
    scales = {form.column: form.int8_scale for form in formats if form.int8_scale is not None}
    return json.dumps(listed), json.dumps(scales) if scales else ""


def parsed(main: VectorFormat, vectors: str, int8_scales: str = "") -> tuple[VectorFormat, ...]:
    """What `told` was given; `main`: as dim, vector and int8_scale say, where `vectors` says nothing.

    Raises: ValueError: other texts.
    """
    if not vectors:
        return (main,)
    try:
        scales = json.loads(int8_scales) if int8_scales else {}
        return tuple(
            VectorFormat(VectorType(one["type"]), scales.get(one["name"]), one["name"], one["dim"], one.get("of"))
            for one in json.loads(vectors)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no list of columns: {error!r:.100}") from None


def of_footer(footer: Mapping[str, str], prefix: str) -> tuple[VectorFormat, ...]:
    """The columns of a part, by its footer, whose names begin with `prefix`. Raises: ValueError, KeyError."""
    facts = {name: footer.get(prefix + name, "") for name in ("int8_scale", "vectors", "int8_scales")}
    scale = float(facts["int8_scale"]) if facts["int8_scale"] else None
    main = VectorFormat(VectorType(footer[prefix + "vector"]), scale, MAIN_VECTORS, int(footer[prefix + "dim"]))
    return parsed(main, facts["vectors"], facts["int8_scales"])


def derived(vectors_NM: Floats, form: VectorFormat, *, normalize: bool) -> Floats:
    """[N, D] the components of a column before they are stored as its type.

    All components of the model, and the same bits; or the first D, divided by their length where the model normalises
    (`normalize`). A row's result does not depend on the rows beside it. Matryoshka: Kusupati et al. 2022, arXiv 2205.13147.
    """
    if form.of is None:
        return vectors_NM
    head_ND = np.ascontiguousarray(vectors_NM[:, : form.dim])
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf stay, to be told of by bad_rows
        return unit_rows(head_ND) if normalize else head_ND


def whole(formats: Iterable[VectorFormat]) -> VectorFormat | None:
    """The column that holds the model's own float32 numbers, all of them: every other column is made of it, bit for bit."""
    return next((form for form in formats if form.vector is VectorType.FLOAT32 and form.of is None), None)


def exact_first(formats: Sequence[VectorFormat]) -> VectorFormat:
    """The column that tells most of the model's vector: by type, then by components."""
    order = (VectorType.FLOAT32, VectorType.FLOAT16, VectorType.INT8, VectorType.BINARY)
    return min(formats, key=lambda form: (order.index(form.vector), -form.dim, form.column != MAIN_VECTORS))
