"""Which parameter of a checkpoint is which weight of the model."""
