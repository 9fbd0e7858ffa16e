#!/bin/sh
# Make this card ready to be copied: nothing on it that two classrooms must not share. Run it as root, then shut down.
#
#     sudo /opt/homeroom/seal-card.sh [--discard]
#
# The device, its keys, the system's machine id, its ssh keys, random seed and logs go; the environment, the bundle and the
# root key's fingerprint stay. At its first boot each copy makes its own of what went: systemd the machine id,
# homeroom-ssh-keys.service the ssh keys, homeroom-first-boot.service the device. A card on which pupils' samples are is
# refused, unless with --discard. INTO=FOLDER does this to an installation below that folder.
set -eu

into=${INTO:-}
state=$into/var/lib/homeroom keys=$into/var/lib/homeroom-keys share=$into/srv/homeroom
homeroom=$into/opt/homeroom/venv/bin/homeroom
refuse() { echo "error: $*" >&2; exit 1; }
[ -n "$into" ] || [ "$(id -u)" = 0 ] || refuse "a card is sealed by root: sudo $0"
[ $# = 0 ] || [ "$*" = --discard ] || refuse "there is no option but --discard"
[ -e "$homeroom" ] || refuse "Homeroom is not installed here"
[ -e "$share/bundle.homeroom" ] || refuse "copies could not start: the bundle is missing, $share/bundle.homeroom"

as_homeroom() {
    if [ -n "$into" ]; then HOMEROOM_KEYS=$keys "$@"; else runuser -u homeroom -- env HOMEROOM_KEYS="$keys" "$@"; fi
}
agent() { [ -n "$into" ] || systemctl "$1" homeroom-classroom.service; }

agent stop
if [ $# = 0 ]; then
    held=none
    [ ! -e "$state/device.db" ] ||
        held=$(as_homeroom "$homeroom" device status "$state" --json | sed -n 's/^ "samples": \([0-9]*\),*$/\1/p')
    if [ "$held" != none ] && [ "$held" != 0 ] || [ -n "$(find "$share/inbox" -type f | head -n 1)" ]; then
        agent start
        refuse "pupils' samples are on this card, or may be; a copy must begin without: --discard destroys them"
    fi
fi

empty() { [ ! -d "$1" ] || find "$1" -mindepth 1 -delete; }
empty "$keys" # first: without the key, nothing of the rest can be read
empty "$state"
empty "$share/inbox"
: >"$into/etc/machine-id" # empty: systemd draws a new one at the next boot
rm -f "$into/var/lib/dbus/machine-id" "$into/var/lib/systemd/random-seed" "$into/etc/ssh"/ssh_host_*
empty "$into/var/log/journal"
sync
echo "homeroom: sealed; shut down now (sudo poweroff), and copy the card before it boots again"
