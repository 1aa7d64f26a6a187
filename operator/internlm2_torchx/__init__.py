"""The scheduler `internlm2` of torchx: a client of the API server, like `kubectl` and `internlm2`."""
