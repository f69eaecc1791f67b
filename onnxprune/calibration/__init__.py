"""What layers read, recorded by running the model on samples."""
