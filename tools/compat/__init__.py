"""Which runtimes read which forms: encoded models in environments of their own."""
