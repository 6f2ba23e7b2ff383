"""What the service computes: plain NumPy functions. Given a handle they dispatch ops, given an array they compute."""

from io import BytesIO
from typing import Any

import numpy as np


def best(scores: Any, top: int) -> tuple[Any, Any]:
    """The places of the largest scores of (..., rows), best first, and these scores: (..., top) each."""
    rows = np.argpartition(scores, -top, axis=-1)[..., -top:]
    found = np.take_along_axis(scores, rows, -1)
    order = np.argsort(-found, axis=-1, kind="stable")
    return np.take_along_axis(rows, order, -1), np.take_along_axis(found, order, -1)


def similar(catalogue: Any, vector: Any, top: int) -> tuple[Any, Any]:
    """The rows of a catalogue (rows, features) most like a vector (features,), best first, and their scores."""
    return best(np.matmul(catalogue, vector), top)


def toned(image: Any, exposure: float = 4.0) -> Any:
    """An image of uint8 (height, width, 3) exposed anew, its highlights kept and its contrast stretched; uint8."""
    light = np.square(np.astype(image, np.float32) / 255.0) * exposure
    mapped = light * (1.0 + light / 4.0) / (1.0 + light)
    low, high = np.min(mapped), np.max(mapped)
    shown = np.sqrt((mapped - low) / np.maximum(high - low, 1e-6))
    return np.astype(np.round(255.0 * shown), np.uint8)


def toned_file(content: bytes) -> bytes:
    """An image as a .npy file, toned, and written as one again. Raises `ValueError` for what is no such image."""
    try:
        image = np.load(BytesIO(content), allow_pickle=False)
    except EOFError:
        raise ValueError("expected an image as a .npy file, but got nothing") from None
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ValueError(f"expected uint8 of (height, width, 3), but got {image.dtype} of {image.shape}")
    buffer = BytesIO()
    np.save(buffer, toned(image))
    return buffer.getvalue()


LONGEST = 100


def payments(payment: float, years: int) -> Any:
    """The same payment in each of so many years, and nothing after: (LONGEST,), so that all requests have one shape."""
    yearly = np.zeros(LONGEST)
    yearly[:years] = payment
    return yearly


def present_value(payments: Any, rate: Any) -> Any:
    """What yearly payments (LONGEST,) are worth today."""
    return np.sum(payments / (1.0 + rate) ** np.arange(1, LONGEST + 1))


def step(matrix: Any, vector: Any) -> tuple[Any, Any]:
    """One step of power iteration: a better eigenvector of a matrix (n, n), and the eigenvalue so far."""
    product = np.matmul(matrix, vector)
    length = np.sqrt(np.sum(product * product))
    return product / length, length


def profile(catalogue: Any) -> Any:
    """The mean of each feature, its spread, and its extremes: (4, features)."""
    return np.stack([np.mean(catalogue, 0), np.std(catalogue, 0), np.min(catalogue, 0), np.max(catalogue, 0)])
