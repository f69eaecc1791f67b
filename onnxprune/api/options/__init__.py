"""What a caller may ask: keywords of the public functions, and the frozen objects that they become."""
