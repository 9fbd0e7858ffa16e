"""Tiers of a design: parts of one theta, nested, and graphs that compute what torch computes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiered
import tiny

from homeroom.errors import ExportError
from homeroom.runtime.bundle import Bundle
from homeroom_exporter.bundle.write import GraphFile
from homeroom_exporter.check import check
from homeroom_exporter.model.design import initial_theta
from homeroom_exporter.model.tiers import THETA_SHARES, make_tiers, sheltered


def test_tiers_are_nested_rising_parts_of_about_the_share_asked_for(tmp_path: Path) -> None:
    design, _ = tiny.design_and_backbones(tmp_path)
    tiers = make_tiers(design, ("half", "eighth", "quarter"))
    assert list(tiers) == ["eighth", "quarter", "half"]
    inner = np.empty(0, np.int32)
    for name, tier in tiers.items():
        assert tier.index.dtype == np.int32
        assert (np.diff(tier.index) > 0).all()
        assert np.isin(inner, tier.index).all()
        assert len(tier.index) == tier.design.layout.size
        assert (
            THETA_SHARES[name] / 1.6 < len(tier.index) / design.layout.size < THETA_SHARES[name] * 1.6
        )  # of 16 channels
        inner = tier.index


def test_of_a_layer_over_several_vectors_the_first_channels_of_each_are_kept(tmp_path: Path) -> None:
    design, _ = tiny.design_and_backbones(tmp_path)
    half = make_tiers(design, ("half",))["half"]
    width, kept = design.width, half.design.width
    start = design.layout.slices["head.grade"].start + width * width  # after attend.weight comes compare.weight
    rows = np.unique((half.index[(half.index >= start) & (half.index < start + 3 * width * width)] - start) // width)
    assert rows.tolist() == [i * width + j for i in range(3) for j in range(kept)]


def test_every_graph_of_a_tier_agrees_with_torch_on_its_part_of_theta(tiered_bundle: Bundle, tmp_path: Path) -> None:
    design, _ = tiered.design(tmp_path)
    theta = initial_theta(design.layout, 0)
    theta += np.random.default_rng(0).standard_normal(theta.size).astype(np.float32) * 0.05
    tiers = make_tiers(design, tiered.TIERS)
    graphs = [graph for graph in tiered_bundle.manifest.every_graph if graph.tier in tiers]
    assert len(graphs) == 3 * len(tiers)
    for graph in graphs:
        made = GraphFile(
            tiered_bundle.path / graph.file, graph.role, batch=graph.batch, tokens=graph.tokens, tier=graph.tier
        )
        tier = tiers[graph.tier]
        assert check.check_step(tier.design, theta[tier.index], made, threads=1).parity < check.PARITY[graph.role]
        assert np.array_equal(dict(tiered_bundle.layout.tiers)[graph.tier], tier.index)


def test_at_first_no_channel_feeds_one_of_a_smaller_tier_and_nothing_else_is_changed(tmp_path: Path) -> None:
    design, _ = tiered.design(tmp_path)
    tiers, theta = make_tiers(design, tiered.TIERS), initial_theta(design.layout, 0)
    found = sheltered(design, tiers, theta)
    assert np.array_equal(found[tiers["eighth"].index], theta[tiers["eighth"].index])
    width, small, half = design.width, tiers["eighth"].design.width, tiers["half"].design.width
    start = design.layout.slices["ladder.table"].stop - width * width - width  # out.weight [from, to] before out.bias
    weight, before = (values[start : start + width * width].reshape(width, width) for values in (found, theta))
    assert not weight[small:, :small].any()
    assert not weight[half:, :half].any()
    assert np.array_equal(weight[:, half:], before[:, half:])
    assert np.array_equal(weight[:half, small:half], before[:half, small:half])
    assert np.array_equal(sheltered(design, {}, theta), theta)


def test_a_design_too_narrow_for_a_tier_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    design = replace(tiny.design_and_backbones(tmp_path)[0], width=8, hidden=8)
    with pytest.raises(ExportError, match="no tier quarter of its own"):
        make_tiers(design, ("eighth", "quarter"))
