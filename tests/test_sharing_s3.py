"""Stores pushed to and pulled from S3, against a local server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import launch, store
from bench.launch import Request
from bench.progress import Progress
from bench.sharing import manifest

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

Main = Callable[..., tuple[int, str, str]]
QUIET, URL = Progress(quiet=True), "s3://shared/toy/store"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A client of a server with the empty bucket `shared`."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", str(tmp_path / "none")),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    client = boto3.client("s3", endpoint_url=endpoint)
    if "shared" in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        for key in keys(client):
            client.delete_object(Bucket="shared", Key=key)
    else:
        client.create_bucket(Bucket="shared")
    return client


def keys(client: Any) -> list[str]:
    return [one["Key"] for one in client.list_objects_v2(Bucket="shared").get("Contents", ())]


@pytest.fixture
def there(endpoint: str, main: Main) -> Main:
    """`bench push` and `pull` with the server's address."""
    return lambda *words: main(*words, "--quiet", "--option", f"endpoint_url={endpoint}")


@pytest.fixture
def folder(tmp_path: Path, toy_request: Request) -> Path:
    made = tmp_path / "store"
    assert launch.make(toy_request, made, QUIET) is not None
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(s3: Any, there: Main, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PART_BYTES", 500)
    code, out, err = there("push", "store", URL)
    assert (code, err) == (0, "")
    assert out.startswith(f"{URL}: toy/logreg, alpha 0.5, seed 0, whole: 30 rows")
    names = keys(s3)
    assert {name.rpartition("/")[0] for name in names} == {"toy/store", "toy/store/parts"}
    assert there("push", "store", URL)[1].splitlines()[1].startswith("  0 parts of")
    assert there("pull", URL, "back")[0] == 0
    assert contents(tmp_path / "back") == contents(folder)
    assert store.verify(tmp_path / "back") == []


def test_damaged_parts(s3: Any, there: Main, folder: Path, tmp_path: Path) -> None:
    assert there("push", "store", URL)[0] == 0
    parts = [key for key in keys(s3) if "/parts/" in key]
    size = {key: len(s3.get_object(Bucket="shared", Key=key)["Body"].read()) for key in parts}
    large = sorted(parts, key=lambda key: size[key])[-4:]
    s3.put_object(Bucket="shared", Key=large[0], Body=b"x" * size[large[0]])
    s3.put_object(Bucket="shared", Key=large[1], Body=b"short")
    s3.put_object(Bucket="shared", Key=large[2], Body=b"")
    s3.delete_object(Bucket="shared", Key=large[3])
    code, out, err = there("pull", URL, "back")
    assert (code, out) == (2, "")
    assert "(and 3 other parts): push the store again with --recheck" in err
    assert not (tmp_path / "back").exists()
    assert there("push", "store", URL)[1].splitlines()[1].startswith("  3 parts of")  # those of another size
    code, _, err = there("pull", URL, "back")
    assert code == 2
    assert f"{large[0].rpartition('/')[2]} of" in err
    assert "has another content than the sha256 in its name" in err
    assert there("push", "store", URL, "--recheck")[1].splitlines()[1].startswith("  1 part of")
    assert there("pull", URL, "back")[0] == 0
    assert contents(tmp_path / "back") == contents(folder)


def test_two_shards(s3: Any, there: Main, toy_request: Request, tmp_path: Path) -> None:
    for number in (0, 1):
        launch.make(replace(toy_request, shard=(number, 2)), tmp_path / f"S{number}", QUIET)
        assert there("push", f"S{number}", URL)[0] == 0
    assert "not whole: blocks of 30 of 30 rows" in there("pull", URL, "both")[1]
    assert launch.make(toy_request, tmp_path / "both", QUIET) is not None
    assert store.verify(tmp_path / "both") == []
    assert len([key for key in keys(s3) if "manifest" in key]) == 2
    assert there("push", "both", URL)[0] == 0
    assert len([key for key in keys(s3) if "manifest" in key]) == 1


def test_a_push_that_is_killed_goes_on(s3: Any, there: Main, endpoint: str, folder: Path, tmp_path: Path) -> None:
    slow = (
        "import time\nfrom bench import cli\nfrom bench.sharing import manifest, remote\n"
        "manifest.PART_BYTES = 200\nput = remote.Remote.put\n"
        "def wait(*given):\n    put(*given)\n    time.sleep(0.5)\n"
        "remote.Remote.put = wait\n"
        f"cli.main(['push', {str(folder)!r}, {URL!r}, '--option', 'endpoint_url={endpoint}', '--parallel', '1'])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", slow], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        until = time.monotonic() + 60
        while len(keys(s3)) < 3:
            assert child.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    had = keys(s3)
    assert all("/parts/" in key for key in had)
    assert "a push that has not ended" in there("pull", URL, "back")[2]
    assert there("push", "store", URL)[0] == 0
    assert there("pull", URL, "back")[0] == 0
    assert contents(tmp_path / "back") == contents(folder)


@pytest.mark.usefixtures("s3", "folder")
def test_what_s3_refuses(there: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, _, err = there("push", "store", "s3://missing-bucket/toy")
    assert code == 2
    assert "s3://missing-bucket/toy cannot be written (FileNotFoundError" in err
    assert "make the bucket or repository first" in err
    code, _, err = there("pull", URL, "back")
    assert code == 2
    assert f"{URL} holds no store" in err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    code, _, err = there("push", "store", "s3://another/toy", "--option", "skip_instance_cache=true")
    assert code == 2
    assert "credentials come from the environment" in err
    assert len(err.splitlines()) == 1
