"""How positions of kept values are stored, one file per way."""
