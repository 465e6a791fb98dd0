"""Does a guided response give away that it was guided? It mentions the reference, or copies it."""

REFERENCE_PHRASES: tuple[str, ...] = (
    "reference solution",
    "provided solution",
    "given solution",
    "expert solution",
)
