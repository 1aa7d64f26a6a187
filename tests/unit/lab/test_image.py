"""What the host image and the containers' base specification hold."""

import io
import json
import tarfile
from pathlib import Path

from lab import image
from lab.settings import CHECKOUT


def unpack(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers() if m.isfile()}


def test_the_host_image_answers_to_the_production_names_in_full() -> None:
    manifest = json.loads(unpack(image.host())["manifest.json"])
    assert manifest[0]["RepoTags"] == [
        "internlm2.lab/host:latest",
        "docker.io/library/internlm2-trainer:0.1.0",
        "docker.io/library/internlm2-operator:0.1.0",
    ]


def test_programs_of_the_environment_come_first_and_write_no_bytecode() -> None:
    files = unpack(image.host(prefix="/somewhere/venv"))
    config = json.loads(files[json.loads(files["manifest.json"])[0]["Config"]])
    env = dict(item.split("=", 1) for item in config["config"]["Env"])
    assert env["PATH"].startswith("/somewhere/venv/bin:")
    assert (env["PYTHONDONTWRITEBYTECODE"], env["HOME"]) == ("1", "/tmp")


def test_equal_content_is_equal_bytes() -> None:
    assert image.host() == image.host()


def test_everyone_may_write_tmp() -> None:
    layer = unpack(image.host())["layer.tar"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert {m.name: m.mode for m in tar.getmembers() if m.name.endswith("tmp")} == {
            "tmp": 0o1777,
            "var/tmp": 0o1777,
        }


def test_host_paths_are_added_read_only_to_the_default_mounts() -> None:
    spec = image.base_spec({"ociVersion": "1.0.2", "mounts": [{"destination": "/proc"}]}, [Path("/usr")])
    assert spec["mounts"][:2] == [
        {"destination": "/proc"},
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
    ]


def test_sources_have_a_fixed_place_that_no_volume_of_a_pod_hides() -> None:
    spec = image.base_spec({"mounts": []}, [])
    assert [(m["destination"], m["source"]) for m in spec["mounts"]] == [
        (f"/opt/internlm2/{part}", str(CHECKOUT / part)) for part in ("operator", "trainer")
    ]
    config = unpack(image.host())
    text = config[json.loads(config["manifest.json"])[0]["Config"]].decode()
    assert "PYTHONPATH=/opt/internlm2/operator:/opt/internlm2/trainer" in text
