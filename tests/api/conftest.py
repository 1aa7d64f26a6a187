"""One real API server for the session, with the CRD installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from tests.api.apiserver import ApiServer
from tests.api.rest import Rest
from tests.api.stage import OperatorProcess, install_rights, operating
from tests.servers import S3Server, s3_server


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A running API server that knows InternLM2Job."""
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        server.install_crd()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def kubeconfig(api: ApiServer) -> Path:
    """Path of a kubeconfig of the admin."""
    return api.kubeconfig


@pytest.fixture(scope="session")
def admin(api: ApiServer) -> Iterator[client.ApiClient]:
    """A client of the admin."""
    # The loader carries no annotations in this client.
    with config.new_client_from_config(config_file=str(api.kubeconfig)) as opened:  # type: ignore[no-untyped-call]
        yield opened


@pytest.fixture(scope="module")
def rest(api: ApiServer) -> Rest:
    return Rest(api)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def process(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator, running under the service account of the chart."""
    folder = tmp_path_factory.mktemp("operator")
    with operating(install_rights(api, folder), folder) as operator:
        yield operator
