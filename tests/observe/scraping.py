"""A registry of metrics that is scraped as Prometheus does it: over HTTP, and read by prometheus-client's parser."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, Metric]


class Scraped:
    """A registry that is served."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._server, self._thread = prometheus_client.start_http_server(0, "127.0.0.1", self.registry)

    def scrape(self) -> Samples:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._server.server_port}/metrics") as answer:
            text = answer.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving() -> Iterator[Scraped]:
    """A registry that is served until the end of the block."""
    served = Scraped()
    try:
        yield served
    finally:
        served.close()


def value(found: Samples, family: str, sample: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(
        each.value for each in found[family].samples if each.name == sample and labels.items() <= each.labels.items()
    )
