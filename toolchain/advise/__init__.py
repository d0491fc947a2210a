"""Which recipe suits a case: rules that are data, the case, the ranking, and figures to expect."""
