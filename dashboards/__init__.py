"""The dashboards of Grafana as code, the check of their queries, and the pictures that are drawn from them.

`python -m dashboards` writes `charts/internlm2-operator/dashboards/*.json`; nothing of it runs in a cluster.
"""
