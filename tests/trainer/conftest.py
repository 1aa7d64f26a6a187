from collections.abc import Iterator

import pytest

from tests import servers
from tests.trainer import agents


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """One S3 server for the session; a test takes a prefix of its own."""
    with servers.s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_process: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> servers.S3Server:
    """The S3 server, with its credentials in the environment."""
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    return s3_process


@pytest.fixture(scope="session")
def corpus_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenized corpus, for agents to train on."""
    return agents.corpus(tmp_path_factory.mktemp("corpus"))
