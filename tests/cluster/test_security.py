"""A cluster that speaks TLS, started as on machines of one's own: `dask scheduler` and `dask worker`."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from distributed import Security

import engine
from engine import ops
from engine.devices.dask import pulse
from engine.remote.pulse import tls_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes certificates, is missing")
ON_ONE_LOOP = pytest.mark.asyncio(loop_factories=["asyncio"])


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
def secure_cluster(certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A scheduler with a worker, which ask each other for certificates: its address, and the process of the worker."""
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
        yield address, processes[1].pid


@pytest.fixture
def secure_scheduler(secure_cluster: tuple[str, int]) -> str:
    """The address of the scheduler."""
    return secure_cluster[0]


@pytest.fixture
def security(certificate: tuple[str, str]) -> Security:
    """What a client proves itself with."""
    cert, key = certificate
    return Security(tls_ca_file=cert, tls_client_cert=cert, tls_client_key=key, require_encryption=True)


@ON_ONE_LOOP
async def test_a_cluster_that_speaks_tls(secure_scheduler: str, security: Security) -> None:
    config = engine.Config(device_count={"DASK": 1}, dask_scheduler=(secure_scheduler, security))
    assert config == engine.Config(device_count={"DASK": 1}, dask_scheduler=(secure_scheduler, security))
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        x = ops.asarray(np.arange(100_000.0), device="DASK:0")
        assert float(await ops.sum(x * 2)) == 2 * sum(range(100_000))
        assert "tls://" in repr(engine.Device("DASK:0"))


@ON_ONE_LOOP
async def test_without_a_certificate_no_connection(secure_scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.devices.dask.session.CONNECT_SECONDS", 1.0)
    config = engine.Config(device_count={"DASK": 1}, dask_scheduler=secure_scheduler)
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        with pytest.raises((ConnectionError, TypeError)):
            await ops.asarray([1.0], device="DASK:0")


@ON_ONE_LOOP
async def test_a_worker_that_is_stopped_is_lost_with_tls_too(
    secure_cluster: tuple[str, int], security: Security, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "SILENCE", 1.0)
    scheduler, worker = secure_cluster
    config = engine.Config(device_count={"DASK": 1}, dask_scheduler=(scheduler, security))
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        large = ops.asarray(np.ones(50_000), device="DASK:0")
        assert float(await ops.sum(large)) == 50_000
        os.kill(worker, signal.SIGSTOP)
        try:
            running = large + 1
            for handle in (running, running * 2):
                with pytest.raises(engine.DeviceLostError, match="has not answered for"):
                    await asyncio.wait_for(handle.wait_ready(), 60.0)
            engine.clear_errors()
        finally:
            os.kill(worker, signal.SIGCONT)  # the other tests share it


@ON_ONE_LOOP
async def test_only_who_has_a_certificate_is_answered(
    secure_cluster: tuple[str, int], security: Security, certificate: tuple[str, str]
) -> None:
    scheduler, _ = secure_cluster
    config = engine.Config(device_count={"DASK": 1}, dask_scheduler=(scheduler, security))
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        assert await ops.asarray([1.0], device="DASK:0") == [1.0]
        address = engine.Device("DASK:0").address
        assert address is not None
        answers = pulse.Pulse(address, security.get_connection_args("client"))
        assert await answers.begin()
        answers.close()
        stranger = ssl.create_default_context(cafile=certificate[0])
        stranger.check_hostname = False
        refused = pulse.Pulse(address, {**security.get_connection_args("client"), "ssl_context": stranger})
        assert not await refused.begin()


def test_certificates_may_be_texts(certificate: tuple[str, str]) -> None:
    cert, key = (Path(each).read_text(encoding="ascii") for each in certificate)
    context = tls_context(cert, cert, key, None, ssl.TLSVersion.TLSv1_2)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
