"""What layers hold and do: parameters, bytes, operations, nonzero shares, milliseconds."""
