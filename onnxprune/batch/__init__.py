"""Many models at a time: gathered, compressed side by side, recorded."""
