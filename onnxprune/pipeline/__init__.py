"""A pass: its contract, its report, how several run in order, where installed ones are found."""
