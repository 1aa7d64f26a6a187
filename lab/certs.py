"""The lab's certificate authority, the API server's certificate, and the one token everybody in it uses."""

import json
import secrets
from pathlib import Path

from lab.process import run
from lab.settings import Names

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650")
SANS = (
    "IP:198.51.100.254,IP:10.96.0.1,IP:127.0.0.1,"
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
)
CONFIG = f"""[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = {SANS}
"""


def write(names: Names) -> None:
    """Write ca.crt, apiserver.crt and .key, sa.key, tokens.csv and kubeconfig unless they are there."""
    state = names.state
    if names.kubeconfig.exists():
        return
    config = state / "openssl.cnf"
    config.write_text(CONFIG)
    issue = ("openssl", "req", "-x509", "-config", str(config), *KEY)
    ca = ("-CA", str(state / "ca.crt"), "-CAkey", str(state / "ca.key"))
    run(*issue, "-extensions", "authority", "-subj", "/CN=internlm2-lab", *_out(state, "ca"))
    run(*issue, "-extensions", "server", "-subj", "/CN=kube-apiserver", *ca, *_out(state, "apiserver"))
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(state / "sa.key"))
    token = secrets.token_hex(16)
    (state / "token").write_text(token)
    (state / "tokens.csv").write_text(f"{token},lab-admin,lab-admin,system:masters\n")
    names.kubeconfig.write_text(json.dumps(kubeconfig(names.apiserver_url, str(state / "ca.crt"), token), indent=1))


def kubeconfig(server: str, authority: str, token: str) -> dict[str, object]:
    """Return a kubeconfig with one cluster, one user and one context, all called `lab`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }


def _out(state: Path, name: str) -> tuple[str, ...]:
    return "-keyout", str(state / f"{name}.key"), "-out", str(state / f"{name}.crt")
