"""A real Kubernetes on one Linux machine, in network namespaces of its own; only the GPUs are simulated."""
