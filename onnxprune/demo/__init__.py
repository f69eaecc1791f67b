"""A folder with a web page that runs a model in the browser beside its original."""
