"""`homeroom bundle export` and `homeroom bundle to-peft`; import torch and the rest only when they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.cli.files import read_certificate
from homeroom.cli.inspect import start_of_theta
from homeroom.cli.options import MACHINE, as_json, asked, hint, print_record, progress, say
from homeroom.cli.parameters import OUT_FILE, OUT_FOLDER, PATH, Whole
from homeroom.contract.canonical_json import canonical
from homeroom.contract.signing import Certificate, certify, fingerprint, new_key, public_hex, read_key, write_key
from homeroom.errors import InputError, RecipeError, TrustError
from homeroom.system.files import check_folder_of, removed_on_failure
from homeroom.system.installation import quoted
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom_exporter.export.pipeline import Exported
    from homeroom_exporter.recipe.recipe import Recipe

HELP = """Make a bundle from RECIPE and write it to OUT.

A recipe is a TOML file:

\b
  name = "vocabulary"            # lower case, digits, _
  version = 1                    # rises with every release
  [encoders.text]                # text, image, audio or table
  source = "pip:minilm"          # or "hf:DIRECTORY", "onnx:FILE", "torch:FILE.py:FACTORY"
  taps = [2, 4, 6]               # layers that are read
  dim = 64                       # channels kept of each
  buckets = [16, 32]             # token counts that texts are padded to
  [adapter]                      # optional: LoRA inside the encoder, no ladder
  family = "lora"
  [slots]
  word = "text"
  pictures = "image[4]"          # four places
  [tasks.category]
  kind = "classification"        # ordinal multilabel regression choice matching
  reads = ["word"]
  labels = ["animal", "food"]
  head = "fused"                 # or "pair": compares two or three texts
  [training]
  epochs = 20                    # what devices are told

All fields are in docs/recipe.md.
"""


@click.command("export", help=HELP)
@click.argument("recipe", type=PATH)
@click.argument("out", required=False, type=PATH)
@click.option(
    "--calibration",
    type=PATH,
    help="Samples (JSONL, CSV or a folder) to fit compression and quantization on, with labels for the self-check.",
)
@click.option("--key", type=PATH, help="The exporter's private key (PEM).")
@click.option("--certificate", type=PATH, help="The root's certificate of that key (JSON).")
@click.option("--zip", "zipped", is_flag=True, help="Also write OUT.homeroom, one file for transport.")
@click.option("--peft", type=PATH, help="Start from this PEFT checkpoint of LoRA (a folder).")
@click.option("--teach", is_flag=True, help="Start theta from the labels of the calibration samples.")
@click.option("--extends", type=PATH, help="Go on from this bundle: its encoders, and what its heads learn.")
@click.option(
    "--threads",
    type=Whole(1, 1024),
    default=2,
    show_default=True,
    help="Threads of the runtime in the self-check.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; estimate sizes, and minutes on a Pi 4 and a laptop.")
@as_json
def export_command(
    recipe: Path,
    out: Path | None,
    calibration: Path | None,
    key: Path | None,
    certificate: Path | None,
    zipped: bool,
    peft: Path | None,
    teach: bool,
    extends: Path | None,
    threads: int,
    dry_run: bool,
) -> None:
    """Make a bundle from a recipe, or estimate what it would take; its help is `HELP`."""
    from homeroom_exporter.bundle.scratch import refuse_present
    from homeroom_exporter.interchange.peft import read
    from homeroom_exporter.recipe.recipe import read_recipe

    plan = read_recipe(recipe)  # before torch is imported: a wrong recipe fails at once
    if peft is not None and plan.adapter is None:
        fault = "has no [adapter] to start from a checkpoint"
        raise RecipeError(fault, where=recipe.name, remedy='add family = "lora"')
    if out is not None:
        refuse_present(out)
        check_folder_of(out)
    given = {"--key": key, "--certificate": certificate, "--zip": zipped, "--peft": peft, "--teach": teach}
    _refuse_idle({**given, "--extends": extends}, dry_run)
    if dry_run:
        _dry_run(plan, calibration, threads)
        return
    if out is None or calibration is None:
        raise click.UsageError("needs OUT and --calibration, or --dry-run")
    start = read(peft) if peft is not None else None
    from rich.console import Console

    from homeroom.runtime.bundle import zip_bundle
    from homeroom_exporter.export.pipeline import export
    from homeroom_exporter.export.report import show

    console = Console(quiet=asked(MACHINE))
    with signer(out, key, certificate) as (private, vouched):
        done = export(
            plan,
            calibration,
            out,
            private,
            vouched,
            start=start,
            teach=teach,
            extends=extends,
            threads=threads,
            progress=progress,
            show=lambda report: show(report, console),
        )
    progress("", done=True)
    target = out.with_name(f"{out.name}.homeroom") if zipped else None
    if target:
        zip_bundle(out, target)
    _tell(done, out, vouched, target)


def _refuse_idle(given: Mapping[str, object], dry_run: bool) -> None:
    """UsageError where an option says nothing, or against another."""
    named = [option for option, value in given.items() if value]
    if dry_run and named:
        raise click.UsageError(f"{named[0]} says nothing with --dry-run: leave it out")
    for option in ("--teach", "--peft"):
        if "--extends" in named and option in named:
            raise click.UsageError(f"{option} would change what --extends keeps: leave one of them out")


def _tell(done: Exported, out: Path, vouched: Certificate, target: Path | None) -> None:
    """Print what was made, where it lies, and what theta starts from. target: the bundle as one file."""
    from homeroom_exporter.export.model_card import write_papers

    papers, manifest = write_papers(out, done.manifest, done.bundle_id, done.report), done.manifest
    record = {"bundle": out, "name": manifest.name, "version": manifest.version, "bundle_id": done.bundle_id}
    files = {"file": target, "second_file": done.second, "papers": list(papers)}
    start = {"taught": manifest.provenance.get("taught"), "masked": manifest.masked}
    print_record(record | {"root": fingerprint(vouched.root)} | start | files)
    say(f"{out}: bundle {done.manifest.name} version {done.manifest.version}, {done.bundle_id}")
    say(f"root {fingerprint(vouched.root)}")
    for line in start_of_theta(done.manifest):
        say(f"theta {line}")
    if done.second:
        size_mb = done.second.stat().st_size / 1e6
        say(f"{done.second}: {size_mb:.1f} MB, the float32 backbones; keep it beside the bundle, for devices")
        say("whose processor computes other features in low precision: they ask for it at install")
    for paper in papers:
        say(f"{paper}: {paper.stat().st_size / 1e3:.0f} KB, beside the bundle")
    if target:
        say(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def _dry_run(plan: Recipe, calibration: Path | None, threads: int) -> None:
    from rich.console import Console

    from homeroom_exporter.export.estimate import estimate, show

    sizes = estimate(plan, calibration, threads=threads, progress=progress)
    progress("", done=True)
    print_record(sizes)
    show(sizes, Console(quiet=asked(MACHINE)))


@contextmanager
def signer(out: Path, key: Path | None, certificate: Path | None) -> Iterator[tuple[Ed25519PrivateKey, Certificate]]:
    """The key that signs a bundle, and its certificate; trial keys are removed again where the export fails."""
    if key is not None and certificate is not None:
        private, vouched = read_key(key), read_certificate(certificate, TrustError)
        if vouched.key != public_hex(private):
            raise TrustError("is not the certificate of that key", where=str(certificate))
        yield private, vouched
        return
    if key or certificate:
        raise TrustError("--key and --certificate belong together", remedy="give both, or none for a trial")
    folder = out.with_name(f"{out.name}.keys")
    with removed_on_failure(folder):
        yield trial_keys(folder)


def trial_keys(folder: Path) -> tuple[Ed25519PrivateKey, Certificate]:
    """A root key and an exporter key for a trial, made in `folder` if they are not there; warns on stderr."""
    certificate = folder / "certificate.json"
    if not certificate.exists():
        root, key = (_kept(folder / name) for name in ("root.pem", "exporter.pem"))
        certificate.write_bytes(canonical(certify(root, "exporter", key, "trial")))
    vouched = read_certificate(certificate, TrustError)
    say(
        f"No --key was given: signing for trial with a root made here, {folder} ({fingerprint(vouched.root)[:16]}...). "
        "Anyone who holds that folder can sign bundles for devices that trust it.",
        err=True,
    )
    return read_key(folder / "exporter.pem"), vouched


def _kept(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        write_key(path, new_key())
    return read_key(path)


@click.command("new")
@click.argument("samples", type=PATH)
@click.option("--out", type=OUT_FILE, default=Path("recipe.toml"), show_default=True, help="The recipe to write.")
@click.option("--name", show_default="the folder's", help="Of the bundle.")
@as_json
def recipe_new(samples: Path, out: Path, name: str | None) -> None:
    """Look at SAMPLES, a folder, a sheet or a .jsonl file, and write a recipe that exports as it is.

    It says which encoders it chose and why; read it, and change what you know better.
    """
    from homeroom.system.files import write_durable
    from homeroom_exporter.recipe.look import look
    from homeroom_exporter.recipe.propose import propose

    if out.exists():
        raise InputError("is there already", where=str(out), remedy="give another name with --out")
    seen = look(samples)
    proposal = propose(seen, name or samples.resolve().stem)
    write_durable(out, proposal.text.encode())
    following = f"homeroom bundle export {quoted(out)} {quoted(out.stem)}/ --calibration {quoted(samples)} --zip"
    print_record({"recipe": out, "reasons": proposal.reasons, "samples": seen.samples, "next": following})
    say(f"{out}: a recipe for {seen.samples} samples")
    for reason in proposal.reasons:
        say(f"  {reason}")
    hint(f"next: {following}")


@click.command("to-peft")
@click.argument("bundle", type=PATH)
@click.argument("theta", type=PATH)
@click.argument("out", type=OUT_FOLDER)
@click.option("--root", help="Fingerprint of the root key that must vouch for the bundle.")
@as_json
def to_peft(bundle: Path, theta: Path, out: Path, root: str | None) -> None:
    """Write the LoRA factors in THETA as a checkpoint OUT that PEFT loads on the bundle's encoder.

    BUNDLE is a folder; THETA a device's folder, or a safetensors file with `theta`, such as the bundle's own.
    """
    from homeroom.runtime.bundle import open_bundle
    from homeroom_exporter.interchange import peft

    opened = open_bundle(bundle, root=root)
    layers = peft.write(opened, peft.theta_of(opened, theta), out)
    print_record({"folder": out, "layers": layers, "heads": peft.REST, "outputs": peft.base_of_outputs(opened)})
    say(f"{out}: LoRA of {counted(len(layers), 'layer')}; heads beside it in {peft.REST}")
    say(peft.base_of_outputs(opened))
