"""Sends the same bytes to a server many times at once, and measures what comes back. Knows no tensors and no recipe.

One thread, plain sockets, no library between: what a request costs here is what bounds the load that can be made.
"""

from __future__ import annotations

from composer.load.connection import Wire
from composer.load.http1 import HttpWire
from composer.load.http2 import GrpcWire
from composer.load.measuring import measure
from composer.load.records import Measured
from composer.load.samples import Verify
from composer.load.shapes import Closed, Open, Shape

__all__ = ["Closed", "GrpcWire", "HttpWire", "Measured", "Open", "Shape", "Verify", "Wire", "measure"]
