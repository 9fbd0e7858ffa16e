"""One or two examples for the help of each command, as a reader types them; the tests type them all.

A row is a command's path and what follows it on each line. All tell of one class with the starter bundle, `classroom/`,
and of one district.
"""

from __future__ import annotations

from collections.abc import Mapping

OF_DEVICE = {
    "init": ("classroom/ --bundle starter.homeroom",),
    "fetch": ("classroom/ invitation.json",),
    "add": ("classroom/ lesson.csv", 'classroom/ form.csv --map "What is it?=label.kind" --ignore id'),
    "labels show": ("classroom/",),
    "labels add": ("classroom/ kind dinosaurs",),
    "labels remove": ("classroom/ kind dinosaurs",),
    "labels rename": ("classroom/ kind dinosaurs saurians",),
    "labels merge": ("classroom/ kind dinosaurs",),
    "quarantine": ("classroom/ --doubt", "classroom/ --put-back 3f2a91c0"),
    "train": ("classroom/ --minutes 10", "classroom/ --minutes 2 --profile p-17"),
    "predict": ('classroom/ picture=photo.jpg word="el gato"', 'classroom/ word="a cat" --profile p-17'),
    "explain": ('classroom/ kind picture=photo.jpg word="el gato" --html why.html',),
    "score": ("classroom/ test.csv",),
    "history": ("classroom/",),
    "undo": ("classroom/",),
    "status": ("classroom/", "classroom/ --json"),
    "migrate": ("classroom/ --dry-run",),
    "accept-restored": ("classroom/",),
    "page": ("classroom/",),
    "run": ("classroom/ --inbox inbox/ --once", "classroom/ --inbox inbox/ --window 'mon-fri 16:00-20:00'"),
    "agent": ("classroom/",),
    "join": ("classroom/ invitation.json",),
    "sync": ("classroom/",),
    "network": ("classroom/", "classroom/ --proxy http://proxy.school.example:3128 --metered allow"),
    "policy": ("classroom/ policy.json",),
    "rotate-key": ("classroom/",),
    "upgrade": ("classroom/",),
    "offline join": ("classroom/ invitation.json",),
    "offline out": ("classroom/ stick/",),
    "offline in": ("classroom/ stick/",),
    "consent": ("classroom/", 'classroom/ --text "letter of 3 May" --state given --by "Ms Ray"'),
    "remove": ("classroom/ 3f2a91c0",),
    "subjects": ("classroom/", "classroom/ --samples p-17"),
    "forget": ("classroom/ p-17",),
    "hand-over": ("classroom/ p-17", "classroom/ p-17 --out p-17/"),
    "profile show": ("classroom/ p-17",),
    "profile pack": ("classroom/ p-17 p-17.profile",),
    "profile import": ("classroom/ p-17.profile",),
    "support-bundle": ("classroom/ --out support.zip",),
}
OF_BUNDLE = {
    "export": ("lesson.toml --dry-run", "lesson.toml lesson-bundle/ --calibration lesson/ --zip"),
    "recipe new": ("lesson/ --out lesson.toml",),
    "inspect": ("starter.homeroom --golden",),
    "pull": ("hf:our-district/lesson@v2 lesson.homeroom",),
    "to-peft": ("lesson-bundle/ classroom/ lesson-peft/",),
}
OF_DISTRICT = {
    "init": ('district/ --bundle starter.homeroom --name "District 7" --schools schools.csv',),
    "serve": ("district/", "trial/ --bundle lesson-bundle/ --root-key lesson-bundle.keys/root.pem"),
    "configure": ("district/ --check",),
    "invite": ('district/ --school "Hill School" --consent "Ms Lee, letter of 3 March"', "district/ --list"),
    "members": ("district/", "district/ --schools"),
    "revoke": ("district/ 3f2a91c0",),
    "consent": ("district/", 'district/ "Hill School" --by "Ms Lee, letter of 3 March"'),
    "withdraw": ('district/ 3f2a91c0 --by "Ms Lee" --why "its samples were swapped"',),
    "dashboard": ("district/", "district/ --address https://homeroom.district.example --qr"),
    "offline in": ("district/ stick/",),
    "go-back": ('district/ 1 --by "Ms Lee" --why "the newest is worse"',),
    "rewind": ('district/ --by "Ms Lee" --why "a family asked"',),
    "unlearning report": ("district/ report.json",),
    "unlearning verify": ("district/ report.json",),
    "unlearning list": ("district/ withdrawals.json",),
    "unlearning test": ("starter.homeroom backup-monday/:1 district/:2 --withdrawn gone.jsonl --others never.jsonl",),
    "new-total": ('district/ --by "Ms Lee" --why "a device was lost"',),
    "rebuild": ("district/",),
    "upgrade-bundle": ("district-2/ district/ --bundle starter-2.homeroom",),
    "backup": ("district/ backup-monday/",),
    "restore": ("district/ backup-monday/ --from-lost district.old/",),
    "recover": ("district/ --key new.pem --certificate new.json",),
    "audit show": ("district/",),
    "audit verify": ("district/", "district/ --noted 5d41402a"),
    "evaluation": ("district/",),
    "privacy report": ("district/",),
}
OF_TRUST = {
    "root": ("root.pem",),
    "certify": ('exporter exporter.pem --root-key root.pem --name "District 7"',),
    "policy": ("school.toml --key school.pem --out policy.json",),
    "roster": ("roster.json --key signer.pem --devices keys.txt --minimum 5 --serial 1",),
}
OF_RESEARCH = {
    "simulate": (
        "starter.homeroom hill.csv lake.csv --rounds 5",
        "starter.homeroom hill.csv lake.csv --plot simulated.svg --json simulated.json",
    ),
}
OF_NO_GROUP = {
    "quickstart": ("--bundle starter.homeroom", "three-schools/ --district --bundle starter.homeroom"),
    "doctor": ("", "classroom/"),
}
GROUPED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "device": OF_DEVICE,
    "bundle": OF_BUNDLE,
    "district": OF_DISTRICT,
    "trust": OF_TRUST,
    "research": OF_RESEARCH,
    "": OF_NO_GROUP,
}


def examples(path: str) -> tuple[str, ...]:
    """The lines of a command's examples, as they are typed."""
    group, _, name = path.partition(" ") if path not in OF_NO_GROUP else ("", "", path)
    return tuple(f"homeroom {path} {words}".rstrip() for words in GROUPED[group][name])


def examples_of_help(path: str) -> str:
    r"""The end of a command's help; \b keeps its lines as they are."""
    lines = examples(path)
    return "\n  ".join(("\b\nExample:" if len(lines) == 1 else "\b\nExamples:", *lines))
