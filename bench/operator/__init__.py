"""How the operator does at 5,000 nodes, 1,000 jobs and 10,000 pods, against a real API server and etcd."""
