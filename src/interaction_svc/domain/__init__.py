"""Values and rules of the API, without I/O: SIDs, times, Interactions, errors."""
