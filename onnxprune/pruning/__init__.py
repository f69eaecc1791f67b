"""Which entries go: scores, thresholds, exact counts, patterns."""
