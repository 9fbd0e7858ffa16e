"""Settings of how this device reaches its aggregator."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from homeroom.contract.address import ADDRESS_PATTERN, Pin


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How this device reaches its aggregator; an empty text leaves it to the invitation and the environment.

    address: URL in place of the invitation's.
    pin: of the TLS key at that address, where it is another than the invitation's.
    proxy: URL.
    metered: `auto` stays offline on mobile data where the system tells it apart.
    clock: `ignore` skips the dates of TLS certificates; `auto` does so only where the clock is plainly wrong.
    lan: `auto` looks for the aggregator on the local network where its address does not listen and zeroconf is there.
    scores: `tell` reports each new version's scores on this device's validation samples.
    """

    address: Annotated[str, msgspec.Meta(pattern=f"{ADDRESS_PATTERN}|^\\Z")] = ""
    proxy: Annotated[str, msgspec.Meta(pattern=r"^((http|https|socks5)://[^\s]+)?$")] = ""
    metered: Literal["auto", "allow", "refuse"] = "auto"
    clock: Literal["auto", "ignore"] = "auto"
    lan: Literal["auto", "off"] = "auto"
    scores: Literal["keep", "tell"] = "keep"
    pin: Pin = ""
