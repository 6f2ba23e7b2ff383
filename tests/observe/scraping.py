"""A registry of metrics that is scraped as Prometheus does it: over HTTP, and read by prometheus-client's parser."""

import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, Metric]


class Scraped(prometheus_client.CollectorRegistry):
    """What a server serves: the registry of the test at hand. A server takes half a second to end."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = prometheus_client.CollectorRegistry()
        self.port = 0

    def collect(self) -> Iterable[Metric]:
        return self.registry.collect()

    def scrape(self) -> Samples:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            text = answer.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}


@contextmanager
def serving() -> Iterator[Scraped]:
    """Serve until the end of the block."""
    served = Scraped()
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", served)
    served.port = server.server_port
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def value(found: Samples, family: str, sample: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(
        each.value for each in found[family].samples if each.name == sample and labels.items() <= each.labels.items()
    )
