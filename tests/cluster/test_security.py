"""A cluster that speaks TLS, started as on machines of one's own: `dask scheduler` and `dask worker`."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from distributed import Security

import engine
from engine import ops

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not there"),
    pytest.mark.asyncio(loop_factories=["asyncio"]),
]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        ["openssl", *request, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=60
    )
    return str(cert), str(key)


@pytest.fixture(scope="module")
def secure_scheduler(certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with one worker, both of which take no connection without a certificate."""
    cert, key = certificate
    folder = tmp_path_factory.mktemp("dask")
    tls = ["--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key]
    listens = ["--host", "tls://127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    file = folder / "scheduler.json"
    commands = [
        ["scheduler", *listens, "--port", "0", "--scheduler-file", str(file)],
        ["worker", *listens, "--no-nanny", "--nthreads", "1", "--scheduler-file", str(file)],
    ]
    with ExitStack() as running:
        processes = []
        for command in commands:
            process = running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command, *tls],
                    cwd=folder,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            running.callback(process.kill)
            processes.append(process)
        lines = processes[0].stderr
        assert lines is not None
        address = next(word for line in lines for word in line.split() if word.startswith("tls://"))
        yield address


async def test_a_cluster_that_speaks_tls(secure_scheduler: str, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    security = Security(tls_ca_file=cert, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
    config = engine.Config(device_count={"DASK": 1}, dask_scheduler=(secure_scheduler, security))
    assert config == engine.Config(device_count={"DASK": 1}, dask_scheduler=(secure_scheduler, security))
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        x = ops.asarray(np.arange(100_000.0), device="DASK:0")
        assert float(await ops.sum(x * 2)) == 2 * sum(range(100_000))
        assert "tls://" in repr(engine.Device("DASK:0"))


async def test_without_a_certificate_no_connection(secure_scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.devices.dask.session.CONNECT_SECONDS", 1.0)
    config = engine.Config(device_count={"DASK": 1}, dask_scheduler=secure_scheduler)
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        with pytest.raises((ConnectionError, TypeError)):
            await ops.asarray([1.0], device="DASK:0")
