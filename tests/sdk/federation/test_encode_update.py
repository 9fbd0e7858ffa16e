"""An update from plain values: what a lossy codec lost comes with the next one, and what stays home is in none."""

from __future__ import annotations

import numpy as np
import tiny

from homeroom.contract.policy import Policy
from homeroom.contract.residual import unpack_residual
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.contract.update_checks import read_update
from homeroom.federation.encode_update import UpdateRules, encode_update
from homeroom.federation.policy import scoped_layout
from homeroom.runtime.bundle import open_bundle


def test_what_a_codec_lost_comes_with_the_next_update_and_what_stays_home_with_none(tiny_bundle: tiny.Tiny) -> None:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    layout, asked = bundle.layout, RoundConfiguration(bundle_id=bundle.bundle_id, codec="topk")
    policy = Policy(institution="School 12", version=1, scopes={"head.*": "personal"})
    rules = UpdateRules(new_key(), asked, layout, scoped_layout(layout, policy, asked, "District 7", ""))
    before, taught = bundle.theta(), {segment.name: 9 for segment in layout}
    wanted = np.random.default_rng(0).normal(0, 0.01, layout.size).astype(np.float32)
    residual, arrived = b"", np.zeros(layout.size, np.float32)
    for base in range(6):
        update = encode_update(rules, before, before + wanted, taught, base, residual)
        values, residual = read_update(update.data, asked, layout).values, update.residual
        arrived += layout.join({n: v * np.float32(2.0**-asked.scale_bits) for n, v in values.items()}, 0 * arrived)
    home = {segment.name for segment in layout if segment.name.startswith("head.")}
    sent, together = layout.split(arrived), layout.split(arrived + unpack_residual(residual, layout))
    for name, part in layout.split(6 * wanted).items():
        np.testing.assert_allclose(together[name], 0 if name in home else part, atol=1e-4)
        assert sent[name].any() == (name not in home)
