"""All commands of `homeroom`, and the spellings of earlier releases; `homeroom.cli.main` loads them from here.

A command is a row of `COMMANDS`: its path, the function that runs it, and one line for the help of its group.
"""

from __future__ import annotations

GROUPS = {
    "device": "A school's device: samples, training, answers, sync.",
    "device offline": "Exchange on a removable folder, without a network.",
    "device labels": "Labels of each task; those that this device alone has.",
    "device profile": "One person's own model, and its transfer.",
    "bundle": "Make, verify and convert model bundles.",
    "bundle recipe": "Recipes that bundles are made from.",
    "district": "A district's server: members, versions, backups.",
    "district offline": "Exchange on a removable folder, without a network.",
    "district audit": "The log of who did what.",
    "district privacy": "The privacy budget of private rounds.",
    "district unlearning": "What was unlearned, signed, the check of that, and tests.",
    "trust": "The institution's keys and what they sign.",
    "research": "Federations of simulated schools.",
}

COMMANDS = {
    "device init": ("homeroom.cli.device:init", "Make a device, or install a newer bundle in it."),
    "device fetch": ("homeroom.cli.network:fetch", "Make a device with the aggregator's bundle."),
    "device add": ("homeroom.cli.device:add", "Add samples: all of them, or none."),
    "device labels show": ("homeroom.cli.labels:labels_show", "List the labels of each task, with their samples."),
    "device labels add": ("homeroom.cli.labels:labels_add", "Add labels that this device alone has."),
    "device labels remove": ("homeroom.cli.labels:labels_remove", "Remove one; its samples stay without it."),
    "device labels rename": ("homeroom.cli.labels:labels_rename", "Give one another name, with its samples."),
    "device labels merge": ("homeroom.cli.labels:labels_merge", "Make one the bundle's label of the same name."),
    "device quarantine": ("homeroom.cli.device:quarantine", "List quarantined samples and why; release some."),
    "device train": ("homeroom.cli.device:train", "Train within a budget; resumes where it was interrupted."),
    "device predict": ("homeroom.cli.device:predict", "Answer every task for one sample."),
    "device explain": ("homeroom.cli.explain:explain", "Say what in a sample speaks for an answer."),
    "device score": ("homeroom.cli.device:score", "Score the model on labelled samples, which are not stored."),
    "device history": ("homeroom.cli.history:history", "List past trainings with their scores by task."),
    "device undo": ("homeroom.cli.device:undo", "Use the version of theta before the present one."),
    "device status": ("homeroom.cli.device:status", "Say what is held, what waits, what is damaged."),
    "device migrate": ("homeroom.cli.migrate:migrate", "Bring a store to this version, or go back to its copy."),
    "device accept-restored": ("homeroom.cli.migrate:accept_restored", "Accept a store that was put back or edited."),
    "device page": ("homeroom.cli.agent:page", "Print the address of the agent's page."),
    "device run": ("homeroom.cli.agent:run", "Run the agent: add, train in its hours, sync."),
    "device agent": ("homeroom.cli.agent:agent", "Say what the agent is doing."),
    "device join": ("homeroom.cli.network:join", "Enrol with an aggregator, once."),
    "device sync": ("homeroom.cli.network:sync", "Send what waits; fetch the newest version."),
    "device network": ("homeroom.cli.network:network", "Show or change address, proxy, mobile data, clock."),
    "device policy": ("homeroom.cli.network:policy", "Keep an institution's signed policy, or show what holds."),
    "device rotate-key": ("homeroom.cli.network:rotate_key", "Give the device a new key with its aggregator."),
    "device upgrade": ("homeroom.cli.network:upgrade", "Fetch and install the newest bundle."),
    "device offline join": ("homeroom.cli.offline:offline_join", "Ask to join with the next message."),
    "device offline out": ("homeroom.cli.offline:offline_out", "Write what waits to a removable folder."),
    "device offline in": ("homeroom.cli.offline:offline_in", "Take in the aggregator's answer."),
    "device consent": ("homeroom.cli.consent:consent", "List consents in words to be decided, or decide one."),
    "device remove": ("homeroom.cli.consent:remove", "Remove samples and what may be learned from them."),
    "device subjects": ("homeroom.cli.subjects:subjects", "List who is held, with the number of samples."),
    "device forget": ("homeroom.cli.subjects:forget", "Destroy a subject's key and everything under it."),
    "device hand-over": ("homeroom.cli.subjects:hand_over", "Show or write all that is held about a subject."),
    "device profile show": ("homeroom.cli.profile:profile_show", "Show what is known of a person's model."),
    "device profile pack": ("homeroom.cli.profile:profile_pack", "Write it, sealed, for another device."),
    "device profile import": ("homeroom.cli.profile:profile_import", "Import one that another device packed."),
    "device support-bundle": ("homeroom.cli.agent:support_bundle", "Write a zip for a helper, without pupils' data."),
    "bundle export": ("homeroom_exporter.cli:export_command", "Make a bundle from a recipe."),
    "bundle recipe new": ("homeroom_exporter.cli:recipe_new", "Write a recipe from samples, and say why so."),
    "bundle inspect": ("homeroom.cli.inspect:inspect", "Verify a bundle and list its contents."),
    "bundle pull": ("homeroom.cli.pull:pull", "Fetch a bundle from a folder, an address or a model hub."),
    "bundle to-peft": ("homeroom_exporter.cli:to_peft", "Write LoRA factors as a PEFT checkpoint."),
    "district init": ("homeroom_aggregator.cli.init:init", "Make a district: keys, server, invitations."),
    "district serve": ("homeroom_aggregator.cli.serve:serve", "Serve the aggregator."),
    "district configure": ("homeroom_aggregator.cli.serve:configure", "Show the configuration, or check it."),
    "district invite": ("homeroom_aggregator.cli.members:invite", "Write invitations for devices."),
    "district members": ("homeroom_aggregator.cli.members:members", "List keys, roles and schools."),
    "district revoke": ("homeroom_aggregator.cli.members:revoke", "Shut out a key."),
    "district consent": ("homeroom_aggregator.cli.members:consent", "Record or withdraw a school's consent."),
    "district withdraw": ("homeroom_aggregator.cli.members:withdraw", "Take a device's or a school's updates out."),
    "district dashboard": ("homeroom_aggregator.cli.dashboard:dashboard", "Print a link that opens the dashboard."),
    "district offline in": ("homeroom_aggregator.cli.offline:offline_in", "Take in messages and leave answers."),
    "district go-back": ("homeroom_aggregator.cli.versions:go_back", "Release an older version again."),
    "district rewind": ("homeroom_aggregator.cli.versions:rewind", "Unlearn now what waits for it."),
    "district unlearning report": (
        "homeroom_aggregator.cli.unlearning:unlearning_report",
        "Write what was unlearned, signed.",
    ),
    "district unlearning verify": ("homeroom_aggregator.cli.unlearning:unlearning_verify", "Check such a report."),
    "district unlearning list": (
        "homeroom_aggregator.cli.unlearning:unlearning_list",
        "Write what was withdrawn, to keep beside backups.",
    ),
    "district unlearning test": (
        "homeroom_aggregator.cli.unlearning:unlearning_test",
        "Test whether a version shows withdrawn samples.",
    ),
    "district new-total": (
        "homeroom_aggregator.cli.versions:begin_new_total",
        "Begin a new total of secure statistics.",
    ),
    "district rebuild": ("homeroom_aggregator.cli.versions:rebuild", "Recompute every version from the log."),
    "district upgrade-bundle": ("homeroom_aggregator.cli.upgrade:upgrade_bundle", "Go on with a newer bundle."),
    "district backup": ("homeroom_aggregator.cli.backup:backup", "Copy the aggregator while it serves."),
    "district restore": ("homeroom_aggregator.cli.backup:restore", "Put a backup in place."),
    "district recover": ("homeroom_aggregator.cli.members:recover", "Replace the aggregator's lost or stolen key."),
    "district audit show": ("homeroom_aggregator.cli.audit:audit_show", "Print every entry."),
    "district audit verify": ("homeroom_aggregator.cli.audit:audit_verify", "Check the chain of hashes."),
    "district evaluation": (
        "homeroom_aggregator.cli.evaluation:evaluation",
        "Show the mean and the worst tenth of devices.",
    ),
    "district privacy report": ("homeroom_aggregator.cli.privacy:report", "Say what was promised and spent."),
    "trust root": ("homeroom_aggregator.cli.trust:root", "Make the institution's root key."),
    "trust certify": ("homeroom_aggregator.cli.trust:certify_key", "Certify a key for a role."),
    "trust policy": ("homeroom_aggregator.cli.trust:policy", "Sign an institution's policy."),
    "trust roster": ("homeroom_aggregator.cli.trust:roster", "Sign which devices may take part in secure rounds."),
    "research simulate": ("homeroom_aggregator.cli.simulate:simulate", "Train with simulated schools in one process."),
    "quickstart": (
        "homeroom.cli.quickstart:quickstart",
        "A first lesson: learn, ask, explain, with the starter bundle.",
    ),
    "doctor": ("homeroom.cli.doctor:doctor", "Check whether this machine is fit, and what is missing."),
}

DEFAULTS = {"device labels": "device labels show"}  # what a group runs where no command of it is named

EXTRAS = {"homeroom_exporter": "exporter", "homeroom_aggregator": "aggregator"}  # which installs a package's needs

# Spellings of 0.1.0, which stay: old path -> new path. They are not listed in any help.
_DISTRICT = ("serve", "invite", "members", "revoke", "consent", "dashboard", "rebuild", "backup", "restore", "recover")
ALIASES = {
    "device review": "device quarantine",
    "device rollback": "device undo",
    "device update": "device upgrade",
    "device carry join": "device offline join",
    "device carry out": "device offline out",
    "device carry in": "device offline in",
    "device export": "device hand-over",
    "device profile": "device profile show",
    "device take": "device profile import",
    **{name: f"bundle {name}" for name in ("inspect", "export", "to-peft")},
    **{name: f"district {name}" for name in _DISTRICT},
    "carry in": "district offline in",
    "rollback": "district go-back",
    "succeed": "district upgrade-bundle",
    **{name: f"district {name}" for name in ("audit show", "audit verify", "privacy report")},
    "simulate": "research simulate",
}
OLD_JSON = (
    "members",
    "audit show",
    "rebuild",
)  # aliases that go on printing JSON; the new spelling does not
OLD_ORDER = {"restore": ("saved", "folder")}  # arguments of an alias, where the new spelling has them in another order
