"""One entry for each normalizer, from which all tests of the family draw."""

from support.normalizers import (
    batch,
    hybrid,
    reference,
    response,
    sample,
    segments,
    weight,
)

TABLE = (
    batch.TABLE
    | hybrid.TABLE
    | reference.TABLE
    | sample.TABLE
    | segments.TABLE
    | response.TABLE
    | weight.TABLE
)
