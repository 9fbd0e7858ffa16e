"""`homeroom bundle …`: look into a bundle and check it; imports bundle and golden when used."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click


@click.group()
def bundle() -> None:
    """Look into a bundle and check it."""


@bundle.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--root", help="Fingerprint of the root key that must vouch for it.")
@click.option("--golden", is_flag=True, help="Also compute its golden samples here and compare.")
def inspect(path: Path, root: str | None, golden: bool) -> None:
    """Verify the signature and every file of the bundle PATH (a folder or .homeroom file), and say what it holds.

    Example: homeroom bundle inspect vocabulary.homeroom --golden
    """
    from homeroom.bundle import Bundle, install, open_bundle
    from homeroom.contract.signing import fingerprint

    def show(found: Bundle) -> None:
        manifest = found.manifest
        click.echo(f"{manifest.name} version {manifest.version}")
        click.echo(f"bundle       {found.bundle_id}")
        click.echo(f"root         {fingerprint(found.certificate.root)}")
        click.echo(f"signed by    {found.certificate.name}")
        click.echo(f"theta        {manifest.layout.size:,} values in {len(manifest.segments)} segments")
        for tier in manifest.tiers:
            click.echo(f"tier         {tier.name}: {tier.size:,} of these values")
        click.echo(f"size         {sum(file.bytes for file in manifest.files.values()) / 1e6:.1f} MB")
        if manifest.converted:
            click.echo(f"litert       {len(manifest.converted)} of {len(manifest.graphs)} graphs for LiteRT too")
        for file, reason in manifest.unconverted.items():
            click.echo(f"             not {file}: {reason}")
        for modality in manifest.modalities:
            inside = f"{len(modality.taps)} taps of {modality.dim}" if modality.taps else "LoRA inside"
            click.echo(f"backbone     {modality.name}: {modality.encoder}, {inside}")
            if modality.taps:
                why = manifest.provenance.get(f"taps.{modality.name}") or ", ".join(modality.taps)
                click.echo(f"taps         {modality.name}: {why}")
        for slot in manifest.slots:
            click.echo(f"input        {slot.name}: {slot.modality}{f' x {slot.count}' if slot.count > 1 else ''}")
        for task in manifest.tasks:
            click.echo(f"task         {task.name}: {task.kind} of {', '.join(task.reads)} {list(task.labels) or ''}")
        for licence in manifest.licences:
            click.echo(f"licence      {licence.subject}: {licence.name}")
        if golden:
            from homeroom.golden import choose_precision

            for name, precision in choose_precision(found).items():
                click.echo(f"golden       {name}: {precision} gives the expected features on this machine")

    if path.is_dir():
        show(open_bundle(path, root=root))
        return
    with tempfile.TemporaryDirectory() as folder:
        show(install(path, Path(folder), root=root))


commands: list[click.Command] = [bundle]
