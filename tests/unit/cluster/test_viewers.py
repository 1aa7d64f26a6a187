"""Where the API server is, without anybody's credentials."""

from pathlib import Path

import pytest
from kubernetes.aio import client

from internlm2_operator.cluster import viewers
from internlm2_spec.config import Refused


@pytest.mark.parametrize(
    ("host", "url"), [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")], ids=["IPv4", "IPv6"]
)
def test_a_pod_is_told_where_the_api_server_is(host: str, url: str, tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    authority.touch()
    found = viewers.inside(host, "443", authority)
    assert (found.host, found.ssl_ca_cert, found.verify_ssl) == (url, str(authority), True)


def test_without_a_certificate_nobody_is_believed(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"is missing; mount ConfigMap kube-root-ca\.crt there"):
        viewers.inside("10.0.0.1", "443", tmp_path / "ca.crt")


def test_a_viewer_gets_the_place_and_nothing_of_who_started_this() -> None:
    ours = client.Configuration(
        host="https://there", api_key={"BearerToken": "Bearer admin"}, username="admin", password="secret",
        cert_file="admin.crt", key_file="admin.key", tls_server_name="name",
    )  # fmt: skip
    theirs = viewers.configured("theirs", ours)
    assert theirs.api_key == {"BearerToken": "Bearer theirs"}
    assert (theirs.host, theirs.tls_server_name) == ("https://there", "name")
    assert (theirs.username, theirs.password, theirs.cert_file, theirs.key_file) == (None, None, None, None)
    assert theirs.refresh_api_key_hook is None
