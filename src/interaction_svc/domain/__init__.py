"""Values and rules of the API, without input or output: SIDs, times, Interactions, errors."""
