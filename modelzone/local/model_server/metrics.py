"""Counters, gauges and histograms in Prometheus' text format, under the names of TGI 2.1.1."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

__all__ = ["Metrics"]

_DURATION_BUCKETS = tuple(0.0001 * 1.5 ** (power + 1) for power in range(35))


class _Histogram:
    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def record(self, value: float) -> None:
        self._counts[bisect_left(self._buckets, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        yield f"# TYPE {name} histogram"
        total = 0
        for bound, count in zip((*self._buckets, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server counts. Used from the event loop only.

    Parameters
    ----------
    max_input_tokens, max_total_tokens
        Limits, from which the buckets of the token histograms follow.
    """

    def __init__(self, *, max_input_tokens: int, max_total_tokens: int) -> None:
        tokens = [max_total_tokens / 100 * number for number in range(1, 101)]
        inputs = [max_input_tokens / 100 * number for number in range(1, 101)]
        self.requests = 0
        self.successes = 0
        self.failures: dict[str, int] = {}
        self.waiting = 0
        self.running = 0
        self._histograms = {
            "tgi_request_input_length": _Histogram(inputs),
            "tgi_request_max_new_tokens": _Histogram(tokens),
            "tgi_request_generated_tokens": _Histogram(tokens),
            "tgi_request_duration": _Histogram(_DURATION_BUCKETS),
            "tgi_request_queue_duration": _Histogram(_DURATION_BUCKETS),
            "tgi_request_inference_duration": _Histogram(_DURATION_BUCKETS),
            "tgi_request_mean_time_per_token_duration": _Histogram(_DURATION_BUCKETS),
        }

    def fail(self, reason: str) -> None:
        """Count a request that failed."""
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def accept(self, *, input_length: int, max_new_tokens: int) -> None:
        """Record the lengths of a valid request."""
        self._histograms["tgi_request_input_length"].record(input_length)
        self._histograms["tgi_request_max_new_tokens"].record(max_new_tokens)

    def succeed(self, *, queued: float, inferring: float, generated_tokens: int) -> None:
        """Record an answer: seconds in the queue, seconds of inference, number of tokens."""
        self.successes += 1
        self._histograms["tgi_request_duration"].record(queued + inferring)
        self._histograms["tgi_request_queue_duration"].record(queued)
        self._histograms["tgi_request_inference_duration"].record(inferring)
        self._histograms["tgi_request_mean_time_per_token_duration"].record(inferring / generated_tokens)
        self._histograms["tgi_request_generated_tokens"].record(generated_tokens)

    def render(self) -> str:
        """Return all metrics as text."""
        lines = [
            "# TYPE tgi_request_count counter",
            f"tgi_request_count {self.requests}",
            "# TYPE tgi_request_success counter",
            f"tgi_request_success {self.successes}",
            "# TYPE tgi_request_failure counter",
            *(f'tgi_request_failure{{err="{reason}"}} {count}' for reason, count in self.failures.items()),
            "# TYPE tgi_queue_size gauge",
            f"tgi_queue_size {self.waiting}",
            "# TYPE tgi_batch_current_size gauge",
            f"tgi_batch_current_size {self.running}",
        ]
        for name, histogram in self._histograms.items():
            lines += histogram.lines(name)
        return "\n".join(lines) + "\n"
